//! CLIP's vision transformer.

use super::{
    Architecture, DenseMode, Features, Linear, Naming, Resampling, Sides, TowerError, TowerGraph,
    VisionConfig, patches, resample_grid, transposed,
};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::{Attribute, Value};
use tagstream_kernels::Activation;

/// Sizes and the sources of the weights.
struct Transformer<'a> {
    weights: &'a WeightFiles,
    naming: Naming,
    width: usize,
    heads: usize,
    activation: Activation,
    epsilon: f32,
}

/// One block's weights; `qkv` is fused and carries the attention's scale in its first third.
struct Block {
    norm1: (Vec<f32>, Vec<f32>),
    qkv: Linear,
    output: Linear,
    norm2: (Vec<f32>, Vec<f32>),
    mlp_in: Linear,
    mlp_out: Linear,
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
    let Architecture::Transformer {
        layers,
        width,
        heads,
        patch,
        activation,
        epsilon,
    } = config.architecture
    else {
        unreachable!("called for transformers only");
    };
    if mode == DenseMode::ValuePositional {
        return Err(TowerError::DenseMode {
            mode,
            available: "value, plain and value_bare",
        });
    }
    if layers == 0 || heads == 0 || !width.is_multiple_of(heads) {
        return Err(TowerError::Sizes(format!(
            "{layers} layers, width {width}, {heads} heads"
        )));
    }
    let tower = Transformer {
        weights,
        naming: config.naming,
        width,
        heads,
        activation,
        epsilon,
    };
    let mut x = tower.embed(graph, config, sides, patch, pixels)?;
    for layer in 0..layers - 1 {
        let block = tower.block(layer)?;
        x = tower.whole_block(graph, layer, &block, &x);
    }
    let last = tower.block(layers - 1)?;
    let x = match mode {
        DenseMode::Plain => tower.whole_block(graph, layers - 1, &last, &x),
        DenseMode::Value => tower.value_block(graph, layers - 1, &last, &x, false),
        DenseMode::ValueBare => tower.value_block(graph, layers - 1, &last, &x, true),
        DenseMode::ValuePositional => unreachable!("refused above"),
    };
    let (weight, bias) = tower.read_norm(&tower.name("post_layernorm", "ln_post"))?;
    let x = tower.norm(graph, &x, "final_norm", &(weight, bias));
    let projection = tower.projection(config.dim)?;
    let x = graph.linear(&x, "projection", &projection);
    // Row 0 is the class token.
    let positions = (sides.grid * sides.grid) as i64;
    let first = graph.g.slice(&x, 1, 0, 1);
    Ok(Features {
        dense: graph.g.slice(&x, 1, 1, positions + 1),
        global: graph.g.reshape(&first, &[-1, config.dim as i64]),
    })
}

impl Transformer<'_> {
    fn name(&self, hugging_face: &str, open_clip: &str) -> String {
        match self.naming {
            Naming::HuggingFace => format!("vision_model.{hugging_face}"),
            Naming::OpenClip => format!("visual.{open_clip}"),
        }
    }

    fn read_norm(&self, name: &str) -> Result<(Vec<f32>, Vec<f32>), WeightsError> {
        Ok((
            self.weights
                .read(&format!("{name}.weight"), &[self.width])?,
            self.weights.read(&format!("{name}.bias"), &[self.width])?,
        ))
    }

    /// Joint-space projection as `[D, W]`.
    fn projection(&self, dim: usize) -> Result<Linear, WeightsError> {
        let weight = match self.naming {
            Naming::HuggingFace => self
                .weights
                .read("visual_projection.weight", &[dim, self.width])?,
            // OpenCLIP multiplies from the right.
            Naming::OpenClip => {
                let weight = self.weights.read("visual.proj", &[self.width, dim])?;
                transposed(&weight, self.width, dim)
            }
        };
        Ok(Linear {
            outputs: dim,
            inputs: self.width,
            weight,
            bias: None,
        })
    }

    fn block(&self, layer: usize) -> Result<Block, WeightsError> {
        let w = self.width;
        let name = |hugging_face: &str, open_clip: &str| match self.naming {
            Naming::HuggingFace => format!("vision_model.encoder.layers.{layer}.{hugging_face}"),
            Naming::OpenClip => format!("visual.transformer.resblocks.{layer}.{open_clip}"),
        };
        let (mut weight, mut bias) = match self.naming {
            Naming::OpenClip => (
                self.weights
                    .read(&name("", "attn.in_proj_weight"), &[3 * w, w])?,
                self.weights
                    .read(&name("", "attn.in_proj_bias"), &[3 * w])?,
            ),
            Naming::HuggingFace => {
                let (mut weight, mut bias) = (Vec::with_capacity(3 * w * w), Vec::new());
                for part in ["q_proj", "k_proj", "v_proj"] {
                    let part = name(&format!("self_attn.{part}"), "");
                    let linear = Linear::read(self.weights, &part, w, w)?;
                    weight.extend(linear.weight);
                    bias.extend(linear.bias.unwrap_or_default());
                }
                (weight, bias)
            }
        };
        let scale = 1.0 / ((w / self.heads) as f32).sqrt();
        weight[..w * w].iter_mut().for_each(|x| *x *= scale);
        bias[..w].iter_mut().for_each(|x| *x *= scale);
        let mlp_in = name("mlp.fc1", "mlp.c_fc");
        // No OpenCLIP configuration of the usual kind says it: the tensor does.
        let hidden = *self
            .weights
            .shape(&format!("{mlp_in}.bias"))?
            .first()
            .unwrap_or(&0);
        Ok(Block {
            norm1: self.read_norm(&name("layer_norm1", "ln_1"))?,
            qkv: Linear {
                outputs: 3 * w,
                inputs: w,
                weight,
                bias: Some(bias),
            },
            output: Linear::read(
                self.weights,
                &name("self_attn.out_proj", "attn.out_proj"),
                w,
                w,
            )?,
            norm2: self.read_norm(&name("layer_norm2", "ln_2"))?,
            mlp_in: Linear::read(self.weights, &mlp_in, hidden, w)?,
            mlp_out: Linear::read(self.weights, &name("mlp.fc2", "mlp.c_proj"), w, hidden)?,
        })
    }

    /// Tokens `[B, 1 + N, W]`: class token, patches, positions, first norm.
    fn embed(
        &self,
        graph: &mut TowerGraph,
        config: &VisionConfig,
        sides: Sides,
        patch: usize,
        pixels: &Value,
    ) -> Result<Value, TowerError> {
        let w = self.width;
        let kernel = self.weights.read(
            &self.name("embeddings.patch_embedding.weight", "conv1.weight"),
            &[w, 3, patch, patch],
        )?;
        let class = self.weights.read(
            &self.name("embeddings.class_embedding", "class_embedding"),
            &[w],
        )?;
        let positions = self.weights.read(
            &self.name(
                "embeddings.position_embedding.weight",
                "positional_embedding",
            ),
            &[sides.native * sides.native + 1, w],
        )?;
        let resampling = match self.naming {
            Naming::HuggingFace => Resampling::Plain,
            Naming::OpenClip => Resampling::Antialiased,
        };
        let (from, to) = ((sides.native, sides.native), (sides.grid, sides.grid));
        let grid = resample_grid(&positions[w..], w, from, to, resampling);
        // Row 0 is the class token with its own position; patches are put below a row of zeros and
        // the table is added, which needs neither the batch size nor a copy of the class token for
        // each image.
        let mut table: Vec<f32> = class.iter().zip(&positions).map(|(c, p)| c + p).collect();
        table.extend(grid);

        let (patches, bias) =
            patches::write(graph, config, (sides.grid, patch), pixels, (&kernel, w));
        for place in table[w..].chunks_exact_mut(w) {
            for (position, bias) in place.iter_mut().zip(&bias) {
                *position += bias;
            }
        }
        let pads = graph.g.integers(&[0, 1, 0, 0, 0, 0]);
        let tokens = graph.g.node("Pad", &[&patches, &pads], &[]);
        let table = graph.weight("positions", &[1, sides.grid * sides.grid + 1, w], &table);
        let tokens = graph.g.add(&tokens, &table);
        // The name's spelling is that of the published weights.
        let norm = self.read_norm(&self.name("pre_layrnorm", "ln_pre"))?;
        Ok(self.norm(graph, &tokens, "first_norm", &norm))
    }

    fn norm(
        &self,
        graph: &mut TowerGraph,
        x: &Value,
        name: &str,
        norm: &(Vec<f32>, Vec<f32>),
    ) -> Value {
        let weight = graph.weight(&format!("{name}.weight"), &[self.width], &norm.0);
        let bias = graph.weight(&format!("{name}.bias"), &[self.width], &norm.1);
        graph.g.layer_norm(x, &weight, &bias, self.epsilon)
    }

    /// `x + attention(norm(x))`, then `+ MLP(norm(x))`.
    fn whole_block(&self, graph: &mut TowerGraph, layer: usize, block: &Block, x: &Value) -> Value {
        let name = |part: &str| format!("block{layer}.{part}");
        let h = self.norm(graph, x, &name("norm1"), &block.norm1);
        let qkv = graph.linear(&h, &name("qkv"), &block.qkv);
        let (heads, width) = (self.heads as i64, (self.width / self.heads) as i64);
        let split = graph.g.reshape(&qkv, &[0, 0, 3, heads, width]);
        let parts = graph.g.transpose(&split, &[2, 0, 3, 1, 4]);
        let mut part = |i: i64| {
            let part = graph.g.slice(&parts, 0, i, i + 1);
            let axis = graph.g.integers(&[0]);
            graph.g.node("Squeeze", &[&part, &axis], &[])
        };
        let (q, k, v) = (part(0), part(1), part(2));
        let k = graph.g.transpose(&k, &[0, 1, 3, 2]);
        let scores = graph.g.matmul(&q, &k);
        let attention = graph.g.softmax(&scores, -1);
        let mixed = graph.g.matmul(&attention, &v);
        let mixed = graph.g.transpose(&mixed, &[0, 2, 1, 3]);
        let mixed = graph.g.reshape(&mixed, &[0, 0, self.width as i64]);
        let attended = graph.linear(&mixed, &name("attention_out"), &block.output);
        let x = graph.g.add(x, &attended);
        self.mlp(graph, layer, block, &x)
    }

    fn mlp(&self, graph: &mut TowerGraph, layer: usize, block: &Block, x: &Value) -> Value {
        let name = |part: &str| format!("block{layer}.{part}");
        let h = self.norm(graph, x, &name("norm2"), &block.norm2);
        let h = graph.linear(&h, &name("mlp_in"), &block.mlp_in);
        let element = graph.element;
        let h = match self.activation {
            Activation::QuickGelu => graph.g.quick_gelu(&h, element),
            Activation::Gelu => graph.g.gelu(&h, element),
        };
        let h = graph.linear(&h, &name("mlp_out"), &block.mlp_out);
        graph.g.add(x, &h)
    }

    /// The last block for dense features: the class token attends as ever, since `global` is read
    /// there; every patch takes its own value instead. Only the class token has a query, so the
    /// block costs less than a whole one. `bare` leaves residual and MLP out for the patches.
    fn value_block(
        &self,
        graph: &mut TowerGraph,
        layer: usize,
        block: &Block,
        x: &Value,
        bare: bool,
    ) -> Value {
        let name = |part: &str| format!("block{layer}.{part}");
        let w = self.width;
        let (heads, width) = (self.heads as i64, (w / self.heads) as i64);
        let h = self.norm(graph, x, &name("norm1"), &block.norm1);
        let bias = block.qkv.bias.as_deref().unwrap_or_default();
        let third = |from: usize, to: usize| Linear {
            outputs: (to - from) * w,
            inputs: w,
            weight: block.qkv.weight[from * w * w..to * w * w].to_vec(),
            bias: Some(bias[from * w..to * w].to_vec()),
        };
        let class = graph.g.slice(&h, 1, 0, 1);
        let q = graph.linear(&class, &name("q"), &third(0, 1));
        let q = graph.g.reshape(&q, &[0, heads, 1, width]);
        let kv = graph.linear(&h, &name("kv"), &third(1, 3));
        let k = graph.g.slice(&kv, 2, 0, w as i64);
        let k = graph.g.reshape(&k, &[0, 0, heads, width]);
        let k = graph.g.transpose(&k, &[0, 2, 3, 1]);
        let values = graph.g.slice(&kv, 2, w as i64, 2 * w as i64);
        let v = graph.g.reshape(&values, &[0, 0, heads, width]);
        let v = graph.g.transpose(&v, &[0, 2, 1, 3]);
        let scores = graph.g.matmul(&q, &k);
        let attention = graph.g.softmax(&scores, -1);
        let mixed = graph.g.matmul(&attention, &v);
        let mixed = graph.g.reshape(&mixed, &[0, 1, w as i64]);
        let rest = graph.g.slice(&values, 1, 1, i64::MAX);
        let join = [("axis", Attribute::Int(1))];
        let joined = graph.g.node("Concat", &[&mixed, &rest], &join);
        let attended = graph.linear(&joined, &name("attention_out"), &block.output);
        if !bare {
            let x = graph.g.add(x, &attended);
            return self.mlp(graph, layer, block, &x);
        }
        let class = graph.g.slice(x, 1, 0, 1);
        let class_attended = graph.g.slice(&attended, 1, 0, 1);
        let class = graph.g.add(&class, &class_attended);
        let class = self.mlp(graph, layer, block, &class);
        let rest = graph.g.slice(&attended, 1, 1, i64::MAX);
        graph.g.node("Concat", &[&class, &rest], &join)
    }
}
