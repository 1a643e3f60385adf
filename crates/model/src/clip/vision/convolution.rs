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
        let norm = batch_norm(weights, norm, self.dims[0])?;
        let kernels = self
            .weight
            .chunks_exact_mut(self.dims[1..].iter().product::<usize>().max(1));
        for ((kernel, bias), (factor, shift)) in kernels.zip(&mut self.bias).zip(norm) {
            for w in kernel {
                *w = (f64::from(*w) * factor) as f32;
            }
            *bias = (f64::from(*bias) * factor + shift) as f32;
        }
        Ok(self)
    }

    /// What gives nothing.
    pub(super) fn zero(dims: [usize; 4]) -> Self {
        Self {
            dims,
            weight: vec![0.0; dims.iter().product()],
            bias: vec![0.0; dims[0]],
        }
    }

    /// What gives back what comes in; outputs are as many as inputs.
    pub(super) fn identity(dims: [usize; 4]) -> Self {
        let [outputs, inputs, height, width] = dims;
        let mut made = Self::zero(dims);
        let centre = height / 2 * width + width / 2;
        for output in 0..outputs {
            let input = output % inputs.max(1);
            made.weight[(output * inputs + input) * height * width + centre] = 1.0;
        }
        made
    }

    /// Adds one with the same maps, whose kernel is not larger, around the kernel's middle.
    ///
    /// # Panics
    /// If it has other maps or a larger kernel.
    pub(super) fn add(&mut self, other: &Self) {
        let ([outputs, inputs, height, width], [_, _, h, w]) = (self.dims, other.dims);
        assert_eq!(self.dims[..2], other.dims[..2], "other maps");
        let (top, left) = ((height - h) / 2, (width - w) / 2);
        for plane in 0..outputs * inputs {
            for row in 0..h {
                let to = (plane * height + top + row) * width + left;
                let from = (plane * h + row) * w;
                let pairs = self.weight[to..to + w].iter_mut();
                pairs
                    .zip(&other.weight[from..from + w])
                    .for_each(|(sum, x)| *sum += x);
            }
        }
        let pairs = self.bias.iter_mut().zip(&other.bias);
        pairs.for_each(|(sum, x)| *sum += x);
    }

    /// Multiplies each output.
    pub(super) fn scale(&mut self, by: &[f32]) {
        let kernel = self.dims[1..].iter().product::<usize>().max(1);
        for (kernel, by) in self.weight.chunks_exact_mut(kernel).zip(by) {
            kernel.iter_mut().for_each(|x| *x *= by);
        }
        let pairs = self.bias.iter_mut().zip(by);
        pairs.for_each(|(x, by)| *x *= by);
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

/// A batch norm as factor and shift of each channel: `(x - mean) g / sqrt(var + eps) + b`.
pub(super) fn batch_norm(
    weights: &WeightFiles,
    name: &str,
    channels: usize,
) -> Result<Vec<(f64, f64)>, WeightsError> {
    let statistic = |part: &str| weights.read(&format!("{name}.{part}"), &[channels]);
    let (gain, shift) = (statistic("weight")?, statistic("bias")?);
    let (mean, variance) = (statistic("running_mean")?, statistic("running_var")?);
    let channels = (0..channels).map(|c| {
        let factor = f64::from(gain[c]) / (f64::from(variance[c]) + BATCH_NORM_EPSILON).sqrt();
        (factor, f64::from(shift[c]) - f64::from(mean[c]) * factor)
    });
    Ok(channels.collect())
}
