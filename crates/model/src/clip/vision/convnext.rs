//! ConvNeXt as timm has it, inside OpenCLIP's models: depthwise convolutions of 7 x 7, an MLP for
//! each location, four stages.

use super::convolution::Steps;
use super::maps::{Maps, behind_their_mean, counted, rows, value_only};
use super::{
    Architecture, DenseMode, Features, Linear, Sides, TowerError, TowerGraph, VisionConfig,
    projection,
};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::Value;

/// Pixels a location: stem 4, three stages 2 each.
pub(super) const STEP: usize = 32;

/// Side of the depthwise kernels.
const KERNEL: usize = 7;

struct ConvNeXt<'a> {
    maps: Maps<'a>,
}

/// Writes the tower after the pixels `[B, side, side, 3]`.
pub(super) fn write(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &WeightFiles,
    (sides, mode): (Sides, DenseMode),
    pixels: &Value,
) -> Result<Features, TowerError> {
    let Architecture::ConvNeXt {
        layers,
        widths,
        epsilon,
    } = config.architecture
    else {
        unreachable!("called for ConvNeXt only");
    };
    value_only(mode)?;
    let prefix = "visual.trunk";
    let maps = Maps {
        weights,
        prefix,
        epsilon,
    };
    let tower = ConvNeXt { maps };
    let planes = graph.planes(config, pixels);
    let mut x = tower.stem(graph, widths[0], &planes)?;
    for (stage, &width) in widths.iter().enumerate() {
        if stage > 0 {
            x = tower.halve(graph, stage, [widths[stage - 1], width], &x)?;
        }
        for block in 0..layers[stage] {
            x = tower.block(graph, &format!("stages.{stage}.blocks.{block}"), width, &x)?;
        }
    }
    let width = widths[3];
    let rows = rows(graph, &x, width);
    let all = behind_their_mean(graph, &rows);
    let all = tower.maps.norm(graph, "head.norm", width, &all)?;
    let all = projection::write(graph, config, weights, width, &all)?;
    let picture = graph.g.slice(&all, 1, 0, 1);
    let count = (sides.grid * sides.grid) as i64;
    Ok(Features {
        dense: graph.g.slice(&all, 1, 1, count + 1),
        global: graph.g.reshape(&picture, &[-1, config.dim as i64]),
    })
}

impl ConvNeXt<'_> {
    fn stem(
        &self,
        graph: &mut TowerGraph,
        width: usize,
        planes: &Value,
    ) -> Result<Value, WeightsError> {
        let steps = Steps {
            stride: 4,
            pad: 0,
            groups: 1,
        };
        let x = self
            .maps
            .convolution(graph, "stem.0", [width, 3, 4, 4], (planes, steps))?;
        self.maps.map_norm(graph, "stem.1", width, &x)
    }

    /// The step between two stages.
    fn halve(
        &self,
        graph: &mut TowerGraph,
        stage: usize,
        [inputs, outputs]: [usize; 2],
        x: &Value,
    ) -> Result<Value, WeightsError> {
        let name = |part: usize| format!("stages.{stage}.downsample.{part}");
        let x = self.maps.map_norm(graph, &name(0), inputs, x)?;
        let steps = Steps {
            stride: 2,
            pad: 0,
            groups: 1,
        };
        self.maps
            .convolution(graph, &name(1), [outputs, inputs, 2, 2], (&x, steps))
    }

    /// `x + MLP(norm(depthwise(x)))`; layer scale is multiplied into the MLP's last layer.
    fn block(
        &self,
        graph: &mut TowerGraph,
        name: &str,
        width: usize,
        x: &Value,
    ) -> Result<Value, WeightsError> {
        let part = |part: &str| format!("{name}.{part}");
        let steps = Steps {
            stride: 1,
            pad: KERNEL / 2,
            groups: width,
        };
        let dims = [width, 1, KERNEL, KERNEL];
        let h = self
            .maps
            .convolution(graph, &part("conv_dw"), dims, (x, steps))?;
        let h = graph.g.transpose(&h, &[0, 2, 3, 1]);
        let h = self.maps.norm(graph, &part("norm"), width, &h)?;
        let at = |layer: &str| format!("visual.trunk.{name}.mlp.{layer}");
        let hidden = self.maps.weights.shape(&format!("{}.weight", at("fc1")))?;
        let hidden = *hidden.first().unwrap_or(&0);
        let inward = Linear::read(self.maps.weights, &at("fc1"), hidden, width)?;
        let mut outward = Linear::read(self.maps.weights, &at("fc2"), width, hidden)?;
        let scale = format!("visual.trunk.{name}.gamma");
        if self.maps.weights.contains(&scale) {
            outward.scale_rows(&self.maps.weights.read(&scale, &[width])?);
        }
        let h = graph.linear(&h, &part("mlp_in"), &inward);
        let h = graph.g.gelu(&h, graph.element);
        let h = graph.linear(&h, &part("mlp_out"), &outward);
        let h = graph.g.transpose(&h, &[0, 3, 1, 2]);
        Ok(graph.g.add(x, &h))
    }
}

/// The sizes that a ConvNeXt's tensors have.
pub(super) fn architecture(
    weights: &WeightFiles,
    epsilon: f32,
) -> Result<Architecture, WeightsError> {
    let (mut layers, mut widths) = ([0; 4], [0; 4]);
    for stage in 0..4 {
        let prefix = format!("visual.trunk.stages.{stage}.blocks.");
        layers[stage] = counted(weights, &prefix);
        let norm = weights.shape(&format!("{prefix}0.norm.weight"))?;
        widths[stage] = *norm.first().unwrap_or(&0);
    }
    Ok(Architecture::ConvNeXt {
        layers,
        widths,
        epsilon,
    })
}
