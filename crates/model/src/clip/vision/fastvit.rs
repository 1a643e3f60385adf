//! FastViT as MobileCLIP has it (timm's `fastvit_mci`): blocks that were trained as several
//! branches, four or five stages, attention in the last ones.
//!
//! A block's branches are linear in what they see, so they are one convolution, which is what is
//! written. Weights that were saved with the branches already joined (`reparam_conv`) are read as
//! well. Which parts a tower has is in its tensors.

use super::block::attend;
use super::convolution::{Convolution, Steps, batch_norm};
use super::maps::{Maps, behind_their_mean, counted, rows, value_only};
use super::{
    Architecture, DenseMode, Features, Linear, Sides, TowerError, TowerGraph, VisionConfig,
    projection,
};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::Value;

/// Numbers a head.
const HEAD: usize = 32;
/// Added to the variance in every layer norm.
const EPSILON: f32 = 1e-5;

/// Pixels a location: stem 4, all stages but the first 2 each.
pub(super) fn step(stages: usize) -> usize {
    4 << stages.saturating_sub(1).min(8)
}

/// How many stages the weights have.
pub(super) fn architecture(weights: &WeightFiles) -> Result<Architecture, WeightsError> {
    let stages = counted(weights, "visual.trunk.stages.");
    // A tensor that every stage has says which trunk is missing.
    weights.shape(&format!(
        "visual.trunk.stages.{}.blocks.0.mlp.fc1.weight",
        stages.saturating_sub(1)
    ))?;
    Ok(Architecture::FastVit { stages })
}

/// The width of what is projected.
pub(super) fn width(weights: &WeightFiles) -> Result<usize, WeightsError> {
    Ok(FastVit::of(weights).block_dims("final_conv")?[0])
}

/// A square map.
struct Map {
    value: Value,
    channels: usize,
    side: usize,
}

impl Map {
    fn with(&self, value: Value) -> Self {
        Self { value, ..*self }
    }
}

struct FastVit<'a> {
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
    let Architecture::FastVit { stages } = config.architecture else {
        unreachable!("called for FastViT only");
    };
    value_only(mode)?;
    let tower = FastVit::of(weights);
    let mut x = Map {
        value: graph.planes(config, pixels),
        channels: 3,
        side: sides.grid * step(stages),
    };
    for (part, stride) in [2, 2, 1].into_iter().enumerate() {
        x = tower.mobile_one(graph, &format!("stem.{part}"), &x, stride)?;
    }
    for stage in 0..stages {
        x = tower.stage(graph, stage, &x)?;
    }
    let x = tower.mobile_one(graph, "final_conv", &x, 1)?;
    let places = rows(graph, &x.value, x.channels);
    let all = behind_their_mean(graph, &places);
    let all = projection::write(graph, config, weights, x.channels, &all)?;
    let picture = graph.g.slice(&all, 1, 0, 1);
    Ok(Features {
        dense: graph.g.slice(&all, 1, 1, i64::MAX),
        global: graph.g.reshape(&picture, &[-1, config.dim as i64]),
    })
}

impl<'a> FastVit<'a> {
    fn of(weights: &'a WeightFiles) -> Self {
        let maps = Maps {
            weights,
            prefix: "visual.trunk",
            epsilon: EPSILON,
        };
        Self { maps }
    }

    fn stage(&self, graph: &mut TowerGraph, stage: usize, x: &Map) -> Result<Map, TowerError> {
        let name = |part: &str| format!("stages.{stage}.{part}");
        let mut x = match stage {
            0 => x.with(x.value.clone()),
            _ => {
                let x = self.halve(graph, &name("downsample.proj.0"), x)?;
                self.mobile_one(graph, &name("downsample.proj.1"), &x, 1)?
            }
        };
        if let Some(positions) = self.positions(&name("pos_emb"), x.channels)? {
            x = convolved(graph, &name("pos_emb"), &positions, &x, 1);
        }
        for block in 0..counted(self.maps.weights, &self.maps.name(&name("blocks."))) {
            let block = name(&format!("blocks.{block}"));
            let attends = self.maps.has(&format!("{block}.token_mixer.qkv.weight"));
            let (mixed, scale) = match attends {
                true => (self.attention(graph, &block, &x)?, "layer_scale_2"),
                false => (self.rep_mixer(graph, &block, &x)?, "layer_scale"),
            };
            x = self.mlp(graph, &block, scale, &mixed)?;
        }
        Ok(x)
    }

    /// The step between two stages: a large kernel trained beside a small one.
    fn halve(&self, graph: &mut TowerGraph, name: &str, x: &Map) -> Result<Map, WeightsError> {
        let joined = format!("{name}.reparam_conv");
        let convolution = match self.maps.has(&format!("{joined}.weight")) {
            true => self.read(&joined)?,
            false => {
                let [large, small] = ["large", "small"].map(|size| format!("{name}.{size}_conv"));
                let mut sum = self.normed(&large, None)?;
                let kernel = format!("{small}.conv.weight");
                if self.maps.has(&kernel) {
                    let [outputs, inputs, side, _] = sum.dims;
                    let side = side.min(self.dims(&kernel)?[2]);
                    sum.add(&self.normed(&small, Some([outputs, inputs, side, side]))?);
                }
                sum
            }
        };
        let x = convolved(graph, name, &convolution, x, 2);
        self.activated(graph, name, &x)
    }

    /// A block of several branches, its squeezing and its activation.
    fn mobile_one(
        &self,
        graph: &mut TowerGraph,
        name: &str,
        x: &Map,
        stride: usize,
    ) -> Result<Map, WeightsError> {
        let dims = self.block_dims(name)?;
        let skips = stride == 1 && dims[0] == x.channels;
        let convolution = self.joined(name, dims, skips)?;
        let x = convolved(graph, name, &convolution, x, stride);
        self.activated(graph, name, &x)
    }

    /// Squeeze and excitation where the weights have it, and GELU.
    fn activated(&self, graph: &mut TowerGraph, name: &str, x: &Map) -> Result<Map, WeightsError> {
        let mut value = x.value.clone();
        if self.maps.has(&format!("{name}.se.fc1.weight")) {
            let [inward, outward] = ["fc1", "fc2"].map(|part| format!("{name}.se.{part}"));
            let mean = graph.g.node("GlobalAveragePool", &[&value], &[]);
            let mean = Map {
                value: mean,
                channels: x.channels,
                side: 1,
            };
            let h = convolved(graph, &inward, &self.read(&inward)?, &mean, 1);
            let h = h.with(graph.g.node("Relu", &[&h.value], &[]));
            let h = convolved(graph, &outward, &self.read(&outward)?, &h, 1);
            let gate = graph.g.node("Sigmoid", &[&h.value], &[]);
            value = graph.g.mul(&value, &gate);
        }
        Ok(x.with(graph.g.gelu(&value, graph.element)))
    }

    /// `x + scale (mixer(x) - norm(x))`, which is one convolution.
    fn rep_mixer(&self, graph: &mut TowerGraph, block: &str, x: &Map) -> Result<Map, WeightsError> {
        let name = format!("{block}.token_mixer");
        let joined = format!("{name}.reparam_conv");
        let convolution = match self.maps.has(&format!("{joined}.weight")) {
            true => self.read(&joined)?,
            false => {
                let dims = self.block_dims(&format!("{name}.mixer"))?;
                let mut mixer = self.joined(&format!("{name}.mixer"), dims, true)?;
                let mut norm = self.joined(&format!("{name}.norm"), dims, true)?;
                norm.scale(&vec![-1.0; dims[0]]);
                mixer.add(&norm);
                self.scaled(&mut mixer, &format!("{name}.layer_scale"))?;
                mixer.add(&Convolution::identity(dims));
                mixer
            }
        };
        Ok(convolved(graph, &name, &convolution, x, 1))
    }

    /// `x + scale MLP(depthwise(x))`.
    fn mlp(
        &self,
        graph: &mut TowerGraph,
        block: &str,
        scale: &str,
        x: &Map,
    ) -> Result<Map, WeightsError> {
        let part = |part: &str| format!("{block}.mlp.{part}");
        let h = convolved(
            graph,
            &part("conv"),
            &self.normed(&part("conv"), None)?,
            x,
            1,
        );
        let h = convolved(graph, &part("fc1"), &self.read(&part("fc1"))?, &h, 1);
        let h = h.with(graph.g.gelu(&h.value, graph.element));
        let mut outward = self.read(&part("fc2"))?;
        self.scaled(&mut outward, &format!("{block}.{scale}"))?;
        let h = convolved(graph, &part("fc2"), &outward, &h, 1);
        Ok(x.with(graph.g.add(&x.value, &h.value)))
    }

    /// `x + scale attention(norm(x))`.
    fn attention(&self, graph: &mut TowerGraph, block: &str, x: &Map) -> Result<Map, TowerError> {
        let (weights, c) = (self.maps.weights, x.channels);
        if !c.is_multiple_of(HEAD) {
            let sizes = format!("{block} has a width of {c} and heads of {HEAD}");
            return Err(TowerError::Sizes(sizes));
        }
        let part = |part: &str| self.maps.name(&format!("{block}.token_mixer.{part}"));
        let mut places = rows(graph, &x.value, c);
        let mut qkv = Linear::read_any(weights, &part("qkv"), 3 * c, c)?;
        let norm = format!("{block}.norm");
        if self.maps.has(&format!("{norm}.running_mean")) {
            qkv.after(&batch_norm(weights, &self.maps.name(&norm), c)?);
        } else {
            places = self.maps.norm(graph, &norm, c, &places)?;
        }
        let root = (HEAD as f32).sqrt();
        let scale: Vec<f32> = (0..3 * c)
            .map(|row| if row < c { 1.0 / root } else { 1.0 })
            .collect();
        qkv.scale_rows(&scale);
        let qkv = graph.linear(&places, &format!("{block}.qkv"), &qkv);
        let (heads, width) = ((c / HEAD) as i64, HEAD as i64);
        let split = graph.g.reshape(&qkv, &[0, 0, 3, heads, width]);
        // Keys lie the other way round, as their product takes them.
        let mut piece = |i: i64, axes: [i64; 4]| {
            let piece = graph.g.slice(&split, 2, i, i + 1);
            let axis = graph.g.integers(&[2]);
            let piece = graph.g.node("Squeeze", &[&piece, &axis], &[]);
            graph.g.transpose(&piece, &axes)
        };
        let (q, k) = (piece(0, [0, 2, 1, 3]), piece(1, [0, 2, 3, 1]));
        let v = piece(2, [0, 2, 1, 3]);
        let mixed = attend(graph, &q, &k, &v);
        let mixed = graph.g.transpose(&mixed, &[0, 2, 1, 3]);
        let mixed = graph.g.reshape(&mixed, &[0, 0, c as i64]);
        let mut out = Linear::read_any(weights, &part("proj"), c, c)?;
        let scale = self.maps.name(&format!("{block}.layer_scale_1.gamma"));
        if weights.contains(&scale) {
            out.scale_rows(&weights.read(&scale, &[c, 1, 1])?);
        }
        let mixed = graph.linear(&mixed, &format!("{block}.attention_out"), &out);
        let mixed = graph.g.transpose(&mixed, &[0, 2, 1]);
        let side = x.side as i64;
        let mixed = graph.g.reshape(&mixed, &[0, c as i64, side, side]);
        Ok(x.with(graph.g.add(&x.value, &mixed)))
    }

    /// `x + depthwise(x)`: where a place is.
    fn positions(&self, name: &str, channels: usize) -> Result<Option<Convolution>, WeightsError> {
        let [trained, joined] = ["pos_enc", "reparam_conv"].map(|part| format!("{name}.{part}"));
        if self.maps.has(&format!("{joined}.weight")) {
            return Ok(Some(self.read(&joined)?));
        }
        if !self.maps.has(&format!("{trained}.weight")) {
            return Ok(None);
        }
        let side = self.dims(&format!("{trained}.weight"))?[2];
        let dims = [channels, 1, side, side];
        let mut made = Convolution::read(self.maps.weights, &self.maps.name(&trained), dims)?;
        made.add(&Convolution::identity(dims));
        Ok(Some(made))
    }

    /// The sides of a convolution's weights.
    fn dims(&self, name: &str) -> Result<[usize; 4], WeightsError> {
        let shape = self.maps.weights.shape(&self.maps.name(name))?;
        Ok(<[usize; 4]>::try_from(shape).unwrap_or_default())
    }

    /// Those of a block's largest branch.
    fn block_dims(&self, name: &str) -> Result<[usize; 4], WeightsError> {
        let joined = format!("{name}.reparam_conv.weight");
        match self.maps.has(&joined) {
            true => self.dims(&joined),
            false => self.dims(&format!("{name}.conv_kxk.0.conv.weight")),
        }
    }

    fn read(&self, name: &str) -> Result<Convolution, WeightsError> {
        let dims = self.dims(&format!("{name}.weight"))?;
        Convolution::read(self.maps.weights, &self.maps.name(name), dims)
    }

    /// `<name>.conv` with the batch norm `<name>.bn` behind it, of these dimensions if they are
    /// known.
    fn normed(&self, name: &str, dims: Option<[usize; 4]>) -> Result<Convolution, WeightsError> {
        let convolution = format!("{name}.conv");
        let dims = match dims {
            Some(dims) => dims,
            None => self.dims(&format!("{convolution}.weight"))?,
        };
        let read = Convolution::read(self.maps.weights, &self.maps.name(&convolution), dims)?;
        read.folded(self.maps.weights, &self.maps.name(&format!("{name}.bn")))
    }

    /// All branches of a block as one convolution; `skips` if what comes in is one of them.
    fn joined(
        &self,
        name: &str,
        dims: [usize; 4],
        skips: bool,
    ) -> Result<Convolution, WeightsError> {
        let joined = format!("{name}.reparam_conv");
        if self.maps.has(&format!("{joined}.weight")) {
            return Convolution::read(self.maps.weights, &self.maps.name(&joined), dims);
        }
        let mut sum = Convolution::zero(dims);
        let branches = self.maps.name(&format!("{name}.conv_kxk."));
        for branch in 0..counted(self.maps.weights, &branches) {
            let branch = format!("{name}.conv_kxk.{branch}");
            sum.add(&self.normed(&branch, Some(dims))?);
        }
        let scale = format!("{name}.conv_scale");
        let point = [dims[0], dims[1], 1, 1];
        if self.maps.has(&format!("{scale}.conv.weight")) {
            sum.add(&self.normed(&scale, Some(point))?);
        }
        if skips {
            let norm = self.maps.name(&format!("{name}.identity"));
            let skip = Convolution::identity(point);
            sum.add(&skip.folded(self.maps.weights, &norm)?);
        }
        Ok(sum)
    }

    /// Multiplies layer scale in, where the weights have it.
    fn scaled(&self, convolution: &mut Convolution, name: &str) -> Result<(), WeightsError> {
        let name = self.maps.name(&format!("{name}.gamma"));
        if self.maps.weights.contains(&name) {
            let shape = [convolution.dims[0], 1, 1];
            convolution.scale(&self.maps.weights.read(&name, &shape)?);
        }
        Ok(())
    }
}

/// The map behind a convolution that leaves its places where they are.
fn convolved(
    graph: &mut TowerGraph,
    name: &str,
    convolution: &Convolution,
    x: &Map,
    stride: usize,
) -> Map {
    let steps = Steps {
        stride,
        pad: convolution.dims[2] / 2,
        groups: x.channels / convolution.dims[1].max(1),
    };
    Map {
        value: convolution.write(graph, name, &x.value, steps),
        channels: convolution.dims[0],
        side: x.side / stride,
    }
}
