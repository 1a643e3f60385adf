//! Which images to label next: those from which a label would teach most.
//!
//! The value of an image is the sum, over its most uncertain categories, of the binary entropy of the predicted
//! probability times a weight that grows with the category's rarity among known presences; what is known already teaches
//! nothing. Images are then taken greedily by value times distance: how far the embedding lies from those taken before, so
//! that a hundred near-alike pictures are not asked for a hundred times (farthest-first, Sener & Savarese 2018).
//!
//! One pass over the predictions table; memory holds a fixed multiple of the images asked for.

use super::{
    label_store::{TableError, data_files, read_columns, strings},
    labels::LabelTable,
};
use crate::{events::LabelEvent, stage::sink::store::TableStore};
use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::Float32Type,
};
use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

/// How to choose.
#[derive(Debug, Clone, PartialEq)]
pub struct SuggestOptions {
    /// How many images.
    pub count: usize,
    /// Candidates held for each image asked for; among them diversity is judged.
    pub pool: usize,
    /// Uncertain categories that count for an image, and are asked about.
    pub questions: usize,
}

impl Default for SuggestOptions {
    fn default() -> Self {
        SuggestOptions {
            count: 100,
            pool: 10,
            questions: 3,
        }
    }
}

/// An image worth labelling.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// Its id.
    pub image_id: String,
    /// Where it is.
    pub uri: String,
    /// What a label is reckoned to be worth, before diversity.
    pub value: f64,
    /// The categories to ask about, with the probability predicted.
    pub ask: Vec<(String, f32)>,
}

impl Suggestion {
    /// The image as a label event without labels.
    pub fn question(&self) -> LabelEvent {
        LabelEvent {
            image_id: self.image_id.clone(),
            uri: self.uri.clone(),
            present: Vec::new(),
            absent: Vec::new(),
            retract: Vec::new(),
            annotator: String::new(),
            event_time: None,
        }
    }
}

struct Candidate {
    suggestion: Suggestion,
    embedding: Vec<f32>,
}

/// Entropy of a coin that shows heads with probability `p`, bits.
fn entropy(p: f64) -> f64 {
    let term = |x: f64| if x > 0.0 { -x * x.log2() } else { 0.0 };
    term(p) + term(1.0 - p)
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
    let known: HashSet<(&str, &str)> = labels.known().map(|(i, c, _)| (i, c)).collect();
    let rarity: HashMap<String, f64> = labels
        .counts()
        .into_iter()
        .map(|(name, count)| (name, 1.0 / (1.0 + count.present as f64).sqrt()))
        .collect();
    let most = options.count.saturating_mul(options.pool.max(1));
    let mut pool = Pool {
        options,
        known,
        rarity,
        candidates: HashMap::new(),
        most,
    };
    let columns = ["image_id", "uri", "scores", "embedding"];
    // Newest files last: the latest prediction of an image counts.
    for file in data_files(store, predictions).await? {
        read_columns(store, &file, &columns, |batch, footer| {
            let names = footer
                .get("tagstream.categories")
                .map(|n| serde_json::from_str(n));
            match names {
                Some(Ok(categories)) => pool.take(batch, categories),
                _ => Err("its footer names no categories".into()),
            }
        })
        .await?;
        pool.trim();
    }
    pool.trim();
    let mut candidates: Vec<Candidate> = pool.candidates.into_values().collect();
    candidates.sort_by(by_value);
    Ok(diverse(candidates, options.count))
}

/// Best first; equal values by id, so that the choice repeats.
fn by_value(a: &Candidate, b: &Candidate) -> Ordering {
    let values = b.suggestion.value.total_cmp(&a.suggestion.value);
    values.then_with(|| a.suggestion.image_id.cmp(&b.suggestion.image_id))
}

struct Pool<'a> {
    options: &'a SuggestOptions,
    known: HashSet<(&'a str, &'a str)>,
    rarity: HashMap<String, f64>,
    candidates: HashMap<String, Candidate>,
    most: usize,
}

fn vectors(batch: &RecordBatch, name: &str) -> Result<(Vec<f32>, usize), String> {
    let wrong = || format!("its column `{name}` holds no vectors");
    let lists = batch.column_by_name(name).ok_or_else(wrong)?;
    let lists = lists.as_fixed_size_list_opt().ok_or_else(wrong)?;
    let values = lists.values().as_primitive_opt::<Float32Type>();
    let values = values.ok_or_else(wrong)?;
    let length = lists.value_length() as usize;
    let start = lists.offset() * length;
    Ok((
        values.values()[start..start + lists.len() * length].to_vec(),
        length,
    ))
}

impl Pool<'_> {
    fn take(&mut self, batch: &RecordBatch, categories: Vec<String>) -> Result<(), String> {
        let (ids, uris) = (strings(batch, "image_id")?, strings(batch, "uri")?);
        let (scores, c) = vectors(batch, "scores")?;
        let (embeddings, d) = vectors(batch, "embedding")?;
        if c != categories.len() {
            return Err(format!(
                "it has {c} scores but names {} categories",
                categories.len()
            ));
        }
        for row in 0..batch.num_rows() {
            let id = ids.value(row);
            let mut worth: Vec<(f64, usize)> = (0..c)
                .filter(|k| !self.known.contains(&(id, categories[*k].as_str())))
                .map(|k| {
                    let weight = self.rarity.get(&categories[k]).copied().unwrap_or(1.0);
                    (weight * entropy(f64::from(scores[row * c + k])), k)
                })
                .collect();
            worth.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            worth.truncate(self.options.questions);
            let suggestion = Suggestion {
                image_id: id.into(),
                uri: uris.value(row).into(),
                value: worth.iter().map(|w| w.0).sum(),
                ask: worth
                    .iter()
                    .map(|(_, k)| (categories[*k].clone(), scores[row * c + k]))
                    .collect(),
            };
            let embedding = embeddings[row * d..(row + 1) * d].to_vec();
            let candidate = Candidate {
                suggestion,
                embedding,
            };
            self.candidates.insert(id.into(), candidate);
            if self.candidates.len() > 2 * self.most.max(1000) {
                self.trim();
            }
        }
        Ok(())
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

/// Distance of two embeddings of unit length, 0 to 2; embeddings of different models have nothing to do with each other.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return 1.0;
    }
    1.0 - a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>()
}

fn diverse(candidates: Vec<Candidate>, count: usize) -> Vec<Suggestion> {
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
            candidates[i].suggestion.value * distance
        };
        let best = (0..candidates.len())
            .filter(|i| !taken[*i])
            // The first of equals, which is the one of higher value.
            .reduce(|a, b| if gain(b) > gain(a) { b } else { a })
            .expect("fewer are taken than there are");
        taken[best] = true;
        order.push(best);
        for i in 0..candidates.len() {
            if !taken[i] {
                let d = distance(&candidates[i].embedding, &candidates[best].embedding);
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
mod tests {
    use super::*;
    use crate::{
        events::{Offset, PartitionId},
        stage::sink::{
            parquet,
            predictions::{ModelStamp, PredictionLayout, PredictionRow},
            table::TableRow,
        },
    };
    use object_store::path::Path;
    use std::{collections::BTreeMap, sync::Arc};

    async fn table(rows: &[(&str, [f32; 2], [f32; 2])]) -> TableStore {
        let layout = Arc::new(PredictionLayout {
            categories: vec!["cat".into(), "dog".into()],
            embedding: 2,
            region_embeddings: false,
        });
        let rows: Vec<PredictionRow> = rows
            .iter()
            .enumerate()
            .map(|(offset, (id, scores, embedding))| PredictionRow {
                image_id: id.to_string(),
                uri: format!("s3://b/{id}.jpg"),
                event_time: chrono::DateTime::UNIX_EPOCH,
                processed_time: chrono::DateTime::UNIX_EPOCH,
                partition: PartitionId::new("images", 0),
                offset: Offset(offset as i64),
                model: Arc::new(ModelStamp {
                    version: "m".into(),
                    preprocessing_hash: "h".into(),
                }),
                width: 1,
                height: 1,
                tags: Vec::new(),
                scores: scores.to_vec(),
                embedding: embedding.to_vec(),
                attributes: BTreeMap::new(),
                layout: Arc::clone(&layout),
            })
            .collect();
        let entries = PredictionRow::describe(&layout, &rows)
            .into_iter()
            .collect();
        let bytes = parquet::encode(&*layout, &rows, &entries).unwrap();
        let store = TableStore::in_memory();
        let path = Path::from("predictions/images/0/0-00.parquet");
        store.put_if_absent(&path, bytes.into()).await.unwrap();
        store
    }

    fn ids(suggestions: &[Suggestion]) -> Vec<&str> {
        suggestions.iter().map(|s| s.image_id.as_str()).collect()
    }

    #[tokio::test]
    async fn the_uncertain_come_first_and_near_alike_pictures_once() {
        let store = table(&[
            ("sure", [0.99, 0.01], [0.0, 1.0]),
            ("torn", [0.5, 0.5], [1.0, 0.0]),
            ("torn twin", [0.5, 0.49], [1.0, 0.0]),
            ("unsure", [0.3, 0.9], [0.0, 1.0]),
        ])
        .await;
        let options = SuggestOptions {
            count: 2,
            ..SuggestOptions::default()
        };
        let nothing = LabelTable::default();
        let chosen = suggest(&store, "predictions", &nothing, &options)
            .await
            .unwrap();
        assert_eq!(ids(&chosen), ["torn", "unsure"]);
        assert_eq!(chosen[0].uri, "s3://b/torn.jpg");
        let all = SuggestOptions {
            count: 9,
            ..options
        };
        assert_eq!(
            suggest(&store, "predictions", &nothing, &all)
                .await
                .unwrap()
                .len(),
            4
        );
    }

    #[tokio::test]
    async fn what_is_known_is_not_asked_and_the_rare_weighs_more() {
        let store = table(&[
            ("a", [0.5, 0.05], [1.0, 0.0]),
            ("b", [0.05, 0.5], [0.0, 1.0]),
        ])
        .await;
        let event = |image: &str, category: &str| LabelEvent {
            present: vec![category.into()],
            ..Suggestion {
                image_id: image.into(),
                uri: String::new(),
                value: 0.0,
                ask: Vec::new(),
            }
            .question()
        };
        let options = SuggestOptions {
            count: 1,
            questions: 1,
            ..SuggestOptions::default()
        };
        let one = |events: Vec<LabelEvent>| {
            let (store, options) = (&store, &options);
            async move {
                let labels = LabelTable::of_events(&events);
                suggest(store, "predictions", &labels, options)
                    .await
                    .unwrap()
            }
        };
        let known = one(vec![event("a", "cat")]).await;
        assert_eq!(ids(&known), ["b"]);
        assert_eq!(known[0].ask[0].0, "dog");
        let many_dogs = (0..20)
            .map(|i| event(&format!("other {i}"), "dog"))
            .collect();
        assert_eq!(ids(&one(many_dogs).await), ["a"]);
    }
}
