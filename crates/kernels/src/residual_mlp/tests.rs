//! Against the same layers composed of single operations.

use super::super::testing::{check_equal, check_gradients, noise};
use super::super::{FrozenLayerNorm, gelu};
use super::*;

fn ours(x: &[Tensor]) -> Result<Tensor> {
    let layers = ResidualMlp {
        queries: &x[1],
        norm_weight: &x[2],
        norm_bias: &x[3],
        mlp_in: (&x[4], &x[5]),
        mlp_out: (&x[6], &x[7]),
        epsilon: 1e-5,
    };
    layers.forward(&x[0])
}

fn composed(x: &[Tensor]) -> Result<Tensor> {
    let norm = FrozenLayerNorm::new(x[2].ones_like()?, x[2].zeros_like()?, 1e-5)?;
    let u = norm.forward(&x[0].broadcast_add(&x[1])?)?;
    let u = u.broadcast_mul(&x[2])?.broadcast_add(&x[3])?;
    let hidden = gelu(&u.broadcast_matmul(&x[4].t()?)?.broadcast_add(&x[5])?)?;
    &u + hidden.broadcast_matmul(&x[6].t()?)?.broadcast_add(&x[7])?
}

fn inputs(b: usize, c: usize, d: usize, h: usize) -> Vec<Tensor> {
    let shapes: [&[usize]; 8] = [
        &[b, c, d],
        &[c, d],
        &[d],
        &[d],
        &[h, d],
        &[h],
        &[d, h],
        &[d],
    ];
    shapes
        .iter()
        .enumerate()
        .map(|(at, shape)| noise(at as u64 + 1, shape))
        .collect()
}

#[test]
fn the_gradients_agree_with_differences() {
    check_gradients(&ours, &inputs(2, 2, 4, 3));
}

#[test]
fn it_equals_the_composed_operations() {
    // More images than groups, and not a multiple of them.
    check_equal(&ours, &composed, &inputs(11, 3, 8, 6));
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let mut x = inputs(2, 2, 4, 3);
    x[6] = noise(1, &[3, 4]);
    assert!(ours(&x).is_err());
}
