//! Convolutions, with the batch norms behind them folded in.

use super::TowerGraph;
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::{Attribute, Value};

/// PyTorch's default, which CLIP and timm keep.
const BATCH_NORM_EPSILON: f64 = 1e-5;

/// A convolution's weights.
pub(super) struct Convolution {
    /// Outputs, inputs a group, sides of the kernel.
    pub dims: [usize; 4],
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// How a kernel goes over the map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    pub stride: usize,
    pub pad: usize,
    pub groups: usize,
}

impl Convolution {
    /// Reads `<name>.weight`, and `<name>.bias` if it is there.
    pub(super) fn read(
        weights: &WeightFiles,
        name: &str,
        dims: [usize; 4],
    ) -> Result<Self, WeightsError> {
        let bias = format!("{name}.bias");
        Ok(Self {
            dims,
            weight: weights.read(&format!("{name}.weight"), &dims)?,
            bias: match weights.contains(&bias) {
                true => weights.read(&bias, &[dims[0]])?,
                false => vec![0.0; dims[0]],
            },
        })
    }

    /// With the batch norm `norm` behind it: `(w x - mean) g / sqrt(var + eps) + b` is a
    /// convolution with another weight and bias, computed here in 64 bit.
    pub(super) fn folded(
        mut self,
        weights: &WeightFiles,
        norm: &str,
    ) -> Result<Self, WeightsError> {
        let outputs = self.dims[0];
        let statistic = |part: &str| weights.read(&format!("{norm}.{part}"), &[outputs]);
        let (gain, shift) = (statistic("weight")?, statistic("bias")?);
        let (mean, variance) = (statistic("running_mean")?, statistic("running_var")?);
        let kernel = self.dims[1..].iter().product::<usize>().max(1);
        for (o, kernel) in self.weight.chunks_exact_mut(kernel).enumerate() {
            let factor = f64::from(gain[o]) / (f64::from(variance[o]) + BATCH_NORM_EPSILON).sqrt();
            for w in kernel {
                *w = (f64::from(*w) * factor) as f32;
            }
            let centred = f64::from(self.bias[o]) - f64::from(mean[o]);
            self.bias[o] = (centred * factor + f64::from(shift[o])) as f32;
        }
        Ok(self)
    }

    /// Writes it; `name` is that of its weights in the graph.
    pub(super) fn write(
        &self,
        graph: &mut TowerGraph,
        name: &str,
        x: &Value,
        steps: Steps,
    ) -> Value {
        let weight = graph.weight(&format!("{name}.weight"), &self.dims, &self.weight);
        let bias = graph.weight(&format!("{name}.bias"), &self.dims[..1], &self.bias);
        let [_, _, height, width] = self.dims.map(|x| x as i64);
        let mut attributes = vec![
            ("kernel_shape", Attribute::Ints(vec![height, width])),
            ("pads", Attribute::Ints(vec![steps.pad as i64; 4])),
            ("strides", Attribute::Ints(vec![steps.stride as i64; 2])),
        ];
        if steps.groups != 1 {
            attributes.push(("group", Attribute::Int(steps.groups as i64)));
        }
        graph.g.node("Conv", &[x, &weight, &bias], &attributes)
    }
}
