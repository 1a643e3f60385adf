//! `F = U + MLP(U)`, `U = LayerNorm(x + Q)`: the query-level feature in one operation.
//!
//! Composed, this makes a dozen passes over `[B C, 4 D]`; here each group of images stays on one
//! thread and in its cache.

mod weight_gradients;

use super::activation::Activation;
use super::layer_norm::{normalise, normalise_backward};
use super::matrix::{Into, Matrix, multiply, product, transposed};
use super::{Real, add_scaled, dispatch, elements, multiversioned, with_elements};
use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::any::Any;
use std::sync::OnceLock;
pub(super) use weight_gradients::weight_gradients;

/// Groups that images are split into, whatever the number of threads: sums over groups are taken in
/// their order, so the result does not depend on the threads.
pub(super) const GROUPS: usize = 8;

/// The layers' weights.
#[derive(Debug, Clone, Copy)]
pub struct ResidualMlp<'a> {
    /// Q, added to every image's rows, `[C, D]`.
    pub queries: &'a Tensor,
    /// LayerNorm weight, `[D]`.
    pub norm_weight: &'a Tensor,
    /// LayerNorm bias, `[D]`.
    pub norm_bias: &'a Tensor,
    /// First layer, `[hidden, D]` and `[hidden]`; GELU (erf) follows.
    pub mlp_in: (&'a Tensor, &'a Tensor),
    /// Second layer, `[D, hidden]` and `[D]`.
    pub mlp_out: (&'a Tensor, &'a Tensor),
    /// LayerNorm's epsilon.
    pub epsilon: f64,
}

impl ResidualMlp<'_> {
    /// F of `x` (`[B, C, D]`); the gradient goes to `x` and to every weight.
    ///
    /// # Errors
    /// If the shapes do not fit, or the element types differ.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, c, d) = x.dims3()?;
        let hidden = self.mlp_in.1.dims1()?;
        let parts: [(&Tensor, &[usize]); 7] = [
            (self.queries, &[c, d]),
            (self.norm_weight, &[d]),
            (self.norm_bias, &[d]),
            (self.mlp_in.0, &[hidden, d]),
            (self.mlp_in.1, &[hidden]),
            (self.mlp_out.0, &[d, hidden]),
            (self.mlp_out.1, &[d]),
        ];
        let mut flat = Vec::with_capacity(parts.len());
        for (tensor, shape) in parts {
            if tensor.dims() != shape || tensor.dtype() != x.dtype() {
                bail!(
                    "a weight of shape {:?} where {shape:?} is needed",
                    tensor.dims()
                );
            }
            flat.push(tensor.flatten_all()?);
        }
        let operation = Operation {
            hidden,
            epsilon: self.epsilon,
            saved: OnceLock::new(),
        };
        x.contiguous()?
            .apply_op2(&Tensor::cat(&flat, 0)?, operation)
    }
}

struct Operation {
    hidden: usize,
    epsilon: f64,
    /// Of every group, what the backward pass needs: `Vec<Saved<T>>`.
    saved: OnceLock<Box<dyn Any + Send + Sync>>,
}

pub(super) struct Saved<T> {
    /// `(x + Q - mean) / deviation`.
    normal: Vec<T>,
    /// 1 / deviation of every row.
    inverse: Vec<T>,
    u: Vec<T>,
    activated: Vec<T>,
    slope: Vec<T>,
}

/// The weights inside the flat operand.
pub(super) struct Parts<'a, T> {
    pub(super) queries: &'a [T],
    pub(super) norm_weight: &'a [T],
    pub(super) norm_bias: &'a [T],
    pub(super) in_weight: &'a [T],
    pub(super) in_bias: &'a [T],
    pub(super) out_weight: &'a [T],
    pub(super) out_bias: &'a [T],
}

impl<T: Real> Parts<'_, T> {
    /// The two layers' weights transposed.
    pub(super) fn columns(&self, dims: Dims) -> (Vec<T>, Vec<T>) {
        let (d, h) = (dims.width, dims.hidden);
        (
            transposed(self.in_weight, d),
            transposed(self.out_weight, h),
        )
    }
}

#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub(super) categories: usize,
    pub(super) width: usize,
    pub(super) hidden: usize,
}

impl Dims {
    fn sizes(self) -> [usize; 7] {
        let (c, d, h) = (self.categories, self.width, self.hidden);
        [c * d, d, d, h * d, h, d * h, d]
    }

    /// Elements of a group of images.
    fn group(self, total: usize) -> usize {
        let image = self.categories * self.width;
        (total / image).div_ceil(GROUPS).max(1) * image
    }

    fn split<T>(self, mut flat: &[T]) -> Parts<'_, T> {
        let mut next = |size: usize| {
            let (part, rest) = flat.split_at(size);
            flat = rest;
            part
        };
        let [a, b, c, d, e, f, g] = self.sizes();
        Parts {
            queries: next(a),
            norm_weight: next(b),
            norm_bias: next(c),
            in_weight: next(d),
            in_bias: next(e),
            out_weight: next(f),
            out_bias: next(g),
        }
    }
}

/// Adds the parts of every group, in the order of the groups, to the totals.
pub(super) fn add_up<T: Real>(totals: Vec<&mut [T]>, groups: &[Vec<&[T]>]) {
    const BLOCK: usize = 16_384;
    let blocks: Vec<_> = totals
        .into_iter()
        .enumerate()
        .flat_map(|(part, total)| {
            let pieces = total.chunks_mut(BLOCK).enumerate();
            pieces.map(move |(at, piece)| (part, at * BLOCK, piece))
        })
        .collect();
    blocks.into_par_iter().for_each(|(part, start, total)| {
        multiversioned(|| {
            for group in groups {
                add_scaled(total, T::one(), &group[part][start..start + total.len()]);
            }
        });
    });
}

impl Operation {
    fn dims(&self, x: &[usize]) -> Dims {
        Dims {
            categories: x[1],
            width: x[2],
            hidden: self.hidden,
        }
    }

    fn compute<T: Real>(&self, x: &[T], flat: &[T], dims: Dims) -> Vec<T> {
        let parts = dims.split(flat);
        let mut y = vec![T::zero(); x.len()];
        let group = dims.group(x.len());
        let columns = parts.columns(dims);
        let columns = (&columns.0[..], &columns.1[..]);
        let saved: Vec<Saved<T>> = y
            .par_chunks_mut(group)
            .zip(x.par_chunks(group))
            .map(|(y, x)| forward_group(y, x, &parts, columns, dims, self.epsilon))
            .collect();
        // Set once: every call of `forward` makes an operation of its own.
        let _ = self.saved.set(Box::new(saved));
        y
    }

    fn compute_backward<T: Real>(
        &self,
        grad: &[T],
        flat: &[T],
        dims: Dims,
    ) -> Result<(Vec<T>, Vec<T>)> {
        let saved = self
            .saved
            .get()
            .and_then(|saved| saved.downcast_ref::<Vec<Saved<T>>>());
        let Some(saved) = saved else {
            bail!("residual-mlp: backward without forward")
        };
        let parts = dims.split(flat);
        let mut dx = vec![T::zero(); grad.len()];
        let group = dims.group(grad.len());
        let sums: Vec<Sums<T>> = dx
            .par_chunks_mut(group)
            .zip(grad.par_chunks(group))
            .zip(saved)
            .map(|((dx, grad), saved)| backward_group(dx, grad, saved, &parts, dims))
            .collect();
        let groups: Vec<_> = sums
            .iter()
            .zip(saved)
            .zip(grad.chunks(group))
            .map(|((sums, saved), grad)| sums.layers(saved, grad))
            .collect();
        let mut total = vec![T::zero(); flat.len()];
        let mut rest = total.as_mut_slice();
        let totals = dims.sizes().map(|size| {
            let (here, after) = std::mem::take(&mut rest).split_at_mut(size);
            rest = after;
            here
        });
        let (in_weight, out_weight) = weight_gradients(&groups, dims);
        totals[3].copy_from_slice(&in_weight);
        totals[5].copy_from_slice(&out_weight);
        let [queries, norm_weight, norm_bias, _, in_bias, _, out_bias] = totals;
        let small = vec![queries, norm_weight, norm_bias, in_bias, out_bias];
        let sums: Vec<_> = sums.iter().map(|sums| sums.parts().to_vec()).collect();
        add_up(small, &sums);
        Ok((dx, total))
    }

    fn gradients<T: Real>(
        &self,
        x: &Tensor,
        flat: &Tensor,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let dims = self.dims(x.dims());
        let (dx, dflat) = with_elements::<T, _>(grad, |grad| {
            with_elements::<T, _>(flat, |flat| self.compute_backward(grad, flat, dims))
        })?;
        Ok((
            Tensor::from_vec(dx, x.shape(), &Device::Cpu)?,
            Tensor::from_vec(dflat, flat.shape(), &Device::Cpu)?,
        ))
    }
}

/// F of a group of images; the layers' weights come transposed ([`Parts::columns`]).
pub(super) fn forward_group<T: Real>(
    y: &mut [T],
    x: &[T],
    parts: &Parts<T>,
    (in_columns, out_columns): (&[T], &[T]),
    dims: Dims,
    epsilon: f64,
) -> Saved<T> {
    let (d, h) = (dims.width, dims.hidden);
    let rows = x.len() / d;
    let mut normal = x.to_vec();
    let mut u = vec![T::zero(); x.len()];
    let mut inverse = vec![T::zero(); rows];
    multiversioned(|| {
        for (at, (normal, u)) in normal
            .chunks_exact_mut(d)
            .zip(u.chunks_exact_mut(d))
            .enumerate()
        {
            let c = at % dims.categories;
            add_scaled(normal, T::one(), &parts.queries[c * d..(c + 1) * d]);
            inverse[at] = normalise(normal, T::from_f64(epsilon));
            let affine = parts.norm_weight.iter().zip(parts.norm_bias);
            for ((u, &normal), (&weight, &bias)) in u.iter_mut().zip(normal.iter()).zip(affine) {
                *u = normal * weight + bias;
            }
        }
        for (y, u) in y.chunks_exact_mut(d).zip(u.chunks_exact(d)) {
            for ((y, &u), &bias) in y.iter_mut().zip(u).zip(parts.out_bias) {
                *y = u + bias;
            }
        }
    });
    let mut activated = product(Matrix::new(&u, rows, d), Matrix::new(in_columns, d, h));
    let slope = Activation::Gelu.apply_rows(&mut activated, parts.in_bias);
    let weight = Matrix::new(out_columns, h, d);
    multiply(y, Matrix::new(&activated, rows, h), weight, Into::Add);
    Saved {
        normal,
        inverse,
        u,
        activated,
        slope,
    }
}

/// What a group of images adds to the gradient of the small weights, and what that of the layers'
/// weights is made of.
pub(super) struct Sums<T> {
    /// The gradient of the first layer's output, `[rows, hidden]`.
    d_hidden: Vec<T>,
    pub(super) queries: Vec<T>,
    pub(super) norm_weight: Vec<T>,
    pub(super) norm_bias: Vec<T>,
    pub(super) in_bias: Vec<T>,
    pub(super) out_bias: Vec<T>,
}

/// Inputs and output gradients of a group's two layers.
#[derive(Clone, Copy)]
pub(super) struct Layers<'a, T> {
    u: &'a [T],
    d_hidden: &'a [T],
    activated: &'a [T],
    grad: &'a [T],
}

impl<T> Sums<T> {
    /// In the order of the flat operand, without the layers' weights.
    pub(super) fn parts(&self) -> [&[T]; 5] {
        [
            &self.queries,
            &self.norm_weight,
            &self.norm_bias,
            &self.in_bias,
            &self.out_bias,
        ]
    }

    /// `grad` is what [`backward_group`] was given.
    pub(super) fn layers<'a>(&'a self, saved: &'a Saved<T>, grad: &'a [T]) -> Layers<'a, T> {
        Layers {
            u: &saved.u,
            d_hidden: &self.d_hidden,
            activated: &saved.activated,
            grad,
        }
    }
}

/// Writes the gradient of the group's rows and returns its part of the weights' gradient; that of
/// the two large weights comes after, from all groups ([`weight_gradients()`]).
pub(super) fn backward_group<T: Real>(
    dx: &mut [T],
    grad: &[T],
    saved: &Saved<T>,
    parts: &Parts<T>,
    dims: Dims,
) -> Sums<T> {
    let (d, h) = (dims.width, dims.hidden);
    let rows = grad.len() / d;
    let grads = Matrix::new(grad, rows, d);
    let mut sums = Sums {
        d_hidden: product(grads, Matrix::new(parts.out_weight, d, h)),
        queries: vec![T::zero(); dims.categories * d],
        norm_weight: vec![T::zero(); d],
        norm_bias: vec![T::zero(); d],
        in_bias: vec![T::zero(); h],
        out_bias: vec![T::zero(); d],
    };
    multiversioned(|| {
        for (d_hidden, slope) in sums
            .d_hidden
            .chunks_exact_mut(h)
            .zip(saved.slope.chunks_exact(h))
        {
            for (dh, &slope) in d_hidden.iter_mut().zip(slope) {
                *dh *= slope;
            }
            add_scaled(&mut sums.in_bias, T::one(), d_hidden);
        }
        for row in grad.chunks_exact(d) {
            add_scaled(&mut sums.out_bias, T::one(), row);
        }
    });
    let d_hiddens = Matrix::new(&sums.d_hidden, rows, h);
    // du, then in place dx.
    dx.copy_from_slice(grad);
    multiply(dx, d_hiddens, Matrix::new(parts.in_weight, h, d), Into::Add);
    multiversioned(|| {
        for (at, dx) in dx.chunks_exact_mut(d).enumerate() {
            let normal = &saved.normal[at * d..(at + 1) * d];
            add_scaled(&mut sums.norm_bias, T::one(), dx);
            let weights = sums.norm_weight.iter_mut().zip(parts.norm_weight);
            for ((dx, &normal), (d_weight, &weight)) in dx.iter_mut().zip(normal).zip(weights) {
                *d_weight += *dx * normal;
                *dx *= weight;
            }
            normalise_backward(dx, normal, saved.inverse[at]);
            let category = at % dims.categories;
            let d_query = &mut sums.queries[category * d..(category + 1) * d];
            add_scaled(d_query, T::one(), dx);
        }
    });
    sums
}

impl CustomOp2 for Operation {
    fn name(&self) -> &'static str {
        "residual-mlp"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        flat: &CpuStorage,
        flat_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dims = self.dims(layout.dims());
        let y = dispatch!(x, self.name(), T => <T as candle_core::WithDType>::to_cpu_storage_owned(
            self.compute::<T>(elements(x, layout)?, elements(flat, flat_layout)?, dims)
        ));
        Ok((y, layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        flat: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, dflat) = match x.dtype() {
            DType::F32 => self.gradients::<f32>(x, flat, &grad)?,
            _ => self.gradients::<f64>(x, flat, &grad)?,
        };
        Ok((Some(dx), Some(dflat)))
    }
}

#[cfg(test)]
mod tests;
