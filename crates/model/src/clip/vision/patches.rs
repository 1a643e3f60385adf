//! The patch embedding: pixels `[B, side, side, 3]` to patches `[B, N, W]`, normalised on the way.
//!
//! The published weights are a convolution's whose steps are as long as its kernel is wide. That is
//! a product of every patch, laid out as a row, with one matrix.

use super::{TowerGraph, VisionConfig, normalisation};
use crate::onnx::{Element, Value};

/// Writes the embedding with a convolution's weights, `kernel` of `[width, 3, patch, patch]`, for
/// `grid` patches a side. Gives the patches and what is still to be added to each of them,
/// `[width]`.
pub(super) fn write(
    graph: &mut TowerGraph,
    config: &VisionConfig,
    (grid, patch): (usize, usize),
    pixels: &Value,
    (kernel, width): (&[f32], usize),
) -> (Value, Vec<f32>) {
    let rows = rows(graph, pixels, grid, patch);
    let mut matrix = matrix(kernel, width, patch);
    let values = matrix.len() / width;
    let (scale, shift) = normalisation(config);
    let mut bias = vec![0.0f64; width];
    let rows = if graph.element == Element::F32 {
        // Normalising is linear and goes into the weights: one pass over the pixels instead of
        // three.
        for (value, weights) in matrix.chunks_exact_mut(width).enumerate() {
            for (bias, weight) in bias.iter_mut().zip(weights) {
                *bias += f64::from(*weight) * f64::from(shift[value % 3]);
                *weight *= scale[value % 3];
            }
        }
        graph.g.cast(&rows, Element::F32)
    } else {
        // In 16 bit such small weights would lose digits.
        let by_value = |of: [f32; 3]| (0..values).map(|value| of[value % 3]).collect::<Vec<_>>();
        graph.normalised(&rows, &[values], &by_value(scale), &by_value(shift))
    };
    let matrix = graph.weight("patches.weight", &[values, width], &matrix);
    let patches = graph.g.matmul(&rows, &matrix);
    (patches, bias.into_iter().map(|b| b as f32).collect())
}

/// Patches as rows, `[B, N, patch * patch * 3]`, still one byte a value: pixels as they lie in the
/// picture.
fn rows(graph: &mut TowerGraph, pixels: &Value, grid: usize, patch: usize) -> Value {
    let (grid, patch) = (grid as i64, patch as i64);
    let split = graph.g.reshape(pixels, &[0, grid, patch, grid, 3 * patch]);
    let rows = graph.g.transpose(&split, &[0, 1, 3, 2, 4]);
    graph.g.reshape(&rows, &[0, grid * grid, 3 * patch * patch])
}

/// A convolution's weights `[W, 3, patch, patch]` as a matrix for such rows,
/// `[patch * patch * 3, W]`.
fn matrix(kernel: &[f32], width: usize, patch: usize) -> Vec<f32> {
    let area = patch * patch;
    let mut matrix = Vec::with_capacity(kernel.len());
    for pixel in 0..area {
        for channel in 0..3 {
            matrix.extend((0..width).map(|w| kernel[(w * 3 + channel) * area + pixel]));
        }
    }
    matrix
}
