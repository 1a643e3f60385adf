//! The last map into the joint space: linear, an MLP, or none.

use super::{Linear, Naming, Pooling, TowerError, TowerGraph, VisionConfig, transposed};
use crate::clip::weights::WeightFiles;
use crate::onnx::Value;

/// timm's names of it: the trunk's own classifier or OpenCLIP's linear head; OpenCLIP's MLP.
const LINEAR: [&str; 3] = [
    "visual.trunk.head",
    "visual.trunk.head.fc",
    "visual.head.proj",
];
const MLP: [&str; 2] = ["visual.head.mlp.fc1", "visual.head.mlp.fc2"];

/// Whether a trunk of timm's has one.
pub(super) fn is_there(weights: &WeightFiles) -> bool {
    let mut names = LINEAR.iter().chain(&MLP[..1]);
    names.any(|name| weights.contains(&format!("{name}.weight")))
}

/// Writes it after `x`, `[B, T, W]`: `[B, T, D]`.
pub(super) fn write(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &WeightFiles,
    width: usize,
    x: &Value,
) -> Result<Value, TowerError> {
    let dim = config.dim;
    let bare = |weight: Vec<f32>| Linear {
        outputs: dim,
        inputs: width,
        weight,
        bias: None,
    };
    let linear = match config.naming {
        Naming::HuggingFace => bare(weights.read("visual_projection.weight", &[dim, width])?),
        // OpenCLIP multiplies from the right.
        Naming::OpenClip => {
            let weight = weights.read("visual.proj", &[width, dim])?;
            bare(transposed(&weight, width, dim))
        }
        Naming::Timm => {
            let there = |name: &str| weights.contains(&format!("{name}.weight"));
            if there(MLP[0]) {
                let hidden = weights.shape(&format!("{}.weight", MLP[0]))?;
                let hidden = *hidden.first().unwrap_or(&0);
                let inward = Linear::read_any(weights, MLP[0], hidden, width)?;
                let h = graph.linear(x, "projection.in", &inward);
                let h = graph.g.gelu(&h, graph.element);
                let outward = Linear::read_any(weights, MLP[1], dim, hidden)?;
                return Ok(graph.linear(&h, "projection", &outward));
            }
            match LINEAR.into_iter().find(|name| there(name)) {
                Some(name) => Linear::read_any(weights, name, dim, width)?,
                None => return Ok(x.clone()),
            }
        }
    };
    Ok(graph.linear(x, "projection", &linear))
}

/// Whether a tower's pooled feature is projected: SigLIP's of Hugging Face is not.
pub(super) fn follows(config: &VisionConfig, pooling: Pooling) -> bool {
    !(config.naming == Naming::HuggingFace && pooling == Pooling::Attention)
}
