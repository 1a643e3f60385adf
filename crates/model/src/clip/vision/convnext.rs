//! ConvNeXt as timm has it, inside OpenCLIP's models: depthwise convolutions of 7 x 7, an MLP for
//! each location, four stages.

use super::base::Norm;
use super::convolution::{Convolution, Steps};
use super::{
    Architecture, DenseMode, Features, Linear, Sides, TowerError, TowerGraph, VisionConfig,
    projection,
};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::{Attribute, Value};

/// Pixels a location: stem 4, three stages 2 each.
pub(super) const STEP: usize = 32;

/// Side of the depthwise kernels.
const KERNEL: usize = 7;

struct ConvNeXt<'a> {
    weights: &'a WeightFiles,
    epsilon: f32,
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
    if mode != DenseMode::Value {
        let available = "value";
        return Err(TowerError::DenseMode { mode, available });
    }
    let tower = ConvNeXt { weights, epsilon };
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
    let rows = graph.g.reshape(&x, &[0, width as i64, -1]);
    let rows = graph.g.transpose(&rows, &[0, 2, 1]);
    // Row 0 is the whole picture.
    let mean = graph.g.mean(&rows, 1, true);
    let join = [("axis", Attribute::Int(1))];
    let all = graph.g.node("Concat", &[&mean, &rows], &join);
    let norm = tower.read_norm("head.norm", width)?;
    let all = tower.norm(graph, "head.norm", &norm, &all);
    let all = projection::write(graph, config, weights, width, &all)?;
    let picture = graph.g.slice(&all, 1, 0, 1);
    let count = (sides.grid * sides.grid) as i64;
    Ok(Features {
        dense: graph.g.slice(&all, 1, 1, count + 1),
        global: graph.g.reshape(&picture, &[-1, config.dim as i64]),
    })
}

impl ConvNeXt<'_> {
    fn read_norm(&self, name: &str, width: usize) -> Result<Norm, WeightsError> {
        let name = format!("visual.trunk.{name}");
        Ok((
            self.weights.read(&format!("{name}.weight"), &[width])?,
            self.weights.read(&format!("{name}.bias"), &[width])?,
        ))
    }

    /// Over the last axis.
    fn norm(&self, graph: &mut TowerGraph, name: &str, norm: &Norm, x: &Value) -> Value {
        let width = norm.0.len();
        let weight = graph.weight(&format!("{name}.weight"), &[width], &norm.0);
        let bias = graph.weight(&format!("{name}.bias"), &[width], &norm.1);
        graph.g.layer_norm(x, &weight, &bias, self.epsilon)
    }

    /// Over the channels of a map `[B, W, h, w]`.
    fn map_norm(
        &self,
        graph: &mut TowerGraph,
        name: &str,
        width: usize,
        x: &Value,
    ) -> Result<Value, WeightsError> {
        let norm = self.read_norm(name, width)?;
        let x = graph.g.transpose(x, &[0, 2, 3, 1]);
        let x = self.norm(graph, name, &norm, &x);
        Ok(graph.g.transpose(&x, &[0, 3, 1, 2]))
    }

    fn convolution(
        &self,
        graph: &mut TowerGraph,
        name: &str,
        dims: [usize; 4],
        (x, steps): (&Value, Steps),
    ) -> Result<Value, WeightsError> {
        let read = Convolution::read(self.weights, &format!("visual.trunk.{name}"), dims)?;
        Ok(read.write(graph, name, x, steps))
    }

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
        let x = self.convolution(graph, "stem.0", [width, 3, 4, 4], (planes, steps))?;
        self.map_norm(graph, "stem.1", width, &x)
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
        let x = self.map_norm(graph, &name(0), inputs, x)?;
        let steps = Steps {
            stride: 2,
            pad: 0,
            groups: 1,
        };
        self.convolution(graph, &name(1), [outputs, inputs, 2, 2], (&x, steps))
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
        let h = self.convolution(graph, &part("conv_dw"), dims, (x, steps))?;
        let norm = self.read_norm(&part("norm"), width)?;
        let h = graph.g.transpose(&h, &[0, 2, 3, 1]);
        let h = self.norm(graph, &part("norm"), &norm, &h);
        let at = |layer: &str| format!("visual.trunk.{name}.mlp.{layer}");
        let hidden = self.weights.shape(&format!("{}.weight", at("fc1")))?;
        let hidden = *hidden.first().unwrap_or(&0);
        let inward = Linear::read(self.weights, &at("fc1"), hidden, width)?;
        let mut outward = Linear::read(self.weights, &at("fc2"), width, hidden)?;
        let scale = format!("visual.trunk.{name}.gamma");
        if self.weights.contains(&scale) {
            outward.scale_rows(&self.weights.read(&scale, &[width])?);
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
        let numbers = weights.names().filter_map(|name| {
            let number = name.strip_prefix(&*prefix)?.split('.').next()?;
            number.parse::<usize>().ok()
        });
        layers[stage] = numbers.max().map_or(0, |last| last + 1);
        let norm = weights.shape(&format!("{prefix}0.norm.weight"))?;
        widths[stage] = *norm.first().unwrap_or(&0);
    }
    Ok(Architecture::ConvNeXt {
        layers,
        widths,
        epsilon,
    })
}
