//! Forward and backward through the text tower, the gradient going to the prompts' embeddings.
//! Compare with `benches/text_tower.py`, which times PyTorch on the same shapes:
//! `cargo bench --bench text_tower`.

mod support;

use candle_core::{Device, Var};
use std::time::Instant;
use support::{TowerSize, random_tower};

fn main() {
    for (width, layers, heads, prompts, length, repeats) in [
        (256, 4, 4, 36, 10, 40),
        (256, 4, 4, 80, 24, 20),
        (512, 12, 8, 80, 24, 5),
    ] {
        let tower = random_tower(TowerSize {
            width,
            layers,
            heads,
            projection: width,
        });
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
            "{layers} x {width}, {prompts} prompts x {length}: forward {:.1} ms, backward {:.1} ms \
             (best of {repeats})",
            1e3 * forward,
            1e3 * backward
        );
    }
}
