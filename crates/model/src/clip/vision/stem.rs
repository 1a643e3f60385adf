//! The stem of MobileCLIP-B: three convolutions in place of the patch embedding.

use super::convolution::{Convolution, Steps};
use super::{TowerError, TowerGraph, VisionConfig};
use crate::clip::weights::WeightFiles;
use crate::onnx::Value;

const NAME: &str = "visual.trunk.patch_embed.backbone";
/// Sides of the kernels, which are the steps, too.
const SIDES: [usize; 3] = [4, 2, 2];
/// Pixels a location.
pub(super) const STEP: usize = 16;

/// Whether the weights have such a stem.
pub(super) fn is_there(weights: &WeightFiles) -> bool {
    weights.contains(&format!("{NAME}.0.conv.weight"))
}

/// Writes it after the pixels `[B, side, side, 3]`: patches `[B, N, W]`.
pub(super) fn write(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &WeightFiles,
    width: usize,
    pixels: &Value,
) -> Result<Value, TowerError> {
    let mut x = graph.planes(config, pixels);
    let mut inputs = 3;
    for (i, side) in SIDES.into_iter().enumerate() {
        let last = i + 1 == SIDES.len();
        let outputs = if last { width } else { width / 4 };
        let name = format!("{NAME}.{i}");
        let dims = [outputs, inputs, side, side];
        let mut convolution = Convolution::read(weights, &format!("{name}.conv"), dims)?;
        if !last {
            convolution = convolution.folded(weights, &format!("{name}.bn"))?;
        }
        let steps = Steps {
            stride: side,
            pad: 0,
            groups: 1,
        };
        x = convolution.write(graph, &format!("stem{i}"), &x, steps);
        if !last {
            x = graph.g.gelu(&x, graph.element);
        }
        inputs = outputs;
    }
    let rows = graph.g.reshape(&x, &[0, width as i64, -1]);
    Ok(graph.g.transpose(&rows, &[0, 2, 1]))
}
