//! Average precision of one category, again and again over other weights of the images.
//!
//! Ranks are compared within parts: scores of different heads that judge have different levels. The
//! one that left a part out has seen fewer presences of what is frequent there, so it scores lower
//! there than the others elsewhere; ranked together, a model that learned looks worse than it is
//! beside one that did not.

use ndarray::ArrayView1;

/// One category's known entries, in the order of one model's scores.
pub(super) struct Ranking {
    /// Part by part, best score first; equal scores keep the images' order.
    entries: Vec<Entry>,
}

struct Entry {
    image: u32,
    part: usize,
    present: bool,
}

/// What is counted while a part is gone through.
#[derive(Default)]
struct Count {
    seen: u64,
    hits: u64,
    sum: f64,
}

impl Ranking {
    /// The order of one category's `scores`, a row an image, where its label is known. `parts`
    /// says of every image which head left it out.
    pub(super) fn new(
        scores: ArrayView1<'_, f32>,
        labels: ArrayView1<'_, i8>,
        parts: &[usize],
    ) -> Self {
        let known = (0..).zip(labels).filter(|(_, label)| **label != 0);
        let entry = |(image, label): (u32, &i8)| Entry {
            image,
            part: parts[image as usize],
            present: *label > 0,
        };
        let mut entries: Vec<Entry> = known.map(entry).collect();
        let score = |entry: &Entry| scores[entry.image as usize];
        entries.sort_by(|a, b| {
            let part = a.part.cmp(&b.part);
            part.then_with(|| score(b).total_cmp(&score(a)))
        });
        Ranking { entries }
    }

    /// Known entries, and how many of them are presences.
    pub(super) fn counts(&self) -> (usize, usize) {
        let present = self.entries.iter().filter(|entry| entry.present);
        (self.entries.len(), present.count())
    }

    /// AP when image i is there `weights[i]` times: that of the parts, by their presences; `None`
    /// where no part has both a presence and an absence. The copies of an image stand side by side,
    /// as equal scores do.
    pub(super) fn average_precision(&self, weights: &[u32]) -> Option<f64> {
        let (mut hits, mut sum) = (0u64, 0.0);
        let parts = self.entries.chunk_by(|a, b| a.part == b.part);
        for part in parts {
            let count = Count::of(part, weights);
            if count.hits > 0 && count.seen > count.hits {
                hits += count.hits;
                sum += count.sum;
            }
        }
        (hits > 0).then(|| sum / hits as f64)
    }
}

impl Count {
    fn of(part: &[Entry], weights: &[u32]) -> Self {
        let mut count = Count::default();
        for entry in part {
            let weight = weights[entry.image as usize];
            if !entry.present {
                count.seen += u64::from(weight);
                continue;
            }
            for _ in 0..weight {
                count.seen += 1;
                count.hits += 1;
                count.sum += count.hits as f64 / count.seen as f64;
            }
        }
        count
    }
}
