//! Rows of a matrix by index.

use super::{Real, add_scaled, dispatch, elements, with_elements};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;
use std::sync::Arc;

/// The rows `rows` of the matrix `x` (`[n, width]`), in that order; the gradient is scattered
/// (added) back.
///
/// # Errors
/// If `x` is not a matrix or an index lies outside it.
pub fn select_rows(x: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let (n, _) = x.dims2()?;
    if let Some(row) = rows.iter().find(|&&row| row >= n) {
        bail!("row {row} of a matrix with {n} rows");
    }
    x.contiguous()?.apply_op1(SelectRows(Arc::from(rows)))
}

struct SelectRows(Arc<[usize]>);

impl SelectRows {
    fn compute<T: Real>(&self, x: &[T], width: usize) -> Vec<T> {
        let mut y = vec![T::zero(); self.0.len() * width];
        y.par_chunks_mut(width)
            .zip(self.0.par_iter())
            .with_min_len(64)
            .for_each(|(y, &row)| {
                y.copy_from_slice(&x[row * width..(row + 1) * width]);
            });
        y
    }

    fn scatter<T: Real>(&self, grad: &[T], n: usize, width: usize) -> Vec<T> {
        let mut dx = vec![T::zero(); n * width];
        for (grad, &row) in grad.chunks_exact(width).zip(self.0.iter()) {
            add_scaled(&mut dx[row * width..(row + 1) * width], T::one(), grad);
        }
        dx
    }
}

impl CustomOp1 for SelectRows {
    fn name(&self) -> &'static str {
        "select-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let y = dispatch!(x, self.name(), T => {
            T::to_cpu_storage_owned(self.compute::<T>(elements(x, layout)?, width))
        });
        Ok((y, (self.0.len(), width).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (n, width) = x.dims2()?;
        let grad = grad.contiguous()?;
        let dx = match grad.dtype() {
            candle_core::DType::F32 => with_elements::<f32, _>(&grad, |grad| {
                Tensor::from_vec(self.scatter(grad, n, width), (n, width), x.device())
            })?,
            _ => with_elements::<f64, _>(&grad, |grad| {
                Tensor::from_vec(self.scatter(grad, n, width), (n, width), x.device())
            })?,
        };
        Ok(Some(dx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_equal, check_gradients, noise};
    use candle_core::Device;

    #[test]
    fn the_gradient_agrees_with_differences_also_for_repeated_rows() {
        check_gradients(&|x| select_rows(&x[0], &[3, 0, 3]), &[noise(3, &[4, 5])]);
    }

    #[test]
    fn it_equals_index_select() {
        check_equal(
            &|x| select_rows(&x[0], &[2, 1]),
            &|x| x[0].index_select(&Tensor::new(&[2u32, 1], &Device::Cpu)?, 0),
            &[noise(3, &[4, 5])],
        );
    }

    #[test]
    fn a_row_outside_is_an_error() {
        assert!(select_rows(&noise(3, &[4, 5]), &[4]).is_err());
    }
}
