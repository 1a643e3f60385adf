//! The forward pass: from prepared features to the branches' logits.

use super::{Batch, GLOBAL, Model, QUERY, REGION, TextFeatures};
use crate::trm::losses::Distillation;
use crate::trm::region::{NORM_EPSILON, Pooled, QueryLayers, normalised, query_level};
use crate::trm::weights::{Weights, names};
use candle_core::{Result, Tensor};
use tagstream_kernels::{BranchOutputs, Branches, ResidualMlp, row_products, select_rows};

/// One branch's logits.
#[derive(Debug, Clone)]
pub struct BranchLogits {
    /// [`REGION`], [`QUERY`] or [`GLOBAL`].
    pub name: &'static str,
    /// `[B, C]`.
    pub logits: Tensor,
}

/// The results of a forward pass.
#[derive(Debug, Clone)]
pub struct Forward {
    /// R^, `[B, C, D]`; a gradient flows through [`region_rows`](Self::region_rows) only.
    pub region: Option<Tensor>,
    /// F^, `[B, C, D]`, where the method needs it.
    pub query: Option<Tensor>,
    /// Rows of R^ with their gradient come from here.
    source: Option<RegionSource>,
    /// Logits of every branch that the settings enable.
    pub branches: Vec<BranchLogits>,
}

/// What rows of R^ are computed from.
#[derive(Debug, Clone)]
enum RegionSource {
    /// R^ with its gradient.
    Whole(Tensor),
    /// Both branches in one operation.
    Branches(BranchOutputs),
}

impl Forward {
    /// Rows of R^ (image times categories plus category), `[rows, D]`, with their gradient.
    ///
    /// # Errors
    /// If there is no region-level feature, or a row does not exist.
    pub fn region_rows(&self, rows: &[usize]) -> Result<Tensor> {
        match &self.source {
            Some(RegionSource::Whole(region)) => {
                let (_, _, d) = region.dims3()?;
                select_rows(&region.reshape(((), d))?, rows)
            }
            Some(RegionSource::Branches(branches)) => branches.region_rows(rows),
            None => candle_core::bail!("this method has no region-level features"),
        }
    }

    /// Logits of the branch `name`, if the method has it.
    pub fn logits(&self, name: &str) -> Option<&Tensor> {
        self.branches
            .iter()
            .find(|branch| branch.name == name)
            .map(|branch| &branch.logits)
    }
}

impl Model {
    /// Whether both local branches run as one operation: with one head nothing is lost by folding
    /// its maps, and no loss looks at query-level features themselves.
    fn fused(&self) -> bool {
        self.has_queries()
            && self.config().region.enabled
            && self.config().query.enabled
            && self.config().region.heads == 1
            && !(self.config().distillation.form == Distillation::Feature
                && self.config().distillation.weight > 0.0)
    }

    fn forward_fused(
        &self,
        weights: &Weights,
        text: &TextFeatures,
        batch: &Batch,
        out: &mut Forward,
    ) -> Result<()> {
        let keys = self.keys(weights, text)?;
        let branches = Branches {
            keys: &keys,
            values: &weights.get(names::WV)?.matmul(weights.get(names::WO)?)?,
            region_direction: &self.read_out(weights, text, REGION)?,
            query_direction: &self.read_out(weights, text, QUERY)?,
            mlp: ResidualMlp {
                queries: weights.get(names::QUERY)?,
                norm_weight: weights.get(names::NORM_WEIGHT)?,
                norm_bias: weights.get(names::NORM_BIAS)?,
                mlp_in: layer(weights, names::MLP_IN_WEIGHT, names::MLP_IN_BIAS)?,
                mlp_out: layer(weights, names::MLP_OUT_WEIGHT, names::MLP_OUT_BIAS)?,
                epsilon: NORM_EPSILON,
            },
        };
        let found = branches.forward(&batch.positions)?;
        for (name, logits) in [(REGION, &found.region_logits), (QUERY, &found.query_logits)] {
            let logits = logits.broadcast_add(weights.get(&names::bias(name))?)?;
            out.branches.push(BranchLogits { name, logits });
        }
        out.region = Some(found.region.clone());
        out.source = Some(RegionSource::Branches(found));
        Ok(())
    }

    /// Logits of all branches for a batch.
    ///
    /// # Errors
    /// If a weight is missing or the shapes do not fit.
    pub fn forward(
        &self,
        weights: &Weights,
        text: &TextFeatures,
        batch: &Batch,
    ) -> Result<Forward> {
        let mut out = Forward {
            region: None,
            query: None,
            source: None,
            branches: Vec::new(),
        };
        if self.fused() {
            self.forward_fused(weights, text, batch, &mut out)?;
        } else if self.uses_positions() {
            self.forward_composed(weights, text, batch, &mut out)?;
        }
        if self.config().global.enabled {
            let logits = self.global_logits(weights, text, batch)?;
            out.branches.extend(logits);
        }
        Ok(out)
    }

    /// Both local branches operation by operation: several heads, text-pixel matching, or a loss on
    /// query-level features.
    fn forward_composed(
        &self,
        weights: &Weights,
        text: &TextFeatures,
        batch: &Batch,
        out: &mut Forward,
    ) -> Result<()> {
        let read = |name: &'static str, rows: &Tensor| -> Result<BranchLogits> {
            let logits = row_products(rows, &self.read_out(weights, text, name)?)?;
            let logits = logits.broadcast_add(weights.get(&names::bias(name))?)?;
            Ok(BranchLogits { name, logits })
        };
        let pooled = Pooled::new(&self.keys(weights, text)?, &batch.positions, self.heads())?;
        let region = pooled.region()?;
        let direction = normalised(&region)?;
        if self.config().region.enabled {
            // Text-pixel matching takes the weighted mean of cosines, text-region matching the
            // cosine of the mean.
            let rows = if self.has_queries() {
                &direction
            } else {
                &region
            };
            out.branches.push(read(REGION, rows)?);
        }
        if self.config().query.enabled {
            let attended = pooled.attended(weights.get(names::WV)?, weights.get(names::WO)?)?;
            let layers = QueryLayers {
                norm_weight: weights.get(names::NORM_WEIGHT)?,
                norm_bias: weights.get(names::NORM_BIAS)?,
                mlp_in: layer(weights, names::MLP_IN_WEIGHT, names::MLP_IN_BIAS)?,
                mlp_out: layer(weights, names::MLP_OUT_WEIGHT, names::MLP_OUT_BIAS)?,
            };
            let query = query_level(&attended, weights.get(names::QUERY)?, &layers)?;
            let query = normalised(&query)?;
            out.branches.push(read(QUERY, &query)?);
            out.query = Some(query);
        }
        out.region = Some(direction.detach());
        out.source = Some(RegionSource::Whole(direction));
        Ok(())
    }

    /// The global branch: cosines with the texts, a linear residual, or both. None if the settings
    /// leave it neither.
    fn global_logits(
        &self,
        weights: &Weights,
        text: &TextFeatures,
        batch: &Batch,
    ) -> Result<Option<BranchLogits>> {
        let config = &self.config().global;
        let mut logits = None;
        if config.match_text {
            let read_out = self.read_out(weights, text, GLOBAL)?;
            logits = Some(batch.global.matmul(&read_out.t()?)?);
        }
        if config.residual {
            let residual = batch.standard.matmul(&weights.get(names::RESIDUAL)?.t()?)?;
            logits = Some(match logits {
                Some(logits) => (logits + residual)?,
                None => residual,
            });
        }
        let Some(logits) = logits else {
            return Ok(None);
        };
        Ok(Some(BranchLogits {
            name: GLOBAL,
            logits: logits.broadcast_add(weights.get(&names::bias(GLOBAL))?)?,
        }))
    }
}

/// Weight and bias of a linear layer.
fn layer<'a>(weights: &'a Weights, weight: &str, bias: &str) -> Result<(&'a Tensor, &'a Tensor)> {
    Ok((weights.get(weight)?, weights.get(bias)?))
}
