//! The calibrated start: one scale and one offset for each branch, by Platt scaling on the known
//! labels.

use crate::trainer::data::TrainingSet;
use crate::trainer::error::TrainError;
use crate::trm::platt::{Platt, ScoredLabel, fit_platt};
use crate::trm::weights::{Weights, names};
use candle_core::{DType, Device, Tensor};

/// A calibrated scale of cosines is at least this: where the start says nothing about the labels
/// the fit would go to zero, and with it every gradient.
const LEAST_SCALE: f64 = 5.0;

/// Without any label: how many logits a standard deviation of a branch's cosines is, and the logit
/// of their mean. Cosines of present categories lie about two deviations above the mean, and a
/// picture holds a few categories in a hundred.
const UNLABELLED: (f64, f64) = (1.8, -3.5);

/// Sets every branch's scale and bias in `weights`.
pub(super) fn calibrate(set: &TrainingSet, weights: &mut Weights) -> Result<(), TrainError> {
    let branches = set.model.branches();
    for branch in &branches {
        if weights.has(&names::log_scale(branch)) {
            weights.insert(
                names::log_scale(branch),
                Tensor::zeros(1, DType::F32, &Device::Cpu)?,
            );
        }
    }
    let text = set.text(weights)?;
    let labelled = set.labels.iter().any(|label| *label > 0);
    let mut entries: Vec<Vec<ScoredLabel>> = vec![Vec::new(); branches.len()];
    for pass in set.passes(weights, &text) {
        let pass = pass?;
        for (branch, entries) in pass.forward.branches.iter().zip(&mut entries) {
            let scores = branch.logits.flatten_all()?.to_vec1::<f32>()?;
            let scored = scores.iter().zip(&pass.labels);
            entries.extend(scored.filter_map(|(score, label)| {
                let weight = if !labelled {
                    1.0
                } else if *label == 0 {
                    set.assume_negative
                } else {
                    1.0
                };
                (weight > 0.0).then(|| ScoredLabel {
                    score: f64::from(*score),
                    offset: 0.0,
                    target: f64::from(u8::from(*label > 0)),
                    weight,
                })
            }));
        }
    }
    for (branch, mut entries) in branches.iter().zip(entries) {
        let scaled = weights.has(&names::log_scale(branch));
        let mut platt = if labelled {
            fit_platt(entries.iter().copied())
        } else {
            without_labels(&entries)
        };
        if scaled && platt.scale < LEAST_SCALE {
            for entry in &mut entries {
                (entry.offset, entry.score) = (LEAST_SCALE * entry.score, 0.0);
            }
            platt = fit_platt(entries.into_iter());
            platt.scale = LEAST_SCALE;
        }
        let bias = Tensor::full(platt.offset as f32, set.model.categories(), &Device::Cpu)?;
        weights.insert(names::bias(branch), bias);
        if scaled {
            let log = Tensor::full(platt.scale.ln() as f32, 1, &Device::Cpu)?;
            weights.insert(names::log_scale(branch), log);
        }
    }
    Ok(())
}

/// The convention of [`UNLABELLED`].
fn without_labels(entries: &[ScoredLabel]) -> Platt {
    let n = entries.len().max(1) as f64;
    let mean = entries.iter().map(|e| e.score).sum::<f64>() / n;
    let square = entries
        .iter()
        .map(|e| (e.score - mean).powi(2))
        .sum::<f64>();
    let scale = UNLABELLED.0 / (square / n).sqrt().max(1e-6);
    Platt {
        scale,
        offset: UNLABELLED.1 - scale * mean,
    }
}
