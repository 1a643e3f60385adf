//! Softmax over the last dimension.

use super::{Real, dispatch, dot, elements, multiversioned, rows_per_block};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

/// `exp(x - max) / sum` over the last dimension, with a backward pass (candle's `softmax_last_dim`
/// has none).
///
/// ```
/// use candle_core::{Device, Var};
/// use tagstream_kernels::softmax;
///
/// let x = Var::new(&[0.0f64, 0.0], &Device::Cpu)?;
/// let y = softmax(&x)?;
/// assert_eq!(y.to_vec1::<f64>()?, [0.5, 0.5]);
/// let gradients = y.narrow(0, 0, 1)?.sum_all()?.backward()?;
/// let dx = gradients.get(&x).expect("x is a variable");
/// assert_eq!(dx.to_vec1::<f64>()?, [0.25, -0.25]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the element type is neither f32 nor f64.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Softmax)
}

struct Softmax;

/// Turns a row of logits into its softmax in place.
#[inline(always)]
pub(super) fn softmax_row<T: Real>(row: &mut [T]) {
    let max = row.iter().fold(T::from_f64(f64::NEG_INFINITY), |max, &x| {
        if x > max { x } else { max }
    });
    let mut sum = T::zero();
    for x in row.iter_mut() {
        *x = Real::exp(*x - max);
    }
    for &x in row.iter() {
        sum += x;
    }
    let inverse = T::one() / sum;
    for x in row.iter_mut() {
        *x *= inverse;
    }
}

fn width(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1).max(1)
}

fn compute<T: Real>(x: &[T], width: usize) -> Vec<T> {
    let mut y = x.to_vec();
    y.par_chunks_mut(width * rows_per_block(width))
        .for_each(|block| multiversioned(|| block.chunks_exact_mut(width).for_each(softmax_row)));
    y
}

/// `dx = y (dy - sum(dy y))`.
fn compute_backward<T: Real>(y: &[T], grad: &[T], width: usize) -> Vec<T> {
    let mut dx = vec![T::zero(); y.len()];
    let block = width * rows_per_block(width);
    dx.par_chunks_mut(block)
        .zip(y.par_chunks(block))
        .zip(grad.par_chunks(block))
        .for_each(|((dx, y), grad)| {
            let rows = dx
                .chunks_exact_mut(width)
                .zip(y.chunks_exact(width))
                .zip(grad.chunks_exact(width));
            for ((dx, y), grad) in rows {
                let along = dot(y, grad);
                for ((dx, &y), &grad) in dx.iter_mut().zip(y).zip(grad) {
                    *dx = y * (grad - along);
                }
            }
        });
    dx
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = dispatch!(x, self.name(), T => {
            T::to_cpu_storage_owned(compute::<T>(elements(x, layout)?, width(layout)))
        });
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(
            y.detach()
                .apply_op2_no_bwd(&grad.contiguous()?, &Backward)?,
        ))
    }
}

struct Backward;

impl CustomOp2 for Backward {
    fn name(&self) -> &'static str {
        "softmax-backward"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        yl: &Layout,
        grad: &CpuStorage,
        gl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dx = dispatch!(y, self.name(), T => {
            let (y, grad) = (elements(y, yl)?, elements(grad, gl)?);
            T::to_cpu_storage_owned(compute_backward::<T>(y, grad, width(yl)))
        });
        Ok((dx, yl.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composed;
    use crate::testing::{check_equal, check_gradients, noise};
    use candle_core::Device;

    #[test]
    fn the_gradient_agrees_with_differences() {
        check_gradients(&|x| softmax(&(&x[0] * 3.0)?), &[noise(3, &[2, 3, 11])]);
    }

    #[test]
    fn it_equals_the_composed_operations() {
        check_equal(
            &|x| softmax(&(&x[0] * 5.0)?),
            &|x| composed::softmax(&(&x[0] * 5.0)?),
            &[noise(3, &[2, 3, 37])],
        );
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let x = Tensor::new(&[[1e4f32, 1e4, -1e4], [-1e30, -1e30, -1e30]], &Device::Cpu).unwrap();
        let y = softmax(&x).unwrap().to_vec2::<f32>().unwrap();
        assert!((y[0][0] - 0.5).abs() < 1e-6 && y[0][2] < 1e-30);
        assert!((y[1][0] - 1.0 / 3.0).abs() < 1e-6);
    }
}
