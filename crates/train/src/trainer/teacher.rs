//! What batches are taught beside their known labels: prototypes, pseudo-labels and soft targets.

use super::memories::Remembered;
use super::run::{Run, label_tensor};
use crate::trainer::error::TrainError;
use crate::trm::blend::Blend;
use crate::trm::config::PseudoForm;
use crate::trm::model::{Forward, REGION, TextFeatures};
use crate::trm::objective::Teaching;
use crate::trm::prototypes::VisualPrototypes;
use crate::trm::pseudo_labels::{Similarities, SimilarityStatistics};
use crate::trm::weights::{Weights, values};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use tagstream_kernels::with_elements;

/// Visual prototypes, what similarities mean, and this epoch's targets.
#[derive(Debug)]
pub(super) struct Teacher {
    prototypes: Option<VisualPrototypes>,
    statistics: SimilarityStatistics,
    /// Probability and weight of every entry of the training set, `[n, C]` each.
    targets: Option<(Vec<f32>, Vec<f32>)>,
}

impl Teacher {
    /// Starts the prototypes as means of R^ over known positives (text features where there are
    /// none).
    pub(super) fn new(run: &Run, weights: &Weights) -> Result<Self, TrainError> {
        let config = run.model.config();
        let (c, d) = (run.model.categories(), run.model.dim());
        let needed = config.contrastive.weight > 0.0 || config.pseudo.form == PseudoForm::Prototype;
        let mut teacher = Self {
            prototypes: None,
            statistics: SimilarityStatistics::new(c, config.pseudo.rule),
            targets: None,
        };
        if !(config.region.enabled || config.query.enabled) || !needed {
            return Ok(teacher);
        }
        let text = run.model.text(weights, run.encoder)?;
        let (mut sums, mut counts) = (vec![0.0f64; c * d], vec![0usize; c]);
        for rows in run.in_order() {
            let forward = run
                .model
                .forward(weights, &text, &run.batch(&rows, None)?)?;
            let Some(region) = &forward.region else { break };
            let region = values(region)?;
            for (at, label) in run.label_rows(&rows).iter().enumerate() {
                if *label > 0 {
                    let category = at % c;
                    counts[category] += 1;
                    let sum = &mut sums[category * d..(category + 1) * d];
                    sum.iter_mut()
                        .zip(&region[at * d..(at + 1) * d])
                        .for_each(|(s, x)| *s += f64::from(*x));
                }
            }
        }
        let fallback = values(&text.positive)?;
        for category in (0..c).filter(|c| counts[*c] == 0) {
            for at in category * d..(category + 1) * d {
                sums[at] = f64::from(fallback[at]);
            }
        }
        teacher.prototypes = Some(VisualPrototypes::new(sums, d, config.prototypes));
        Ok(teacher)
    }

    /// Targets for the coming epoch from the averaged model, once the warm-up is over.
    pub(super) fn prepare(
        &mut self,
        run: &Run,
        average: &Weights,
        remembered: &Remembered,
        share_done: f64,
    ) -> Result<(), TrainError> {
        let config = &run.model.config().pseudo;
        self.targets = None;
        if config.form == PseudoForm::None || config.weight == 0.0 || share_done < config.warm_up {
            return Ok(());
        }
        let c = run.model.categories();
        let unseen = remembered.unseen.as_ref().filter(|_| config.memories);
        let blend = unseen.map_or(Blend::NETWORK, |_| remembered.memories.blend);
        let text = run.model.text(average, run.encoder)?;
        let (mut targets, mut counts) = (Vec::new(), Vec::new());
        for rows in run.in_order() {
            let forward = run
                .model
                .forward(average, &text, &run.batch(&rows, None)?)?;
            let labels = run.label_rows(&rows);
            match config.form {
                PseudoForm::Ensemble => {
                    let mut logits = vec![0.0f32; labels.len()];
                    for branch in &forward.branches {
                        let share = run.model.share(branch.name, &blend) as f32;
                        let own = values(&branch.logits)?;
                        logits
                            .iter_mut()
                            .zip(own)
                            .for_each(|(l, x)| *l += share * x);
                    }
                    if let Some(unseen) = unseen {
                        let own = &unseen[rows[0] * c..(rows[0] + rows.len()) * c];
                        logits.iter_mut().zip(own).for_each(|(l, x)| *l += x);
                    }
                    targets.extend(logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())));
                    counts.extend(labels.iter().map(|y| f32::from(u8::from(*y == 0))));
                }
                _ => {
                    for (label, known) in self
                        .judge(run, &forward, &text, &labels)?
                        .iter()
                        .zip(&labels)
                    {
                        targets.push(f32::from(u8::from(*label > 0)));
                        counts.push(f32::from(u8::from(*known == 0 && *label != 0)));
                    }
                }
            }
        }
        self.targets = Some((targets, counts));
        Ok(())
    }

    /// Calibrated pseudo-labels of a batch.
    fn judge(
        &self,
        run: &Run,
        forward: &Forward,
        text: &TextFeatures,
        labels: &[i8],
    ) -> Result<Vec<i8>, TrainError> {
        let (Some(prototypes), Some(region)) = (&self.prototypes, &forward.region) else {
            return Ok(vec![0; labels.len()]);
        };
        let c = run.model.categories();
        let found = similarities(region, prototypes, text, run.model.dim())?;
        let entries = labels.iter().enumerate().map(|(at, &known)| {
            let seen = prototypes.seen()[at % c];
            self.statistics
                .judge(at % c, seen, known, found.own[at], found.rank[at])
        });
        Ok(entries.collect())
    }

    /// What a batch is taught at this moment.
    pub(super) fn teaching(
        &self,
        run: &Run,
        rows: &[usize],
        share_done: f64,
    ) -> Result<Teaching, TrainError> {
        let config = &run.model.config().pseudo;
        let (c, d) = (run.model.categories(), run.model.dim());
        let picked = |all: &[f32]| -> candle_core::Result<Tensor> {
            let values: Vec<f32> = rows
                .iter()
                .flat_map(|row| &all[row * c..(row + 1) * c])
                .copied()
                .collect();
            Tensor::from_vec(values, (rows.len(), c), &Device::Cpu)
        };
        let targets = self
            .targets
            .as_ref()
            .map(|(targets, counts)| -> candle_core::Result<_> {
                Ok((picked(targets)?, picked(counts)?))
            });
        let risen = if config.ramp > 0.0 {
            ((share_done - config.warm_up) / config.ramp).clamp(0.0, 1.0)
        } else {
            1.0
        };
        let prototypes = self.prototypes.as_ref().map(|prototypes| {
            let values: Vec<f32> = prototypes.vectors().iter().map(|x| *x as f32).collect();
            Tensor::from_vec(values, (c, d), &Device::Cpu)
        });
        let unknown_share = 1.0 - run.known_share();
        let distillation = &run.model.config().distillation;
        Ok(Teaching {
            labels: label_tensor(&run.label_rows(rows), c)?,
            targets: targets.transpose()?,
            target_weight: config.weight * risen * unknown_share.powf(config.unknown_power),
            distillation_weight: distillation.weight
                * unknown_share.powf(distillation.unknown_power),
            assume_negative: run.assume_negative,
            prototypes: prototypes.transpose()?,
        })
    }

    /// Learns from a batch's known labels: prototypes and what similarities mean.
    pub(super) fn observe(
        &mut self,
        run: &Run,
        rows: &[usize],
        forward: &Forward,
        text: &TextFeatures,
        share_done: f64,
    ) -> Result<(), TrainError> {
        let (Some(prototypes), Some(region)) = (&mut self.prototypes, &forward.region) else {
            return Ok(());
        };
        let config = run.model.config();
        let labels = run.label_rows(rows);
        let gate: Option<Vec<bool>> = match forward.logits(REGION) {
            Some(logits) if share_done >= config.pseudo.warm_up && config.prototypes.gate > 0.0 => {
                let floor = (config.prototypes.gate / (1.0 - config.prototypes.gate)).ln() as f32;
                Some(values(logits)?.iter().map(|s| *s > floor).collect())
            }
            _ => None,
        };
        if config.pseudo.form == PseudoForm::Prototype {
            let found = similarities(region, prototypes, text, run.model.dim())?;
            self.statistics.update(&found.own, &labels);
        }
        with_elements::<f32, _>(region, |region| {
            prototypes.update(region, &labels, gate.as_deref());
            Ok(())
        })?;
        Ok(())
    }

    /// State for a checkpoint.
    pub(super) fn state(&self) -> BTreeMap<String, Vec<f64>> {
        let mut state = BTreeMap::from([("statistics".to_owned(), self.statistics.state())]);
        if let Some(prototypes) = &self.prototypes {
            state.insert("prototypes".to_owned(), prototypes.state());
        }
        state
    }

    /// Takes back a state.
    pub(super) fn restore(&mut self, state: &BTreeMap<String, Vec<f64>>) -> Result<(), TrainError> {
        let fits = state
            .get("statistics")
            .is_some_and(|s| self.statistics.restore(s))
            && match (&mut self.prototypes, state.get("prototypes")) {
                (Some(prototypes), Some(state)) => prototypes.restore(state),
                (None, None) => true,
                _ => false,
            };
        if fits {
            Ok(())
        } else {
            Err(TrainError::Data(
                "the checkpoint's prototypes do not fit this model; delete it to start again"
                    .into(),
            ))
        }
    }
}

fn similarities(
    region: &Tensor,
    prototypes: &VisualPrototypes,
    text: &TextFeatures,
    dim: usize,
) -> Result<Similarities, TrainError> {
    let wide = |x: Vec<f32>| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
    let (region, text) = (wide(values(region)?), wide(values(&text.positive)?));
    Ok(Similarities::new(&region, prototypes.vectors(), &text, dim))
}
