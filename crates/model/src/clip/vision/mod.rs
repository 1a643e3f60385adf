//! The vision towers of CLIP and its kin as ONNX graphs: `pixels` uint8 `[B,H,W,3]` -> `dense`
//! float `[B,N,D]`, `global` float `[B,D]`.
//!
//! The pixels' normalisation is inside the graph and computed in 32 bit. Neither output is
//! L2-normalised. With [`Precision::Fp16`] weights and products are 16-bit, layer norms take their
//! statistics in 32 bit, outputs are 32-bit. With [`Precision::Int8`] the graph takes its images
//! one by one, because the scale of such a product is found for all that goes into it.
//!
//! `global` is the tower's own image feature. `dense` are features of locations in the same joint
//! space, which CLIP was never trained to give; [`DenseMode`] says how they are made.

mod architecture;
mod base;
mod block;
mod config;
mod config_error;
mod convnext;
mod convolution;
mod dense;
mod fastvit;
mod maps;
mod patches;
mod pixel_values;
mod pool;
mod position;
mod projection;
mod resnet;
mod rotary;
mod stem;
mod timm;
mod transformer;
mod vitamin;

pub use architecture::{Architecture, Naming, Pooling, TransformerForm};
pub use config::VisionConfig;
pub use config_error::VisionConfigError;
pub use pixel_values::{CLIP_MEAN, CLIP_STD, PreprocessorFile};
pub use position::{Resampling, resample_grid};
pub use rotary::Rotary;

use super::weights::{WeightFiles, WeightsError};
use crate::bundle::Dims;
use crate::onnx::{Dim, Element, GraphBuilder, GraphError, IntegerRange, Value};

/// Width of weights and products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    Fp32,
    /// 16-bit floats: half the size, for GPUs.
    Fp16,
    /// The large products in 8-bit integers, everything else in 32-bit floats: for processors. The
    /// integers' range is part of what is written.
    Int8(IntegerRange),
}

impl Precision {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Int8(IntegerRange::Full) => "int8",
            Precision::Int8(IntegerRange::Reduced) => "int8, reduced range",
        }
    }
}

/// How dense features are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DenseMode {
    /// The value path of the last attention in place of the attention. Transformer:
    /// `u = x + Wo(Wv LN(x))`, `u = u + MLP(LN(u))`, then final norm and projection (MaskCLIP).
    /// ResNet: value and output projection of the attention pool at each location, without
    /// positional embedding (TaI-DPT). SigLIP: as the ResNet, with the pool's MLP behind it.
    /// ConvNeXt, FastViT: what the head gives if it pools that location only.
    #[default]
    Value,
    /// Transformer: `Wo((softmax(q q) + softmax(k k)) v)` of the last block, without residual and
    /// MLP (SCLIP's attention in ClearCLIP's block). With an attention pool: behind that, its value
    /// path as in [`DenseMode::Value`].
    SelfCorrelating,
    /// Transformer: `Wo(softmax(k k + w) v)` of the last block, without residual and MLP, where `w`
    /// falls with the distance of two locations as a bell of 5 locations' width (NACLIP). With an
    /// attention pool as before.
    Neighbour,
    /// Transformer: the last block's own outputs. A ResNet has none.
    Plain,
    /// Transformer: `Wo(Wv LN(x))` of the last block alone, without residual and MLP. SigLIP: value
    /// and output projection of the pool, without its MLP. A ResNet has no such choice.
    ValueBare,
    /// ResNet: as [`DenseMode::Value`] with the interpolated positional embedding added first
    /// (DualCoOp). A transformer adds its positions at the start anyway.
    ValuePositional,
}

impl DenseMode {
    /// The name that the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::SelfCorrelating => "self",
            Self::Neighbour => "neighbour",
            Self::Plain => "plain",
            Self::ValueBare => "value_bare",
            Self::ValuePositional => "value_positional",
        }
    }
}

/// How a tower is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TowerOptions {
    /// Width of weights and products.
    pub precision: Precision,
    /// Side of the input, pixels; `None` is what the tower was made for. At other sizes positional
    /// embeddings are interpolated.
    pub input_size: Option<usize>,
    /// How dense features are made.
    pub dense_mode: DenseMode,
}

/// A written tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tower {
    /// Content of `encoder.onnx`.
    pub onnx: Vec<u8>,
    /// D and the grid.
    pub dims: Dims,
    /// Side of the input, pixels.
    pub input_size: usize,
}

/// Why a tower cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TowerError {
    /// The weights do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The graph cannot be written.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The input's side does not divide into the tower's grid.
    #[error(
        "an input of {size} pixels does not divide into steps of {step}; choose a multiple of \
         {step}"
    )]
    InputSize {
        /// The side asked for.
        size: usize,
        /// Pixels a location.
        step: usize,
    },
    /// Sizes of the configuration exclude each other.
    #[error("the configuration's sizes do not fit together: {0}")]
    Sizes(String),
    /// Convolutions are not written in integers.
    #[error(
        "a tower of convolutions (ResNet, ConvNeXt, FastViT) cannot be written with --precision \
         int8: convolutions would gain nothing by it; write it with fp32"
    )]
    Int8Convolutions,
    /// The tower has no such dense features.
    #[error("dense mode `{}` does not exist for this tower; it has {available}", .mode.name())]
    DenseMode {
        /// The mode asked for.
        mode: DenseMode,
        /// The modes it has.
        available: &'static str,
    },
}

impl Tower {
    /// Writes the tower that `config` describes from `weights`.
    pub fn write(
        config: &VisionConfig,
        weights: &WeightFiles,
        options: TowerOptions,
    ) -> Result<Self, TowerError> {
        let input_size = options.input_size.unwrap_or(config.image_size);
        let drops = matches!(config.architecture, Architecture::Transformer { .. });
        let side = |image: usize, step: usize| match step {
            0 => Err(TowerError::Sizes("a patch of 0 pixels".to_owned())),
            // Some transformers were made for a size that leaves a rest, which they drop.
            _ if image == config.image_size && image >= step && drops => Ok(image / step),
            _ if image == 0 || !image.is_multiple_of(step) => {
                Err(TowerError::InputSize { size: image, step })
            }
            _ => Ok(image / step),
        };
        if matches!(options.precision, Precision::Int8(_)) && !drops {
            return Err(TowerError::Int8Convolutions);
        }
        let mut graph = TowerGraph::new(options.precision);
        let pixels = graph.pixels(input_size);
        let step = match config.architecture {
            Architecture::Transformer { patch, .. } => patch,
            Architecture::ModifiedResNet { .. } => resnet::STEP,
            Architecture::ConvNeXt { .. } => convnext::STEP,
            Architecture::FastVit { stages } => fastvit::step(stages),
        };
        let (native, grid) = (side(config.image_size, step)?, side(input_size, step)?);
        let sides = Sides {
            native,
            grid,
            left_over: input_size - grid * step,
        };
        let mode = options.dense_mode;
        let features = match config.architecture {
            Architecture::Transformer {
                pooling: Pooling::Attention,
                ..
            } => pool::write(&mut graph, config, weights, (sides, mode), &pixels)?,
            Architecture::Transformer { pooling, .. } => {
                let how = (sides, mode, pooling);
                transformer::write(&mut graph, config, weights, how, &pixels)?
            }
            Architecture::ModifiedResNet { .. } => {
                resnet::write(&mut graph, config, weights, sides, mode, &pixels)?
            }
            Architecture::ConvNeXt { .. } => {
                convnext::write(&mut graph, config, weights, (sides, mode), &pixels)?
            }
            Architecture::FastVit { .. } => {
                fastvit::write(&mut graph, config, weights, (sides, mode), &pixels)?
            }
        };
        let dims = Dims {
            embedding: config.dim,
            grid_height: grid,
            grid_width: grid,
        };
        Ok(Self {
            onnx: graph.finish(&features, dims)?,
            dims,
            input_size,
        })
    }
}

/// By channel: `(x / 255 - mean) / std` is `x * scale + shift`.
fn normalisation(config: &VisionConfig) -> ([f32; 3], [f32; 3]) {
    let of = |channel: usize| {
        let (mean, std) = (
            f64::from(config.mean[channel]),
            f64::from(config.std[channel]),
        );
        ((1.0 / (255.0 * std)) as f32, (-mean / std) as f32)
    };
    let [red, green, blue] = [of(0), of(1), of(2)];
    ([red.0, green.0, blue.0], [red.1, green.1, blue.1])
}

/// Locations along one side.
#[derive(Debug, Clone, Copy)]
struct Sides {
    /// Of the positional embedding.
    native: usize,
    /// Of the graph that is written.
    grid: usize,
    /// Pixels behind the last location.
    left_over: usize,
}

/// What a tower gives.
struct Features {
    /// `[B, N, D]`.
    dense: Value,
    /// `[B, D]`.
    global: Value,
}

/// A graph under construction, with the element type of its weights.
struct TowerGraph {
    g: GraphBuilder,
    element: Element,
    /// Those of products in integers; such a graph is one for one image until it is finished.
    integers: Option<IntegerRange>,
}

impl TowerGraph {
    fn new(precision: Precision) -> Self {
        Self {
            g: GraphBuilder::new("encoder"),
            element: match precision {
                Precision::Fp32 | Precision::Int8(_) => Element::F32,
                Precision::Fp16 => Element::F16,
            },
            integers: match precision {
                Precision::Int8(range) => Some(range),
                Precision::Fp32 | Precision::Fp16 => None,
            },
        }
    }

    /// Declares the input: `[B, side, side, 3]`, uint8.
    fn pixels(&mut self, side: usize) -> Value {
        let dims = self.batched(&[side, side, 3]);
        let pixels = self.g.input("pixels", Element::U8, &dims);
        match self.integers {
            Some(_) => self.g.reshape(&pixels, &[1, side as i64, side as i64, 3]),
            None => pixels,
        }
    }

    /// An input's or output's axes, behind the batch where there is one.
    fn batched(&self, of_one: &[usize]) -> Vec<Dim> {
        let batch = self.integers.is_none().then_some(Dim::Dynamic("batch"));
        let of_one = of_one.iter().map(|&size| Dim::from(size));
        batch.into_iter().chain(of_one).collect()
    }

    /// The input normalised, in 32 bit and then in the weights' type: `[B, 3, side, side]`.
    fn planes(&mut self, config: &VisionConfig, pixels: &Value) -> Value {
        // Axes are moved while a value is still one byte.
        let planes = self.g.transpose(pixels, &[0, 3, 1, 2]);
        let (scale, shift) = normalisation(config);
        self.normalised(&planes, &[1, 3, 1, 1], &scale, &shift)
    }

    /// `x * scale + shift`, computed in 32 bit; `shape` is that of both.
    fn normalised(&mut self, x: &Value, shape: &[usize], scale: &[f32], shift: &[f32]) -> Value {
        let x = self.g.cast(x, Element::F32);
        let scale = self.g.weight("pixels.scale", shape, Element::F32, scale);
        let shift = self.g.weight("pixels.shift", shape, Element::F32, shift);
        let scaled = self.g.mul(&x, &scale);
        let normalised = self.g.add(&scaled, &shift);
        self.narrow(&normalised)
    }

    fn narrow(&mut self, x: &Value) -> Value {
        match self.element {
            Element::F16 => self.g.cast(x, Element::F16),
            _ => x.clone(),
        }
    }

    fn weight(&mut self, name: &str, dims: &[usize], data: &[f32]) -> Value {
        self.g.weight(name, dims, self.element, data)
    }

    /// `x @ weight^T + bias`, where `weight` is `[outputs, inputs]` as PyTorch keeps it. Stored
    /// transposed, so that no runtime has to.
    fn linear(&mut self, x: &Value, name: &str, linear: &Linear) -> Value {
        let (outputs, inputs) = (linear.outputs, linear.inputs);
        let columns = transposed(&linear.weight, outputs, inputs);
        let name_of_weight = format!("{name}.weight");
        let shape = [inputs, outputs];
        let product = match self.integers {
            Some(range) => self
                .g
                .integer_matmul(x, &name_of_weight, shape, &columns, range),
            None => {
                let weight = self.weight(&name_of_weight, &shape, &columns);
                self.g.matmul(x, &weight)
            }
        };
        match &linear.bias {
            Some(bias) => {
                let bias = self.weight(&format!("{name}.bias"), &[outputs], bias);
                self.g.add(&product, &bias)
            }
            None => product,
        }
    }

    fn finish(mut self, features: &Features, dims: Dims) -> Result<Vec<u8>, GraphError> {
        let positions = dims.grid_height * dims.grid_width;
        let wide = |g: &mut GraphBuilder, x: &Value| g.cast(x, Element::F32);
        let (dense, global) = match self.element {
            Element::F16 => (
                wide(&mut self.g, &features.dense),
                wide(&mut self.g, &features.global),
            ),
            _ => (features.dense.clone(), features.global.clone()),
        };
        let mut give = |value: &Value, name: &str, of_one: &[usize]| {
            let shape = self.batched(of_one);
            let value = match self.integers {
                Some(_) => {
                    let of_one: Vec<i64> = of_one.iter().map(|&size| size as i64).collect();
                    self.g.reshape(value, &of_one)
                }
                None => value.clone(),
            };
            self.g.output(&value, name, Element::F32, &shape);
        };
        give(&dense, "dense", &[positions, dims.embedding]);
        give(&global, "global", &[dims.embedding]);
        match self.integers {
            Some(_) => self.g.for_each_item(Dim::Dynamic("batch")).finish(),
            None => self.g.finish(),
        }
    }
}

/// A linear map as PyTorch keeps it.
struct Linear {
    outputs: usize,
    inputs: usize,
    /// `[outputs, inputs]`.
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// The rows from `first` on, `count` of them, as a map of their own.
    fn rows(&self, first: usize, count: usize) -> Self {
        let rows = first..first + count;
        Self {
            outputs: count,
            inputs: self.inputs,
            weight: self.weight[rows.start * self.inputs..rows.end * self.inputs].to_vec(),
            bias: self.bias.as_ref().map(|bias| bias[rows].to_vec()),
        }
    }

    /// Multiplies each output.
    fn scale_rows(&mut self, scale: &[f32]) {
        for (row, scale) in self.weight.chunks_exact_mut(self.inputs.max(1)).zip(scale) {
            row.iter_mut().for_each(|x| *x *= scale);
        }
        for (bias, scale) in self.bias.iter_mut().flatten().zip(scale) {
            *bias *= scale;
        }
    }

    /// With each input `x` in place of `factor x + shift`.
    fn after(&mut self, inputs: &[(f64, f64)]) {
        let mut biases = self.bias.take().unwrap_or_else(|| vec![0.0; self.outputs]);
        let rows = self.weight.chunks_exact_mut(self.inputs.max(1));
        for (row, bias) in rows.zip(&mut biases) {
            let mut sum = f64::from(*bias);
            for (w, (factor, shift)) in row.iter_mut().zip(inputs) {
                sum += f64::from(*w) * shift;
                *w = (f64::from(*w) * factor) as f32;
            }
            *bias = sum as f32;
        }
        self.bias = Some(biases);
    }

    /// Reads `<name>.weight`, and `<name>.bias` if it is there.
    fn read_any(
        weights: &WeightFiles,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Self, WeightsError> {
        if weights.contains(&format!("{name}.bias")) {
            return Self::read(weights, name, outputs, inputs);
        }
        Ok(Self {
            outputs,
            inputs,
            weight: weights.read(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: None,
        })
    }

    /// Reads `<name>.weight` and `<name>.bias`.
    fn read(
        weights: &WeightFiles,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            outputs,
            inputs,
            weight: weights.read(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: Some(weights.read(&format!("{name}.bias"), &[outputs])?),
        })
    }
}

/// `[rows, columns]` to `[columns, rows]`.
fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for column in 0..columns {
        out.extend((0..rows).map(|row| data[row * columns + column]));
    }
    out
}

#[cfg(test)]
mod tests;
