//! A text tower of random weights, for benches that need one of a certain size.

use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use tagstream_kernels::Activation;
use tagstream_model::clip::text::TextTower;
use tagstream_model::clip::text_config::{ReadOutPosition, TextConfig, TextForm};

/// Tokens of the vocabulary; the last one ends a text.
pub(crate) const VOCABULARY: usize = 64;

/// Its size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TowerSize {
    /// W.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// D.
    pub projection: usize,
}

/// A tower of random weights under Hugging Face's names.
pub(crate) fn random_tower(size: TowerSize) -> TextTower {
    let TowerSize {
        width,
        layers,
        heads,
        projection,
    } = size;
    let random = |shape: &[usize], scale: f32| {
        Tensor::randn(0f32, scale, shape, &Device::Cpu).expect("a tensor")
    };
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let scale = if shape.len() == 2 {
            1.0 / (shape[1] as f32).sqrt()
        } else {
            0.1
        };
        tensors.insert(name, random(shape, scale));
    };
    let embeddings = "text_model.embeddings";
    add(
        format!("{embeddings}.token_embedding.weight"),
        &[VOCABULARY, width],
    );
    add(
        format!("{embeddings}.position_embedding.weight"),
        &[77, width],
    );
    for layer in 0..layers {
        let at = |part: &str| format!("text_model.encoder.layers.{layer}.{part}");
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            add(at(&format!("self_attn.{part}.weight")), &[width, width]);
            add(at(&format!("self_attn.{part}.bias")), &[width]);
        }
        for part in ["layer_norm1", "layer_norm2"] {
            add(at(&format!("{part}.weight")), &[width]);
            add(at(&format!("{part}.bias")), &[width]);
        }
        add(at("mlp.fc1.weight"), &[4 * width, width]);
        add(at("mlp.fc1.bias"), &[4 * width]);
        add(at("mlp.fc2.weight"), &[width, 4 * width]);
        add(at("mlp.fc2.bias"), &[width]);
    }
    add("text_model.final_layer_norm.weight".into(), &[width]);
    add("text_model.final_layer_norm.bias".into(), &[width]);
    add("text_projection.weight".into(), &[projection, width]);
    let config = TextConfig {
        vocabulary: VOCABULARY,
        width,
        layers,
        heads,
        context_length: 77,
        projection,
        activation: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        read_out: ReadOutPosition::FirstOf(VOCABULARY as u32 - 1),
        padding: None,
        texts: TextForm::Plain,
        begin: true,
        class: None,
        encoder: None,
    };
    TextTower::from_tensors(tensors, config, DType::F32).expect("a whole tower")
}
