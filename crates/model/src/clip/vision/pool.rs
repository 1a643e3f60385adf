//! SigLIP's and PE-Core's head: a learned query attends to all tokens, and an MLP follows. In
//! CoCa's a norm follows, and only the first of its queries makes the picture's feature.
//!
//! For features of locations the same path is taken with one location alone: its value, the output
//! projection, the MLP or norm. That is what the pool would give if it looked there only.

use super::base::{Norm, Transformer};
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
    behind: Behind,
}

/// What follows the attention.
enum Behind {
    Mlp(Mlp),
    Norm(Norm),
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
    let (inner, heads) = (pool.value.outputs, tower.form.pool_heads);
    let (w, heads) = (inner as i64, heads as i64);
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
    let pooled = match (&pool.behind, mode) {
        (Behind::Norm(norm), _) => tower.norm(graph, &attended, "pool.norm", norm),
        (Behind::Mlp(mlp), DenseMode::ValueBare) => {
            let picture = graph.g.slice(&attended, 1, 0, 1);
            let picture = tower.mlp(graph, "pool", mlp, &picture);
            let places = graph.g.slice(&attended, 1, 1, i64::MAX);
            concatenated(graph, &[&picture, &places])
        }
        (Behind::Mlp(mlp), _) => tower.mlp(graph, "pool", mlp, &attended),
    };
    let features = match projection::follows(config, Pooling::Attention) {
        true => projection::write(graph, config, weights, inner, &pooled)?,
        false => pooled,
    };
    let picture = graph.g.slice(&features, 1, 0, 1);
    Ok(Features {
        dense: graph.g.slice(&features, 1, 1, i64::MAX),
        global: graph.g.reshape(&picture, &[-1, config.dim as i64]),
    })
}

impl AttentionPool {
    fn read(tower: &Transformer<'_>) -> Result<Self, TowerError> {
        if tower.naming == Naming::OpenClip {
            return Self::read_coca(tower);
        }
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
            behind: Behind::Mlp(tower.read_mlp(
                &name("layernorm", "norm"),
                [&name("mlp.fc1", "mlp.fc1"), &name("mlp.fc2", "mlp.fc2")],
            )?),
        })
    }

    /// CoCa's, which is as wide as the joint space.
    fn read_coca(tower: &Transformer<'_>) -> Result<Self, TowerError> {
        let (weights, w, heads) = (tower.weights, tower.width, tower.form.pool_heads);
        let name = |part: &str| format!("visual.attn_pool.{part}");
        let shape = weights.shape(&name("query"))?.to_vec();
        let inner = *shape.last().unwrap_or(&0);
        if heads == 0 || inner == 0 || !inner.is_multiple_of(heads) {
            let sizes = format!("attn_pooler_heads {heads}, queries of {shape:?}");
            return Err(TowerError::Sizes(sizes));
        }
        let queries = weights.read(&name("query"), &shape)?;
        let biases = weights.read(&name("attn.in_proj_bias"), &[3 * inner])?;
        let whole = match weights.contains(&name("attn.in_proj_weight")) {
            true => Some(weights.read(&name("attn.in_proj_weight"), &[3 * inner, inner])?),
            false => None,
        };
        let part = |part: usize, inputs: usize| -> Result<Linear, WeightsError> {
            let weight = match &whole {
                Some(whole) => whole[part * inner * inner..(part + 1) * inner * inner].to_vec(),
                None => {
                    let stored = name(&format!("attn.{}_proj_weight", ["q", "k", "v"][part]));
                    weights.read(&stored, &[inner, inputs])?
                }
            };
            Ok(Linear {
                outputs: inner,
                inputs: if whole.is_some() { inner } else { inputs },
                weight,
                bias: Some(biases[part * inner..(part + 1) * inner].to_vec()),
            })
        };
        let norm = tower.read_norm_of(&name("ln_q"), inner)?;
        let probe = normed(&queries[..inner], &norm, tower.epsilon);
        Ok(Self {
            scores: scores(&probe, &part(0, inner)?, &part(1, w)?, heads),
            value: part(2, w)?,
            output: Linear::read(weights, &name("attn.out_proj"), inner, inner)?,
            behind: Behind::Norm(tower.read_norm_of("visual.ln_post", inner)?),
        })
    }
}

/// A layer norm of one row.
fn normed(row: &[f32], (weight, bias): &Norm, epsilon: f32) -> Vec<f32> {
    let count = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let squares = row.iter().map(|&x| (f64::from(x) - mean).powi(2));
    let deviation = (squares.sum::<f64>() / count + f64::from(epsilon)).sqrt();
    let parts = row.iter().zip(weight).zip(bias);
    parts
        .map(|((&x, &w), &b)| {
            ((f64::from(x) - mean) / deviation * f64::from(w) + f64::from(b)) as f32
        })
        .collect()
}

/// A head's score of a location is the product of its query with the location's key, which is one
/// product with the location: `q (K x + b) = (q K) x + q b`. The last term is the same everywhere,
/// and a softmax does not see it.
fn scores(probe: &[f32], query: &Linear, key: &Linear, heads: usize) -> Linear {
    let (inner, w, width) = (probe.len(), key.inputs, probe.len() / heads);
    let bias = query.bias.as_deref().unwrap_or_default();
    let scale = 1.0 / (width as f64).sqrt();
    let query: Vec<f64> = query
        .weight
        .chunks_exact(inner)
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
