//! Vision transformers: CLIP's, read at a class token, and SigLIP's, with an attention pool.

use super::{
    Architecture, DenseMode, Features, Linear, Naming, Pooling, Resampling, Sides, TowerError,
    TowerGraph, VisionConfig, patches, resample_grid, transposed,
};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::{Attribute, Value};
use tagstream_kernels::Activation;

/// Sizes and the sources of the weights.
pub(super) struct Transformer<'a> {
    pub weights: &'a WeightFiles,
    pub naming: Naming,
    pub width: usize,
    pub heads: usize,
    pooling: Pooling,
    activation: Activation,
    epsilon: f32,
}

/// One block's weights; `qkv` is fused and carries the attention's scale in its first third.
struct Block {
    norm1: (Vec<f32>, Vec<f32>),
    qkv: Linear,
    output: Linear,
    mlp: Mlp,
}

/// A norm and the MLP behind it, which is added to what came in.
pub(super) struct Mlp {
    norm: (Vec<f32>, Vec<f32>),
    inward: Linear,
    outward: Linear,
}

/// The tower and its first blocks, up to the last one.
struct Begun<'a> {
    tower: Transformer<'a>,
    last: usize,
    /// Tokens before the last block.
    x: Value,
}

/// Writes all blocks but the last after the pixels `[B, side, side, 3]`.
fn begin<'a>(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &'a WeightFiles,
    sides: Sides,
    pixels: &Value,
) -> Result<Begun<'a>, TowerError> {
    let Architecture::Transformer {
        pooling,
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
        pooling,
        activation,
        epsilon,
    };
    let mut x = tower.embed(graph, config, sides, patch, pixels)?;
    for layer in 0..layers - 1 {
        let block = tower.block(layer)?;
        x = tower.whole_block(graph, layer, &block, &x);
    }
    let last = layers - 1;
    Ok(Begun { tower, last, x })
}

/// Writes the tower after the pixels `[B, side, side, 3]`, up to its normalised locations
/// `[B, N, W]`: what an attention pool looks at.
pub(super) fn locations<'a>(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &'a WeightFiles,
    sides: Sides,
    pixels: &Value,
) -> Result<(Transformer<'a>, Value), TowerError> {
    let Begun { tower, last, x } = begin(graph, config, weights, sides, pixels)?;
    let x = tower.whole_block(graph, last, &tower.block(last)?, &x);
    let norm = tower.read_norm(&tower.name("post_layernorm", "ln_post", "norm"))?;
    let x = tower.norm(graph, &x, "final_norm", &norm);
    Ok((tower, x))
}

/// Writes a tower that is read at its class token after the pixels `[B, side, side, 3]`.
pub(super) fn write(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    weights: &WeightFiles,
    sides: Sides,
    mode: DenseMode,
    pixels: &Value,
) -> Result<Features, TowerError> {
    if mode == DenseMode::ValuePositional {
        return Err(TowerError::DenseMode {
            mode,
            available: "value, plain and value_bare",
        });
    }
    let Begun { tower, last, x } = begin(graph, config, weights, sides, pixels)?;
    let block = tower.block(last)?;
    let x = match mode {
        DenseMode::Plain => tower.whole_block(graph, last, &block, &x),
        DenseMode::Value => tower.value_block(graph, last, &block, &x, false),
        DenseMode::ValueBare => tower.value_block(graph, last, &block, &x, true),
        DenseMode::ValuePositional => unreachable!("refused above"),
    };
    let (weight, bias) = tower.read_norm(&tower.name("post_layernorm", "ln_post", "norm"))?;
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
    fn name(&self, hugging_face: &str, open_clip: &str, timm: &str) -> String {
        match self.naming {
            Naming::HuggingFace => format!("vision_model.{hugging_face}"),
            Naming::OpenClip => format!("visual.{open_clip}"),
            Naming::Timm => format!("visual.trunk.{timm}"),
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
            Naming::Timm => self
                .weights
                .read("visual.head.proj.weight", &[dim, self.width])?,
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
        let name = |hugging_face: &str, open_clip: &str, timm: &str| match self.naming {
            Naming::HuggingFace => format!("vision_model.encoder.layers.{layer}.{hugging_face}"),
            Naming::OpenClip => format!("visual.transformer.resblocks.{layer}.{open_clip}"),
            Naming::Timm => format!("visual.trunk.blocks.{layer}.{timm}"),
        };
        let (mut weight, mut bias) = match self.naming {
            Naming::Timm => {
                let qkv = Linear::read(self.weights, &name("", "", "attn.qkv"), 3 * w, w)?;
                (qkv.weight, qkv.bias.unwrap_or_default())
            }
            Naming::OpenClip => (
                self.weights
                    .read(&name("", "attn.in_proj_weight", ""), &[3 * w, w])?,
                self.weights
                    .read(&name("", "attn.in_proj_bias", ""), &[3 * w])?,
            ),
            Naming::HuggingFace => {
                let (mut weight, mut bias) = (Vec::with_capacity(3 * w * w), Vec::new());
                for part in ["q_proj", "k_proj", "v_proj"] {
                    let part = name(&format!("self_attn.{part}"), "", "");
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
        let output = name("self_attn.out_proj", "attn.out_proj", "attn.proj");
        let parts = [
            name("mlp.fc1", "mlp.c_fc", "mlp.fc1"),
            name("mlp.fc2", "mlp.c_proj", "mlp.fc2"),
        ];
        let norm2 = name("layer_norm2", "ln_2", "norm2");
        Ok(Block {
            norm1: self.read_norm(&name("layer_norm1", "ln_1", "norm1"))?,
            qkv: Linear {
                outputs: 3 * w,
                inputs: w,
                weight,
                bias: Some(bias),
            },
            output: Linear::read(self.weights, &output, w, w)?,
            mlp: self.read_mlp(&norm2, [&parts[0], &parts[1]])?,
        })
    }

    /// A norm, and the two layers of the MLP behind it.
    pub(super) fn read_mlp(&self, norm: &str, parts: [&str; 2]) -> Result<Mlp, WeightsError> {
        // No OpenCLIP configuration of the usual kind says it: the tensor does.
        let hidden = self.weights.shape(&format!("{}.bias", parts[0]))?;
        let hidden = *hidden.first().unwrap_or(&0);
        Ok(Mlp {
            norm: self.read_norm(norm)?,
            inward: Linear::read(self.weights, parts[0], hidden, self.width)?,
            outward: Linear::read(self.weights, parts[1], self.width, hidden)?,
        })
    }

    /// Tokens `[B, 1 + N, W]`: class token, patches, positions, first norm. Without a class token,
    /// `[B, N, W]`, there is no such norm either.
    fn embed(
        &self,
        graph: &mut TowerGraph,
        config: &VisionConfig,
        sides: Sides,
        patch: usize,
        pixels: &Value,
    ) -> Result<Value, TowerError> {
        let w = self.width;
        let patch_name = self.name("embeddings.patch_embedding", "conv1", "patch_embed.proj");
        let kernel = self
            .weights
            .read(&format!("{patch_name}.weight"), &[w, 3, patch, patch])?;
        let first = usize::from(self.pooling == Pooling::ClassToken);
        let positions = self.positions(sides.native * sides.native + first)?;
        let resampling = match self.naming {
            Naming::HuggingFace => Resampling::Plain,
            Naming::OpenClip | Naming::Timm => Resampling::Antialiased,
        };
        let (from, to) = ((sides.native, sides.native), (sides.grid, sides.grid));
        let mut grid = resample_grid(&positions[first * w..], w, from, to, resampling);

        let side = sides.grid * patch;
        let pixels = match sides.left_over {
            0 => pixels.clone(),
            // At the right and the bottom, as a convolution drops it.
            _ => {
                let rows = graph.g.slice(pixels, 1, 0, side as i64);
                graph.g.slice(&rows, 2, 0, side as i64)
            }
        };
        let (patches, mut bias) =
            patches::write(graph, config, (sides.grid, patch), &pixels, (&kernel, w));
        if self.pooling == Pooling::Attention {
            let given = self.weights.read(&format!("{patch_name}.bias"), &[w])?;
            bias.iter_mut()
                .zip(given)
                .for_each(|(sum, given)| *sum += given);
        }
        for place in grid.chunks_exact_mut(w) {
            for (position, bias) in place.iter_mut().zip(&bias) {
                *position += bias;
            }
        }
        let count = sides.grid * sides.grid;
        if self.pooling == Pooling::Attention {
            let table = graph.weight("positions", &[1, count, w], &grid);
            return Ok(graph.g.add(&patches, &table));
        }
        // Row 0 is the class token with its own position; patches are put below a row of zeros and
        // the table is added, which needs neither the batch size nor a copy of the class token for
        // each image.
        let class = self.weights.read(
            &self.name("embeddings.class_embedding", "class_embedding", "cls_token"),
            &[w],
        )?;
        let mut table: Vec<f32> = class.iter().zip(&positions).map(|(c, p)| c + p).collect();
        table.extend(grid);
        let pads = graph.g.integers(&[0, 1, 0, 0, 0, 0]);
        let tokens = graph.g.node("Pad", &[&patches, &pads], &[]);
        let table = graph.weight("positions", &[1, count + 1, w], &table);
        let tokens = graph.g.add(&tokens, &table);
        // The name's spelling is that of the published weights.
        let norm = self.read_norm(&self.name("pre_layrnorm", "ln_pre", "norm_pre"))?;
        Ok(self.norm(graph, &tokens, "first_norm", &norm))
    }

    /// The table of positions, `count` rows.
    fn positions(&self, count: usize) -> Result<Vec<f32>, WeightsError> {
        let name = self.name(
            "embeddings.position_embedding.weight",
            "positional_embedding",
            "pos_embed",
        );
        match self.naming {
            Naming::Timm => self.weights.read(&name, &[1, count, self.width]),
            _ => self.weights.read(&name, &[count, self.width]),
        }
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
        self.mlp(graph, &format!("block{layer}"), &block.mlp, &x)
    }

    /// `x + MLP(norm(x))`; weights are named behind `within`.
    pub(super) fn mlp(&self, graph: &mut TowerGraph, within: &str, mlp: &Mlp, x: &Value) -> Value {
        let name = |part: &str| format!("{within}.{part}");
        let h = self.norm(graph, x, &name("norm2"), &mlp.norm);
        let h = graph.linear(&h, &name("mlp_in"), &mlp.inward);
        let element = graph.element;
        let h = match self.activation {
            Activation::QuickGelu => graph.g.quick_gelu(&h, element),
            Activation::Gelu => graph.g.gelu(&h, element),
            Activation::GeluTanh => graph.g.gelu_tanh(&h, element),
        };
        let h = graph.linear(&h, &name("mlp_out"), &mlp.outward);
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
            return self.mlp(graph, &format!("block{layer}"), &block.mlp, &x);
        }
        let class = graph.g.slice(x, 1, 0, 1);
        let class_attended = graph.g.slice(&attended, 1, 0, 1);
        let class = graph.g.add(&class, &class_attended);
        let class = self.mlp(graph, &format!("block{layer}"), &block.mlp, &class);
        let rest = graph.g.slice(&attended, 1, 1, i64::MAX);
        graph.g.node("Concat", &[&class, &rest], &join)
    }
}
