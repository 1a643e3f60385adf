//! Forward and backward through the text tower, the gradient going to the prompts' embeddings. Compare with
//! `benches/text_tower.py`, which times PyTorch on the same shapes: `cargo bench --bench text_tower`.

use candle_core::{DType, Device, Tensor, Var};
use std::collections::HashMap;
use std::time::Instant;
use tagstream::model::clip::text::TextTower;
use tagstream::model::clip::text_config::{Activation, ReadOutPosition, TextConfig};

/// A tower of random weights under Hugging Face's names.
fn tower(width: usize, layers: usize, heads: usize) -> TextTower {
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
    add(
        "text_model.embeddings.token_embedding.weight".into(),
        &[64, width],
    );
    add(
        "text_model.embeddings.position_embedding.weight".into(),
        &[77, width],
    );
    for layer in 0..layers {
        let at = |part: &str| format!("text_model.encoder.layers.{layer}.{part}");
        for part in [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
        ] {
            add(at(&format!("{part}.weight")), &[width, width]);
            add(at(&format!("{part}.bias")), &[width]);
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
    add("text_projection.weight".into(), &[width, width]);
    let config = TextConfig {
        vocabulary: 64,
        width,
        layers,
        heads,
        context_length: 77,
        projection: width,
        activation: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        read_out: ReadOutPosition::FirstOf(63),
    };
    TextTower::from_tensors(tensors, config, DType::F32).expect("a whole tower")
}

fn main() {
    for (width, layers, heads, prompts, length, repeats) in [
        (256, 4, 4, 36, 10, 40),
        (256, 4, 4, 80, 24, 20),
        (512, 12, 8, 80, 24, 5),
    ] {
        let tower = tower(width, layers, heads);
        let x = Var::randn(0f32, 0.02, (prompts, length, width), &Device::Cpu).expect("a variable");
        let ends = vec![length - 1; prompts];
        let (mut forward, mut backward) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..repeats {
            let began = Instant::now();
            let loss = tower
                .forward_embeddings(&x, &ends)
                .expect("a result")
                .sum_all()
                .expect("a sum");
            let middle = Instant::now();
            let gradients = loss.backward().expect("gradients");
            assert!(gradients.get(&x).is_some());
            forward = forward.min((middle - began).as_secs_f64());
            backward = backward.min(middle.elapsed().as_secs_f64());
        }
        println!(
            "{layers} x {width}, {prompts} prompts x {length}: forward {:.1} ms, backward {:.1} ms (best of {repeats})",
            1e3 * forward,
            1e3 * backward
        );
    }
}
