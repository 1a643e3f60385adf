//! A part of the features, without a copy of the dense ones: what calibration trains on and what it
//! scores.

use super::FeatureStore;
use crate::trm::features::{FeatureFailure, FeatureSource};

/// Some rows of a [`FeatureStore`], in an order of their own.
pub struct Subset<'a> {
    all: &'a FeatureStore,
    rows: Vec<usize>,
    global: Vec<f32>,
}

impl<'a> Subset<'a> {
    /// The rows `rows` of `all`; a row that `all` does not have panics.
    pub fn new(all: &'a FeatureStore, rows: Vec<usize>) -> Self {
        let d = all.dim();
        let global = rows
            .iter()
            .flat_map(|row| &all.global()[row * d..(row + 1) * d])
            .copied()
            .collect();
        Self { all, rows, global }
    }
}

impl FeatureSource for Subset<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn dim(&self) -> usize {
        self.all.dim()
    }

    fn global(&self) -> &[f32] {
        &self.global
    }

    fn dense(&self, rows: &[usize]) -> Result<Vec<f32>, FeatureFailure> {
        let rows: Vec<usize> = rows.iter().map(|&row| self.rows[row]).collect();
        Ok(self.all.dense(&rows)?)
    }
}
