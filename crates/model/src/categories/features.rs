//! Text features of categories.
//!
//! With `f(s)` the text tower's feature of a sentence, of norm 1, `u(x) = x / |x|`, a category of
//! phrases `p` of weights `w_p` in `T` templates `t` has the feature
//!
//! ```text
//! P = u( sum_p w_p sum_t f(t(p)) / T )
//! ```
//!
//! the normalised weighted mean of the normalised features of all its phrases. With negative
//! phrases `n` of weights `v_n`, `N` made of them in the same way and `v` the mean of their
//! weights, it has
//!
//! ```text
//! u( P - v N )
//! ```

use super::CategoryWords;
use crate::bundle::Category;
use crate::clip::tokenizer::TokenizerError;
use crate::text::{ClipTextEncoder, TextEncoderError};

/// Sentences that go through the tower before their categories' features are made of them.
const BATCH: usize = 64;

/// A feature shorter than this points nowhere.
const NOTHING: f64 = 1e-4;

/// Why categories have no features.
#[derive(Debug, thiserror::Error)]
pub enum WordFeatureError {
    /// A phrase is too long for the tower.
    #[error("`{category}`, `{phrase}`: {}", self.flaw())]
    TooLong {
        /// Which category.
        at: usize,
        /// Its name.
        category: String,
        /// The phrase.
        phrase: String,
        /// Whether it is a negative one.
        negative: bool,
        /// The longest sentence made of it.
        sentence: String,
        /// Its tokens, begin and end included.
        tokens: usize,
        /// The most that the tower takes.
        limit: usize,
    },
    /// Nothing is left of the words.
    #[error("`{category}`: {}", self.flaw())]
    Nothing {
        /// Which category.
        at: usize,
        /// Its name.
        category: String,
    },
    /// The tower or its tokenizer failed.
    #[error(transparent)]
    Text(#[from] TextEncoderError),
}

impl WordFeatureError {
    /// The category that it is about, and whether its negative words are.
    pub(super) fn place(&self) -> Option<(usize, bool)> {
        match self {
            WordFeatureError::TooLong { at, negative, .. } => Some((*at, *negative)),
            WordFeatureError::Nothing { at, .. } => Some((*at, true)),
            WordFeatureError::Text(_) => None,
        }
    }

    /// The phrase that it is about.
    pub(super) fn phrase(&self) -> Option<&str> {
        match self {
            WordFeatureError::TooLong { phrase, .. } => Some(phrase),
            _ => None,
        }
    }

    /// What is wrong, and what to do about it.
    pub(super) fn flaw(&self) -> String {
        match self {
            WordFeatureError::TooLong {
                sentence,
                tokens,
                limit,
                ..
            } => format!(
                "in the sentence `{sentence}` these are {tokens} tokens, and the text tower takes \
                 {limit}: write fewer words, or take shorter templates"
            ),
            WordFeatureError::Nothing { .. } => "the negative words take everything away that the \
                                             words say: write others, or smaller weights"
                .into(),
            WordFeatureError::Text(error) => error.to_string(),
        }
    }
}

/// A sentence on its way through the tower.
struct Sentence {
    text: String,
    weight: f64,
    negative: bool,
}

/// All that a category's feature is made of.
struct Sentences {
    all: Vec<Sentence>,
    /// v: how much of the negative ones is subtracted.
    share: f64,
}

/// The features of `categories` as the module's equations say, `[C, D]`, rows of norm 1. `done`
/// hears how many categories have theirs.
///
/// # Errors
/// [`WordFeatureError`] names the category and the phrase.
pub fn text_features(
    categories: &[&Category],
    text: &ClipTextEncoder,
    mut done: impl FnMut(usize),
) -> Result<Vec<f32>, WordFeatureError> {
    let mut all = Vec::with_capacity(categories.len() * text.dim());
    let mut waiting: Vec<Sentences> = Vec::new();
    let mut count = 0;
    for (at, category) in categories.iter().enumerate() {
        let own = sentences_of(at, category, text)?;
        count += own.all.len();
        waiting.push(own);
        if count < BATCH && at + 1 < categories.len() {
            continue;
        }
        let texts: Vec<&str> = waiting
            .iter()
            .flat_map(|own| &own.all)
            .map(|sentence| sentence.text.as_str())
            .collect();
        let features = text.embed(&texts, |_| ())?;
        let mut rows = features.chunks_exact(text.dim());
        let first = at + 1 - waiting.len();
        for (at, own) in (first..).zip(waiting.drain(..)) {
            let rows: Vec<&[f32]> = rows.by_ref().take(own.all.len()).collect();
            let feature = own.mean(&rows).ok_or_else(|| WordFeatureError::Nothing {
                at,
                category: categories[at].name.clone(),
            })?;
            all.extend(feature);
        }
        count = 0;
        done(at + 1);
    }
    Ok(all)
}

/// The sentences of a category, none of which is too long.
fn sentences_of(
    at: usize,
    category: &Category,
    text: &ClipTextEncoder,
) -> Result<Sentences, WordFeatureError> {
    let plain = CategoryWords::plain(&category.prompt);
    let words = category.words.as_ref().unwrap_or(&plain);
    let mut all = Vec::new();
    for (phrases, negative) in [(&words.phrases, false), (&words.negative, true)] {
        for phrase in phrases {
            let weight = f64::from(phrase.weight) / words.templates.count() as f64;
            for sentence in words.templates.around(&phrase.text) {
                match text.tokenizer.encode(&sentence) {
                    Ok(_) => {}
                    Err(TokenizerError::TooLong { tokens, limit, .. }) => {
                        return Err(WordFeatureError::TooLong {
                            at,
                            category: category.name.clone(),
                            phrase: phrase.text.clone(),
                            negative,
                            sentence,
                            tokens,
                            limit,
                        });
                    }
                    Err(other) => return Err(TextEncoderError::from(other).into()),
                }
                all.push(Sentence {
                    text: sentence,
                    weight,
                    negative,
                });
            }
        }
    }
    let negative = words.negative.iter().map(|phrase| f64::from(phrase.weight));
    Ok(Sentences {
        all,
        share: negative.sum::<f64>() / words.negative.len().max(1) as f64,
    })
}

impl Sentences {
    /// The category's feature from those of its sentences; `None` if nothing is left of it.
    fn mean(&self, rows: &[&[f32]]) -> Option<Vec<f32>> {
        if let [row] = rows {
            // As it is: normalised again it would differ in its last digits.
            return Some(row.to_vec());
        }
        let mut feature = unit(self.sum(rows, false))?;
        if self.share > 0.0 {
            let taken = unit(self.sum(rows, true))?;
            let pairs = feature.iter_mut().zip(taken);
            pairs.for_each(|(x, taken)| *x -= self.share * taken);
            feature = unit(feature)?;
        }
        Some(feature.into_iter().map(|x| x as f32).collect())
    }

    /// The weighted sum over sentences of one kind.
    fn sum(&self, rows: &[&[f32]], negative: bool) -> Vec<f64> {
        let mut sum = vec![0.0; rows[0].len()];
        let own = self.all.iter().zip(rows);
        for (sentence, row) in own.filter(|(sentence, _)| sentence.negative == negative) {
            let scaled = row.iter().map(|x| sentence.weight * f64::from(*x));
            sum.iter_mut().zip(scaled).for_each(|(sum, x)| *sum += x);
        }
        sum
    }
}

fn unit(mut x: Vec<f64>) -> Option<Vec<f64>> {
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    x.iter_mut().for_each(|x| *x /= norm);
    (norm > NOTHING).then_some(x)
}
