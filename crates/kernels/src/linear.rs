//! A linear map with frozen weights.

use super::{Real, rows_per_block, with_elements};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Arc, OnceLock};

/// `y = x Wᵀ + b` on the last dimension; the gradient goes to `x` only.
#[derive(Debug, Clone)]
pub struct FrozenLinear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// The weight's transpose, made when it is first asked for.
    columns: Arc<OnceLock<Tensor>>,
}

impl FrozenLinear {
    /// `weight` is `[out, in]`, `bias` `[out]`.
    ///
    /// # Errors
    /// If the shapes do not fit each other.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out, _) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims1()? != out
        {
            bail!(
                "a bias of {:?} beside a weight of {:?}",
                bias.dims(),
                weight.dims()
            );
        }
        // Detached: the operation holds plain numbers, whatever the caller tracks.
        Ok(Self {
            weight: weight.detach().contiguous()?,
            bias: bias.map(|bias| bias.detach().contiguous()).transpose()?,
            columns: Arc::default(),
        })
    }

    /// Applies the map to the last dimension of `x`.
    ///
    /// # Errors
    /// If the last dimension of `x` is not `in`, or the element types differ.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self.clone())
    }

    pub(super) fn tensors(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.weight, self.bias.as_ref())
    }

    /// The weight's transpose, `[in, out]`, kept.
    pub(super) fn columns(&self) -> Result<Tensor> {
        if let Some(columns) = self.columns.get() {
            return Ok(columns.clone());
        }
        let columns = self.weight.t()?.contiguous()?;
        Ok(self.columns.get_or_init(|| columns).clone())
    }

    fn add_bias<T: Real>(&self, y: &mut [T], out: usize) -> Result<()> {
        let Some(bias) = &self.bias else {
            return Ok(());
        };
        with_elements::<T, _>(bias, |bias| {
            y.par_chunks_mut(out * rows_per_block(out))
                .for_each(|block| {
                    for row in block.chunks_exact_mut(out) {
                        for (y, &b) in row.iter_mut().zip(bias) {
                            *y += b;
                        }
                    }
                });
            Ok(())
        })
    }
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (out, inner) = self.weight.dims2()?;
        let dims = layout.dims();
        if dims.last() != Some(&inner) {
            bail!(
                "frozen-linear: an input of shape {dims:?} for a weight of {:?}",
                self.weight.dims()
            );
        }
        let rows = layout.shape().elem_count() / inner.max(1);
        let x_layout = Layout::contiguous_with_offset((rows, inner), layout.start_offset());
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else {
            bail!("frozen-linear runs on the CPU only")
        };
        let mut y = x.matmul(
            weight,
            (1, rows, out, inner),
            &x_layout,
            &weight_layout.transpose(0, 1)?,
        )?;
        match &mut y {
            CpuStorage::F32(y) => self.add_bias(y, out)?,
            CpuStorage::F64(y) => self.add_bias(y, out)?,
            _ => bail!("frozen-linear runs in f32 and f64 only"),
        }
        let mut shape = dims.to_vec();
        if let Some(last) = shape.last_mut() {
            *last = out;
        }
        Ok((y, shape.into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (out, _) = self.weight.dims2()?;
        let grad = grad.contiguous()?.reshape(((), out))?;
        Ok(Some(grad.matmul(&self.weight)?.reshape(x.shape())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_equal, check_gradients, noise};
    use candle_core::DType;

    fn layer(dtype: DType) -> FrozenLinear {
        let weight = noise(1, &[5, 3]).to_dtype(dtype).unwrap();
        let bias = noise(2, &[5]).to_dtype(dtype).unwrap();
        FrozenLinear::new(weight, Some(bias)).unwrap()
    }

    #[test]
    fn the_gradient_agrees_with_differences() {
        check_gradients(
            &|x| layer(DType::F64).forward(&x[0]),
            &[noise(3, &[2, 4, 3])],
        );
    }

    #[test]
    fn it_equals_the_composed_operations() {
        check_equal(
            &|x| layer(x[0].dtype()).forward(&x[0]),
            &|x| {
                let layer = layer(x[0].dtype());
                x[0].broadcast_matmul(&layer.weight.t()?)?
                    .broadcast_add(layer.bias.as_ref().unwrap())
            },
            &[noise(3, &[2, 4, 3])],
        );
    }

    #[test]
    fn a_view_is_taken_as_it_reads() {
        let layer = layer(DType::F64);
        let x = noise(4, &[3, 6]);
        let view = x.t().unwrap();
        let copy = view.contiguous().unwrap();
        let a = layer.forward(&view).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(a, layer.forward(&copy).unwrap().to_vec2::<f64>().unwrap());
    }

    #[test]
    fn a_wrong_width_is_an_error() {
        let error = layer(DType::F64)
            .forward(&noise(3, &[2, 4]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("[2, 4]"), "{error}");
    }

    #[test]
    fn another_element_type_is_an_error() {
        let x = noise(3, &[2, 3]).to_dtype(DType::F32).unwrap();
        assert!(layer(DType::F64).forward(&x).is_err());
    }
}
