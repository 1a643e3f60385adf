//! The gradient of the two layers' weights.
//!
//! A sum for each group, all added up in the end, would be written and read eight times. Here a
//! thread takes some of the hidden units through all groups, in their order, and what it sums stays
//! in its cache.

use super::super::Real;
use super::super::matrix::{Into, Matrix, multiply};
use super::{Dims, Layers};
use rayon::prelude::*;

/// Hidden units that a thread takes at once: what they sum stays in its cache, and inputs are not
/// packed too often.
const UNITS: usize = 128;

/// Gradients of the first layer's weight, `[hidden, D]`, and of the second's, `[D, hidden]`.
pub(in super::super) fn weight_gradients<T: Real>(
    groups: &[Layers<T>],
    dims: Dims,
) -> (Vec<T>, Vec<T>) {
    let (d, h) = (dims.width, dims.hidden);
    let mut in_weight = vec![T::zero(); h * d];
    let blocks: Vec<Vec<T>> = in_weight
        .par_chunks_mut(UNITS * d)
        .enumerate()
        .map(|(block, in_weight)| {
            let units = block * UNITS..block * UNITS + in_weight.len() / d;
            let mut out_weight = vec![T::zero(); in_weight.len()];
            for group in groups {
                let rows = group.u.len() / d;
                let u = Matrix::new(group.u, rows, d);
                let d_hidden = Matrix::new(group.d_hidden, rows, h).columns(units.clone());
                multiply(in_weight, d_hidden.t(), u, Into::Add);
                let grad = Matrix::new(group.grad, rows, d);
                let activated = Matrix::new(group.activated, rows, h).columns(units.clone());
                multiply(&mut out_weight, grad.t(), activated, Into::Add);
            }
            out_weight
        })
        .collect();
    // The second layer's come as columns.
    let mut out_weight = vec![T::zero(); d * h];
    out_weight
        .par_chunks_mut(h)
        .with_min_len(16)
        .enumerate()
        .for_each(|(row, out)| {
            for (out, block) in out.chunks_mut(UNITS).zip(&blocks) {
                out.copy_from_slice(&block[row * out.len()..(row + 1) * out.len()]);
            }
        });
    (in_weight, out_weight)
}
