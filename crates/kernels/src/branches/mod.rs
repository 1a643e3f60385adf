//! The region- and the query-level branch in one operation: pooled positions, both matches, and
//! everything between.
//!
//! With V^ the positions of an image, K the keys, Z and Z' the directions of the two branches:
//!
//! ```text
//! P = softmax(K V^T) V^        R^ = P / |P|        s_r[c] = R^[c] . Z[c]
//! F = U + MLP(U), U = LayerNorm(Q + P M)           s_q[c] = F[c] / |F[c]| . Z'[c]
//! ```
//!
//! A group of images stays on one thread and in its cache from the positions to the logits and
//! back.

mod region_rows;

use super::l2_normalize::{normalize_and_match, normalize_and_match_backward};
use super::matrix::{Matrix, product, transposed};
use super::residual_mlp::{GROUPS, Sums, add_up, weight_gradients};
use super::{Real, ResidualMlp, dispatch, elements, pool, residual_mlp, with_elements};
use candle_core::{
    CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;
use region_rows::{Region, RegionRows};
use std::any::Any;
use std::sync::{Arc, OnceLock};

/// The two branches' weights.
#[derive(Debug, Clone, Copy)]
pub struct Branches<'a> {
    /// K, what V^ is multiplied with, `[C, D]`.
    pub keys: &'a Tensor,
    /// M, value map times output map, `[D, D]`, applied from the right.
    pub values: &'a Tensor,
    /// Z, `[C, D]`.
    pub region_direction: &'a Tensor,
    /// Z', `[C, D]`.
    pub query_direction: &'a Tensor,
    /// Queries, LayerNorm and MLP.
    pub mlp: ResidualMlp<'a>,
}

/// What the branches give.
#[derive(Debug, Clone)]
pub struct BranchOutputs {
    /// s_r, `[B, C]`.
    pub region_logits: Tensor,
    /// s_q, `[B, C]`.
    pub query_logits: Tensor,
    /// R^, `[B, C, D]`, without a gradient; that flows through [`region_rows`](Self::region_rows).
    pub region: Tensor,
    rows: RegionRows,
}

impl BranchOutputs {
    /// Rows of R^ (image times categories plus category), `[rows, D]`, with their gradient.
    ///
    /// # Errors
    /// If a row does not exist.
    pub fn region_rows(&self, rows: &[usize]) -> Result<Tensor> {
        self.rows.select(rows)
    }
}

impl Branches<'_> {
    /// Both branches on `positions` (V^, `[B, N, D]`, frozen). The gradient goes to every weight.
    ///
    /// # Errors
    /// If the shapes do not fit, or the element types differ.
    pub fn forward(&self, positions: &Tensor) -> Result<BranchOutputs> {
        let ((c, d), (b, n, width)) = (self.keys.dims2()?, positions.dims3()?);
        let hidden = self.mlp.mlp_in.1.dims1()?;
        let (in_weight, out_weight) = (self.mlp.mlp_in.0, self.mlp.mlp_out.0);
        let small: [(&Tensor, &[usize]); 9] = [
            (self.keys, &[c, d]),
            (self.values, &[d, d]),
            (self.region_direction, &[c, d]),
            (self.query_direction, &[c, d]),
            (self.mlp.queries, &[c, d]),
            (self.mlp.norm_weight, &[d]),
            (self.mlp.norm_bias, &[d]),
            (self.mlp.mlp_in.1, &[hidden]),
            (self.mlp.mlp_out.1, &[d]),
        ];
        let large = [(in_weight, [hidden, d]), (out_weight, [d, hidden])];
        let large = large
            .each_ref()
            .map(|(tensor, shape)| (*tensor, &shape[..]));
        for (tensor, shape) in small.iter().chain(&large) {
            if tensor.dims() != *shape || tensor.dtype() != positions.dtype() {
                bail!(
                    "branches: {:?} where {shape:?} is needed, or another type than the positions'",
                    tensor.dims()
                );
            }
        }
        if d != width || n == 0 {
            bail!(
                "branches: {d} dimensions on positions {:?}",
                positions.dims()
            );
        }
        let small: Vec<Tensor> = small
            .iter()
            .map(|(tensor, _)| tensor.flatten_all())
            .collect::<Result<_>>()?;
        let region = Arc::new(Region::default());
        let operation = Operation {
            positions: positions.detach().contiguous()?,
            dims: Dims {
                pool: pool::Dims::of(&[c, d], positions.dims()),
                mlp: residual_mlp::Dims {
                    categories: c,
                    width: d,
                    hidden,
                },
            },
            epsilon: self.mlp.epsilon,
            region: region.clone(),
            saved: OnceLock::new(),
        };
        let logits = Tensor::cat(&small, 0)?.apply_op3(
            &in_weight.contiguous()?,
            &out_weight.contiguous()?,
            operation,
        )?;
        Ok(BranchOutputs {
            region_logits: logits.narrow(0, 0, b * c)?.reshape((b, c))?,
            query_logits: logits.narrow(0, b * c, b * c)?.reshape((b, c))?,
            region: region.tensor()?.clone(),
            rows: RegionRows::new(logits, region),
        })
    }
}

#[derive(Clone, Copy)]
struct Dims {
    pool: pool::Dims,
    mlp: residual_mlp::Dims,
}

impl Dims {
    /// Sizes of the small operand's parts.
    fn sizes(&self) -> [usize; 9] {
        let (c, d) = (self.pool.keys, self.pool.width);
        [c * d, d * d, c * d, c * d, c * d, d, d, self.mlp.hidden, d]
    }

    /// Images of a group.
    fn group(&self) -> usize {
        self.pool.images.div_ceil(GROUPS).max(1)
    }
}

struct Operation {
    positions: Tensor,
    dims: Dims,
    epsilon: f64,
    /// R^, and the gradient that reaches it beside that of the logits.
    region: Arc<Region>,
    /// Of every group, what the backward pass needs: `Vec<Saved<T>>`.
    saved: OnceLock<Box<dyn Any + Send + Sync>>,
}

struct Saved<T> {
    /// The softmax over positions, `[images, N, C]`.
    weights: Vec<T>,
    /// P, `[rows, D]`.
    pooled: Vec<T>,
    /// 1 / |P|.
    region_inverse: Vec<T>,
    mlp: residual_mlp::Saved<T>,
    /// F / |F|, `[rows, D]`.
    query: Vec<T>,
    /// 1 / |F|.
    query_inverse: Vec<T>,
}

struct Parts<'a, T> {
    keys: &'a [T],
    values: &'a [T],
    region_direction: &'a [T],
    query_direction: &'a [T],
    mlp: residual_mlp::Parts<'a, T>,
}

impl<'a, T> Parts<'a, T> {
    fn new(small: &'a [T], in_weight: &'a [T], out_weight: &'a [T], dims: &Dims) -> Self {
        let mut rest = small;
        let mut next = |size: usize| {
            let (part, after) = rest.split_at(size);
            rest = after;
            part
        };
        let sizes = dims.sizes();
        Self {
            keys: next(sizes[0]),
            values: next(sizes[1]),
            region_direction: next(sizes[2]),
            query_direction: next(sizes[3]),
            mlp: residual_mlp::Parts {
                queries: next(sizes[4]),
                norm_weight: next(sizes[5]),
                norm_bias: next(sizes[6]),
                in_weight,
                in_bias: next(sizes[7]),
                out_weight,
                out_bias: next(sizes[8]),
            },
        }
    }
}

/// One group's forward pass; writes R^ and the logits of its rows.
fn forward_group<T: Real>(
    (region, s_r, s_q): (&mut [T], &mut [T], &mut [T]),
    positions: &[T],
    parts: &Parts<T>,
    (key_columns, columns): (&[T], (&[T], &[T])),
    dims: Dims,
    epsilon: f64,
) -> Saved<T> {
    let d = dims.pool.width;
    let rows = s_r.len();
    let weights = pool::weights(positions, key_columns, dims.pool);
    pool::pool(region, &weights, positions, dims.pool);
    let pooled = region.to_vec();
    let region_inverse = normalize_and_match(region, parts.region_direction, s_r, d);
    let attended = product(
        Matrix::new(&pooled, rows, d),
        Matrix::new(parts.values, d, d),
    );
    let mut query = vec![T::zero(); rows * d];
    let mlp = residual_mlp::forward_group(
        &mut query, &attended, &parts.mlp, columns, dims.mlp, epsilon,
    );
    let query_inverse = normalize_and_match(&mut query, parts.query_direction, s_q, d);
    Saved {
        weights,
        pooled,
        region_inverse,
        mlp,
        query,
        query_inverse,
    }
}

/// What a group adds to the gradient of the weights.
struct GroupSums<T> {
    keys: Vec<T>,
    values: Vec<T>,
    region_direction: Vec<T>,
    query_direction: Vec<T>,
    mlp: Sums<T>,
    /// The gradient of F, `[rows, D]`.
    d_query: Vec<T>,
}

impl<T> GroupSums<T> {
    /// In the order of the small operand.
    fn parts(&self) -> Vec<&[T]> {
        let own = [
            &self.keys[..],
            &self.values,
            &self.region_direction,
            &self.query_direction,
        ];
        own.into_iter().chain(self.mlp.parts()).collect()
    }
}

/// One group's backward pass, from the gradients of its logits and of some rows of R^ (row in the
/// group, gradient).
fn backward_group<T: Real>(
    (ds_r, ds_q): (&[T], &[T]),
    d_region: &[(usize, &[T])],
    positions: &[T],
    region: &[T],
    saved: &Saved<T>,
    parts: &Parts<T>,
    dims: Dims,
) -> GroupSums<T> {
    let (c, d) = (dims.pool.keys, dims.pool.width);
    let rows = ds_r.len();
    let mut query_direction = vec![T::zero(); c * d];
    let mut d_query = vec![T::zero(); rows * d];
    normalize_and_match_backward(
        (&mut d_query, &mut query_direction),
        ds_q,
        &saved.query,
        &saved.query_inverse,
        parts.query_direction,
        d,
    );
    let mut d_attended = vec![T::zero(); rows * d];
    let mlp =
        residual_mlp::backward_group(&mut d_attended, &d_query, &saved.mlp, &parts.mlp, dims.mlp);
    let d_attended = Matrix::new(&d_attended, rows, d);
    let values = product(Matrix::new(&saved.pooled, rows, d).t(), d_attended);
    let mut d_pooled = product(d_attended, Matrix::new(parts.values, d, d).t());
    let mut region_direction = vec![T::zero(); c * d];
    normalize_and_match_backward(
        (&mut d_pooled, &mut region_direction),
        ds_r,
        region,
        &saved.region_inverse,
        parts.region_direction,
        d,
    );
    region_rows::backward(&mut d_pooled, d_region, region, &saved.region_inverse, d);
    let keys = pool::pool_backward(&saved.weights, positions, &d_pooled, dims.pool);
    GroupSums {
        keys,
        values,
        region_direction,
        query_direction,
        mlp,
        d_query,
    }
}

impl Operation {
    fn compute<T: Real>(&self, parts: &Parts<T>) -> Result<Vec<T>> {
        let dims = self.dims;
        let (images, c, d) = (dims.pool.images, dims.pool.keys, dims.pool.width);
        let group = dims.group();
        let mut region = vec![T::zero(); images * c * d];
        let mut logits = vec![T::zero(); 2 * images * c];
        let (s_r, s_q) = logits.split_at_mut(images * c);
        let keys = transposed(parts.keys, d);
        let columns = parts.mlp.columns(dims.mlp);
        let columns = (&keys[..], (&columns.0[..], &columns.1[..]));
        let saved: Vec<Saved<T>> = with_elements::<T, _>(&self.positions, |positions| {
            Ok(region
                .par_chunks_mut((group * c * d).max(1))
                .zip(s_r.par_chunks_mut((group * c).max(1)))
                .zip(s_q.par_chunks_mut((group * c).max(1)))
                .zip(positions.par_chunks(group * dims.pool.image()))
                .map(|(((region, s_r), s_q), positions)| {
                    let out = (region, s_r, s_q);
                    forward_group(out, positions, parts, columns, dims, self.epsilon)
                })
                .collect())
        })?;
        // Set once: every call of `forward` makes an operation of its own.
        let _ = self.saved.set(Box::new(saved));
        self.region
            .set(Tensor::from_vec(region, (images, c, d), &Device::Cpu)?);
        Ok(logits)
    }

    fn compute_backward<T: Real>(
        &self,
        grad: &[T],
        small: &Tensor,
        in_weight: &Tensor,
        out_weight: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let saved = self
            .saved
            .get()
            .and_then(|saved| saved.downcast_ref::<Vec<Saved<T>>>());
        let Some(saved) = saved else {
            bail!("branches: backward without forward")
        };
        let region = self.region.tensor()?;
        let dims = self.dims;
        let (images, c, d) = (dims.pool.images, dims.pool.keys, dims.pool.width);
        let group = dims.group();
        let (ds_r, ds_q) = grad.split_at(images * c);
        let held = [small, in_weight, out_weight].map(Tensor::storage_and_layout);
        let mut slices = Vec::with_capacity(3);
        for (storage, layout) in &held {
            match &**storage {
                candle_core::Storage::Cpu(storage) => slices.push(elements::<T>(storage, layout)?),
                _ => bail!("branches run on the CPU only"),
            }
        }
        let parts = Parts::new(slices[0], slices[1], slices[2], &dims);
        let d_region = self.region.take_gradients::<T>()?;
        let d_region = d_region.of_groups(group * c, saved.len(), d);
        let sums: Vec<GroupSums<T>> = with_elements::<T, _>(&self.positions, |positions| {
            with_elements::<T, _>(region, |region| {
                Ok(ds_r
                    .par_chunks((group * c).max(1))
                    .zip(ds_q.par_chunks((group * c).max(1)))
                    .zip(positions.par_chunks(group * dims.pool.image()))
                    .zip(region.par_chunks((group * c * d).max(1)))
                    .zip(saved.par_iter().zip(&d_region))
                    .map(|((((ds_r, ds_q), positions), region), (saved, rows))| {
                        let grads = (ds_r, ds_q);
                        backward_group(grads, rows, positions, region, saved, &parts, dims)
                    })
                    .collect())
            })
        })?;
        let layers: Vec<_> = sums
            .iter()
            .zip(saved)
            .map(|(sums, saved)| sums.mlp.layers(&saved.mlp, &sums.d_query))
            .collect();
        let (in_total, out_total) = weight_gradients(&layers, dims.mlp);
        let mut small_total = vec![T::zero(); small.elem_count()];
        let mut rest = small_total.as_mut_slice();
        let pieces = dims.sizes().map(|size| {
            let (here, after) = std::mem::take(&mut rest).split_at_mut(size);
            rest = after;
            here
        });
        let groups: Vec<Vec<&[T]>> = sums.iter().map(GroupSums::parts).collect();
        add_up(pieces.into(), &groups);
        Ok([
            Tensor::from_vec(small_total, small.shape(), &Device::Cpu)?,
            Tensor::from_vec(in_total, in_weight.shape(), &Device::Cpu)?,
            Tensor::from_vec(out_total, out_weight.shape(), &Device::Cpu)?,
        ])
    }
}

impl CustomOp3 for Operation {
    fn name(&self) -> &'static str {
        "branches"
    }

    fn cpu_fwd(
        &self,
        small: &CpuStorage,
        small_layout: &Layout,
        in_weight: &CpuStorage,
        in_layout: &Layout,
        out_weight: &CpuStorage,
        out_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let logits = dispatch!(small, self.name(), T => {
            let parts = Parts::new(
                elements::<T>(small, small_layout)?,
                elements(in_weight, in_layout)?,
                elements(out_weight, out_layout)?,
                &self.dims,
            );
            <T as WithDType>::to_cpu_storage_owned(self.compute::<T>(&parts)?)
        });
        Ok((
            logits,
            (2 * self.dims.pool.images * self.dims.pool.keys).into(),
        ))
    }

    fn bwd(
        &self,
        small: &Tensor,
        in_weight: &Tensor,
        out_weight: &Tensor,
        _logits: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let [a, b, c] = match small.dtype() {
            DType::F32 => with_elements::<f32, _>(&grad, |grad| {
                self.compute_backward(grad, small, in_weight, out_weight)
            })?,
            _ => with_elements::<f64, _>(&grad, |grad| {
                self.compute_backward(grad, small, in_weight, out_weight)
            })?,
        };
        Ok((Some(a), Some(b), Some(c)))
    }
}

#[cfg(test)]
mod tests;
