//! Attention pooling of some categories of some images.

use super::matrix::{Into, Matrix, multiply};
use super::pool::{self, Dims, check, image_backward};
use super::{Real, add_scaled, dispatch, elements, with_elements};
use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;
use std::sync::Arc;

/// The rows `rows` (image times categories plus category, ascending) of [`attention_pool`](super::attention_pool)'s
/// result, `[rows, D]`, without computing the others. The gradient goes to `keys`.
///
/// # Errors
/// If the shapes do not fit, or the rows are not ascending or lie outside.
pub fn pool_rows(keys: &Tensor, positions: &Tensor, rows: &[usize]) -> Result<Tensor> {
    check(keys, positions)?;
    let entries = keys.dim(0)? * positions.dim(0)?;
    if rows.windows(2).any(|pair| pair[0] >= pair[1]) || rows.last().is_some_and(|r| *r >= entries)
    {
        bail!("rows of {entries} pooled ones must be ascending and exist");
    }
    keys.contiguous()?.apply_op1(PoolRows {
        positions: positions.detach().contiguous()?,
        rows: Arc::from(rows),
    })
}

struct PoolRows {
    positions: Tensor,
    rows: Arc<[usize]>,
}

impl PoolRows {
    /// Calls `f(rows of the result, their part of out, keys, image, dims)` for every image that has rows, on rayon's
    /// threads.
    fn each_image<T: Real>(
        &self,
        keys: &[T],
        out: &mut [T],
        f: impl Fn(std::ops::Range<usize>, &mut [T], &[T], &[T], Dims) + Sync,
    ) -> Result<()> {
        let width = self.positions.dim(2)?;
        let categories = keys.len() / width;
        let dims = Dims::of(&[categories, width], self.positions.dims());
        let mut work = Vec::new();
        let (mut rest, mut start) = (out, 0);
        for rows in self.rows.chunk_by(|a, b| a / categories == b / categories) {
            let (here, after) = std::mem::take(&mut rest).split_at_mut(rows.len() * width);
            rest = after;
            work.push((start..start + rows.len(), rows, here));
            start += rows.len();
        }
        with_elements::<T, _>(&self.positions, |positions| {
            work.into_par_iter().for_each(|(range, rows, out)| {
                let image = rows[0] / categories * dims.image();
                let chosen: Vec<T> = rows
                    .iter()
                    .flat_map(|row| &keys[row % categories * width..][..width])
                    .copied()
                    .collect();
                let dims = Dims {
                    keys: rows.len(),
                    ..dims
                };
                f(
                    range,
                    out,
                    &chosen,
                    &positions[image..image + dims.image()],
                    dims,
                );
            });
            Ok(())
        })
    }

    fn run<T: Real>(&self, keys: &[T], width: usize) -> Result<Vec<T>> {
        let mut pooled = vec![T::zero(); self.rows.len() * width];
        self.each_image(keys, &mut pooled, |_, pooled, keys, image, dims| {
            let mut a = vec![T::zero(); dims.keys * dims.positions];
            pool::weights(&mut a, keys, image, dims);
            let v = Matrix::new(image, dims.positions, dims.width);
            multiply(
                pooled,
                Matrix::new(&a, dims.keys, dims.positions),
                v,
                Into::Set,
            );
        })?;
        Ok(pooled)
    }

    fn run_backward<T: Real>(&self, keys: &[T], grad: &[T], width: usize) -> Result<Vec<T>> {
        let mut rows = vec![T::zero(); self.rows.len() * width];
        self.each_image(keys, &mut rows, |range, d_keys, keys, image, dims| {
            let mut a = vec![T::zero(); dims.keys * dims.positions];
            let mut room = a.clone();
            pool::weights(&mut a, keys, image, dims);
            let grad = &grad[range.start * width..range.end * width];
            image_backward(d_keys, &a, &mut room, image, grad, dims);
        })?;
        let mut d_keys = vec![T::zero(); keys.len()];
        for (row, grad) in self.rows.iter().zip(rows.chunks_exact(width)) {
            let category = row % (keys.len() / width);
            add_scaled(&mut d_keys[category * width..][..width], T::one(), grad);
        }
        Ok(d_keys)
    }
}

impl CustomOp1 for PoolRows {
    fn name(&self) -> &'static str {
        "pool-rows"
    }

    fn cpu_fwd(&self, keys: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let pooled = dispatch!(keys, self.name(), T => T::to_cpu_storage_owned(self.run::<T>(elements(keys, layout)?, width)?));
        Ok((pooled, (self.rows.len(), width).into()))
    }

    fn bwd(&self, keys: &Tensor, _pooled: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = keys.dim(1)?;
        let grad = grad.contiguous()?;
        let d_keys = match keys.dtype() {
            DType::F32 => with_elements::<f32, _>(keys, |keys| {
                with_elements::<f32, _>(&grad, |grad| {
                    Tensor::from_vec(
                        self.run_backward(keys, grad, width)?,
                        keys.len(),
                        &Device::Cpu,
                    )
                })
            })?,
            _ => with_elements::<f64, _>(keys, |keys| {
                with_elements::<f64, _>(&grad, |grad| {
                    Tensor::from_vec(
                        self.run_backward(keys, grad, width)?,
                        keys.len(),
                        &Device::Cpu,
                    )
                })
            })?,
        };
        Ok(Some(d_keys.reshape(keys.shape())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_equal, check_gradients, noise};
    use super::super::{attention_pool, select_rows};
    use super::*;

    const ROWS: [usize; 4] = [1, 2, 3, 8];

    #[test]
    fn the_gradient_agrees_with_differences() {
        let positions = noise(1, &[3, 5, 4]);
        check_gradients(
            &|x| pool_rows(&x[0], &positions, &ROWS),
            &[noise(2, &[3, 4])],
        );
    }

    #[test]
    fn they_are_rows_of_the_whole() {
        check_equal(
            &|x| pool_rows(&x[0], &noise(1, &[3, 5, 4]).to_dtype(x[0].dtype())?, &ROWS),
            &|x| {
                let positions = noise(1, &[3, 5, 4]).to_dtype(x[0].dtype())?;
                select_rows(&attention_pool(&x[0], &positions)?.reshape((9, 4))?, &ROWS)
            },
            &[noise(2, &[3, 4])],
        );
    }

    #[test]
    fn rows_that_do_not_exist_are_errors() {
        let (keys, positions) = (noise(2, &[3, 4]), noise(1, &[3, 5, 4]));
        assert!(pool_rows(&keys, &positions, &[9]).is_err());
        assert!(pool_rows(&keys, &positions, &[2, 1]).is_err());
    }
}
