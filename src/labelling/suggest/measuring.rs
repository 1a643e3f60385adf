//! Questions for measuring: drawn evenly, whatever the model says.
//!
//! Labels that were picked for what they teach are no fair sample of the stream: average precision
//! on doubtful pictures alone is another number. So some pictures are never asked about for
//! learning, and questions about them are drawn by hash: of pictures that nobody was asked about,
//! and of their categories, all alike.

use super::{QuestionPurpose, Rows, Suggestion};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// One image in this many is for measuring.
const ONE_IN: u64 = 10;

fn hash(what: &str, id: &str) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(format!("tagstream {what}\0"));
    hasher.update(id.as_bytes());
    let bytes = hasher.finalize();
    bytes
        .iter()
        .take(8)
        .fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

/// Whether an image is for measuring: that depends on nothing but its id, so it stays so for ever.
pub fn is_for_measuring(image_id: &str) -> bool {
    hash("measuring", image_id).is_multiple_of(ONE_IN)
}

/// The images drawn so far, by the hash that orders them.
#[derive(Debug, Default)]
pub(super) struct Draw {
    count: usize,
    questions: usize,
    drawn: BTreeMap<(u64, String), Suggestion>,
}

impl Draw {
    pub(super) fn new(count: usize, questions: usize) -> Self {
        Draw {
            count,
            questions,
            drawn: BTreeMap::new(),
        }
    }

    /// Offers a row of an image for measuring, about which nothing is known yet.
    pub(super) fn offer(&mut self, rows: &Rows<'_>, row: usize) {
        let id = rows.ids.value(row);
        let key = (hash("measuring order", id), id.to_owned());
        let beyond = self.drawn.len() >= self.count;
        if self.count == 0 || beyond && self.drawn.last_key_value().is_some_and(|(l, _)| *l < key) {
            return;
        }
        let of = |name: &String| hash(name, id);
        let mut asked: Vec<usize> = (0..rows.categories.len()).collect();
        asked.sort_by_key(|k| of(&rows.categories[*k]));
        asked.truncate(self.questions);
        let asked = asked.iter();
        let suggestion = Suggestion {
            image_id: id.into(),
            uri: rows.uris.value(row).into(),
            value: 0.0,
            purpose: QuestionPurpose::Measuring,
            ask: asked
                .map(|k| (rows.categories[*k].clone(), rows.score(row, *k)))
                .collect(),
            model_version: rows.versions.value(row).into(),
        };
        // The latest row of an image counts.
        self.drawn.insert(key, suggestion);
        if self.drawn.len() > self.count {
            self.drawn.pop_last();
        }
    }

    pub(super) fn into_suggestions(self) -> Vec<Suggestion> {
        self.drawn.into_values().collect()
    }
}
