//! One block of a vision transformer: its weights, and its nodes.

use super::base::{Norm, Transformer};
use super::{Linear, Naming, TowerGraph};
use crate::clip::weights::WeightsError;
use crate::onnx::Value;
use tagstream_kernels::Activation;

/// One block's weights. `qkv` is fused and carries the attention's scale in its first third; layer
/// scale is multiplied into `output` and the MLP's last layer.
pub(super) struct Block {
    pub norm1: Norm,
    pub qkv: Linear,
    /// Between the heads and the output projection (EVA-02).
    pub inner_norm: Option<Norm>,
    pub output: Linear,
    pub mlp: Mlp,
}

/// A norm and the MLP behind it, which is added to what came in.
pub(super) struct Mlp {
    norm: Norm,
    /// A second norm (ViTamin).
    second_norm: Option<Norm>,
    gate: Option<Gate>,
    inward: Linear,
    inner_norm: Option<Norm>,
    outward: Linear,
}

/// What becomes the factor of an MLP's inner numbers.
struct Gate {
    linear: Linear,
    /// By SiLU (EVA-02), or by GELU (ViTamin).
    silu: bool,
}

/// Names of a part in the three namings.
type Names<'a> = [&'a str; 3];

impl Transformer<'_> {
    /// The weights of a block.
    ///
    /// # Errors
    /// If a tensor is missing, or of another shape.
    pub(super) fn block(&self, layer: usize) -> Result<Block, WeightsError> {
        let name = |names: Names<'_>| self.block_name(layer, names);
        let mut qkv = self.qkv(layer)?;
        let (w, scale) = (self.width, 1.0 / ((self.width / self.heads) as f32).sqrt());
        qkv.weight[..w * w].iter_mut().for_each(|x| *x *= scale);
        if let Some(bias) = &mut qkv.bias {
            bias[..w].iter_mut().for_each(|x| *x *= scale);
        }
        let output = name(["self_attn.out_proj", "attn.out_proj", "attn.proj"]);
        let mut output = Linear::read(self.weights, &output, w, w)?;
        self.scale_rows(
            &mut output,
            layer,
            ["", "ls_1.gamma", "ls1.gamma"],
            "gamma_1",
        )?;
        let parts = [
            name(["mlp.fc1", "mlp.c_fc", "mlp.fc1"]),
            name(["mlp.fc2", "mlp.c_proj", "mlp.fc2"]),
        ];
        let norm2 = name(["layer_norm2", "ln_2", "norm2"]);
        let mut mlp = self.read_mlp(&norm2, [&parts[0], &parts[1]])?;
        let scale = ["", "ls_2.gamma", "ls2.gamma"];
        self.scale_rows(&mut mlp.outward, layer, scale, "gamma_2")?;
        Ok(Block {
            norm1: self.read_norm(&name(["layer_norm1", "ln_1", "norm1"]))?,
            qkv,
            inner_norm: self.inner_norm(&name(["", "", "attn.norm"]), w)?,
            output,
            mlp,
        })
    }

    fn block_name(&self, layer: usize, names: Names<'_>) -> String {
        let [hugging_face, open_clip, timm] = names;
        match self.naming {
            Naming::HuggingFace => format!("vision_model.encoder.layers.{layer}.{hugging_face}"),
            Naming::OpenClip => format!("visual.transformer.resblocks.{layer}.{open_clip}"),
            Naming::Timm => format!("visual.trunk.blocks.{layer}.{timm}"),
        }
    }

    /// Queries, keys and values as one map.
    fn qkv(&self, layer: usize) -> Result<Linear, WeightsError> {
        let w = self.width;
        let name = |names: Names<'_>| self.block_name(layer, names);
        let (weight, bias) = match self.naming {
            Naming::OpenClip => {
                let of = |part: &str| name(["", &format!("attn.in_proj_{part}"), ""]);
                (
                    self.weights.read(&of("weight"), &[3 * w, w])?,
                    self.weights.read(&of("bias"), &[3 * w])?,
                )
            }
            Naming::Timm if self.weights.contains(&name(["", "", "attn.qkv.weight"])) => {
                let of = |part: &str| name(["", "", &format!("attn.{part}")]);
                let weight = self.weights.read(&of("qkv.weight"), &[3 * w, w])?;
                let bias = if self.weights.contains(&of("qkv.bias")) {
                    self.weights.read(&of("qkv.bias"), &[3 * w])?
                } else if self.weights.contains(&of("q_bias")) {
                    // EVA's keys have no bias.
                    let mut bias = self.weights.read(&of("q_bias"), &[w])?;
                    bias.resize(2 * w, 0.0);
                    bias.extend(self.weights.read(&of("v_bias"), &[w])?);
                    bias
                } else {
                    vec![0.0; 3 * w]
                };
                (weight, bias)
            }
            Naming::Timm | Naming::HuggingFace => {
                let (mut weight, mut bias) = (Vec::with_capacity(3 * w * w), Vec::new());
                for part in ["q_proj", "k_proj", "v_proj"] {
                    let [hugging_face, timm] =
                        [format!("self_attn.{part}"), format!("attn.{part}")];
                    let part = name([&hugging_face, "", &timm]);
                    let linear = match self.naming {
                        Naming::Timm => Linear::read_any(self.weights, &part, w, w)?,
                        _ => Linear::read(self.weights, &part, w, w)?,
                    };
                    weight.extend(linear.weight);
                    bias.extend(linear.bias.unwrap_or_else(|| vec![0.0; w]));
                }
                (weight, bias)
            }
        };
        Ok(Linear {
            outputs: 3 * w,
            inputs: w,
            weight,
            bias: Some(bias),
        })
    }

    /// Multiplies layer scale into what it scales, where the block has it.
    fn scale_rows(
        &self,
        linear: &mut Linear,
        layer: usize,
        names: Names<'_>,
        eva: &str,
    ) -> Result<(), WeightsError> {
        let names = [
            self.block_name(layer, names),
            self.block_name(layer, [eva; 3]),
        ];
        let there = names.iter().find(|name| self.weights.contains(name));
        let Some(name) = there else { return Ok(()) };
        let scale = self.weights.read(name, &[linear.outputs])?;
        linear.scale_rows(&scale);
        Ok(())
    }

    fn inner_norm(&self, name: &str, width: usize) -> Result<Option<Norm>, WeightsError> {
        match self.weights.contains(&format!("{name}.weight")) {
            true => Ok(Some(self.read_norm_of(name, width)?)),
            false => Ok(None),
        }
    }

    /// A norm, and the layers of the MLP behind it.
    pub(super) fn read_mlp(&self, norm: &str, parts: [&str; 2]) -> Result<Mlp, WeightsError> {
        let [inward, outward] = parts;
        let within = outward.strip_suffix("fc2").unwrap_or_default();
        let there = |name: &str| self.weights.contains(&format!("{name}.weight"));
        let [silu, gelu] = [format!("{inward}_g"), format!("{within}w0")];
        if !within.is_empty() && there(&gelu) {
            return self.read_geglu(norm, within);
        }
        let (gate, inward) = match there(&silu) {
            true => (Some(silu), format!("{inward}_x")),
            false => (None, inward.to_owned()),
        };
        // No OpenCLIP configuration of the usual kind says it: the tensor does.
        let hidden = self.weights.shape(&format!("{inward}.bias"))?;
        let hidden = *hidden.first().unwrap_or(&0);
        let read = |name: &str| Linear::read(self.weights, name, hidden, self.width);
        let gate = gate.map(|gate| read(&gate)).transpose()?;
        Ok(Mlp {
            norm: self.read_norm(norm)?,
            second_norm: None,
            gate: gate.map(|linear| Gate { linear, silu: true }),
            inward: read(&inward)?,
            inner_norm: match within {
                "" => None,
                within => self.inner_norm(&format!("{within}norm"), hidden)?,
            },
            outward: Linear::read(self.weights, outward, self.width, hidden)?,
        })
    }

    /// The same in ViTamin's form.
    fn read_geglu(&self, norm: &str, within: &str) -> Result<Mlp, WeightsError> {
        let part = |part: &str| format!("{within}{part}");
        let hidden = self.weights.shape(&part("w0.bias"))?;
        let hidden = *hidden.first().unwrap_or(&0);
        let read = |name: &str| Linear::read(self.weights, &part(name), hidden, self.width);
        Ok(Mlp {
            norm: self.read_norm(norm)?,
            second_norm: Some(self.read_norm(&part("norm"))?),
            gate: Some(Gate {
                linear: read("w0")?,
                silu: false,
            }),
            inward: read("w1")?,
            inner_norm: None,
            outward: Linear::read(self.weights, &part("w2"), self.width, hidden)?,
        })
    }

    /// `x + attention(norm(x))`, then `+ MLP(norm(x))`; with norms behind attention and MLP where
    /// the tower has them there.
    pub(super) fn whole_block(
        &self,
        graph: &mut TowerGraph,
        layer: usize,
        block: &Block,
        x: &Value,
    ) -> Value {
        let name = |part: &str| format!("block{layer}.{part}");
        let h = self.norm_before(graph, &name("norm1"), &block.norm1, x);
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
        let (q, k) = (self.turned(graph, q), self.turned(graph, k));
        let k = graph.g.transpose(&k, &[0, 1, 3, 2]);
        let mixed = attend(graph, &q, &k, &v);
        let mixed = self.merge(graph, &mixed);
        let attended = self.attention_out(graph, layer, block, &mixed);
        let x = graph.g.add(x, &attended);
        self.mlp(graph, &format!("block{layer}"), &block.mlp, &x)
    }

    /// What the heads made, `[B, T, W]`, through the output projection.
    pub(super) fn attention_out(
        &self,
        graph: &mut TowerGraph,
        layer: usize,
        block: &Block,
        mixed: &Value,
    ) -> Value {
        let name = |part: &str| format!("block{layer}.{part}");
        let mixed = self.norm_inside(
            graph,
            &name("attention_norm"),
            block.inner_norm.as_ref(),
            mixed,
        );
        let attended = graph.linear(&mixed, &name("attention_out"), &block.output);
        self.norm_behind(graph, &name("norm1"), &block.norm1, attended)
    }

    /// `x + MLP(norm(x))`; weights are named behind `within`.
    pub(super) fn mlp(&self, graph: &mut TowerGraph, within: &str, mlp: &Mlp, x: &Value) -> Value {
        let name = |part: &str| format!("{within}.{part}");
        let given = self.norm_before(graph, &name("norm2"), &mlp.norm, x);
        let second = mlp.second_norm.as_ref();
        let given = self.norm_inside(graph, &name("mlp_norm"), second, &given);
        let h = graph.linear(&given, &name("mlp_in"), &mlp.inward);
        let element = graph.element;
        let h = match &mlp.gate {
            Some(gate) => {
                let by = graph.linear(&given, &name("mlp_gate"), &gate.linear);
                let by = match gate.silu {
                    true => {
                        let sigmoid = graph.g.node("Sigmoid", &[&by], &[]);
                        graph.g.mul(&by, &sigmoid)
                    }
                    false => graph.g.gelu(&by, element),
                };
                graph.g.mul(&by, &h)
            }
            None => match self.activation {
                Activation::QuickGelu => graph.g.quick_gelu(&h, element),
                Activation::Gelu => graph.g.gelu(&h, element),
                Activation::GeluTanh => graph.g.gelu_tanh(&h, element),
            },
        };
        let h = self.norm_inside(graph, &name("mlp_norm"), mlp.inner_norm.as_ref(), &h);
        let h = graph.linear(&h, &name("mlp_out"), &mlp.outward);
        let h = self.norm_behind(graph, &name("norm2"), &mlp.norm, h);
        graph.g.add(x, &h)
    }

    pub(super) fn norm_before(
        &self,
        graph: &mut TowerGraph,
        name: &str,
        norm: &Norm,
        x: &Value,
    ) -> Value {
        match self.form.norms_behind {
            true => x.clone(),
            false => self.norm(graph, x, name, norm),
        }
    }

    fn norm_behind(&self, graph: &mut TowerGraph, name: &str, norm: &Norm, x: Value) -> Value {
        match self.form.norms_behind {
            true => self.norm(graph, &x, name, norm),
            false => x,
        }
    }

    fn norm_inside(
        &self,
        graph: &mut TowerGraph,
        name: &str,
        norm: Option<&Norm>,
        x: &Value,
    ) -> Value {
        match norm {
            Some(norm) => self.norm(graph, x, name, norm),
            None => x.clone(),
        }
    }

    /// `[B, T, W]` to heads, `[B, heads, T, W / heads]`.
    pub(super) fn split(&self, graph: &mut TowerGraph, x: &Value) -> Value {
        let (heads, width) = (self.heads as i64, (self.width / self.heads) as i64);
        let split = graph.g.reshape(x, &[0, 0, heads, width]);
        graph.g.transpose(&split, &[0, 2, 1, 3])
    }

    /// The way back.
    pub(super) fn merge(&self, graph: &mut TowerGraph, x: &Value) -> Value {
        let x = graph.g.transpose(x, &[0, 2, 1, 3]);
        graph.g.reshape(&x, &[0, 0, self.width as i64])
    }

    /// Queries or keys of all tokens, turned by their places where the tower does that.
    pub(super) fn turned(&self, graph: &mut TowerGraph, x: Value) -> Value {
        match &self.rotation {
            Some(rotation) => rotation.turn(graph, &x),
            None => x,
        }
    }
}

/// `softmax(q k) v`.
pub(super) fn attend(graph: &mut TowerGraph, q: &Value, k: &Value, v: &Value) -> Value {
    let scores = graph.g.matmul(q, k);
    let attention = graph.g.softmax(&scores, -1);
    graph.g.matmul(&attention, v)
}
