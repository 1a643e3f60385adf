//! L2 normalisation, and the one-to-one product of rows, with their gradients.

use super::{
    Real, add_scaled, dispatch, dot, elements, multiversioned, rows_per_block, with_elements,
};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

/// Norms below this count as this, so that a row of zeros stays zero.
const SMALLEST_NORM: f64 = 1e-12;

/// `x / |x|` over the last dimension.
///
/// ```
/// use candle_core::{Device, Var};
/// use tagstream_kernels::l2_normalize;
///
/// let x = Var::new(&[[3.0f64, 4.0]], &Device::Cpu)?;
/// let y = l2_normalize(&x)?;
/// let found = y.to_vec2::<f64>()?;
/// assert!((found[0][0] - 0.6).abs() < 1e-12 && (found[0][1] - 0.8).abs() < 1e-12);
///
/// // What changes the length of x changes nothing: the gradient is perpendicular to y.
/// let gradients = y.narrow(1, 0, 1)?.sum_all()?.backward()?;
/// let dx = gradients.get(&x).expect("x is a variable").to_vec2::<f64>()?;
/// assert!((dx[0][0] * 0.6 + dx[0][1] * 0.8).abs() < 1e-12);
/// assert!((dx[0][0] - 0.128).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the element type is neither f32 nor f64.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(L2Normalize)
}

/// `s[b,c] = rows[b,c] . weight[c]`: every category's own row with its own weight, `[B, C]`.
///
/// `rows` is `[B, C, D]`, `weight` `[C, D]`; both receive gradients.
///
/// # Errors
/// If the shapes do not fit, or the element types differ.
pub fn row_products(rows: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((_, c, d), (categories, width)) = (rows.dims3()?, weight.dims2()?);
    if (c, d) != (categories, width) || rows.dtype() != weight.dtype() {
        bail!("row products of {:?} and {:?}", rows.dims(), weight.dims());
    }
    rows.contiguous()?
        .apply_op2(&weight.contiguous()?, RowProducts)
}

#[inline(always)]
fn norm<T: Real>(x: &[T]) -> T {
    let norm = Real::sqrt(dot(x, x));
    let smallest = T::from_f64(SMALLEST_NORM);
    if norm > smallest { norm } else { smallest }
}

/// [`l2_normalize()`] of rows in place; where there is a mask, every row of image b is multiplied
/// with `mask[b]` after.
///
/// `x` is `[B, N, D]`, `mask` `[B, D]`. A method that reads no locations passes no rows.
///
/// # Panics
/// If the lengths do not fit.
pub fn l2_normalize_rows(x: &mut [f32], rows_per_image: usize, width: usize, mask: Option<&[f32]>) {
    if x.is_empty() {
        return;
    }
    let image = (rows_per_image * width).max(1);
    if let Some(mask) = mask {
        assert_eq!(mask.len(), x.len() / image * width, "one mask an image");
    }
    x.par_chunks_mut(image).enumerate().for_each(|(b, image)| {
        let mask = mask.map(|mask| &mask[b * width..(b + 1) * width]);
        multiversioned(|| {
            for row in image.chunks_exact_mut(width) {
                let inverse = 1.0 / norm(row);
                row.iter_mut().for_each(|x| *x *= inverse);
                if let Some(mask) = mask {
                    row.iter_mut().zip(mask).for_each(|(x, mask)| *x *= mask);
                }
            }
        });
    });
}

/// Replaces rows by rows of norm 1, multiplies each with its category's direction, and returns the
/// inverse norms.
pub(super) fn normalize_and_match<T: Real>(
    rows: &mut [T],
    directions: &[T],
    logits: &mut [T],
    d: usize,
) -> Vec<T> {
    let mut inverses = vec![T::zero(); logits.len()];
    let categories = directions.len() / d;
    multiversioned(|| {
        let outputs = logits.iter_mut().zip(&mut inverses);
        for (at, (row, (logit, inverse))) in rows.chunks_exact_mut(d).zip(outputs).enumerate() {
            *inverse = T::one() / norm(row);
            row.iter_mut().for_each(|x| *x *= *inverse);
            let category = at % categories;
            *logit = dot(row, &directions[category * d..(category + 1) * d]);
        }
    });
    inverses
}

/// Adds the gradient of the rows before they were normalised to `d_rows`, and that of the
/// directions to `d_directions`: with z the direction, y the row of norm 1,
/// `dx = g (z - y (y . z)) / |x|`, `dz += g y`.
pub(super) fn normalize_and_match_backward<T: Real>(
    (d_rows, d_directions): (&mut [T], &mut [T]),
    grad: &[T],
    rows: &[T],
    inverses: &[T],
    directions: &[T],
    d: usize,
) {
    let categories = directions.len() / d;
    multiversioned(|| {
        let all = d_rows.chunks_exact_mut(d).zip(rows.chunks_exact(d));
        for (at, ((d_row, row), (&grad, &inverse))) in
            all.zip(grad.iter().zip(inverses)).enumerate()
        {
            let own = at % categories * d..(at % categories + 1) * d;
            let direction = &directions[own.clone()];
            let (scale, along) = (grad * inverse, dot(row, direction));
            for ((d_row, &row), &direction) in d_row.iter_mut().zip(row).zip(direction) {
                *d_row += scale * (direction - row * along);
            }
            add_scaled(&mut d_directions[own], grad, row);
        }
    });
}

struct L2Normalize;

impl L2Normalize {
    fn compute<T: Real>(x: &[T], width: usize) -> Vec<T> {
        let mut y = vec![T::zero(); x.len()];
        let block = width * rows_per_block(width);
        y.par_chunks_mut(block)
            .zip(x.par_chunks(block))
            .for_each(|(y, x)| {
                multiversioned(|| {
                    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        add_scaled(y, T::one() / norm(x), x);
                    }
                });
            });
        y
    }

    /// `dx = (g - y (g . y)) / |x|`.
    fn compute_backward<T: Real>(x: &[T], grad: &[T], width: usize) -> Vec<T> {
        let mut dx = vec![T::zero(); x.len()];
        let block = width * rows_per_block(width);
        dx.par_chunks_mut(block)
            .zip(x.par_chunks(block))
            .zip(grad.par_chunks(block))
            .for_each(|((dx, x), grad)| {
                let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width));
                multiversioned(|| {
                    for ((dx, x), grad) in rows.zip(grad.chunks_exact(width)) {
                        let inverse = T::one() / norm(x);
                        let along = dot(grad, x) * inverse * inverse * inverse;
                        for ((dx, &x), &grad) in dx.iter_mut().zip(x).zip(grad) {
                            *dx = grad * inverse - x * along;
                        }
                    }
                });
            });
        dx
    }
}

impl CustomOp1 for L2Normalize {
    fn name(&self) -> &'static str {
        "l2-normalize"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        let y = dispatch!(x, self.name(), T => {
            T::to_cpu_storage_owned(Self::compute::<T>(elements(x, layout)?, width))
        });
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.detach().apply_op2_no_bwd(
            &grad.contiguous()?,
            &L2NormalizeBackward,
        )?))
    }
}

struct L2NormalizeBackward;

impl CustomOp2 for L2NormalizeBackward {
    fn name(&self) -> &'static str {
        "l2-normalize-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        let dx = dispatch!(x, self.name(), T => {
            let (x, grad) = (elements(x, layout)?, elements(grad, grad_layout)?);
            T::to_cpu_storage_owned(L2Normalize::compute_backward::<T>(x, grad, width))
        });
        Ok((dx, layout.shape().clone()))
    }
}

struct RowProducts;

impl RowProducts {
    fn compute<T: Real>(rows: &[T], weight: &[T], width: usize) -> Vec<T> {
        let image = weight.len().max(1);
        let mut products = vec![T::zero(); rows.len() / width];
        products
            .par_chunks_mut((image / width).max(1))
            .zip(rows.par_chunks(image))
            .for_each(|(products, rows)| {
                let pairs = rows.chunks_exact(width).zip(weight.chunks_exact(width));
                multiversioned(|| {
                    for (product, (row, weight)) in products.iter_mut().zip(pairs) {
                        *product = dot(row, weight);
                    }
                });
            });
        products
    }

    fn compute_backward<T: Real>(
        rows: &[T],
        weight: &[T],
        grad: &[T],
        width: usize,
    ) -> (Vec<T>, Vec<T>) {
        let (image, categories) = (weight.len(), weight.len() / width);
        let mut d_rows = vec![T::zero(); rows.len()];
        d_rows
            .par_chunks_mut(image.max(1))
            .zip(grad.par_chunks(categories.max(1)))
            .for_each(|(d_rows, grad)| {
                let all = d_rows
                    .chunks_exact_mut(width)
                    .zip(weight.chunks_exact(width));
                multiversioned(|| {
                    for ((d_row, weight), &grad) in all.zip(grad) {
                        add_scaled(d_row, grad, weight);
                    }
                });
            });
        // A category's gradient is summed over images in their order, whatever the threads.
        let mut d_weight = vec![T::zero(); image];
        d_weight
            .par_chunks_mut(width)
            .enumerate()
            .for_each(|(c, d_weight)| {
                let images = rows.chunks_exact(image).zip(grad.chunks_exact(categories));
                multiversioned(|| {
                    for (rows, grad) in images {
                        add_scaled(d_weight, grad[c], &rows[c * width..(c + 1) * width]);
                    }
                });
            });
        (d_rows, d_weight)
    }

    fn gradients<T: Real>(
        rows: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (_, width) = weight.dims2()?;
        let (d_rows, d_weight) = with_elements::<T, _>(rows, |rows| {
            with_elements::<T, _>(weight, |weight| {
                with_elements::<T, _>(grad, |grad| {
                    Ok(Self::compute_backward(rows, weight, grad, width))
                })
            })
        })?;
        Ok((
            Tensor::from_vec(d_rows, rows.shape(), &Device::Cpu)?,
            Tensor::from_vec(d_weight, weight.shape(), &Device::Cpu)?,
        ))
    }
}

impl CustomOp2 for RowProducts {
    fn name(&self) -> &'static str {
        "row-products"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (images, categories, width) = layout.shape().dims3()?;
        let s = dispatch!(rows, self.name(), T => T::to_cpu_storage_owned(
            Self::compute::<T>(elements(rows, layout)?, elements(weight, weight_layout)?, width)
        ));
        Ok((s, (images, categories).into()))
    }

    fn bwd(
        &self,
        rows: &Tensor,
        weight: &Tensor,
        _s: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (d_rows, d_weight) = match rows.dtype() {
            DType::F32 => Self::gradients::<f32>(rows, weight, &grad)?,
            _ => Self::gradients::<f64>(rows, weight, &grad)?,
        };
        Ok((Some(d_rows), Some(d_weight)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_equal, check_gradients, noise};

    #[test]
    fn gradients_agree_with_differences() {
        check_gradients(&|x| l2_normalize(&x[0]), &[noise(3, &[2, 3, 4])]);
        let inputs = [noise(4, &[3, 2, 5]), noise(5, &[2, 5])];
        check_gradients(&|x| row_products(&x[0], &x[1]), &inputs);
    }

    #[test]
    fn images_without_locations_may_have_a_mask() {
        let mut none: [f32; 0] = [];
        l2_normalize_rows(&mut none, 0, 4, Some(&[1.0; 8]));
        let mut rows = [3.0, 4.0, 0.0, 2.0];
        l2_normalize_rows(&mut rows, 1, 2, Some(&[1.0, 0.5, 2.0, 0.0]));
        assert_eq!(rows, [0.6, 0.4, 0.0, 0.0]);
    }

    #[test]
    fn they_equal_the_composed_operations() {
        check_equal(
            &|x| row_products(&l2_normalize(&x[0])?, &x[1]),
            &|x| {
                let norm = x[0].sqr()?.sum_keepdim(2)?.sqrt()?;
                x[0].broadcast_div(&norm)?.broadcast_mul(&x[1])?.sum(2)
            },
            &[noise(4, &[3, 2, 9]), noise(5, &[2, 9])],
        );
    }

    #[test]
    fn in_place_it_is_the_same_with_a_mask_after() {
        let x = noise(6, &[2, 3, 5]).to_dtype(DType::F32).unwrap();
        let mask = noise(7, &[2, 5]).to_dtype(DType::F32).unwrap();
        let expected = l2_normalize(&x)
            .unwrap()
            .broadcast_mul(&mask.unsqueeze(1).unwrap())
            .unwrap();
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut found = values(&x);
        l2_normalize_rows(&mut found, 3, 5, Some(&values(&mask)));
        assert_eq!(found, values(&expected));
    }

    #[test]
    fn zeros_stay_zeros() {
        let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let y = l2_normalize(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(y, [[0.0; 3]; 2]);
    }
}
