//! Conjugate gradients for many systems with one kernel.

use crate::arrays::{to_matrix, to_tensor};
use candle_core::{Result, Tensor};
use ndarray::{Array1, Array2, ArrayView2, Zip};

const STEPS: usize = 200;
const TOLERANCE: f64 = 1e-5;

/// Solves `(m K m + ridge) x = r` for every column (mask m, right side r) and returns `m x`,
/// `[M, columns]`.
pub(super) fn conjugate_gradients(
    kernel: &Tensor,
    masks: ArrayView2<'_, f32>,
    right: Array2<f32>,
    ridge: f32,
) -> Result<Array2<f32>> {
    let mut x = Array2::<f32>::zeros(right.dim());
    let mut direction = right.clone();
    let mut residual = right;
    let mut square = column_dots(&residual, &residual);
    let goal = square.mapv(|s| s * TOLERANCE * TOLERANCE);
    for _ in 0..STEPS {
        let open = Zip::from(&square).and(&goal).map_collect(|s, g| s > g);
        if !open.iter().any(|open| *open) {
            break;
        }
        // A column that has reached its goal stays as it is.
        let quotient = |above: &Array1<f64>, below: &Array1<f64>| {
            Zip::from(&open)
                .and(above)
                .and(below)
                .map_collect(|&open, a, b| if open { (a / b) as f32 } else { 0.0 })
        };
        let image = product(kernel, masks, ridge, &direction)?;
        let curvature = column_dots(&direction, &image).mapv(|x| x.max(1e-30));
        let step = quotient(&square, &curvature);
        Zip::from(&mut x)
            .and(&direction)
            .and_broadcast(&step)
            .for_each(|x, d, step| *x += step * d);
        Zip::from(&mut residual)
            .and(&image)
            .and_broadcast(&step)
            .for_each(|r, i, step| *r -= step * i);
        let next = column_dots(&residual, &residual);
        let turn = quotient(&next, &square);
        Zip::from(&mut direction)
            .and(&residual)
            .and_broadcast(&turn)
            .for_each(|d, r, turn| *d = r + turn * *d);
        Zip::from(&mut square)
            .and(&next)
            .and(&open)
            .for_each(|s, next, open| {
                if *open {
                    *s = *next;
                }
            });
    }
    x *= &masks;
    Ok(x)
}

/// `(m K m + ridge) p` for every column.
fn product(
    kernel: &Tensor,
    masks: ArrayView2<'_, f32>,
    ridge: f32,
    p: &Array2<f32>,
) -> Result<Array2<f32>> {
    let mut product = to_matrix(&kernel.matmul(&to_tensor((p * &masks).view())?)?)?;
    Zip::from(&mut product)
        .and(masks)
        .and(p)
        .for_each(|y, m, p| *y = *y * m + ridge * p);
    Ok(product)
}

/// `a . b` of every column, summed in 64 bit.
fn column_dots(a: &Array2<f32>, b: &Array2<f32>) -> Array1<f64> {
    let mut sums = Array1::zeros(a.ncols());
    for (a, b) in a.rows().into_iter().zip(b.rows()) {
        Zip::from(&mut sums)
            .and(a)
            .and(b)
            .for_each(|sum, a, b| *sum += f64::from(*a) * f64::from(*b));
    }
    sums
}
