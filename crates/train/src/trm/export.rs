//! From trained weights to the head that inference runs.

use super::blend::Blend;
use super::config::ShareConfig;
use super::kernel_ridge::images::ImageRidge;
use super::kernel_ridge::regions::RegionRidge;
use super::matching::spatial_keys;
use super::model::{GLOBAL, Model, QUERY, REGION, Standard, TextFeatures};
use super::weights::{Weights, names, values};
use candle_core::Result;
use ndarray::ArrayRef;
use tagstream_model::head::{
    Attention, ExportedHead, GlobalBranch, MemoryBranch, QueryBranch, ReadOut, RegionForm,
    RegionalBranch, ValueOutput, WordHistogram,
};

/// The kernel ridge regressions of a method, and how much they count.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelRidges {
    /// On whole images.
    pub images: Option<ImageRidge>,
    /// On regions.
    pub regions: Option<RegionRidge>,
    /// Shares beside the trained branches.
    pub blend: Blend,
}

impl KernelRidges {
    /// Those of a method without any.
    pub const NONE: Self = Self {
        images: None,
        regions: None,
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

    /// The head of these weights: every product that does not depend on the image is multiplied
    /// out, and every branch carries its share.
    ///
    /// # Errors
    /// If a weight is missing.
    pub fn export(
        &self,
        weights: &Weights,
        text: &TextFeatures,
        standard: &Standard,
        ridges: &KernelRidges,
    ) -> Result<ExportedHead> {
        let export = Export {
            model: self,
            weights,
            text,
            blend: &ridges.blend,
        };
        let branches = self.branches();
        let query = branches.contains(&QUERY).then(|| export.query());
        let global = branches.contains(&GLOBAL).then(|| export.global(standard));
        let images = ridges.images.as_ref().map(|ridge| export.images(ridge));
        let regions = ridges.regions.as_ref().map(|ridge| export.regions(ridge));
        Ok(ExportedHead {
            dim: self.dim(),
            categories: self.categories(),
            heads: self.heads(),
            attention: export.attention()?,
            region: if branches.contains(&REGION) {
                export.read_out(REGION)?
            } else {
                export.no_read_out()
            },
            region_form: if weights.has(names::QUERY) {
                RegionForm::Normalised
            } else {
                RegionForm::Raw
            },
            query: query.transpose()?,
            global: global.transpose()?,
            // What counts nothing is not carried along.
            memory: images.filter(|_| ridges.blend.memory > 0.0),
            regional: regions.transpose()?.filter(|_| ridges.blend.regional > 0.0),
        })
    }
}

struct Export<'a> {
    model: &'a Model,
    weights: &'a Weights,
    text: &'a TextFeatures,
    blend: &'a Blend,
}

impl Export<'_> {
    fn share(&self, branch: &str) -> f32 {
        self.model.share(branch, self.blend) as f32
    }

    fn bias(&self, branch: &str) -> Result<Vec<f32>> {
        let bias = self.weights.values(&names::bias(branch))?;
        Ok(bias.iter().map(|b| b * self.share(branch)).collect())
    }

    fn read_out(&self, branch: &str) -> Result<ReadOut> {
        let weight = values(&self.model.read_out(self.weights, self.text, branch)?)?;
        Ok(ReadOut {
            weight: weight.iter().map(|w| w * self.share(branch)).collect(),
            bias: self.bias(branch)?,
        })
    }

    /// Says nothing of any image.
    fn no_read_out(&self) -> ReadOut {
        let (c, d) = (self.model.categories(), self.model.dim());
        ReadOut {
            weight: vec![0.0; c * d],
            bias: vec![0.0; c],
        }
    }

    fn attention(&self) -> Result<Attention> {
        let weights = self.weights;
        if !weights.has(names::QUERY) {
            return Ok(Attention::Folded(values(
                &self.model.keys(weights, self.text)?,
            )?));
        }
        Ok(Attention::from_projections(
            &weights.values(names::QUERY)?,
            &weights.values(names::WQ)?,
            &weights.values(names::WK)?,
            self.model.dim(),
            self.model.heads(),
        ))
    }

    fn query(&self) -> Result<QueryBranch> {
        let weights = self.weights;
        let pair = |weight, bias| -> Result<(Vec<f32>, Vec<f32>)> {
            Ok((weights.values(weight)?, weights.values(bias)?))
        };
        let (wv, wo) = (weights.values(names::WV)?, weights.values(names::WO)?);
        let (d, heads) = (self.model.dim(), self.model.heads());
        Ok(QueryBranch {
            query: weights.values(names::QUERY)?,
            value_output: ValueOutput::from_projections(&wv, &wo, d, heads),
            norm: pair(names::NORM_WEIGHT, names::NORM_BIAS)?,
            mlp_in: pair(names::MLP_IN_WEIGHT, names::MLP_IN_BIAS)?,
            mlp_out: pair(names::MLP_OUT_WEIGHT, names::MLP_OUT_BIAS)?,
            read_out: self.read_out(QUERY)?,
        })
    }

    /// The residual is trained on standardised features and exported for raw ones.
    fn global(&self, standard: &Standard) -> Result<GlobalBranch> {
        let mut read_out = if self.model.config().global.match_text {
            self.read_out(GLOBAL)?
        } else {
            ReadOut {
                bias: self.bias(GLOBAL)?,
                ..self.no_read_out()
            }
        };
        let mut residual = None;
        if self.weights.has(names::RESIDUAL) {
            let mut weight = self.weights.values(names::RESIDUAL)?;
            let rows = weight.chunks_mut(self.model.dim());
            for (row, bias) in rows.zip(&mut read_out.bias) {
                let moments = standard.mean.iter().zip(&standard.deviation);
                for (w, (mean, deviation)) in row.iter_mut().zip(moments) {
                    *w *= self.share(GLOBAL) / deviation;
                    *bias -= *w * mean;
                }
            }
            residual = Some(weight);
        }
        Ok(GlobalBranch { residual, read_out })
    }

    fn images(&self, ridge: &ImageRidge) -> MemoryBranch {
        let bank = &ridge.bank;
        let share = self.blend.memory as f32;
        MemoryBranch {
            global_scale: bank.global_scale.to_vec(),
            global_offset: bank.global_offset.to_vec(),
            mean_centre: bank.mean_centre.to_vec(),
            mean_spread: bank.mean_spread,
            words: bank.words.as_ref().map(|bank| WordHistogram {
                centre: bank.words.centre.to_vec(),
                codebook: scaled(&bank.words.codebook, bank.words.sharpness),
                root_centre: bank.root_centre.to_vec(),
                spread: bank.spread,
            }),
            bank: scaled(&bank.images, 1.0),
            weight: scaled(&ridge.weight, share),
            bias: scaled(&ridge.bias, share),
        }
    }

    fn regions(&self, ridge: &RegionRidge) -> Result<RegionalBranch> {
        let share = self.blend.regional as f32;
        Ok(RegionalBranch {
            attention: values(&spatial_keys(self.model.template())?)?,
            sharpness: ridge.sharpness,
            bank: scaled(&ridge.bank, 1.0),
            weight: scaled(&ridge.weight, share),
            bias: scaled(&ridge.bias, share),
        })
    }
}

/// The elements in row-major order, multiplied.
fn scaled<D: ndarray::Dimension>(x: &ArrayRef<f32, D>, factor: f32) -> Vec<f32> {
    x.iter().map(|x| x * factor).collect()
}
