//! Average precision of one category, again and again over other weights of the images.

use ndarray::ArrayView1;

/// One category's known entries, in the order of one model's scores.
pub(super) struct Ranking {
    /// (image, present), best score first; equal scores keep the images' order.
    entries: Vec<(u32, bool)>,
}

impl Ranking {
    /// The order of one category's `scores`, a row an image, where its label is known.
    pub(super) fn new(scores: ArrayView1<'_, f32>, labels: ArrayView1<'_, i8>) -> Self {
        let known = (0..).zip(labels).filter(|(_, label)| **label != 0);
        let mut entries: Vec<(u32, bool)> =
            known.map(|(image, label)| (image, *label > 0)).collect();
        let score = |image: u32| scores[image as usize];
        entries.sort_by(|a, b| score(b.0).total_cmp(&score(a.0)));
        Ranking { entries }
    }

    /// Known entries, and how many of them are presences.
    pub(super) fn counts(&self) -> (usize, usize) {
        let present = self.entries.iter().filter(|(_, present)| *present);
        (self.entries.len(), present.count())
    }

    /// AP when image i is there `weights[i]` times; `None` without a presence or without an
    /// absence. The copies of an image stand side by side, as equal scores do.
    pub(super) fn average_precision(&self, weights: &[u32]) -> Option<f64> {
        let (mut seen, mut hits, mut sum) = (0u64, 0u64, 0.0);
        for &(image, present) in &self.entries {
            let weight = weights[image as usize];
            if !present {
                seen += u64::from(weight);
                continue;
            }
            for _ in 0..weight {
                seen += 1;
                hits += 1;
                sum += hits as f64 / seen as f64;
            }
        }
        (hits > 0 && seen > hits).then(|| sum / hits as f64)
    }
}
