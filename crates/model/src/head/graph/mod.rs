//! The head as an ONNX graph.

mod memories;

use super::outputs::GraphOutputs;
use super::{
    Attention, ExportedHead, HeadError, NORM_EPSILON, QueryBranch, RegionForm, ValueOutput,
};
use crate::onnx::{Attribute, Dim, Element, ExternalData, GraphBuilder, Value};
use safetensors::SafeTensors;
use std::collections::BTreeMap;

/// Where the graph's weights lie.
#[derive(Debug, Clone, PartialEq)]
pub enum WeightStorage {
    /// Inside the graph.
    Inline,
    /// Outside: in a file beside it, or handed to the session under the same names.
    External(BTreeMap<String, ExternalData>),
}

impl WeightStorage {
    /// External, with the places of the tensors in the safetensors file `location` of this content.
    pub fn beside(location: &str, content: &[u8]) -> Result<Self, HeadError> {
        let (header, metadata) = SafeTensors::read_metadata(content)
            .map_err(|error| HeadError::Format(error.to_string()))?;
        // The header is preceded by its length in 8 bytes.
        let start = (8 + header) as u64;
        let places = metadata.tensors().into_iter().map(|(name, info)| {
            let (from, to) = info.data_offsets;
            let data = ExternalData {
                location: location.to_owned(),
                offset: start + from as u64,
                length: (to - from) as u64,
            };
            (name, data)
        });
        Ok(Self::External(places.collect()))
    }
}

/// Values that both forms of the graph share.
struct AttentionValues {
    /// V^, `[B, N, D]`.
    dense: Value,
    /// V^ transposed, `[B, D, N]`.
    dense_t: Value,
    /// Attention logits `[B, C, N]` where there is one folded head.
    logits: Option<Value>,
    /// Attention per head `[B, h, C, N]` where there are several.
    per_head: Option<Value>,
    /// Mean attention `[B, C, N]`.
    saliency: Value,
}

impl ExportedHead {
    /// The graph's file. `positions` fixes N; `None` leaves it open. The batch axis is always open.
    pub fn to_onnx(
        &self,
        outputs: &GraphOutputs,
        positions: Option<usize>,
        storage: &WeightStorage,
    ) -> Result<Vec<u8>, HeadError> {
        self.check()?;
        if let GraphOutputs::Top { count, floors, .. } = outputs
            && (floors.len() != self.categories || *count == 0)
        {
            return Err(HeadError::Sizes(format!(
                "{} floors and {count} tags for {} categories",
                floors.len(),
                self.categories
            )));
        }
        let mut graph = GraphBuilder::new("head");
        let weights = self.declare_weights(&mut graph, storage)?;
        HeadGraph {
            head: self,
            g: graph,
            weights,
            positions,
        }
        .build(outputs)
    }

    fn declare_weights(
        &self,
        graph: &mut GraphBuilder,
        storage: &WeightStorage,
    ) -> Result<BTreeMap<&'static str, Value>, HeadError> {
        let mut weights = BTreeMap::new();
        for (name, shape, data) in self.tensors() {
            let value = match storage {
                WeightStorage::Inline => graph.weight(name, &shape, Element::F32, data),
                WeightStorage::External(places) => {
                    let place = places.get(name).ok_or_else(|| {
                        HeadError::Format(format!("it lacks the tensor `{name}`"))
                    })?;
                    graph.external(name, &shape, Element::F32, place)
                }
            };
            weights.insert(name, value);
        }
        Ok(weights)
    }

    /// Where the region read-out of every category is a multiple of its attention row, those
    /// multiples: scores of positions then come from the attention's logits, at no cost (every
    /// zero-shot head).
    fn tied_ratios(&self) -> Option<Vec<f32>> {
        let Attention::Folded(attention) = &self.attention else {
            return None;
        };
        let rows = attention
            .chunks_exact(self.dim)
            .zip(self.region.weight.chunks_exact(self.dim));
        rows.map(|(a, w)| {
            let (pivot, largest) = a
                .iter()
                .enumerate()
                .max_by(|x, y| x.1.abs().total_cmp(&y.1.abs()))?;
            if *largest == 0.0 {
                return None;
            }
            let ratio = w[pivot] / largest;
            let tolerance = 1e-6 * (ratio * largest).abs();
            let tied = a
                .iter()
                .zip(w)
                .all(|(a, w)| (w - ratio * a).abs() <= tolerance);
            tied.then_some(ratio)
        })
        .collect()
    }
}

struct HeadGraph<'a> {
    head: &'a ExportedHead,
    g: GraphBuilder,
    weights: BTreeMap<&'static str, Value>,
    positions: Option<usize>,
}

impl HeadGraph<'_> {
    fn build(mut self, outputs: &GraphOutputs) -> Result<Vec<u8>, HeadError> {
        let (c, d) = (self.head.categories, self.head.dim);
        let batch = Dim::Dynamic("batch");
        let positions = self.positions.map_or(Dim::Dynamic("positions"), Dim::Fixed);
        let dense_dims = [batch.clone(), positions.clone(), d.into()];
        let dense = self.g.input("dense", Element::F32, &dense_dims);
        let global_dims = [batch.clone(), d.into()];
        let global = self.g.input("global", Element::F32, &global_dims);

        let shared = self.attention(&dense);
        let full = matches!(outputs, GraphOutputs::Full);
        // R of every category is built only where something needs all of it.
        let region = (full || self.query_needs_region() || !self.scores_are_cheaper())
            .then(|| self.g.matmul(&shared.saliency, &shared.dense));
        let direction = (full || (region.is_some() && self.normalised()))
            .then(|| {
                region
                    .as_ref()
                    .map(|r| self.g.l2_normalise(r, Element::F32))
            })
            .flatten();
        let mut logits = match (&region, &direction) {
            (Some(region), None) => self.read_rows(region, "region"),
            (Some(region), Some(_)) if !self.normalised() => self.read_rows(region, "region"),
            (Some(_), Some(direction)) => self.read_rows(direction, "region"),
            (None, _) => self.region_logits_from_scores(&shared),
        };
        if let Some(branch) = &self.head.query {
            let feature = self.query_feature(branch, &shared, region.as_ref());
            let query_logits = self.read_rows(&feature, "query.read_out");
            logits = self.g.add(&logits, &query_logits);
        }
        let embedding = self.g.l2_normalise(&global, Element::F32);
        if let Some(branch) = &self.head.global {
            logits = self.add_global_logits(branch.residual.is_some(), logits, &embedding, &global);
        }
        if let Some(branch) = &self.head.memory {
            let words = branch.words.is_some();
            let memory = self.memory_logits(&shared.dense, &global, words);
            logits = self.g.add(&logits, &memory);
        }
        if self.head.regional.is_some() {
            let regional = self.regional_logits(&shared);
            logits = self.g.add(&logits, &regional);
        }

        let f32 = Element::F32;
        let g = &mut self.g;
        g.output(&logits, "logits", f32, &[batch.clone(), c.into()]);
        match outputs {
            GraphOutputs::Full => {
                let dims = [batch.clone(), c.into(), positions];
                g.output(&shared.saliency, "saliency", f32, &dims);
                let direction = direction.expect("made for full outputs");
                let dims = [batch.clone(), c.into(), d.into()];
                g.output(&direction, "region", f32, &dims);
            }
            GraphOutputs::Top {
                count,
                floors,
                regions,
            } => {
                let best = ((*count).min(c), floors.as_slice(), *regions);
                self.hand_out_best(best, &logits, &shared, positions);
            }
        }
        let g = &mut self.g;
        g.output(&embedding, "embedding", f32, &[batch, d.into()]);
        Ok(self.g.finish()?)
    }

    fn add_global_logits(
        &mut self,
        residual: bool,
        logits: Value,
        embedding: &Value,
        global: &Value,
    ) -> Value {
        let (weight, bias) = (self.w("global.weight"), self.w("global.bias"));
        let global_logits = self.g.gemm_transposed(embedding, &weight, Some(&bias));
        let logits = self.g.add(&logits, &global_logits);
        if !residual {
            return logits;
        }
        let weight = self.w("global.residual");
        let residual = self.g.gemm_transposed(global, &weight, None);
        self.g.add(&logits, &residual)
    }

    /// The rows of the categories that exceed their floors the furthest.
    fn hand_out_best(
        &mut self,
        (k, floors, regions): (usize, &[f32], bool),
        logits: &Value,
        shared: &AttentionValues,
        positions: Dim,
    ) {
        let (c, d) = (self.head.categories, self.head.dim);
        let (batch, f32) = (Dim::Dynamic("batch"), Element::F32);
        let g = &mut self.g;
        let floors = g.weight("floors", &[c], f32, floors);
        let margins = g.node("Sub", &[logits, &floors], &[]);
        let size = g.integers(&[k as i64]);
        let top = g.node_with_outputs("TopK", &[&margins, &size], &[], 2);
        let last = g.integers(&[-1]);
        let index = g.node("Unsqueeze", &[&top[1], &last], &[]);
        let per_image = [("batch_dims", Attribute::Int(1))];
        let saliency = g.node("GatherND", &[&shared.saliency, &index], &per_image);
        let dims = [batch.clone(), k.into()];
        g.output(&top[1], "tags", Element::I64, &dims);
        let dims = [batch.clone(), k.into(), positions];
        g.output(&saliency, "tag_saliency", f32, &dims);
        if regions {
            let region = g.matmul(&saliency, &shared.dense);
            let region = g.l2_normalise(&region, f32);
            let dims = [batch, k.into(), d.into()];
            g.output(&region, "tag_region", f32, &dims);
        }
    }

    fn w(&self, name: &str) -> Value {
        self.weights[name].clone()
    }

    fn normalised(&self) -> bool {
        self.head.region_form == RegionForm::Normalised
    }

    /// With one head, O is R times a matrix.
    fn query_needs_region(&self) -> bool {
        let branch = self.head.query.as_ref();
        branch.is_some_and(|q| matches!(q.value_output, ValueOutput::Folded(_)))
    }

    /// Whether the region logits come cheaper from scores of positions (`[C, N]`, and a Gram matrix
    /// `[N, N]` for the norm) than from R (`[C, D]`): not when there are more positions than
    /// dimensions.
    fn scores_are_cheaper(&self) -> bool {
        self.positions.is_some_and(|n| n <= self.head.dim) || self.head.tied_ratios().is_some()
    }

    fn attention(&mut self, dense: &Value) -> AttentionValues {
        let dense = self.g.l2_normalise(dense, Element::F32);
        let dense_t = self.g.transpose(&dense, &[0, 2, 1]);
        match &self.head.attention {
            Attention::Folded(_) => {
                let weight = self.w("attention.weight");
                let logits = self.g.matmul(&weight, &dense_t);
                let saliency = self.g.softmax(&logits, -1);
                AttentionValues {
                    dense,
                    dense_t,
                    logits: Some(logits),
                    per_head: None,
                    saliency,
                }
            }
            Attention::Projected { .. } => {
                let (query, key) = (self.w("attention.query"), self.w("attention.key"));
                let keys = self.g.matmul(&dense, &key);
                let keys = self.split_heads(&keys, &[0, 2, 3, 1]);
                let logits = self.g.matmul(&query, &keys);
                let per_head = self.g.softmax(&logits, -1);
                let saliency = self.g.mean(&per_head, 1, false);
                AttentionValues {
                    dense,
                    dense_t,
                    logits: None,
                    per_head: Some(per_head),
                    saliency,
                }
            }
        }
    }

    /// `[B, N, D]` to `[B, N, h, dh]`, then axes in the order given.
    fn split_heads(&mut self, x: &Value, axes: &[i64]) -> Value {
        let (heads, dim) = (self.head.heads as i64, self.head.dim as i64);
        let split = self.g.reshape(x, &[0, -1, heads, dim / heads]);
        self.g.transpose(&split, axes)
    }

    /// `rows [B, C, D] . weight [C, D] + bias [C]`, a row for each category.
    fn read_rows(&mut self, rows: &Value, name: &str) -> Value {
        let (weight, bias) = (
            self.w(&format!("{name}.weight")),
            self.w(&format!("{name}.bias")),
        );
        let product = self.g.mul(rows, &weight);
        let sum = self.g.sum(&product, -1);
        self.g.add(&sum, &bias)
    }

    /// `R . w` as `sum_n A[c,n] (V^_n . w_c)`, and `|R|^2` as `A V^ V^^T A^T`, so that R is never
    /// built.
    fn region_logits_from_scores(&mut self, shared: &AttentionValues) -> Value {
        let scores = match (self.head.tied_ratios(), &shared.logits) {
            (Some(ratios), Some(logits)) => {
                let c = self.head.categories;
                let ratios = self
                    .g
                    .weight("region.ratio", &[c, 1], Element::F32, &ratios);
                self.g.mul(logits, &ratios)
            }
            _ => {
                let weight = self.w("region.weight");
                self.g.matmul(&weight, &shared.dense_t)
            }
        };
        let weighted = self.g.mul(&shared.saliency, &scores);
        let mut sum = self.g.sum(&weighted, -1);
        if self.normalised() {
            let gram = self.g.matmul(&shared.dense, &shared.dense_t);
            let spread = self.g.matmul(&shared.saliency, &gram);
            let square = self.g.mul(&spread, &shared.saliency);
            let square = self.g.sum(&square, -1);
            let floor = self.g.scalar(Element::F32, 1e-24);
            let square = self.g.node("Max", &[&square, &floor], &[]);
            let norm = self.g.node("Sqrt", &[&square], &[]);
            sum = self.g.div(&sum, &norm);
        }
        let bias = self.w("region.bias");
        self.g.add(&sum, &bias)
    }

    /// F^ of every category, `[B, C, D]`.
    fn query_feature(
        &mut self,
        branch: &QueryBranch,
        shared: &AttentionValues,
        region: Option<&Value>,
    ) -> Value {
        let output = match &branch.value_output {
            ValueOutput::Folded(_) => {
                let weight = self.w("query.value_output");
                let region = region.expect("made for a folded query branch");
                self.g.matmul(region, &weight)
            }
            ValueOutput::Projected { .. } => {
                let (value, output) = (self.w("query.value"), self.w("query.output"));
                let values = self.g.matmul(&shared.dense, &value);
                let values = self.split_heads(&values, &[0, 2, 1, 3]);
                let per_head = shared.per_head.as_ref().expect("several heads");
                let pooled = self.g.matmul(per_head, &values);
                let joined = self.g.transpose(&pooled, &[0, 2, 1, 3]);
                let (c, d) = (self.head.categories as i64, self.head.dim as i64);
                let joined = self.g.reshape(&joined, &[-1, c, d]);
                self.g.matmul(&joined, &output)
            }
        };
        let embedding = self.w("query.embedding");
        let sum = self.g.add(&output, &embedding);
        let (weight, bias) = (self.w("query.norm.weight"), self.w("query.norm.bias"));
        let u = self.g.layer_norm(&sum, &weight, &bias, NORM_EPSILON);
        let hidden = self.linear(&u, "query.mlp_in");
        let hidden = self.g.gelu(&hidden, Element::F32);
        let out = self.linear(&hidden, "query.mlp_out");
        let feature = self.g.add(&u, &out);
        self.g.l2_normalise(&feature, Element::F32)
    }

    /// `x @ weight^T + bias`.
    fn linear(&mut self, x: &Value, name: &str) -> Value {
        let (weight, bias) = (
            self.w(&format!("{name}.weight")),
            self.w(&format!("{name}.bias")),
        );
        let weight = self.g.transpose(&weight, &[1, 0]);
        let product = self.g.matmul(x, &weight);
        self.g.add(&product, &bias)
    }
}
