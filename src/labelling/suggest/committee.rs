//! The two views that a model has of an image, and where they disagree.

use super::{GlobalView, Rows};

/// Mean and standard deviation of what has come by (Welford).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spread {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Spread {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let off = value - self.mean;
        self.mean += off / self.count;
        self.squares += off * (value - self.mean);
    }

    /// How many standard deviations `value` lies above the mean.
    fn standardised(&self, value: f64) -> f64 {
        let deviation = (self.squares / self.count.max(1.0)).sqrt();
        (value - self.mean) / deviation.max(1e-9)
    }
}

/// Both views of every category over the whole table.
pub(super) struct Committee<'a> {
    pub(super) view: &'a GlobalView,
    /// Of each category: of the scores, of the global view.
    pub(super) spreads: Vec<[Spread; 2]>,
}

impl Committee<'_> {
    fn global(&self, category: usize, embedding: &[f32]) -> f64 {
        let d = embedding.len();
        let row = &self.view.directions[category * d..(category + 1) * d];
        row.iter()
            .zip(embedding)
            .map(|(a, b)| f64::from(a * b))
            .sum()
    }

    pub(super) fn add(&mut self, rows: &Rows<'_>, row: usize) {
        for k in 0..rows.categories.len() {
            let global = self.global(k, rows.embedding(row));
            self.spreads[k][0].add(logit(rows.score(row, k)));
            self.spreads[k][1].add(global);
        }
    }

    /// 0 where both say the same, 1 where they are two standard deviations or more apart.
    pub(super) fn disagreement(&self, rows: &Rows<'_>, row: usize, k: usize) -> f64 {
        let [scores, globals] = &self.spreads[k];
        let seen = scores.standardised(logit(rows.score(row, k)));
        let global = globals.standardised(self.global(k, rows.embedding(row)));
        ((seen - global).abs() / 2.0).min(1.0)
    }
}

fn logit(p: f32) -> f64 {
    let p = f64::from(p).clamp(1e-6, 1.0 - 1e-6);
    (p / (1.0 - p)).ln()
}
