//! ViTamin's stem: two stages of inverted bottlenecks in place of the patch embedding. What follows
//! is a transformer whose MLPs are gated.

use super::convolution::Steps;
use super::maps::{Maps, counted, rows};
use super::{TowerGraph, VisionConfig};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::{Attribute, Value};

/// Pixels a location: four halvings.
pub(super) const STEP: usize = 16;
const PREFIX: &str = "visual.trunk.patch_embed.backbone";

/// A pointwise convolution's steps.
const POINT: Steps = steps(1, 1, 1);

const fn steps(side: usize, stride: usize, groups: usize) -> Steps {
    Steps {
        stride,
        pad: side / 2,
        groups,
    }
}

/// Whether the weights have such a stem.
pub(super) fn is_there(weights: &WeightFiles) -> bool {
    maps(weights).has("stem.conv1.weight")
}

/// The width of what it gives.
pub(super) fn width(weights: &WeightFiles) -> Result<usize, WeightsError> {
    maps(weights).outputs("pool.proj.weight")
}

fn maps(weights: &WeightFiles) -> Maps<'_> {
    Maps {
        weights,
        prefix: PREFIX,
        epsilon: 1e-6,
    }
}

/// Writes it after the pixels `[B, side, side, 3]`: patches `[B, N, W]`.
pub(super) fn write(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &WeightFiles,
    width: usize,
    pixels: &Value,
) -> Result<Value, WeightsError> {
    let maps = maps(weights);
    let mut inputs = maps.outputs("stem.conv1.weight")?;
    let x = graph.planes(config, pixels);
    let dims = [inputs, 3, 3, 3];
    let x = maps.convolution(graph, "stem.conv1", dims, (&x, steps(3, 2, 1)))?;
    let x = maps.map_norm(graph, "stem.norm1", inputs, &x)?;
    let x = graph.g.gelu(&x, graph.element);
    let dims = [inputs, inputs, 3, 3];
    let mut x = maps.convolution(graph, "stem.conv2", dims, (&x, steps(3, 1, 1)))?;
    for stage in 0..counted(weights, &maps.name("stages.")) {
        let prefix = format!("stages.{stage}.");
        for block in 0..counted(weights, &maps.name(&prefix)) {
            let name = format!("{prefix}{block}");
            let outputs = maps.outputs(&format!("{name}.conv3_1x1.weight"))?;
            let stride = if block == 0 { 2 } else { 1 };
            x = bottleneck(&maps, graph, &name, ([inputs, outputs], stride), &x)?;
            inputs = outputs;
        }
    }
    let x = maps.map_norm(graph, "pool.norm", inputs, &x)?;
    let dims = [width, inputs, 3, 3];
    let x = maps.convolution(graph, "pool.proj", dims, (&x, steps(3, 2, 1)))?;
    Ok(rows(graph, &x, width))
}

/// `shortcut(x) + narrow(depthwise(widen(norm(x))))`; the first of a stage halves the map.
fn bottleneck(
    maps: &Maps<'_>,
    graph: &mut TowerGraph,
    name: &str,
    ([inputs, outputs], stride): ([usize; 2], usize),
    x: &Value,
) -> Result<Value, WeightsError> {
    let part = |part: &str| format!("{name}.{part}");
    let mut shortcut = x.clone();
    if stride == 2 {
        // Means at the border are those of what lies inside.
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![3, 3])),
            ("pads", Attribute::Ints(vec![1; 4])),
            ("strides", Attribute::Ints(vec![2, 2])),
            ("count_include_pad", Attribute::Int(0)),
        ];
        shortcut = graph.g.node("AveragePool", &[x], &attributes);
        if inputs != outputs {
            let dims = [outputs, inputs, 1, 1];
            let name = part("shortcut.expand");
            shortcut = maps.convolution(graph, &name, dims, (&shortcut, POINT))?;
        }
    }
    let hidden = maps.outputs(&part("conv1_1x1.weight"))?;
    let h = maps.map_norm(graph, &part("pre_norm"), inputs, x)?;
    let dims = [hidden, inputs, 1, 1];
    let h = maps.convolution(graph, &part("conv1_1x1"), dims, (&h, POINT))?;
    let h = graph.g.gelu(&h, graph.element);
    let (dims, how) = ([hidden, 1, 3, 3], steps(3, stride, hidden));
    let h = maps.convolution(graph, &part("conv2_kxk"), dims, (&h, how))?;
    let h = graph.g.gelu(&h, graph.element);
    let dims = [outputs, hidden, 1, 1];
    let h = maps.convolution(graph, &part("conv3_1x1"), dims, (&h, POINT))?;
    Ok(graph.g.add(&h, &shortcut))
}
