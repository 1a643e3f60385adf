//! From trained weights to the head that inference runs.

use super::blend::Blend;
use super::config::ShareConfig;
use super::matching::spatial_keys;
use super::memory::Memory;
use super::model::{GLOBAL, Model, QUERY, REGION, Standard, TextFeatures};
use super::regional::Regional;
use super::weights::{Weights, names, values};
use candle_core::Result;
use tagstream_model::head::{
    Attention, ExportedHead, GlobalBranch, MemoryBranch, QueryBranch, ReadOut, RegionForm,
    RegionalBranch, ValueOutput,
};

/// What is fitted in closed form, and how much it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Memories {
    /// Of whole images.
    pub memory: Option<Memory>,
    /// Of regions.
    pub regional: Option<Regional>,
    /// Shares.
    pub blend: Blend,
}

impl Memories {
    /// A method that remembers nothing.
    pub const NONE: Self = Self {
        memory: None,
        regional: None,
        blend: Blend::NETWORK,
    };
}

impl Model {
    /// The settings' shares of the trained branches, summed.
    pub fn branch_shares(&self) -> f64 {
        self.branches().iter().map(|name| self.setting(name)).sum()
    }

    fn setting(&self, branch: &str) -> f64 {
        let s: &ShareConfig = &self.config().shares;
        match branch {
            REGION => s.region,
            QUERY => s.query,
            _ => s.global,
        }
    }

    /// Share of a trained branch at inference.
    pub fn share(&self, branch: &str, blend: &Blend) -> f64 {
        blend.network * self.setting(branch) / self.branch_shares().max(1e-12)
    }

    /// Folds everything that does not depend on the image.
    ///
    /// # Errors
    /// If a weight is missing.
    pub fn export(
        &self,
        weights: &Weights,
        text: &TextFeatures,
        standard: &Standard,
        memories: &Memories,
    ) -> Result<ExportedHead> {
        let (c, d) = (self.categories(), self.dim());
        let branches = self.branches();
        let share = |branch: &str| self.share(branch, &memories.blend) as f32;
        let bias = |branch: &str| -> Result<Vec<f32>> {
            let bias = weights.values(&names::bias(branch))?;
            Ok(bias.iter().map(|b| b * share(branch)).collect())
        };
        let read_out = |branch: &str| -> Result<ReadOut> {
            let weight = values(&self.read_out(weights, text, branch)?)?;
            Ok(ReadOut {
                weight: weight.iter().map(|w| w * share(branch)).collect(),
                bias: bias(branch)?,
            })
        };
        let nothing = || ReadOut {
            weight: vec![0.0; c * d],
            bias: vec![0.0; c],
        };
        let queries = weights.has(names::QUERY);
        let heads = self.heads();
        let attention = if queries {
            let (wq, wk) = (weights.values(names::WQ)?, weights.values(names::WK)?);
            Attention::from_projections(&weights.values(names::QUERY)?, &wq, &wk, d, heads)
        } else {
            Attention::Folded(values(&self.keys(weights, text)?)?)
        };
        let query = branches.contains(&QUERY).then(|| -> Result<QueryBranch> {
            let pair = |weight, bias| -> Result<(Vec<f32>, Vec<f32>)> {
                Ok((weights.values(weight)?, weights.values(bias)?))
            };
            let (wv, wo) = (weights.values(names::WV)?, weights.values(names::WO)?);
            Ok(QueryBranch {
                query: weights.values(names::QUERY)?,
                value_output: ValueOutput::from_projections(&wv, &wo, d, heads),
                norm: pair(names::NORM_WEIGHT, names::NORM_BIAS)?,
                mlp_in: pair(names::MLP_IN_WEIGHT, names::MLP_IN_BIAS)?,
                mlp_out: pair(names::MLP_OUT_WEIGHT, names::MLP_OUT_BIAS)?,
                read_out: read_out(QUERY)?,
            })
        });
        let global = branches.contains(&GLOBAL).then(|| -> Result<GlobalBranch> {
            let mut head = if self.config().global.match_text {
                read_out(GLOBAL)?
            } else {
                ReadOut {
                    bias: bias(GLOBAL)?,
                    ..nothing()
                }
            };
            let residual = weights.has(names::RESIDUAL).then(|| -> Result<Vec<f32>> {
                let mut residual = weights.values(names::RESIDUAL)?;
                for (row, bias) in residual.chunks_mut(d).zip(&mut head.bias) {
                    for (w, (mean, deviation)) in row
                        .iter_mut()
                        .zip(standard.mean.iter().zip(&standard.deviation))
                    {
                        *w *= share(GLOBAL) / deviation;
                        *bias -= *w * mean;
                    }
                }
                Ok(residual)
            });
            Ok(GlobalBranch {
                residual: residual.transpose()?,
                read_out: head,
            })
        });
        let scaled =
            |x: &[f32], share: f64| -> Vec<f32> { x.iter().map(|x| x * share as f32).collect() };
        let memory = memories.memory.as_ref().map(|memory| MemoryBranch {
            global_scale: memory.bank.global_scale.clone(),
            global_offset: memory.bank.global_offset.clone(),
            mean_centre: memory.bank.mean_centre.clone(),
            mean_spread: memory.bank.mean_spread,
            bank: memory.bank.images.clone(),
            weight: scaled(&memory.weight, memories.blend.memory),
            bias: scaled(&memory.bias, memories.blend.memory),
        });
        let regional = memories
            .regional
            .as_ref()
            .map(|regional| -> Result<RegionalBranch> {
                Ok(RegionalBranch {
                    attention: values(&spatial_keys(self.template())?)?,
                    sharpness: regional.sharpness,
                    bank: regional.bank.clone(),
                    weight: scaled(&regional.weight, memories.blend.regional),
                    bias: scaled(&regional.bias, memories.blend.regional),
                })
            });
        Ok(ExportedHead {
            dim: d,
            categories: c,
            heads,
            attention,
            region: if branches.contains(&REGION) {
                read_out(REGION)?
            } else {
                nothing()
            },
            region_form: if queries {
                RegionForm::Normalised
            } else {
                RegionForm::Raw
            },
            query: query.transpose()?,
            global: global.transpose()?,
            // What counts nothing is not carried along.
            memory: memory.filter(|_| memories.blend.memory > 0.0),
            regional: regional
                .transpose()?
                .filter(|_| memories.blend.regional > 0.0),
        })
    }
}
