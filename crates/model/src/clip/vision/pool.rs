//! SigLIP's and PE-Core's head: a learned query attends to all tokens, and an MLP follows.
//!
//! For features of locations the same path is taken with one location alone: its value, the output
//! projection, the MLP. That is what the pool would give if it looked there only.

use super::base::Transformer;
use super::block::Mlp;
use super::dense::concatenated;
use super::transformer;
use super::{
    DenseMode, Features, Linear, Naming, Pooling, Sides, TowerError, TowerGraph, VisionConfig,
    projection,
};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::Value;

/// The weights, the query already multiplied into the keys.
struct AttentionPool {
    /// `[heads, W]`: what a token's score for each head is the product with.
    scores: Linear,
    value: Linear,
    output: Linear,
    mlp: Mlp,
}

/// Writes a tower with this head after the pixels `[B, side, side, 3]`.
pub(super) fn write(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &WeightFiles,
    (sides, mode): (Sides, DenseMode),
    pixels: &Value,
) -> Result<Features, TowerError> {
    if matches!(mode, DenseMode::Plain | DenseMode::ValuePositional) {
        let available = "value, self, neighbour and value_bare";
        return Err(TowerError::DenseMode { mode, available });
    }
    let read = transformer::tokens(graph, config, weights, (sides, mode), pixels)?;
    let (tower, x) = (&read.tower, &read.all);
    let pool = AttentionPool::read(tower)?;
    let (w, heads) = (tower.width as i64, tower.form.pool_heads as i64);
    let scores = graph.linear(x, "pool.scores", &pool.scores);
    let scores = graph.g.transpose(&scores, &[0, 2, 1]);
    let attention = graph.g.softmax(&scores, -1);
    let attention = graph.g.reshape(&attention, &[0, heads, 1, -1]);
    let looked_at = match &read.places {
        None => x.clone(),
        Some(places) => concatenated(graph, &[x, places]),
    };
    let values = graph.linear(&looked_at, "pool.value", &pool.value);
    let first = tower.first() as i64;
    let count = first + (sides.grid * sides.grid) as i64;
    let (pooled, alone) = match &read.places {
        None => (values.clone(), graph.g.slice(&values, 1, first, i64::MAX)),
        Some(_) => (
            graph.g.slice(&values, 1, 0, count),
            graph.g.slice(&values, 1, count, i64::MAX),
        ),
    };
    let split = graph.g.reshape(&pooled, &[0, 0, heads, w / heads]);
    let split = graph.g.transpose(&split, &[0, 2, 1, 3]);
    let mixed = graph.g.matmul(&attention, &split);
    let mixed = graph.g.reshape(&mixed, &[0, 1, w]);
    // Row 0 is the whole picture.
    let joined = concatenated(graph, &[&mixed, &alone]);
    let attended = graph.linear(&joined, "pool.output", &pool.output);
    let pooled = if mode == DenseMode::ValueBare {
        let picture = graph.g.slice(&attended, 1, 0, 1);
        let picture = tower.mlp(graph, "pool", &pool.mlp, &picture);
        let places = graph.g.slice(&attended, 1, 1, i64::MAX);
        concatenated(graph, &[&picture, &places])
    } else {
        tower.mlp(graph, "pool", &pool.mlp, &attended)
    };
    let features = match projection::follows(config, Pooling::Attention) {
        true => projection::write(graph, config, weights, tower.width, &pooled)?,
        false => pooled,
    };
    let picture = graph.g.slice(&features, 1, 0, 1);
    Ok(Features {
        dense: graph.g.slice(&features, 1, 1, i64::MAX),
        global: graph.g.reshape(&picture, &[-1, config.dim as i64]),
    })
}

impl AttentionPool {
    fn read(tower: &Transformer<'_>) -> Result<Self, WeightsError> {
        let (weights, w) = (tower.weights, tower.width);
        let timm = tower.naming == Naming::Timm;
        let name = |hugging_face: &str, timm_s: &str| match timm {
            false => format!("vision_model.head.{hugging_face}"),
            true => format!("visual.trunk.attn_pool.{timm_s}"),
        };
        let probe = weights.read(&name("probe", "latent"), &[1, 1, w])?;
        let (query, key_value) = if timm {
            (
                Linear::read(weights, &name("", "q"), w, w)?,
                Linear::read(weights, &name("", "kv"), 2 * w, w)?,
            )
        } else {
            let whole = Linear {
                outputs: 3 * w,
                inputs: w,
                weight: weights.read(&name("attention.in_proj_weight", ""), &[3 * w, w])?,
                bias: Some(weights.read(&name("attention.in_proj_bias", ""), &[3 * w])?),
            };
            (whole.rows(0, w), whole.rows(w, 2 * w))
        };
        Ok(Self {
            scores: scores(&probe, &query, &key_value.rows(0, w), tower.form.pool_heads),
            value: key_value.rows(w, w),
            output: Linear::read(weights, &name("attention.out_proj", "proj"), w, w)?,
            mlp: tower.read_mlp(
                &name("layernorm", "norm"),
                [&name("mlp.fc1", "mlp.fc1"), &name("mlp.fc2", "mlp.fc2")],
            )?,
        })
    }
}

/// A head's score of a location is the product of its query with the location's key, which is one
/// product with the location: `q (K x + b) = (q K) x + q b`. The last term is the same everywhere,
/// and a softmax does not see it.
fn scores(probe: &[f32], query: &Linear, key: &Linear, heads: usize) -> Linear {
    let (w, width) = (probe.len(), probe.len() / heads);
    let bias = query.bias.as_deref().unwrap_or_default();
    let scale = 1.0 / (width as f64).sqrt();
    let query: Vec<f64> = query
        .weight
        .chunks_exact(w)
        .zip(bias)
        .map(|(row, bias)| {
            let products = row.iter().zip(probe);
            let sum: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            (sum + f64::from(*bias)) * scale
        })
        .collect();
    let mut weight = vec![0.0; heads * w];
    for (head, out) in weight.chunks_exact_mut(w).enumerate() {
        let mut sums = vec![0.0f64; w];
        let rows = query.iter().zip(key.weight.chunks_exact(w));
        for (query, key) in rows.skip(head * width).take(width) {
            for (sum, key) in sums.iter_mut().zip(key) {
                *sum += query * f64::from(*key);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum as f32;
        }
    }
    Linear {
        outputs: heads,
        inputs: w,
        weight,
        bias: None,
    }
}
