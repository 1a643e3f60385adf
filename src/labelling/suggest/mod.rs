//! Which images to label next: those from which a label would teach most.
//!
//! The value of an image is the sum, over its most informative categories, of
//!
//! ```text
//! H(p) (1 + d) / sqrt(1 + presences)
//! ```
//!
//! with the binary entropy H of the predicted probability p, the disagreement d of the two views (0
//! to 1) and the category's known presences; what is known already teaches nothing. Disagreement
//! needs the model that made the rows: its scores come from regions, while the words of a category
//! beside the embedding of the whole image say what the global view says. Both are standardised
//! over all rows, since only their order can be compared; d is half their distance in standard
//! deviations, at most 1 (query by committee, Seung et al. 1992).
//!
//! Images are then taken greedily by value times distance: how far the embedding lies from those
//! taken before, so that a hundred near-alike pictures are not asked for a hundred times
//! (farthest-first, Sener & Savarese 2018). A category that was asked about counts as known as
//! often as a presence is to be expected, so that one rare category does not take all questions.
//!
//! A share of the questions is for measuring (module `measuring`): drawn evenly, of images that are
//! never asked about for learning.
//!
//! Memory holds a fixed multiple of the images asked for. With a model the predictions table is
//! read twice.

mod committee;
mod measuring;

pub use measuring::is_for_measuring;

use crate::labelling::store::{Footer, TableError, data_files, read_files, strings, vectors};
use arrow_array::{Array, RecordBatch, StringArray};
use committee::{Committee, Spread};
use measuring::Draw;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use tagstream_core::events::{Asked, LabelEvent, LabelQuestion, QuestionPurpose};
use tagstream_core::storage::store::TableStore;
use tagstream_model::bundle::{Bundle, BundleError};
use tagstream_train::labels::LabelTable;

/// How to choose.
#[derive(Debug, Clone, PartialEq)]
pub struct SuggestOptions {
    /// How many images.
    pub count: usize,
    /// Candidates held for each image asked for; among them diversity is judged.
    pub pool: usize,
    /// Informative categories that count for an image, and are asked about.
    pub questions: usize,
    /// Share of the images that are asked about for measuring.
    pub measure: f64,
    /// Count disagreement too, and only rows of this model.
    pub view: Option<GlobalView>,
}

impl Default for SuggestOptions {
    fn default() -> Self {
        SuggestOptions {
            count: 100,
            pool: 10,
            questions: 3,
            measure: 0.2,
            view: None,
        }
    }
}

/// The second view that a model has of an image: its words beside the image's embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalView {
    /// The model that made the rows; others are passed over.
    pub model_version: String,
    /// Directions of the categories in the joint space, `[C, D]`.
    pub directions: Vec<f32>,
}

impl GlobalView {
    /// The view of a bundle: the text features that its head matches with regions.
    ///
    /// # Errors
    /// If the head cannot be read.
    pub fn of(bundle: &Bundle) -> Result<Self, BundleError> {
        Ok(GlobalView {
            model_version: bundle.id().to_owned(),
            directions: bundle.head()?.0.region.weight,
        })
    }
}

/// An image worth labelling.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// As the predictions table names it.
    pub image_id: String,
    /// Where it is.
    pub uri: String,
    /// What its labels are reckoned to be worth by themselves.
    pub value: f64,
    /// What it is asked for.
    pub purpose: QuestionPurpose,
    /// The categories to ask about, with the probability predicted.
    pub ask: Vec<(String, f32)>,
    /// The model that predicted it.
    pub model_version: String,
}

impl Suggestion {
    /// The message that puts it before an annotator; ranks count from 1.
    pub fn question(&self, rank: usize) -> LabelQuestion {
        let asked = self.ask.iter().map(|(category, score)| Asked {
            category: category.clone(),
            score: *score,
        });
        LabelQuestion {
            event: LabelEvent::about(&self.image_id, &self.uri),
            rank,
            value: self.value,
            purpose: self.purpose,
            ask: asked.collect(),
        }
    }
}

struct Candidate {
    suggestion: Suggestion,
    /// Of each category asked about: its number in [`Rarity`], and what it is worth before rarity.
    terms: Vec<(usize, f64)>,
    embedding: Vec<f32>,
}

impl Candidate {
    fn value(&self, rarity: &Rarity) -> f64 {
        let terms = self.terms.iter();
        terms.map(|(k, worth)| worth * rarity.weight(*k)).sum()
    }
}

/// How much a presence of a category is wanted: the fewer are known or asked for, the more.
#[derive(Debug, Default)]
struct Rarity {
    numbers: HashMap<String, usize>,
    presences: Vec<f64>,
}

impl Rarity {
    fn of(labels: &LabelTable) -> Self {
        let mut rarity = Rarity::default();
        for (name, count) in labels.counts() {
            let number = rarity.number(&name);
            rarity.presences[number] = count.present as f64;
        }
        rarity
    }

    fn number(&mut self, category: &str) -> usize {
        if let Some(number) = self.numbers.get(category) {
            return *number;
        }
        self.numbers.insert(category.into(), self.presences.len());
        self.presences.push(0.0);
        self.presences.len() - 1
    }

    fn weight(&self, number: usize) -> f64 {
        1.0 / (1.0 + self.presences[number]).sqrt()
    }
}

/// Entropy of a coin that shows heads with probability `p`, bits.
fn entropy(p: f64) -> f64 {
    let term = |x: f64| if x > 0.0 { -x * x.log2() } else { 0.0 };
    term(p) + term(1.0 - p)
}

/// The columns of a batch of rows.
struct Rows<'a> {
    ids: &'a StringArray,
    uris: &'a StringArray,
    versions: &'a StringArray,
    categories: &'a [String],
    scores: Vec<f32>,
    embeddings: Vec<f32>,
    dim: usize,
}

impl<'a> Rows<'a> {
    const COLUMNS: [&'static str; 5] = ["image_id", "uri", "model_version", "scores", "embedding"];

    fn of(batch: &'a RecordBatch, categories: &'a [String]) -> Result<Self, String> {
        let (scores, c) = vectors(batch, "scores")?;
        let (embeddings, dim) = vectors(batch, "embedding")?;
        if c != categories.len() {
            return Err(format!(
                "it has {c} scores but names {} categories",
                categories.len()
            ));
        }
        Ok(Rows {
            ids: strings(batch, "image_id")?,
            uris: strings(batch, "uri")?,
            versions: strings(batch, "model_version")?,
            categories,
            scores,
            embeddings,
            dim,
        })
    }

    fn score(&self, row: usize, category: usize) -> f32 {
        self.scores[row * self.categories.len() + category]
    }

    fn embedding(&self, row: usize) -> &[f32] {
        &self.embeddings[row * self.dim..(row + 1) * self.dim]
    }

    /// The rows that count: all, or those of the model that is asked.
    fn wanted(&self, view: Option<&GlobalView>) -> impl Iterator<Item = usize> {
        (0..self.ids.len()).filter(move |row| {
            view.is_none_or(|view| {
                self.versions.value(*row) == view.model_version
                    && view.directions.len() == self.categories.len() * self.dim
            })
        })
    }
}

/// Hands over all rows of the table.
async fn each(
    store: &TableStore,
    predictions: &str,
    mut take: impl FnMut(&Rows<'_>) + Send,
) -> Result<(), TableError> {
    // Newest files last: the latest prediction of an image counts.
    let files = data_files(store, predictions).await?;
    let take = |_: usize, batch: &RecordBatch, footer: &Footer| {
        let names = footer
            .get("tagstream.categories")
            .map(|n| serde_json::from_str::<Vec<String>>(n));
        match names {
            Some(Ok(categories)) => take(&Rows::of(batch, &categories)?),
            _ => return Err("its footer names no categories".into()),
        }
        Ok(ControlFlow::Continue(()))
    };
    read_files(store, files.into_iter().enumerate(), &Rows::COLUMNS, take).await
}

/// Chooses among the rows of the predictions table, best first.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn suggest(
    store: &TableStore,
    predictions: &str,
    labels: &LabelTable,
    options: &SuggestOptions,
) -> Result<Vec<Suggestion>, TableError> {
    let mut committee = options.view.as_ref().map(|view| Committee {
        view,
        spreads: Vec::new(),
    });
    if let Some(committee) = &mut committee {
        each(store, predictions, |rows| {
            for row in rows.wanted(options.view.as_ref()) {
                let c = rows.categories.len();
                committee.spreads.resize(c, [Spread::default(); 2]);
                committee.add(rows, row);
            }
        })
        .await?;
    }
    let measure = (options.measure * options.count as f64).round() as usize;
    let mut pool = Pool {
        options,
        labels,
        draw: Draw::new(measure.min(options.count), options.questions),
        committee,
        rarity: Rarity::of(labels),
        candidates: HashMap::new(),
        most: options.count.saturating_mul(options.pool.max(1)),
    };
    each(store, predictions, |rows| pool.take(rows)).await?;
    pool.trim();
    let mut candidates: Vec<Candidate> = pool.candidates.into_values().collect();
    candidates.sort_by(by_value);
    let measuring = pool.draw.into_suggestions();
    let learning = options.count - measuring.len();
    let learning = diverse(candidates, learning, pool.rarity);
    Ok(mixed(learning, measuring))
}

/// All categories that the rows of the predictions table have probabilities of.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn categories(
    store: &TableStore,
    predictions: &str,
) -> Result<BTreeSet<String>, TableError> {
    let mut all = BTreeSet::new();
    each(store, predictions, |rows| {
        all.extend(rows.categories.iter().cloned())
    })
    .await?;
    Ok(all)
}

/// Best first; equal values by id, so that the choice repeats.
fn by_value(a: &Candidate, b: &Candidate) -> Ordering {
    let values = b.suggestion.value.total_cmp(&a.suggestion.value);
    values.then_with(|| a.suggestion.image_id.cmp(&b.suggestion.image_id))
}

/// Measuring questions spread evenly among the others: whoever stops early has asked some of both.
fn mixed(learning: Vec<Suggestion>, measuring: Vec<Suggestion>) -> Vec<Suggestion> {
    let (many, few) = (learning.len() + measuring.len(), measuring.len());
    let (mut learning, mut measuring) = (learning.into_iter(), measuring.into_iter());
    let mut all = Vec::new();
    for at in 0..many {
        let due = (at + 1) * few / many > at * few / many;
        let next = match due {
            true => measuring.next().or_else(|| learning.next()),
            false => learning.next().or_else(|| measuring.next()),
        };
        all.extend(next);
    }
    all
}

struct Pool<'a> {
    options: &'a SuggestOptions,
    labels: &'a LabelTable,
    draw: Draw,
    committee: Option<Committee<'a>>,
    rarity: Rarity,
    candidates: HashMap<String, Candidate>,
    most: usize,
}

impl Pool<'_> {
    fn take(&mut self, rows: &Rows<'_>) {
        let numbers: Vec<usize> = rows
            .categories
            .iter()
            .map(|name| self.rarity.number(name))
            .collect();
        for row in rows.wanted(self.options.view.as_ref()) {
            let id = rows.ids.value(row);
            let known: HashSet<&str> = match self.labels.image(id) {
                Some(image) => image.states().map(|(category, _)| category).collect(),
                None => HashSet::new(),
            };
            if is_for_measuring(id) && self.options.measure > 0.0 {
                if known.is_empty() {
                    self.draw.offer(rows, row);
                }
                continue;
            }
            // Worth with and without rarity, and the category.
            let mut worth: Vec<(f64, f64, usize)> = (0..numbers.len())
                .filter(|k| !known.contains(rows.categories[*k].as_str()))
                .map(|k| {
                    let told = |c: &Committee<'_>| c.disagreement(rows, row, k);
                    let disagreement = self.committee.as_ref().map_or(0.0, told);
                    let own = entropy(f64::from(rows.score(row, k))) * (1.0 + disagreement);
                    (own * self.rarity.weight(numbers[k]), own, k)
                })
                .collect();
            worth.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.cmp(&b.2)));
            worth.truncate(self.options.questions);
            let asked = worth.iter().map(|(_, _, k)| {
                let name = rows.categories[*k].clone();
                (name, rows.score(row, *k))
            });
            let candidate = Candidate {
                suggestion: Suggestion {
                    image_id: id.into(),
                    uri: rows.uris.value(row).into(),
                    value: worth.iter().map(|w| w.0).sum(),
                    purpose: QuestionPurpose::Learning,
                    ask: asked.collect(),
                    model_version: rows.versions.value(row).into(),
                },
                terms: worth.iter().map(|w| (numbers[w.2], w.1)).collect(),
                embedding: rows.embedding(row).to_vec(),
            };
            self.candidates.insert(id.into(), candidate);
            if self.candidates.len() > 2 * self.most.max(1000) {
                self.trim();
            }
        }
    }

    /// Keeps the best.
    fn trim(&mut self) {
        if self.candidates.len() <= self.most {
            return;
        }
        let mut all: Vec<Candidate> = self.candidates.drain().map(|(_, c)| c).collect();
        all.sort_by(by_value);
        all.truncate(self.most);
        let keyed = all.into_iter().map(|c| (c.suggestion.image_id.clone(), c));
        self.candidates = keyed.collect();
    }
}

/// Distance of two embeddings of unit length, 0 to 2; embeddings of different models have nothing
/// to do with each other.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return 1.0;
    }
    1.0 - a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>()
}

fn diverse(candidates: Vec<Candidate>, count: usize, mut rarity: Rarity) -> Vec<Suggestion> {
    let mut nearest = vec![f64::INFINITY; candidates.len()];
    let mut taken = vec![false; candidates.len()];
    let mut order = Vec::new();
    while order.len() < count.min(candidates.len()) {
        let gain = |i: usize| {
            let distance = if nearest[i].is_finite() {
                nearest[i].max(0.0)
            } else {
                1.0
            };
            candidates[i].value(&rarity) * distance
        };
        let best = (0..candidates.len())
            .filter(|i| !taken[*i])
            .map(|i| (i, gain(i)))
            // The first of equals, which is the one of higher value.
            .reduce(|a, b| if b.1 > a.1 { b } else { a })
            .expect("fewer are taken than there are")
            .0;
        taken[best] = true;
        order.push(best);
        let chosen = &candidates[best];
        for ((number, _), (_, p)) in chosen.terms.iter().zip(&chosen.suggestion.ask) {
            rarity.presences[*number] += f64::from(*p);
        }
        for i in 0..candidates.len() {
            if !taken[i] {
                let d = distance(&candidates[i].embedding, &chosen.embedding);
                nearest[i] = nearest[i].min(d);
            }
        }
    }
    order
        .into_iter()
        .map(|i| candidates[i].suggestion.clone())
        .collect()
}

#[cfg(test)]
mod tests;
