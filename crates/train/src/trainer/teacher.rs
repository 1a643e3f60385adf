//! What batches are taught beside their known labels: prototypes, pseudo-labels and soft targets.

use crate::arrays::to_tensor;
use crate::trainer::closed_form::ClosedForm;
use crate::trainer::data::{Pass, TrainingSet, branch_sum};
use crate::trainer::error::TrainError;
use crate::trm::blend::Blend;
use crate::trm::config::{MethodConfig, PseudoForm};
use crate::trm::model::{Forward, REGION, TextFeatures};
use crate::trm::objective::Teaching;
use crate::trm::prototypes::VisualPrototypes;
use crate::trm::pseudo_labels::{Similarities, SimilarityStatistics};
use crate::trm::weights::{Weights, values};
use candle_core::{Device, Tensor};
use ndarray::{Array2, ArrayView2, Axis, Zip, s};
use std::collections::BTreeMap;
use tagstream_kernels::with_elements;

/// Visual prototypes, what similarities mean, and this training epoch's targets.
#[derive(Debug)]
pub(super) struct Teacher<'a> {
    config: &'a MethodConfig,
    /// Share of entries that are unknown.
    unknown_share: f64,
    assume_negative: f64,
    prototypes: Option<VisualPrototypes>,
    statistics: SimilarityStatistics,
    targets: Option<SoftTargets>,
}

/// What unknown entries of the training set are taught.
#[derive(Debug)]
struct SoftTargets {
    /// `[n, C]`.
    probabilities: Array2<f32>,
    /// How much each counts, `[n, C]`.
    weights: Array2<f32>,
}

impl<'a> Teacher<'a> {
    pub(super) fn new(set: &TrainingSet<'a>, weights: &Weights) -> Result<Self, TrainError> {
        let config = set.model.config();
        Ok(Self {
            config,
            unknown_share: 1.0 - set.known_share(),
            assume_negative: set.assume_negative,
            prototypes: first_prototypes(set, weights)?,
            statistics: SimilarityStatistics::new(set.model.categories(), config.pseudo.rule),
            targets: None,
        })
    }

    /// Targets for the coming training epoch from the averaged model, once the warm-up is over.
    pub(super) fn prepare(
        &mut self,
        set: &TrainingSet,
        average: &Weights,
        closed: &ClosedForm,
        share_done: f64,
    ) -> Result<(), TrainError> {
        let config = &self.config.pseudo;
        self.targets = None;
        if config.form == PseudoForm::None || config.weight == 0.0 || share_done < config.warm_up {
            return Ok(());
        }
        let text = set.text(average)?;
        let mut targets = SoftTargets {
            probabilities: Array2::zeros(set.labels.dim()),
            weights: Array2::zeros(set.labels.dim()),
        };
        for pass in set.passes(average, &text) {
            let pass = pass?;
            let at = s![pass.images.clone(), ..];
            let mut probabilities = targets.probabilities.slice_mut(at);
            let mut weights = targets.weights.slice_mut(at);
            if config.form == PseudoForm::Ensemble {
                let found = self.ensemble(set, &pass, closed)?;
                probabilities.assign(&found);
                weights.assign(&pass.labels.mapv(|y| f32::from(u8::from(y == 0))));
            } else {
                let found = self.pseudo_labels(&pass, &text)?;
                Zip::from(probabilities)
                    .and(weights)
                    .and(&found)
                    .and(&pass.labels)
                    .for_each(|target, weight, &found, &known| {
                        *target = f32::from(u8::from(found > 0));
                        *weight = f32::from(u8::from(known == 0 && found != 0));
                    });
            }
        }
        self.targets = Some(targets);
        Ok(())
    }

    /// Probabilities of the averaged model, with the regressions where the method wants them.
    fn ensemble(
        &self,
        set: &TrainingSet,
        pass: &Pass,
        closed: &ClosedForm,
    ) -> Result<Array2<f32>, TrainError> {
        let ridges = closed.out_of_fold.as_ref();
        let ridges = ridges.filter(|_| self.config.pseudo.memories);
        let blend = ridges.map_or(Blend::NETWORK, |_| closed.ridges.blend);
        let mut logits = branch_sum(set.model, &pass.forward, pass.images.len(), &blend)?;
        if let Some(ridges) = ridges {
            logits += &ridges.slice(s![pass.images.clone(), ..]);
        }
        Ok(logits.mapv(|logit| 1.0 / (1.0 + (-logit).exp())))
    }

    /// Calibrated pseudo-labels of some images, `[images, C]`.
    fn pseudo_labels(&self, pass: &Pass, text: &TextFeatures) -> Result<Array2<i8>, TrainError> {
        let mut found = Array2::zeros(pass.labels.dim());
        let (Some(prototypes), Some(region)) = (&self.prototypes, &pass.forward.region) else {
            return Ok(found);
        };
        let similarities = similarities(region, prototypes, text)?;
        let all = similarities.own.iter().zip(&similarities.rank);
        let entries = found.indexed_iter_mut().zip(&pass.labels).zip(all);
        for ((((_, category), found), known), (own, rank)) in entries {
            let seen = prototypes.seen()[category];
            *found = self.statistics.judge(category, seen, *known, *own, *rank);
        }
        Ok(found)
    }

    /// What a batch is taught at this moment; `labels` are its own, `[images, C]`.
    pub(super) fn teach(
        &self,
        images: &[usize],
        labels: ArrayView2<'_, i8>,
        share_done: f64,
    ) -> Result<Teaching, TrainError> {
        let config = &self.config.pseudo;
        let targets = self.targets.as_ref().map(|targets| {
            let pick = |all: &Array2<f32>| to_tensor(all.select(Axis(0), images).view());
            candle_core::Result::Ok((pick(&targets.probabilities)?, pick(&targets.weights)?))
        });
        let risen = if config.ramp > 0.0 {
            ((share_done - config.warm_up) / config.ramp).clamp(0.0, 1.0)
        } else {
            1.0
        };
        let prototypes = self.prototypes.as_ref().map(|prototypes| {
            let values: Vec<f32> = prototypes.vectors().iter().map(|x| *x as f32).collect();
            let categories = labels.ncols();
            let size = (categories, values.len() / categories.max(1));
            Tensor::from_vec(values, size, &Device::Cpu)
        });
        let distillation = &self.config.distillation;
        let power = |exponent: f64| self.unknown_share.powf(exponent);
        Ok(Teaching {
            labels: to_tensor(labels.mapv(f32::from).view())?,
            targets: targets.transpose()?,
            target_weight: config.weight * risen * power(config.unknown_power),
            distillation_weight: distillation.weight * power(distillation.unknown_power),
            assume_negative: self.assume_negative,
            prototypes: prototypes.transpose()?,
        })
    }

    /// Learns from a batch's known labels: prototypes and what similarities mean.
    pub(super) fn observe(
        &mut self,
        labels: ArrayView2<'_, i8>,
        forward: &Forward,
        text: &TextFeatures,
        share_done: f64,
    ) -> Result<(), TrainError> {
        let (Some(prototypes), Some(region)) = (&mut self.prototypes, &forward.region) else {
            return Ok(());
        };
        let config = self.config;
        let labels: Vec<i8> = labels.iter().copied().collect();
        let gate: Option<Vec<bool>> = match forward.logits(REGION) {
            Some(logits) if share_done >= config.pseudo.warm_up && config.prototypes.gate > 0.0 => {
                let floor = (config.prototypes.gate / (1.0 - config.prototypes.gate)).ln() as f32;
                Some(values(logits)?.iter().map(|s| *s > floor).collect())
            }
            _ => None,
        };
        if config.pseudo.form == PseudoForm::Prototype {
            let found = similarities(region, prototypes, text)?;
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

/// Prototypes as means of R^ over known positives (text features where there are none), if the
/// method uses any.
fn first_prototypes(
    set: &TrainingSet,
    weights: &Weights,
) -> Result<Option<VisualPrototypes>, TrainError> {
    let config = set.model.config();
    let needed = config.contrastive.weight > 0.0 || config.pseudo.form == PseudoForm::Prototype;
    if !set.model.uses_positions() || !needed {
        return Ok(None);
    }
    let (c, d) = (set.model.categories(), set.model.dim());
    let text = set.text(weights)?;
    let (mut sums, mut counts) = (Array2::<f64>::zeros((c, d)), vec![0usize; c]);
    for pass in set.passes(weights, &text) {
        let pass = pass?;
        let Some(region) = &pass.forward.region else {
            break;
        };
        let region = values(region)?;
        for (((_, category), label), region) in pass.labels.indexed_iter().zip(region.chunks(d)) {
            if *label > 0 {
                counts[category] += 1;
                let sum = sums.row_mut(category);
                sum.into_iter()
                    .zip(region)
                    .for_each(|(s, x)| *s += f64::from(*x));
            }
        }
    }
    let fallback = values(&text.positive)?;
    for ((mut sum, fallback), count) in sums
        .rows_mut()
        .into_iter()
        .zip(fallback.chunks(d))
        .zip(counts)
    {
        if count == 0 {
            sum.iter_mut()
                .zip(fallback)
                .for_each(|(s, x)| *s = f64::from(*x));
        }
    }
    let (sums, _) = sums.into_raw_vec_and_offset();
    Ok(Some(VisualPrototypes::new(sums, d, config.prototypes)))
}

fn similarities(
    region: &Tensor,
    prototypes: &VisualPrototypes,
    text: &TextFeatures,
) -> Result<Similarities, TrainError> {
    let double = |x: &Tensor| -> candle_core::Result<Vec<f64>> {
        Ok(values(x)?.into_iter().map(f64::from).collect())
    };
    let (region, text, dim) = (
        double(region)?,
        double(&text.positive)?,
        text.positive.dim(1)?,
    );
    Ok(Similarities::new(&region, prototypes.vectors(), &text, dim))
}
