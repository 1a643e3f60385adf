//! Layer normalisation with frozen weight and bias.

use super::{Real, dispatch, dot, elements, multiversioned, rows_per_block, with_elements};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

/// `y = (x - mean) / sqrt(var + eps) · weight + bias` over the last dimension; the gradient goes
/// to `x` only.
#[derive(Debug, Clone)]
pub struct FrozenLayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl FrozenLayerNorm {
    /// `weight` and `bias` are `[width]`.
    ///
    /// # Errors
    /// If they are not vectors of one length.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        if weight.dims1()? != bias.dims1()? {
            bail!(
                "layer norm: a bias of {:?} beside a weight of {:?}",
                bias.dims(),
                weight.dims()
            );
        }
        Ok(Self {
            weight: weight.detach().contiguous()?,
            bias: bias.detach().contiguous()?,
            eps,
        })
    }

    /// Normalises the last dimension of `x`.
    ///
    /// # Errors
    /// If the last dimension of `x` is not `width`, or the element types differ.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self.clone())
    }

    pub(super) fn tensors(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }

    pub(super) fn epsilon(&self) -> f64 {
        self.eps
    }

    fn check(&self, layout: &Layout) -> Result<usize> {
        let width = self.weight.dims1()?;
        if layout.dims().last() != Some(&width) {
            bail!(
                "layer norm of width {width} on an input of shape {:?}",
                layout.dims()
            );
        }
        Ok(width)
    }

    fn compute<T: Real>(&self, x: &[T], width: usize) -> Result<Vec<T>> {
        let eps = T::from_f64(self.eps);
        let mut y = vec![T::zero(); x.len()];
        with_elements::<T, _>(&self.weight, |weight| {
            with_elements::<T, _>(&self.bias, |bias| {
                let block = width * rows_per_block(width);
                y.par_chunks_mut(block)
                    .zip(x.par_chunks(block))
                    .for_each(|(y, x)| {
                        multiversioned(|| {
                            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                                let (mean, inverse) = moments(x, eps);
                                let affine = weight.iter().zip(bias);
                                for ((y, &x), (&weight, &bias)) in y.iter_mut().zip(x).zip(affine) {
                                    *y = (x - mean) * inverse * weight + bias;
                                }
                            }
                        });
                    });
                Ok(())
            })
        })?;
        Ok(y)
    }

    /// `dx = (g - mean(g) - x̂ mean(g x̂)) / σ` with `g = dy · weight`.
    fn compute_backward<T: Real>(&self, x: &[T], grad: &[T], width: usize) -> Result<Vec<T>> {
        let eps = T::from_f64(self.eps);
        let mut dx = vec![T::zero(); x.len()];
        with_elements::<T, _>(&self.weight, |weight| {
            let block = width * rows_per_block(width);
            let rows = dx
                .par_chunks_mut(block)
                .zip(x.par_chunks(block))
                .zip(grad.par_chunks(block));
            rows.for_each(|((dx, x), grad)| {
                let mut normal = vec![T::zero(); width];
                let rows = dx
                    .chunks_exact_mut(width)
                    .zip(x.chunks_exact(width))
                    .zip(grad.chunks_exact(width));
                multiversioned(|| {
                    for ((dx, x), grad) in rows {
                        normal.copy_from_slice(x);
                        let inverse = normalise(&mut normal, eps);
                        for ((dx, &grad), &weight) in dx.iter_mut().zip(grad).zip(weight) {
                            *dx = grad * weight;
                        }
                        normalise_backward(dx, &normal, inverse);
                    }
                });
            });
            Ok(())
        })?;
        Ok(dx)
    }
}

/// `x̂ = (x - mean) / σ` in place; returns `1 / σ`.
#[inline(always)]
pub(super) fn normalise<T: Real>(x: &mut [T], eps: T) -> T {
    let (mean, inverse) = moments(x, eps);
    for x in x {
        *x = (*x - mean) * inverse;
    }
    inverse
}

/// From the gradient of `x̂` to that of `x`, in place: `(g - mean(g) - x̂ mean(g x̂)) / σ`.
#[inline(always)]
pub(super) fn normalise_backward<T: Real>(grad: &mut [T], normal: &[T], inverse: T) {
    let n = T::from_f64(grad.len() as f64);
    let (mean, along) = (sum(grad) / n, dot(grad, normal) / n);
    for (grad, &normal) in grad.iter_mut().zip(normal) {
        *grad = (*grad - mean - normal * along) * inverse;
    }
}

/// Mean and `1 / sqrt(variance + eps)` of a row (two passes: no cancellation).
#[inline(always)]
fn moments<T: Real>(x: &[T], eps: T) -> (T, T) {
    let n = T::from_f64(x.len() as f64);
    let mean = sum(x) / n;
    let mut lanes = [T::zero(); 8];
    let blocks = x.chunks_exact(8);
    let rest = blocks
        .remainder()
        .iter()
        .fold(T::zero(), |sum, &x| sum + (x - mean) * (x - mean));
    for block in blocks {
        for lane in 0..8 {
            lanes[lane] += (block[lane] - mean) * (block[lane] - mean);
        }
    }
    let squares = lanes.iter().fold(rest, |sum, &lane| sum + lane);
    (mean, T::one() / Real::sqrt(squares / n + eps))
}

#[inline(always)]
fn sum<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::zero(); 8];
    let blocks = x.chunks_exact(8);
    let rest = blocks.remainder().iter().fold(T::zero(), |sum, &x| sum + x);
    for block in blocks {
        for lane in 0..8 {
            lanes[lane] += block[lane];
        }
    }
    lanes.iter().fold(rest, |sum, &lane| sum + lane)
}

impl CustomOp1 for FrozenLayerNorm {
    fn name(&self) -> &'static str {
        "frozen-layer-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = self.check(layout)?;
        let y = dispatch!(x, CustomOp1::name(self), T => {
            T::to_cpu_storage_owned(self.compute::<T>(elements(x, layout)?, width)?)
        });
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let backward = Backward(self.clone());
        Ok(Some(
            x.detach()
                .contiguous()?
                .apply_op2_no_bwd(&grad.contiguous()?, &backward)?,
        ))
    }
}

struct Backward(FrozenLayerNorm);

impl CustomOp2 for Backward {
    fn name(&self) -> &'static str {
        "frozen-layer-norm-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        grad: &CpuStorage,
        gl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = self.0.check(xl)?;
        let dx = dispatch!(x, self.name(), T => {
            let (x, grad) = (elements(x, xl)?, elements(grad, gl)?);
            T::to_cpu_storage_owned(self.0.compute_backward::<T>(x, grad, width)?)
        });
        Ok((dx, xl.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_equal, check_gradients, noise};
    use candle_core::{D, DType};

    fn layer(dtype: DType) -> FrozenLayerNorm {
        let weight = noise(1, &[19]).to_dtype(dtype).unwrap();
        let bias = noise(2, &[19]).to_dtype(dtype).unwrap();
        FrozenLayerNorm::new(weight, bias, 1e-5).unwrap()
    }

    #[test]
    fn the_gradient_agrees_with_differences() {
        check_gradients(&|x| layer(DType::F64).forward(&x[0]), &[noise(3, &[3, 19])]);
    }

    #[test]
    fn it_equals_the_composed_operations() {
        check_equal(
            &|x| layer(x[0].dtype()).forward(&x[0]),
            &|x| {
                let layer = layer(x[0].dtype());
                let centred = x[0].broadcast_sub(&x[0].mean_keepdim(D::Minus1)?)?;
                let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
                let normal = centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?;
                normal
                    .broadcast_mul(&layer.weight)?
                    .broadcast_add(&layer.bias)
            },
            &[noise(3, &[2, 3, 19])],
        );
    }

    #[test]
    fn a_wrong_width_is_an_error() {
        let error = layer(DType::F64)
            .forward(&noise(3, &[2, 4]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("19"), "{error}");
    }
}
