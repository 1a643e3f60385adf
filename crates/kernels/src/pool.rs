//! Attention pooling of dense features that carry no gradient.

use super::matrix::{Into, Matrix, multiply, product, transposed};
use super::{Real, add_scaled, dispatch, elements, multiversioned, with_elements};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

/// Images that a thread takes at once, whose key gradients are one sum: fixed, so that it does not
/// depend on threads.
const IMAGES_PER_SUM: usize = 4;

/// `pooled[b,k] = sum_n softmax_n(positions[b] . keys[k]) positions[b,n]`, as `[B, K, D]`.
///
/// `keys` is `[K, D]`, `positions` (V^) `[B, N, D]`. The gradient goes to `keys` only: the encoder
/// is frozen. The softmax is computed again in the backward pass instead of being kept, which costs
/// one small product in five.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use tagstream_kernels::attention_pool;
///
/// // One image with two positions; the key asks for the second.
/// let positions = Tensor::new(&[[[1.0f32, 0.0], [0.0, 1.0]]], &Device::Cpu)?;
/// let key = Tensor::new(&[[0.0f32, 50.0]], &Device::Cpu)?;
/// let pooled = attention_pool(&key, &positions)?;
/// assert_eq!(pooled.dims(), [1, 1, 2]);
/// assert!(pooled.to_vec3::<f32>()?[0][0][1] > 0.99);
/// # Ok::<(), candle_core::Error>(())
/// ```
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

/// Softmax over the positions of images, `[images, N, K]`: a key's weights stand in a column, so
/// that the positions, by far the largest operand, are read as they lie in memory. `columns` are
/// the keys as columns, `[D, K]`.
pub(super) fn weights<T: Real>(positions: &[T], columns: &[T], dims: Dims) -> Vec<T> {
    let (k, d) = (dims.keys, dims.width);
    let v = Matrix::new(positions, positions.len() / d, d);
    let mut out = product(v, Matrix::new(columns, d, k));
    let mut room = vec![T::zero(); k];
    multiversioned(|| {
        for image in out.chunks_exact_mut((dims.positions * k).max(1)) {
            softmax_columns(image, &mut room);
        }
    });
    out
}

/// Turns every column of logits into its softmax in place; `room` is as long as a row.
#[inline(always)]
fn softmax_columns<T: Real>(x: &mut [T], room: &mut [T]) {
    let columns = room.len();
    room.copy_from_slice(&x[..columns]);
    for row in x.chunks_exact(columns) {
        for (max, &x) in room.iter_mut().zip(row) {
            *max = if x > *max { x } else { *max };
        }
    }
    for row in x.chunks_exact_mut(columns) {
        for (x, &max) in row.iter_mut().zip(room.iter()) {
            *x = Real::exp(*x - max);
        }
    }
    room.fill(T::zero());
    for row in x.chunks_exact(columns) {
        add_scaled(room, T::one(), row);
    }
    room.iter_mut().for_each(|sum| *sum = T::one() / *sum);
    for row in x.chunks_exact_mut(columns) {
        row.iter_mut()
            .zip(room.iter())
            .for_each(|(x, &by)| *x *= by);
    }
}

/// Weighted sums of the positions of images, `[images, K, D]`.
pub(super) fn pool<T: Real>(pooled: &mut [T], weights: &[T], positions: &[T], dims: Dims) {
    let (k, n, d) = (dims.keys, dims.positions, dims.width);
    let images = positions.chunks_exact(dims.image());
    let weights = weights.chunks_exact((n * k).max(1));
    for ((pooled, a), v) in pooled
        .chunks_exact_mut((k * d).max(1))
        .zip(weights)
        .zip(images)
    {
        multiply(
            pooled,
            Matrix::new(a, n, k).t(),
            Matrix::new(v, n, d),
            Into::Set,
        );
    }
}

/// The gradient of the keys, `[K, D]`, given the weights of images and the gradient of what they
/// pooled.
///
/// With a = softmax(l), l = V K^T, P = a^T V: `da = V dP^T`, `dl = a (da - colsum(da a))`,
/// `dK = dl^T V`.
pub(super) fn pool_backward<T: Real>(a: &[T], positions: &[T], grad: &[T], dims: Dims) -> Vec<T> {
    let (k, n, d) = (dims.keys, dims.positions, dims.width);
    let mut slopes = vec![T::zero(); a.len()];
    let mut room = vec![T::zero(); k];
    for (((da, a), v), grad) in slopes
        .chunks_exact_mut((n * k).max(1))
        .zip(a.chunks_exact((n * k).max(1)))
        .zip(positions.chunks_exact(dims.image()))
        .zip(grad.chunks_exact((k * d).max(1)))
    {
        multiply(
            da,
            Matrix::new(v, n, d),
            Matrix::new(grad, k, d).t(),
            Into::Set,
        );
        multiversioned(|| {
            room.fill(T::zero());
            for (da, a) in da.chunks_exact(k).zip(a.chunks_exact(k)) {
                for ((mean, &da), &a) in room.iter_mut().zip(da).zip(a) {
                    *mean += da * a;
                }
            }
            for (da, a) in da.chunks_exact_mut(k).zip(a.chunks_exact(k)) {
                for ((da, &a), &mean) in da.iter_mut().zip(a).zip(room.iter()) {
                    *da = a * (*da - mean);
                }
            }
        });
    }
    let rows = positions.len() / d;
    product(
        Matrix::new(&slopes, rows, k).t(),
        Matrix::new(positions, rows, d),
    )
}

struct Pool {
    positions: Tensor,
}

impl Pool {
    fn compute<T: Real>(&self, keys: &[T], dims: Dims) -> Result<Vec<T>> {
        let mut pooled = vec![T::zero(); dims.images * dims.keys * dims.width];
        let columns = transposed(keys, dims.width);
        with_elements::<T, _>(&self.positions, |positions| {
            pooled
                .par_chunks_mut((dims.keys * dims.width * IMAGES_PER_SUM).max(1))
                .zip(positions.par_chunks(dims.image() * IMAGES_PER_SUM))
                .for_each(|(pooled, positions)| {
                    pool(pooled, &weights(positions, &columns, dims), positions, dims);
                });
            Ok(())
        })?;
        Ok(pooled)
    }

    fn compute_backward<T: Real>(&self, keys: &[T], grad: &[T], dims: Dims) -> Result<Vec<T>> {
        let columns = transposed(keys, dims.width);
        let sums = with_elements::<T, _>(&self.positions, |positions| {
            Ok(positions
                .par_chunks(dims.image() * IMAGES_PER_SUM)
                .zip(grad.par_chunks((keys.len() * IMAGES_PER_SUM).max(1)))
                .map(|(positions, grad)| {
                    pool_backward(&weights(positions, &columns, dims), positions, grad, dims)
                })
                .collect::<Vec<_>>())
        })?;
        let mut total = vec![T::zero(); keys.len()];
        for sum in sums {
            add_scaled(&mut total, T::one(), &sum);
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
        let pooled = dispatch!(keys, self.name(), T => {
            T::to_cpu_storage_owned(self.compute::<T>(elements(keys, layout)?, dims)?)
        });
        Ok((pooled, (dims.images, dims.keys, dims.width).into()))
    }

    fn bwd(&self, keys: &Tensor, _pooled: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let dims = Dims::of(keys.dims(), self.positions.dims());
        let grad = grad.contiguous()?;
        let shape = (dims.keys, dims.width);
        let gradient = match keys.dtype() {
            DType::F32 => with_elements::<f32, _>(keys, |keys| {
                with_elements::<f32, _>(&grad, |grad| {
                    Tensor::from_vec(
                        self.compute_backward(keys, grad, dims)?,
                        shape,
                        grad_device(),
                    )
                })
            })?,
            _ => with_elements::<f64, _>(keys, |keys| {
                with_elements::<f64, _>(&grad, |grad| {
                    Tensor::from_vec(
                        self.compute_backward(keys, grad, dims)?,
                        shape,
                        grad_device(),
                    )
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
            let columns = transposed(keys, dims.width);
            let mut out = vec![T::from_f64(0.0); dims.images * dims.keys * dims.positions];
            out.par_chunks_mut((dims.keys * dims.positions).max(1))
                .zip(positions.par_chunks(dims.image()))
                .for_each(|(out, image)| {
                    let weights = weights(image, &columns, dims);
                    for (at, out) in out.iter_mut().enumerate() {
                        *out = weights[at % dims.positions * dims.keys + at / dims.positions];
                    }
                });
            T::to_cpu_storage_owned(out)
        });
        Ok((out, (dims.images, dims.keys, dims.positions).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composed;
    use crate::testing::{check_equal, check_gradients, distance, noise};

    fn composed(keys: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let logits = keys
            .unsqueeze(0)?
            .broadcast_matmul(&positions.transpose(1, 2)?.contiguous()?)?;
        composed::softmax(&logits)?.matmul(positions)
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
