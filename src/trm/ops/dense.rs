//! A linear map whose weights are trained.

use super::{add_scaled, dispatch, elements, rows_per_block};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

/// `y = x Wᵀ + b` on the last dimension; `weight` is `[out, in]`, `bias` `[out]`; all three receive gradients.
///
/// # Errors
/// If the shapes do not fit, or the element types differ.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (out, inner) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == inner && bias.dims() == [out] => *last = out,
        _ => bail!(
            "linear: input {:?}, weight {:?}, bias {:?}",
            x.dims(),
            weight.dims(),
            bias.dims()
        ),
    }
    let rows = x.contiguous()?.reshape(((), inner))?;
    let y = rows.apply_op2(&weight.contiguous()?, Product)?;
    add_bias(&y, bias)?.reshape(shape)
}

/// `x + b`, with `b` (`[width]`) added to every row of `x` (`[rows, width]`).
fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&bias.contiguous()?, AddBias)
}

/// `x Wᵀ`, without the transposes and copies that autograd makes of a weight's gradient.
struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let (rows, inner) = layout.shape().dims2()?;
        let (out, _) = weight_layout.shape().dims2()?;
        let weight_layout = weight_layout.transpose(0, 1)?;
        let y = x.matmul(weight, (1, rows, out, inner), layout, &weight_layout)?;
        Ok((y, (rows, out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (x, weight, grad) = (x.detach(), weight.detach(), grad.contiguous()?);
        Ok((Some(grad.matmul(&weight)?), Some(grad.t()?.matmul(&x)?)))
    }
}

struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let y = dispatch!(x, self.name(), T => {
            let bias: &[T] = elements(bias, bias_layout)?;
            let mut y: Vec<T> = elements(x, layout)?.to_vec();
            y.par_chunks_mut(width * rows_per_block(width)).for_each(|block| {
                for row in block.chunks_exact_mut(width) {
                    add_scaled(row, <T as WithDType>::from_f64(1.0), bias);
                }
            });
            T::to_cpu_storage_owned(y)
        });
        Ok((y, layout.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _bias: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.sum(0)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_equal, check_gradients, noise};
    use super::*;

    #[test]
    fn gradients_agree_with_differences() {
        let inputs = [noise(1, &[2, 3, 4]), noise(2, &[5, 4]), noise(3, &[5])];
        check_gradients(&|x| linear(&x[0], &x[1], &x[2]), &inputs);
    }

    #[test]
    fn it_equals_the_composed_operations() {
        check_equal(
            &|x| linear(&x[0], &x[1], &x[2]),
            &|x| x[0].broadcast_matmul(&x[1].t()?)?.broadcast_add(&x[2]),
            &[noise(1, &[2, 3, 4]), noise(2, &[5, 4]), noise(3, &[5])],
        );
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        assert!(linear(&noise(1, &[2, 3]), &noise(2, &[5, 4]), &noise(3, &[5])).is_err());
        assert!(linear(&noise(1, &[2, 4]), &noise(2, &[5, 4]), &noise(3, &[4])).is_err());
    }
}
