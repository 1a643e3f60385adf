//! The total loss of a batch.
//!
//! ```text
//! L = sum_branches BCE(s_b, y) + kd L_kd(s_r -> s_q) + con L_con(R^, prototypes)
//!   + ps sum_branches BCE(s_b, targets) + shrinkage |residual|²
//! ```

use super::losses::{
    Distillation, bernoulli_distillation, class_distillation, contrastive_rows,
    feature_distillation, soft_cross_entropy,
};
use super::model::{Forward, Model, QUERY, REGION, TextFeatures};
use super::weights::{Weights, names};
use candle_core::{DType, Result, Tensor};

/// What a batch is trained towards.
#[derive(Debug, Clone)]
pub struct Teaching {
    /// Known labels +1, -1, 0, `[B, C]`, in the type of the logits.
    pub labels: Tensor,
    /// Probabilities for unknown entries and how much each counts (0 where known), `[B, C]` each.
    pub targets: Option<(Tensor, Tensor)>,
    /// Factor of the targets' loss at this step.
    pub target_weight: f64,
    /// Weight with which an unknown entry counts as absent.
    pub assume_negative: f64,
    /// Factor of the distillation's loss.
    pub distillation_weight: f64,
    /// Visual prototypes, `[C, D]`; without them there is no contrastive loss.
    pub prototypes: Option<Tensor>,
}

/// The loss and its parts.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The sum of all parts, to be minimised.
    pub total: Tensor,
    /// Names and values of the parts, weighted as in the total.
    pub parts: Vec<(&'static str, f64)>,
}

impl Model {
    /// The loss of a batch.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn loss(
        &self,
        weights: &Weights,
        text: &TextFeatures,
        forward: &Forward,
        teaching: &Teaching,
    ) -> Result<Loss> {
        let mut parts: Vec<(&'static str, Tensor)> = Vec::new();
        let (supervised, taught) = self.classification(forward, teaching)?;
        push(&mut parts, "supervised", supervised)?;
        push(&mut parts, "targets", taught)?;
        let distilled = self.distillation(forward, teaching)?;
        push(&mut parts, "distillation", distilled)?;
        let contrasted = self.contrastive(text, forward, teaching)?;
        push(&mut parts, "contrastive", contrasted)?;
        if weights.has(names::RESIDUAL) {
            let size = weights.get(names::RESIDUAL)?.sqr()?.sum_all()?;
            let shrinkage = (size * self.config().global.shrinkage)?;
            push(&mut parts, "shrinkage", [shrinkage])?;
        }

        let labels = &teaching.labels;
        let mut total = Tensor::zeros((), labels.dtype(), labels.device())?;
        let mut values = Vec::new();
        for (name, part) in &parts {
            total = (total + part)?;
            values.push((*name, number(part)?));
        }
        Ok(Loss {
            total,
            parts: values,
        })
    }

    /// Every branch's loss on known entries (and on unknown ones where they count as absent), and
    /// that on the targets of unknown entries.
    fn classification(
        &self,
        forward: &Forward,
        teaching: &Teaching,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let config = &self.config().loss;
        let labels = &teaching.labels;
        let (images, categories) = labels.dims2()?;
        let divisor = |count: f64| {
            if config.by_known_count {
                (count / categories as f64).max(1e-6)
            } else {
                images as f64
            }
        };
        let known = labels.abs()?;
        let unknown = known.affine(-1.0, 1.0)?;
        let count = number(&known.sum_all()?)?;
        let (mut supervised, mut taught) = (Vec::new(), Vec::new());
        for branch in &forward.branches {
            let losses = config.asymmetric.elements(&branch.logits, labels)?;
            supervised.push((losses.sum_all()? / divisor(count))?);
            if teaching.assume_negative > 0.0 {
                // The negative part on unknown entries, as if they were absent.
                let absent = (&unknown * -1.0)?;
                let losses = config.asymmetric.elements(&branch.logits, &absent)?;
                let scale = teaching.assume_negative / divisor((images * categories) as f64);
                supervised.push((losses.sum_all()? * scale)?);
            }
            if let (Some((targets, weights)), true) =
                (&teaching.targets, teaching.target_weight > 0.0)
            {
                let losses = soft_cross_entropy(&branch.logits, targets, weights)?.sum_all()?;
                let entries = number(&unknown.sum_all()?)?;
                taught.push((losses * (teaching.target_weight / divisor(entries)))?);
            }
        }
        Ok((supervised, taught))
    }

    /// The query-level branch learns from the region-level one.
    fn distillation(&self, forward: &Forward, teaching: &Teaching) -> Result<Option<Tensor>> {
        let config = &self.config().distillation;
        let (Some(teacher), Some(student)) = (forward.logits(REGION), forward.logits(QUERY)) else {
            return Ok(None);
        };
        if teaching.distillation_weight <= 0.0 {
            return Ok(None);
        }
        let loss = match (config.form, &forward.query, &forward.region) {
            (Distillation::Class, ..) => class_distillation(teacher, student, config.temperature)?,
            (Distillation::Feature, Some(query), Some(region)) => {
                feature_distillation(query, region, &teaching.labels)?
            }
            _ => bernoulli_distillation(teacher, student, config.temperature)?,
        };
        Ok(Some((loss * teaching.distillation_weight)?))
    }

    /// Regions against the categories' prototypes and texts.
    fn contrastive(
        &self,
        text: &TextFeatures,
        forward: &Forward,
        teaching: &Teaching,
    ) -> Result<Option<Tensor>> {
        let config = &self.config().contrastive;
        let (Some(_), Some(prototypes), true) =
            (&forward.region, &teaching.prototypes, config.weight > 0.0)
        else {
            return Ok(None);
        };
        let loss = contrastive_rows(
            &|rows| forward.region_rows(rows),
            prototypes,
            &text.positive,
            &self.anchors(teaching)?,
            config.temperature,
        )?;
        Ok(Some((loss * config.weight)?))
    }

    /// Labels of the contrastive loss: known ones, and hard positive targets.
    fn anchors(&self, teaching: &Teaching) -> Result<Tensor> {
        match &teaching.targets {
            Some((targets, weights)) if teaching.target_weight > 0.0 => {
                let sure = (targets.ge(0.999)?.to_dtype(targets.dtype())?
                    * weights.gt(0.0)?.to_dtype(targets.dtype())?)?;
                &teaching.labels + sure
            }
            _ => Ok(teaching.labels.clone()),
        }
    }
}

fn push(
    parts: &mut Vec<(&'static str, Tensor)>,
    name: &'static str,
    terms: impl IntoIterator<Item = Tensor>,
) -> Result<()> {
    let mut terms = terms.into_iter();
    if let Some(mut sum) = terms.next() {
        for term in terms {
            sum = (sum + term)?;
        }
        parts.push((name, sum));
    }
    Ok(())
}

fn number(x: &Tensor) -> Result<f64> {
    x.to_dtype(DType::F64)?.to_scalar()
}
