//! Attention pooling of dense features that carry no gradient.

use super::matrix::{Into, Matrix, multiply};
use super::softmax::softmax_row;
use super::{Real, dispatch, dot, elements, wide, with_elements};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

/// Images whose key gradients are summed before they are added up: fixed, so that the sum does not depend on threads.
const IMAGES_PER_SUM: usize = 4;

/// `pooled[b,k] = sum_n softmax_n(positions[b] . keys[k]) positions[b,n]`, as `[B, K, D]`.
///
/// `keys` is `[K, D]`, `positions` (V^) `[B, N, D]`. The gradient goes to `keys` only: the encoder is frozen. The
/// softmax is computed again in the backward pass instead of being kept, which costs one small product in five.
///
/// # Errors
/// If the shapes do not fit, or the element types differ or are neither f32 nor f64.
pub fn attention_pool(keys: &Tensor, positions: &Tensor) -> Result<Tensor> {
    check(keys, positions)?;
    let positions = positions.detach().contiguous()?;
    keys.contiguous()?.apply_op1(Pool { positions })
}

/// The softmax of [`attention_pool`], `[B, K, N]`, without a gradient.
///
/// # Errors
/// As for [`attention_pool`].
pub fn attention_saliency(keys: &Tensor, positions: &Tensor) -> Result<Tensor> {
    check(keys, positions)?;
    let (keys, positions) = (keys.detach().contiguous()?, positions.contiguous()?);
    keys.apply_op2_no_bwd(&positions, &Saliency)
}

pub(super) fn check(keys: &Tensor, positions: &Tensor) -> Result<()> {
    let ((_, d), (_, n, width)) = (keys.dims2()?, positions.dims3()?);
    if d != width || n == 0 {
        bail!(
            "attention: keys {:?} on positions {:?}",
            keys.dims(),
            positions.dims()
        );
    }
    if keys.dtype() != positions.dtype() {
        bail!(
            "attention: keys in {:?}, positions in {:?}",
            keys.dtype(),
            positions.dtype()
        );
    }
    Ok(())
}

#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub(super) images: usize,
    pub(super) keys: usize,
    pub(super) positions: usize,
    pub(super) width: usize,
}

impl Dims {
    pub(super) fn of(keys: &[usize], positions: &[usize]) -> Self {
        Self {
            images: positions[0],
            keys: keys[0],
            positions: positions[1],
            width: positions[2],
        }
    }

    pub(super) fn image(&self) -> usize {
        self.positions * self.width
    }
}

/// Softmax over positions of one image, `[K, N]`.
pub(super) fn weights<T: Real>(out: &mut [T], keys: &[T], image: &[T], dims: Dims) {
    multiply(
        out,
        Matrix::new(keys, dims.keys, dims.width),
        Matrix::new(image, dims.positions, dims.width).t(),
        Into::Set,
    );
    wide(|| out.chunks_exact_mut(dims.positions).for_each(softmax_row));
}

/// Adds one image's part to the gradient of the keys (`[K, D]`), given its weights and the gradient of what they pooled;
/// `da` is room for `[K, N]`.
pub(super) fn image_backward<T: Real>(
    d_keys: &mut [T],
    a: &[T],
    da: &mut [T],
    image: &[T],
    grad: &[T],
    dims: Dims,
) {
    let (k, n, d) = (dims.keys, dims.positions, dims.width);
    let v = Matrix::new(image, n, d);
    multiply(da, Matrix::new(grad, k, d), v.t(), Into::Set);
    wide(|| {
        for (da, a) in da.chunks_exact_mut(n).zip(a.chunks_exact(n)) {
            let mean = dot(da, a);
            for (da, &a) in da.iter_mut().zip(a) {
                *da = a * (*da - mean);
            }
        }
    });
    multiply(d_keys, Matrix::new(da, k, n), v, Into::Add);
}

struct Pool {
    positions: Tensor,
}

impl Pool {
    fn run<T: Real>(&self, keys: &[T], dims: Dims) -> Result<Vec<T>> {
        let mut pooled = vec![T::zero(); dims.images * dims.keys * dims.width];
        with_elements::<T, _>(&self.positions, |positions| {
            pooled
                .par_chunks_mut((dims.keys * dims.width).max(1))
                .zip(positions.par_chunks(dims.image()))
                .for_each_init(
                    || vec![T::zero(); dims.keys * dims.positions],
                    |a, (pooled, image)| {
                        weights(a, keys, image, dims);
                        multiply(
                            pooled,
                            Matrix::new(a, dims.keys, dims.positions),
                            Matrix::new(image, dims.positions, dims.width),
                            Into::Set,
                        );
                    },
                );
            Ok(())
        })?;
        Ok(pooled)
    }

    /// With a = softmax(l), l = K Vᵀ, P = a V: `da = dP Vᵀ`, `dl = a (da - rowsum(da a))`, `dK = sum_images dl V`.
    fn run_backward<T: Real>(&self, keys: &[T], grad: &[T], dims: Dims) -> Result<Vec<T>> {
        let (k, n, d) = (dims.keys, dims.positions, dims.width);
        let sums = with_elements::<T, _>(&self.positions, |positions| {
            Ok(positions
                .par_chunks(dims.image() * IMAGES_PER_SUM)
                .zip(grad.par_chunks(k * d * IMAGES_PER_SUM))
                .map(|(positions, grad)| {
                    let mut sum = vec![T::zero(); k * d];
                    let (mut a, mut da) = (vec![T::zero(); k * n], vec![T::zero(); k * n]);
                    for (image, grad) in positions.chunks(dims.image()).zip(grad.chunks(k * d)) {
                        weights(&mut a, keys, image, dims);
                        image_backward(&mut sum, &a, &mut da, image, grad, dims);
                    }
                    sum
                })
                .collect::<Vec<_>>())
        })?;
        let mut total = vec![T::zero(); k * d];
        for sum in sums {
            super::add_scaled(&mut total, T::one(), &sum);
        }
        Ok(total)
    }
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "attention-pool"
    }

    fn cpu_fwd(&self, keys: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let dims = Dims::of(layout.dims(), self.positions.dims());
        let pooled = dispatch!(keys, self.name(), T => T::to_cpu_storage_owned(self.run::<T>(elements(keys, layout)?, dims)?));
        Ok((pooled, (dims.images, dims.keys, dims.width).into()))
    }

    fn bwd(&self, keys: &Tensor, _pooled: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let dims = Dims::of(keys.dims(), self.positions.dims());
        let grad = grad.contiguous()?;
        let shape = (dims.keys, dims.width);
        let gradient = match keys.dtype() {
            DType::F32 => with_elements::<f32, _>(keys, |keys| {
                with_elements::<f32, _>(&grad, |grad| {
                    Tensor::from_vec(self.run_backward(keys, grad, dims)?, shape, grad_device())
                })
            })?,
            _ => with_elements::<f64, _>(keys, |keys| {
                with_elements::<f64, _>(&grad, |grad| {
                    Tensor::from_vec(self.run_backward(keys, grad, dims)?, shape, grad_device())
                })
            })?,
        };
        Ok(Some(gradient))
    }
}

/// These operations run on the CPU only.
fn grad_device() -> &'static candle_core::Device {
    &candle_core::Device::Cpu
}

struct Saliency;

impl CustomOp2 for Saliency {
    fn name(&self) -> &'static str {
        "attention-saliency"
    }

    fn cpu_fwd(
        &self,
        keys: &CpuStorage,
        keys_layout: &Layout,
        positions: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dims = Dims::of(keys_layout.dims(), layout.dims());
        let out = dispatch!(keys, self.name(), T => {
            let keys: &[T] = elements(keys, keys_layout)?;
            let positions: &[T] = elements(positions, layout)?;
            let mut out = vec![<T as WithDType>::from_f64(0.0); dims.images * dims.keys * dims.positions];
            out.par_chunks_mut((dims.keys * dims.positions).max(1))
                .zip(positions.par_chunks(dims.image()))
                .for_each(|(out, image)| weights(out, keys, image, dims));
            T::to_cpu_storage_owned(out)
        });
        Ok((out, (dims.images, dims.keys, dims.positions).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_equal, check_gradients, distance, noise};
    use super::*;

    fn composed(keys: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let logits = keys
            .unsqueeze(0)?
            .broadcast_matmul(&positions.transpose(1, 2)?.contiguous()?)?;
        candle_nn::ops::softmax(&logits, 2)?.matmul(positions)
    }

    #[test]
    fn the_gradient_agrees_with_differences() {
        let positions = noise(7, &[5, 4, 3]);
        check_gradients(&|x| attention_pool(&x[0], &positions), &[noise(3, &[2, 3])]);
    }

    #[test]
    fn it_equals_the_composed_operations() {
        let positions = noise(7, &[9, 6, 8]);
        check_equal(
            &|x| attention_pool(&x[0], &positions.to_dtype(x[0].dtype())?),
            &|x| composed(&x[0], &positions.to_dtype(x[0].dtype())?),
            &[noise(3, &[5, 8])],
        );
    }

    #[test]
    fn saliency_is_what_the_pool_weighs_with() {
        let (keys, positions) = (noise(1, &[3, 4]), noise(2, &[2, 5, 4]));
        let saliency = attention_saliency(&keys, &positions).unwrap();
        let sums = saliency
            .sum(2)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f64>()
            .unwrap();
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-12));
        let pooled = attention_pool(&keys, &positions).unwrap();
        assert!(distance(&saliency.matmul(&positions).unwrap(), &pooled) < 1e-12);
    }

    #[test]
    fn shapes_and_types_that_do_not_fit_are_errors() {
        assert!(attention_pool(&noise(1, &[3, 4]), &noise(2, &[2, 5, 3])).is_err());
        let positions = noise(2, &[2, 5, 4]).to_dtype(DType::F32).unwrap();
        assert!(attention_pool(&noise(1, &[3, 4]), &positions).is_err());
    }
}
