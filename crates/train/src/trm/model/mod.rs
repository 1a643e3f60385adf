//! The model: what is trained, and the forward pass from frozen features to the branches' logits.

mod forward;

use super::config::{AttendBy, MethodConfig, NegativeMode, Start};
use super::kernel_ridge::targets::moments;
use super::matching::spatial_keys;
use super::prompts::{PromptEncoder, Prompts};
use super::region::attention_keys;
use super::weights::{Weights, names};
use candle_core::{DType, Device, Result, Tensor};
use ndarray::ArrayView2;
use tagstream_kernels::l2_normalize_rows;

pub use forward::{BranchLogits, Forward};

/// Text-region matching: what `region.*` names.
pub const REGION: &str = "region";
/// Query-level matching: what `query.*` names.
pub const QUERY: &str = "query";
/// The whole image: what `global.*` names.
pub const GLOBAL: &str = "global";

/// Cosine over temperature at the informed start: 1 / 0.05.
const START_SCALE: f64 = 20.0;
/// Standard deviation of the MLP's last layer at the start ("near zero": F starts as U).
const NEAR_ZERO: f64 = 1e-3;
/// Scales above this do not help and make gradients explode.
const LARGEST_SCALE: f64 = 100.0;

/// Frozen features of a batch, prepared once.
#[derive(Debug, Clone)]
pub struct Batch {
    /// V^, `[B, N, D]`.
    pub positions: Tensor,
    /// G^, `[B, D]`.
    pub global: Tensor,
    /// The standardised global feature, `[B, D]`.
    pub standard: Tensor,
}

/// Text features, `[C, D]`, rows of norm 1.
#[derive(Debug, Clone)]
pub struct TextFeatures {
    /// T, of the positive prompts.
    pub positive: Tensor,
    /// T-, where the negative side is a prompt.
    pub negative: Option<Tensor>,
}

/// The architecture: settings, sizes and the fixed part of the prompts. Weights are handed in, so
/// that the live and the averaged model are one.
#[derive(Debug, Clone)]
pub struct Model {
    config: MethodConfig,
    prompts: Prompts,
    /// Features of the template's prompts, `[C, D]`: what informed starts start from.
    template: Tensor,
    dim: usize,
}

impl Model {
    /// A model for the categories of `prompts`.
    ///
    /// # Errors
    /// If the text tower fails.
    pub fn new(
        config: MethodConfig,
        prompts: Prompts,
        encoder: &dyn PromptEncoder,
    ) -> Result<Self> {
        let template = prompts.template_features(encoder)?;
        Ok(Self {
            config,
            dim: template.dim(1)?,
            template,
            prompts,
        })
    }

    /// The settings that it was made with.
    pub fn config(&self) -> &MethodConfig {
        &self.config
    }

    /// C, the number of categories.
    pub fn categories(&self) -> usize {
        self.prompts.categories()
    }

    /// D, the width of the joint space.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Features of the template's prompts, `[C, D]`, rows of norm 1.
    pub fn template(&self) -> &Tensor {
        &self.template
    }

    /// The branches this model has.
    pub fn branches(&self) -> Vec<&'static str> {
        let all = [
            (self.config.region.enabled, REGION),
            (self.config.query.enabled, QUERY),
            (self.config.global.enabled, GLOBAL),
        ];
        all.into_iter()
            .filter(|(enabled, _)| *enabled)
            .map(|(_, name)| name)
            .collect()
    }

    /// Whether any branch looks at positions (a linear probe does not: dense features need not be
    /// read).
    pub fn uses_positions(&self) -> bool {
        self.config.region.enabled || self.config.query.enabled
    }

    pub(super) fn has_queries(&self) -> bool {
        self.config.region.attend_by == AttendBy::Queries
            && (self.config.region.enabled || self.config.query.enabled)
    }

    fn matches_text(&self, branch: &str) -> bool {
        branch != GLOBAL || self.config.global.match_text
    }

    /// Weights to start from; `normal` draws from N(0, 1).
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn start(&self, normal: &mut dyn FnMut() -> f64) -> Result<Weights> {
        let (c, d, dtype) = (self.categories(), self.dim, self.prompts.dtype());
        let mut weights = Weights::default();
        let zeros = |shape: &[usize]| Tensor::zeros(shape, dtype, &Device::Cpu);
        let mut random = |shape: &[usize], deviation: f64| -> Result<Tensor> {
            let count = shape.iter().product();
            let values: Vec<f64> = (0..count).map(|_| deviation * normal()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
        };
        let prompts = &self.config.prompts;
        let text = self
            .branches()
            .iter()
            .any(|branch| self.matches_text(branch));
        if text {
            let mut draw = || {
                random(&[1], 1.0)
                    .and_then(|x| x.to_dtype(DType::F64)?.squeeze(0)?.to_scalar())
                    .unwrap_or(0.0)
            };
            weights.insert(names::CONTEXT, self.prompts.start(prompts, &mut draw)?);
            match prompts.negative {
                NegativeMode::Prompt => {
                    // From the same words it would start equal to the positive side: a difference
                    // of zero. The more random tokens before the name, the less it says, and the
                    // less the difference starts below the positive side.
                    let sets = if prompts.class_specific { c } else { 1 };
                    let tokens = prompts.random_tokens;
                    let context = self.prompts.random_start(sets, tokens, &mut draw)?;
                    weights.insert(names::NEGATIVE_CONTEXT, context);
                }
                NegativeMode::Embedding => weights.insert(names::NEGATIVE, zeros(&[c, d])?),
                NegativeMode::Bias => {}
            }
        }
        if self.has_queries() {
            self.start_queries(&mut weights, &mut random)?;
        }
        for branch in self.branches() {
            if self.matches_text(branch) {
                let log = Tensor::full(self.config.scale.ln(), 1, &Device::Cpu)?.to_dtype(dtype)?;
                weights.insert(names::log_scale(branch), log);
            }
            weights.insert(names::bias(branch), zeros(&[c])?);
        }
        if self.config.global.enabled && self.config.global.residual {
            weights.insert(names::RESIDUAL, zeros(&[c, d])?);
        }
        Ok(weights)
    }

    /// Queries, attention maps and the query-level layers.
    fn start_queries(
        &self,
        weights: &mut Weights,
        random: &mut dyn FnMut(&[usize], f64) -> Result<Tensor>,
    ) -> Result<()> {
        let (c, d, dtype) = (self.categories(), self.dim, self.prompts.dtype());
        let zeros = |shape: &[usize]| Tensor::zeros(shape, dtype, &Device::Cpu);
        let identity = |scale: f64| Tensor::eye(d, dtype, &Device::Cpu)? * scale;
        let xavier = (1.0 / d as f64).sqrt();
        let informed = self.config.region.start == Start::Informed;
        if informed {
            let width = (d / self.config.region.heads) as f64;
            let scale = (START_SCALE * width.sqrt()).sqrt();
            weights.insert(names::QUERY, self.template.copy()?);
            weights.insert(names::WQ, identity(scale)?);
            weights.insert(names::WK, identity(scale)?);
        } else {
            weights.insert(names::QUERY, random(&[c, d], 1.0)?);
            weights.insert(names::WQ, random(&[d, d], xavier)?);
            weights.insert(names::WK, random(&[d, d], xavier)?);
        }
        if !self.config.query.enabled {
            return Ok(());
        }
        if informed {
            weights.insert(names::WV, identity(self.config.query.value_scale)?);
            weights.insert(names::WO, identity(1.0)?);
        } else {
            weights.insert(names::WV, random(&[d, d], xavier)?);
            weights.insert(names::WO, random(&[d, d], xavier)?);
        }
        let hidden = ((self.config.query.hidden * d as f64) as usize).max(1);
        weights.insert(names::NORM_WEIGHT, Tensor::ones(d, dtype, &Device::Cpu)?);
        weights.insert(names::NORM_BIAS, zeros(&[d])?);
        weights.insert(names::MLP_IN_WEIGHT, random(&[hidden, d], xavier)?);
        weights.insert(names::MLP_IN_BIAS, zeros(&[hidden])?);
        weights.insert(names::MLP_OUT_WEIGHT, random(&[d, hidden], NEAR_ZERO)?);
        weights.insert(names::MLP_OUT_BIAS, zeros(&[d])?);
        Ok(())
    }

    /// Names of the weights that are trained with these settings.
    pub fn trained(&self, weights: &Weights) -> Vec<String> {
        let frozen = |name: &str| {
            let prompt = name == names::CONTEXT || name == names::NEGATIVE_CONTEXT;
            let attention = [names::QUERY, names::WQ, names::WK].contains(&name);
            prompt && !self.config.prompts.train || attention && !self.config.region.train
        };
        weights
            .iter()
            .map(|(name, _)| name.to_owned())
            .filter(|name| !frozen(name))
            .collect()
    }

    /// Whether text features change during training.
    pub fn trains_text(&self, weights: &Weights) -> bool {
        self.config.prompts.train && weights.has(names::CONTEXT)
    }

    /// Text features of the current contexts.
    ///
    /// # Errors
    /// Those of the text tower.
    pub fn text(&self, weights: &Weights, encoder: &dyn PromptEncoder) -> Result<TextFeatures> {
        if !weights.has(names::CONTEXT) {
            return Ok(TextFeatures {
                positive: self.template.clone(),
                negative: None,
            });
        }
        let negative = weights.has(names::NEGATIVE_CONTEXT).then(|| {
            self.prompts
                .features(weights.get(names::NEGATIVE_CONTEXT)?, encoder)
        });
        Ok(TextFeatures {
            positive: self
                .prompts
                .positive_features(weights.get(names::CONTEXT)?, encoder)?,
            negative: negative.transpose()?,
        })
    }

    /// `kappa (T - n)`, `[C, D]`: what a branch's features are multiplied with.
    ///
    /// # Errors
    /// If a weight is missing.
    pub fn read_out(&self, weights: &Weights, text: &TextFeatures, branch: &str) -> Result<Tensor> {
        let mut direction = text.positive.clone();
        if let Some(negative) = &text.negative {
            direction = (direction - negative)?;
        } else if weights.has(names::NEGATIVE) {
            direction = (direction - weights.get(names::NEGATIVE)?)?;
        }
        let log = weights.get(&names::log_scale(branch))?;
        direction.broadcast_mul(&log.minimum(LARGEST_SCALE.ln())?.exp()?.unsqueeze(0)?)
    }

    /// What V^ is multiplied with to give attention logits, `[h C, D]`.
    ///
    /// # Errors
    /// If a weight is missing.
    pub fn keys(&self, weights: &Weights, text: &TextFeatures) -> Result<Tensor> {
        if self.has_queries() {
            let (wq, wk) = (weights.get(names::WQ)?, weights.get(names::WK)?);
            attention_keys(weights.get(names::QUERY)?, wq, wk, self.heads())
        } else {
            spatial_keys(&text.positive)
        }
    }

    /// Attention heads (1 where texts attend).
    pub fn heads(&self) -> usize {
        if self.has_queries() {
            self.config.region.heads
        } else {
            1
        }
    }
}

/// Mean and deviation of the global feature over the training images, `[D]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct Standard {
    /// Mean of each column.
    pub mean: Vec<f32>,
    /// Standard deviation, at least 1e-6.
    pub deviation: Vec<f32>,
}

impl Standard {
    /// Of raw global features, `[n, D]`.
    pub fn new(global: ArrayView2<'_, f32>) -> Self {
        let (mean, deviation) = moments(global);
        Self {
            mean: mean.iter().map(|x| *x as f32).collect(),
            deviation: deviation.iter().map(|x| *x as f32).collect(),
        }
    }
}

impl Batch {
    /// Prepares raw features (`dense` `[B, N, D]`, empty if no branch needs it; `global` `[B, D]`).
    /// `mask` (`[B, D]`) multiplies every feature of its image: feature dropout.
    ///
    /// # Errors
    /// If the lengths do not fit.
    pub fn new(
        dense: Vec<f32>,
        global: &[f32],
        standard: &Standard,
        mask: Option<&Tensor>,
    ) -> Result<Self> {
        let d = standard.mean.len();
        let b = global.len() / d;
        let n = dense.len() / (b * d).max(1);
        let mut standardised: Vec<f32> = global
            .chunks(d)
            .flat_map(|row| {
                let scale = standard.mean.iter().zip(&standard.deviation);
                row.iter().zip(scale).map(|(x, (m, s))| (x - m) / s)
            })
            .collect();
        let mask = match mask {
            Some(mask) if mask.dims() != [b, d] => {
                candle_core::bail!(
                    "a mask of {:?} for {b} images of {d} dimensions",
                    mask.dims()
                )
            }
            mask => mask.map(super::weights::values).transpose()?,
        };
        let (mut dense, mut global) = (dense, global.to_vec());
        l2_normalize_rows(&mut dense, n, d, mask.as_deref());
        l2_normalize_rows(&mut global, 1, d, mask.as_deref());
        if let Some(mask) = &mask {
            let pairs = standardised.iter_mut().zip(mask);
            pairs.for_each(|(x, mask)| *x *= mask);
        }
        Ok(Self {
            positions: Tensor::from_vec(dense, (b, n, d), &Device::Cpu)?,
            global: Tensor::from_vec(global, (b, d), &Device::Cpu)?,
            standard: Tensor::from_vec(standardised, (b, d), &Device::Cpu)?,
        })
    }
}

#[cfg(test)]
mod tests;
