//! A block's layers on the rows of one group, on the calling thread.

use super::super::layer_norm::{normalise, normalise_backward};
use super::super::matrix::{Into, Matrix, multiply, product};
use super::super::{Real, add_scaled, multiversioned};

/// A norm's weight and bias.
pub(super) type Norm<'a, T> = (&'a [T], &'a [T]);

/// A linear layer: weight, bias, and the weight as it multiplies from the right, `[in, out]`.
pub(super) type Layer<'a, T> = (&'a [T], &'a [T], Matrix<'a, T>);

/// Adds `bias` to every row.
fn add_bias<T: Real>(x: &mut [T], bias: &[T]) {
    multiversioned(|| {
        x.chunks_exact_mut(bias.len())
            .for_each(|row| add_scaled(row, T::one(), bias));
    });
}

/// `x Wᵀ + b`.
pub(super) fn linear<T: Real>(x: &[T], (weight, bias, from_right): Layer<T>) -> Vec<T> {
    let width = weight.len() / bias.len();
    let mut y = product(Matrix::new(x, x.len() / width, width), from_right);
    add_bias(&mut y, bias);
    y
}

/// `y += x Wᵀ + b`.
pub(super) fn add_linear<T: Real>(y: &mut [T], x: &[T], (weight, bias, from_right): Layer<T>) {
    let width = weight.len() / bias.len();
    add_bias(y, bias);
    let x = Matrix::new(x, x.len() / width, width);
    multiply(y, x, from_right, Into::Add);
}

/// The gradient of [`linear`]'s input.
pub(super) fn linear_backward<T: Real>(grad: &[T], (weight, bias, _): Layer<T>) -> Vec<T> {
    let out = bias.len();
    let grad = Matrix::new(grad, grad.len() / out, out);
    product(grad, Matrix::new(weight, out, weight.len() / out))
}

/// Normalises the rows of `x` in place; returns the inverse deviations and the layer's output.
pub(super) fn norm<T: Real>(
    x: &mut [T],
    (weight, bias): Norm<T>,
    epsilon: f64,
) -> (Vec<T>, Vec<T>) {
    let width = weight.len();
    let mut inverses = vec![T::zero(); x.len() / width];
    let mut y = vec![T::zero(); x.len()];
    multiversioned(|| {
        let rows = x.chunks_exact_mut(width).zip(y.chunks_exact_mut(width));
        for ((x, y), inverse) in rows.zip(&mut inverses) {
            *inverse = normalise(x, T::from_f64(epsilon));
            for ((y, &x), (&weight, &bias)) in
                y.iter_mut().zip(x.iter()).zip(weight.iter().zip(bias))
            {
                *y = x * weight + bias;
            }
        }
    });
    (inverses, y)
}

/// The gradient of [`norm`]'s input, in place.
pub(super) fn norm_backward<T: Real>(grad: &mut [T], weight: &[T], normal: &[T], inverses: &[T]) {
    let width = weight.len();
    multiversioned(|| {
        let rows = grad.chunks_exact_mut(width).zip(normal.chunks_exact(width));
        for ((grad, normal), &inverse) in rows.zip(inverses) {
            for (grad, &weight) in grad.iter_mut().zip(weight) {
                *grad *= weight;
            }
            normalise_backward(grad, normal, inverse);
        }
    });
}
