//! CLIP's ModifiedResNet: a three-convolution stem, bottlenecks that average-pool instead of
//! striding, an attention pool.

use super::convolution::{Convolution, Steps};
use super::{
    Architecture, DenseMode, Features, Linear, Resampling, Sides, TowerError, TowerGraph,
    VisionConfig, resample_grid,
};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::{Attribute, Value};
use rayon::prelude::*;

/// Pixels a location: stem 4, three stages 2 each.
pub(super) const STEP: usize = 32;

struct ResNet<'a> {
    graph: &'a mut TowerGraph,
    weights: &'a WeightFiles,
}

/// Writes the tower after the pixels `[B, side, side, 3]`.
pub(super) fn write(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &WeightFiles,
    sides: Sides,
    mode: DenseMode,
    pixels: &Value,
) -> Result<Features, TowerError> {
    let Architecture::ModifiedResNet {
        layers,
        width,
        heads,
    } = config.architecture
    else {
        unreachable!("called for ResNets only");
    };
    let positional = match mode {
        DenseMode::Value => false,
        DenseMode::ValuePositional => true,
        _ => {
            return Err(TowerError::DenseMode {
                mode,
                available: "value and value_positional",
            });
        }
    };
    let channels = width * 32;
    if width < 2 || heads == 0 || !channels.is_multiple_of(heads) {
        return Err(TowerError::Sizes(format!(
            "width {width}, {heads} heads in the attention pool"
        )));
    }
    let mut tower = ResNet { graph, weights };
    let planes = tower.graph.planes(config, pixels);
    let map = tower.trunk(&layers, width, &planes)?;
    tower.pool(&map, channels, heads, config.dim, sides, positional)
}

impl ResNet<'_> {
    /// The last stage's map, `[B, 32 width, side, side]`.
    fn trunk(
        &mut self,
        layers: &[usize; 4],
        width: usize,
        pixels: &Value,
    ) -> Result<Value, WeightsError> {
        let half = width / 2;
        let stem = [(1, 3, half, 2), (2, half, half, 1), (3, half, width, 1)];
        let mut x = pixels.clone();
        for (i, inputs, outputs, stride) in stem {
            let names = (format!("conv{i}"), format!("bn{i}"));
            x = self.convolution(&x, &names, [outputs, inputs, 3], stride)?;
            x = self.relu(&x);
        }
        x = self.average(&x);
        let mut inputs = width;
        for (stage, &blocks) in layers.iter().enumerate() {
            let planes = width << stage;
            for block in 0..blocks {
                let halve = stage > 0 && block == 0;
                let name = format!("layer{}.{block}", stage + 1);
                x = self.bottleneck(&x, &name, inputs, planes, halve)?;
                inputs = planes * 4;
            }
        }
        Ok(x)
    }

    fn bottleneck(
        &mut self,
        x: &Value,
        name: &str,
        inputs: usize,
        planes: usize,
        halve: bool,
    ) -> Result<Value, WeightsError> {
        let names = |i: usize| (format!("{name}.conv{i}"), format!("{name}.bn{i}"));
        let out = self.convolution(x, &names(1), [planes, inputs, 1], 1)?;
        let out = self.relu(&out);
        let out = self.convolution(&out, &names(2), [planes, planes, 3], 1)?;
        let mut out = self.relu(&out);
        if halve {
            out = self.average(&out);
        }
        let out = self.convolution(&out, &names(3), [planes * 4, planes, 1], 1)?;
        let mut identity = x.clone();
        if halve || inputs != planes * 4 {
            if halve {
                identity = self.average(&identity);
            }
            let names = (
                format!("{name}.downsample.0"),
                format!("{name}.downsample.1"),
            );
            identity = self.convolution(&identity, &names, [planes * 4, inputs, 1], 1)?;
        }
        let sum = self.graph.g.add(&out, &identity);
        Ok(self.relu(&sum))
    }

    /// A convolution with its batch norm folded in. `shape` is outputs, inputs, side of the kernel.
    fn convolution(
        &mut self,
        x: &Value,
        (convolution, norm): &(String, String),
        shape: [usize; 3],
        stride: usize,
    ) -> Result<Value, WeightsError> {
        let [outputs, inputs, side] = shape;
        let dims = [outputs, inputs, side, side];
        let read = Convolution::read(self.weights, &format!("visual.{convolution}"), dims)?;
        let read = read.folded(self.weights, &format!("visual.{norm}"))?;
        let steps = Steps {
            stride,
            pad: side / 2,
            groups: 1,
        };
        Ok(read.write(self.graph, convolution, x, steps))
    }

    fn relu(&mut self, x: &Value) -> Value {
        self.graph.g.node("Relu", &[x], &[])
    }

    /// The mean of 2 x 2 places.
    fn average(&mut self, x: &Value) -> Value {
        let two = || Attribute::Ints(vec![2, 2]);
        let attributes = [("kernel_shape", two()), ("strides", two())];
        self.graph.g.node("AveragePool", &[x], &attributes)
    }

    /// The attention pool, read twice: with attention from the mean token for `global`, value and
    /// output projection alone for `dense`.
    ///
    /// Only the mean token asks, so no key and no value is made per location: `q . (Wk t)` is
    /// `(Wk^T q) . t`, and the value projection commutes with the weighted sum. (The keys' bias
    /// shifts all scores of a head alike and drops out.) That is the same pool at a twentieth of
    /// the products.
    ///
    /// Longer than other functions: it is one graph, written in the order of its nodes.
    fn pool(
        &mut self,
        map: &Value,
        channels: usize,
        heads: usize,
        dim: usize,
        sides: Sides,
        positional: bool,
    ) -> Result<Features, TowerError> {
        let name = |part: &str| format!("visual.attnpool.{part}");
        let read =
            |part: &str, outputs: usize| Linear::read(self.weights, &name(part), outputs, channels);
        let (mut query, key) = (read("q_proj", channels)?, read("k_proj", channels)?);
        let (value, output) = (read("v_proj", channels)?, read("c_proj", dim)?);
        let native = sides.native * sides.native;
        let positions = self
            .weights
            .read(&name("positional_embedding"), &[native + 1, channels])?;
        let (from, to) = ((sides.native, sides.native), (sides.grid, sides.grid));
        let grid = resample_grid(
            &positions[channels..],
            channels,
            from,
            to,
            Resampling::Plain,
        );

        let count = sides.grid * sides.grid;
        let (c, n) = (channels as i64, count as i64);
        let graph = &mut *self.graph;
        let tokens = graph.g.reshape(map, &[0, c, n]);
        let tokens = graph.g.transpose(&tokens, &[0, 2, 1]);

        let composed = compose(&output, &value);
        let projected = graph.linear(&tokens, "dense", &composed);
        let dense = if positional {
            let shift = apply(&composed, &grid);
            let shift = graph.weight("dense.positions", &[1, count, dim], &shift);
            graph.g.add(&projected, &shift)
        } else {
            projected
        };

        let mean = graph.g.mean(&tokens, 1, true);
        let join = [("axis", Attribute::Int(1))];
        let all = graph.g.node("Concat", &[&mean, &tokens], &join);
        let table: Vec<f32> = positions[..channels].iter().chain(&grid).copied().collect();
        let table = graph.weight("pool.positions", &[1, count + 1, channels], &table);
        let all = graph.g.add(&all, &table);
        let first = graph.g.slice(&all, 1, 0, 1);
        let first = graph.g.reshape(&first, &[-1, c]);

        let (h, width) = (heads as i64, channels / heads);
        let scale = 1.0 / (width as f32).sqrt();
        query.weight.iter_mut().for_each(|x| *x *= scale);
        query.bias.iter_mut().flatten().for_each(|x| *x *= scale);
        let q = graph.linear(&first, "pool.query", &query);
        let q = graph.g.reshape(&q, &[-1, h, width as i64]);
        let q = graph.g.transpose(&q, &[1, 0, 2]);
        // [h, B, dh] x [h, dh, C]: rows of Wk lie head by head already.
        let keys = graph.weight("pool.key.weight", &[heads, width, channels], &key.weight);
        let asked = graph.g.matmul(&q, &keys);
        let asked = graph.g.transpose(&asked, &[1, 0, 2]);
        let all_t = graph.g.transpose(&all, &[0, 2, 1]);
        let scores = graph.g.matmul(&asked, &all_t);
        let attention = graph.g.softmax(&scores, -1);
        let mixed = graph.g.matmul(&attention, &all);
        let mixed = graph.g.transpose(&mixed, &[1, 0, 2]);
        // [h, B, C] x [h, C, dh].
        let rows = value.weight.chunks_exact(width * channels);
        let values: Vec<f32> = rows
            .flat_map(|head| super::transposed(head, width, channels))
            .collect();
        let values = graph.weight("pool.value.weight", &[heads, channels, width], &values);
        let pooled = graph.g.matmul(&mixed, &values);
        let pooled = graph.g.transpose(&pooled, &[1, 0, 2]);
        let pooled = graph.g.reshape(&pooled, &[-1, c]);
        let bias = value.bias.unwrap_or_default();
        let bias = graph.weight("pool.value.bias", &[channels], &bias);
        let pooled = graph.g.add(&pooled, &bias);
        let global = graph.linear(&pooled, "pool.output", &output);
        Ok(Features { dense, global })
    }
}

/// `outer(inner(x))` as one map, in 64 bit.
fn compose(outer: &Linear, inner: &Linear) -> Linear {
    assert_eq!(outer.inputs, inner.outputs);
    let inner_bias = inner.bias.as_deref().unwrap_or_default();
    let outer_bias = outer.bias.as_deref().unwrap_or_default();
    // 4 G multiplications for RN50.
    let rows: Vec<(Vec<f32>, f32)> = outer
        .weight
        .par_chunks_exact(outer.inputs)
        .zip(outer_bias)
        .map(|(row, shift)| {
            let mut sum = vec![0.0f64; inner.inputs];
            let mut constant = f64::from(*shift);
            let inner_rows = inner.weight.chunks_exact(inner.inputs);
            for ((o, i), b) in row.iter().zip(inner_rows).zip(inner_bias) {
                let o = f64::from(*o);
                constant += o * f64::from(*b);
                for (s, i) in sum.iter_mut().zip(i) {
                    *s += o * f64::from(*i);
                }
            }
            (sum.iter().map(|&x| x as f32).collect(), constant as f32)
        })
        .collect();
    Linear {
        outputs: outer.outputs,
        inputs: inner.inputs,
        bias: Some(rows.iter().map(|row| row.1).collect()),
        weight: rows.into_iter().flat_map(|row| row.0).collect(),
    }
}

/// The map without its bias, applied to each row of `x`.
fn apply(linear: &Linear, x: &[f32]) -> Vec<f32> {
    x.chunks_exact(linear.inputs)
        .flat_map(|x| {
            linear.weight.chunks_exact(linear.inputs).map(move |row| {
                let products = row
                    .iter()
                    .zip(x)
                    .map(|(w, x)| f64::from(*w) * f64::from(*x));
                products.sum::<f64>() as f32
            })
        })
        .collect()
}
