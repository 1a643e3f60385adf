//! A frozen transformer as one operation.
//!
//! Composed of single operations, every product hands its rows to all threads and waits for them,
//! and every sum is a pass over memory on one of them. Here groups of sequences go through all
//! blocks on one thread each.

mod layers;

use super::activation::Activation;
use super::attention::{Segment, Sequence, Sight};
use super::matrix::{Matrix, product};
use super::{
    FrozenLayerNorm, FrozenLinear, Real, add_scaled, dispatch, elements, multiversioned,
    with_elements,
};
use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Storage, Tensor, WithDType, bail,
};
use layers::{Layer, Norm, add_linear, linear, linear_backward, norm, norm_backward};
use rayon::prelude::*;
use std::any::Any;
use std::sync::{Arc, OnceLock};

/// Rows that a group of sequences has at least, if there are several: from here on a product packs
/// the weights, which pays, for unpacked every row of them lies in a page of its own. Groups depend
/// on the sequences only, not on the threads.
const ROWS_PER_GROUP: usize = 49;
/// More groups than this are a multiple of it, so that two or four threads have the same to do.
const GROUPS: usize = 4;

/// One pre-norm block: `x += out(attention(norm_1(x)))`,
/// `x += mlp_out(activation(mlp_in(norm_2(x))))`.
#[derive(Debug, Clone)]
pub struct FrozenBlock {
    /// Before the attention.
    pub norm_1: FrozenLayerNorm,
    /// `[W, W]`.
    pub query: FrozenLinear,
    /// Keys, then values, `[2 W, W]`.
    pub key_value: FrozenLinear,
    /// `[W, W]`.
    pub out: FrozenLinear,
    /// Before the MLP.
    pub norm_2: FrozenLayerNorm,
    /// `[hidden, W]`.
    pub mlp_in: FrozenLinear,
    /// `[W, hidden]`.
    pub mlp_out: FrozenLinear,
}

/// A stack of blocks.
#[derive(Debug, Clone)]
pub struct FrozenTransformer {
    /// The blocks, at least one.
    pub blocks: Arc<[FrozenBlock]>,
    /// Attention heads.
    pub heads: usize,
    /// The MLPs' activation.
    pub activation: Activation,
    /// What a position sees.
    pub sight: Sight,
}

impl FrozenTransformer {
    /// Runs sequences of the given lengths, packed in `x` (`[sum of lengths, W]`), and reads each
    /// at its last position: `[sequences, W]`. In the last block nothing else is computed. The
    /// gradient goes to `x`.
    ///
    /// # Errors
    /// If the lengths do not sum to the rows of `x`, one of them is 0, or a weight does not fit or
    /// has another type.
    pub fn forward(&self, x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        if self.heads == 0 || !width.is_multiple_of(self.heads) || self.blocks.is_empty() {
            bail!(
                "a transformer of {} blocks, {} heads on {width} dimensions",
                self.blocks.len(),
                self.heads
            );
        }
        let least = match self.sight {
            Sight::All | Sight::Before => 1,
            Sight::BeforeLastApart => 2,
        };
        let short = lengths.iter().any(|&length| length < least);
        if lengths.iter().sum::<usize>() != rows || short {
            bail!("sequences of {lengths:?} positions in {rows} rows");
        }
        for block in self.blocks.iter() {
            let hidden = block.mlp_in.tensors().0.dim(0)?;
            let (one, square): (&[usize], &[usize]) = (&[width], &[width, width]);
            #[rustfmt::skip]
            let shapes: [&[usize]; 14] = [
                one, one, square, one, &[2 * width, width], &[2 * width], square, one, one, one,
                &[hidden, width], &[hidden], &[width, hidden], one,
            ];
            for (tensor, shape) in block.tensors().into_iter().zip(shapes) {
                if tensor.is_none_or(|t| t.dims() != shape || t.dtype() != x.dtype()) {
                    let found = tensor.map(|t| (t.dims(), t.dtype()));
                    bail!(
                        "transformer: {found:?} where {shape:?} of {:?} is needed",
                        x.dtype()
                    );
                }
            }
        }
        let groups = match (rows / ROWS_PER_GROUP).max(1) {
            few @ ..GROUPS => few,
            many => many / GROUPS * GROUPS,
        };
        let mut ends = vec![0];
        let mut sum = 0;
        for (at, length) in lengths.iter().enumerate() {
            sum += length;
            if sum * groups >= rows * ends.len() {
                ends.push(at + 1);
            }
        }
        x.contiguous()?.apply_op1(Operation {
            transformer: self.clone(),
            groups: ends
                .windows(2)
                .map(|range| lengths[range[0]..range[1]].to_vec())
                .collect(),
            keep: x.track_op(),
            saved: OnceLock::new(),
        })
    }
}

struct Operation {
    transformer: FrozenTransformer,
    /// Lengths of every group's sequences.
    groups: Vec<Vec<usize>>,
    /// Whether there will be a backward pass.
    keep: bool,
    /// Of every group, of every block, what the backward pass needs: `Vec<Vec<Saved<T>>>`.
    saved: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// What the backward pass of one block needs.
struct Saved<T> {
    normal_1: Vec<T>,
    inverse_1: Vec<T>,
    q: Vec<T>,
    kv: Vec<T>,
    normal_2: Vec<T>,
    inverse_2: Vec<T>,
    slope: Vec<T>,
}

struct Parts<'a, T> {
    norm_1: Norm<'a, T>,
    query: Layer<'a, T>,
    key_value: Layer<'a, T>,
    out: Layer<'a, T>,
    norm_2: Norm<'a, T>,
    mlp_in: Layer<'a, T>,
    mlp_out: Layer<'a, T>,
}

impl FrozenBlock {
    fn layers(&self) -> [&FrozenLinear; 5] {
        let mlp = (&self.mlp_in, &self.mlp_out);
        [&self.query, &self.key_value, &self.out, mlp.0, mlp.1]
    }

    /// Weight, bias, weight, bias... in the order of the fields.
    fn tensors(&self) -> [Option<&Tensor>; 14] {
        let ((a, b), (m, n)) = (self.norm_1.tensors(), self.norm_2.tensors());
        let ((c, d), (e, f)) = (self.query.tensors(), self.key_value.tensors());
        let ((g, h), (i, j)) = (self.out.tensors(), self.mlp_in.tensors());
        let (k, l) = self.mlp_out.tensors();
        let (a, b, m, n) = (Some(a), Some(b), Some(m), Some(n));
        let (c, e, g, i, k) = (Some(c), Some(e), Some(g), Some(i), Some(k));
        [a, b, c, d, e, f, g, h, m, n, i, j, k, l]
    }
}

#[derive(Clone, Copy)]
struct Dims {
    width: usize,
    heads: usize,
    activation: Activation,
    sight: Sight,
    epsilon: (f64, f64),
}

impl Operation {
    /// Calls `f` with the weights of all blocks.
    fn with_parts<T: Real, R>(&self, f: impl FnOnce(&[Parts<T>]) -> R) -> Result<R> {
        let blocks = &self.transformer.blocks;
        // For training only: it doubles the tower's memory.
        let columns: Vec<Tensor> = blocks
            .iter()
            .filter(|_| self.keep)
            .flat_map(FrozenBlock::layers)
            .map(FrozenLinear::columns)
            .collect::<Result<_>>()?;
        let held: Vec<_> = blocks
            .iter()
            .flat_map(|block| block.tensors().into_iter().flatten())
            .chain(&columns)
            .map(Tensor::storage_and_layout)
            .collect();
        let slices = held
            .iter()
            .map(|(storage, layout)| match &**storage {
                Storage::Cpu(storage) => elements::<T>(storage, layout),
                _ => bail!("a transformer runs on the CPU only"),
            })
            .collect::<Result<Vec<&[T]>>>()?;
        let (slices, columns) = slices.split_at(14 * blocks.len());
        let parts = slices.chunks_exact(14).enumerate().map(|(block, s)| {
            let layer = |index: usize, at: usize| {
                let (weight, bias) = (s[at], s[at + 1]);
                let (out, inner) = (bias.len(), weight.len() / bias.len());
                let from_right = match columns.get(5 * block + index) {
                    Some(columns) => Matrix::new(columns, inner, out),
                    None => Matrix::new(weight, out, inner).t(),
                };
                (weight, bias, from_right)
            };
            Parts {
                norm_1: (s[0], s[1]),
                query: layer(0, 2),
                key_value: layer(1, 4),
                out: layer(2, 6),
                norm_2: (s[8], s[9]),
                mlp_in: layer(3, 10),
                mlp_out: layer(4, 12),
            }
        });
        let parts: Vec<Parts<T>> = parts.collect();
        Ok(f(&parts))
    }

    fn dims(&self, width: usize) -> Dims {
        let first = &self.transformer.blocks[0];
        Dims {
            width,
            heads: self.transformer.heads,
            activation: self.transformer.activation,
            sight: self.transformer.sight,
            epsilon: (first.norm_1.epsilon(), first.norm_2.epsilon()),
        }
    }

    fn compute<T: Real>(&self, x: &[T], width: usize) -> Result<Vec<T>> {
        let dims = self.dims(width);
        let done: Vec<(Vec<T>, Vec<Saved<T>>)> = self.with_parts::<T, _>(|parts| {
            self.split(x, width, |lengths| lengths.iter().sum())
                .into_par_iter()
                .map(|(lengths, x)| forward_group(x.to_vec(), parts, lengths, dims, self.keep))
                .collect()
        })?;
        let (outputs, saved): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        // Set once: every call of `forward` makes an operation of its own.
        let _ = self.saved.set(Box::new(saved));
        Ok(outputs.concat())
    }

    /// The rows of every group, `rows(lengths)` of each.
    fn split<'a, T>(
        &self,
        x: &'a [T],
        width: usize,
        rows: impl Fn(&[usize]) -> usize,
    ) -> Vec<(&Vec<usize>, &'a [T])> {
        let mut rest = x;
        let groups = self.groups.iter().map(|lengths| {
            let (here, after) = rest.split_at(rows(lengths) * width);
            rest = after;
            (lengths, here)
        });
        groups.collect()
    }

    fn compute_backward<T: Real>(&self, grad: &[T], width: usize) -> Result<Vec<T>> {
        let saved = self
            .saved
            .get()
            .and_then(|saved| saved.downcast_ref::<Vec<Vec<Saved<T>>>>())
            .filter(|_| self.keep);
        let Some(saved) = saved else {
            bail!("transformer: backward without forward")
        };
        let dims = self.dims(width);
        let gradients: Vec<Vec<T>> = self.with_parts::<T, _>(|parts| {
            self.split(grad, width, <[usize]>::len)
                .into_par_iter()
                .zip(saved)
                .map(|((lengths, grad), saved)| {
                    backward_group(grad.to_vec(), saved, parts, lengths, dims)
                })
                .collect()
        })?;
        Ok(gradients.concat())
    }
}

/// The rows at which sequences end.
fn last_rows<T: Copy>(x: &[T], lengths: &[usize], width: usize) -> Vec<T> {
    let mut end = 0;
    let rows = lengths.iter().flat_map(|length| {
        end += length * width;
        &x[end - width..end]
    });
    rows.copied().collect()
}

/// Calls `f(first query row, first key row, segment)` for every sequence.
fn each_sequence(lengths: &[usize], last: bool, mut f: impl FnMut(usize, usize, Segment)) {
    let (mut query, mut key) = (0, 0);
    for &keys in lengths {
        let queries = if last { 1 } else { keys };
        f(query, key, Segment { queries, keys });
        (query, key) = (query + queries, key + keys);
    }
}

fn sequence<'a, T>(
    q: &'a [T],
    kv: &'a [T],
    (query, key): (usize, usize),
    segment: Segment,
    dims: Dims,
) -> Sequence<'a, T> {
    let width = dims.width;
    Sequence {
        segment,
        sight: dims.sight,
        q: &q[query * width..(query + segment.queries) * width],
        kv: &kv[key * 2 * width..(key + segment.keys) * 2 * width],
    }
}

fn forward_group<T: Real>(
    mut x: Vec<T>,
    blocks: &[Parts<T>],
    lengths: &[usize],
    dims: Dims,
    keep: bool,
) -> (Vec<T>, Vec<Saved<T>>) {
    let w = dims.width;
    let mut all = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let last = index + 1 == blocks.len();
        let mut normal_1 = x.clone();
        let (inverse_1, mut y) = norm(&mut normal_1, block.norm_1, dims.epsilon.0);
        let kv = linear(&y, block.key_value);
        if last {
            (x, y) = (last_rows(&x, lengths, w), last_rows(&y, lengths, w));
        }
        let q = linear(&y, block.query);
        let mut attended = vec![T::zero(); q.len()];
        each_sequence(lengths, last, |query, key, segment| {
            let out = &mut attended[query * w..(query + segment.queries) * w];
            sequence(&q, &kv, (query, key), segment, dims).attend(out, dims.heads);
        });
        add_linear(&mut x, &attended, block.out);
        let mut normal_2 = x.clone();
        let (inverse_2, y) = norm(&mut normal_2, block.norm_2, dims.epsilon.1);
        let (_, bias, from_right) = block.mlp_in;
        let mut hidden = product(Matrix::new(&y, y.len() / w, w), from_right);
        let slope = dims.activation.apply_rows(&mut hidden, bias);
        add_linear(&mut x, &hidden, block.mlp_out);
        if keep {
            all.push(Saved {
                normal_1,
                inverse_1,
                q,
                kv,
                normal_2,
                inverse_2,
                slope,
            });
        }
    }
    (x, all)
}

/// From the gradient of what is read to that of the group's rows.
fn backward_group<T: Real>(
    mut dx: Vec<T>,
    saved: &[Saved<T>],
    blocks: &[Parts<T>],
    lengths: &[usize],
    dims: Dims,
) -> Vec<T> {
    let w = dims.width;
    for (index, (block, saved)) in blocks.iter().zip(saved).enumerate().rev() {
        let last = index + 1 == blocks.len();
        let mut d_hidden = linear_backward(&dx, block.mlp_out);
        multiversioned(|| {
            for (d_hidden, &slope) in d_hidden.iter_mut().zip(&saved.slope) {
                *d_hidden *= slope;
            }
        });
        let mut dy = linear_backward(&d_hidden, block.mlp_in);
        norm_backward(&mut dy, block.norm_2.0, &saved.normal_2, &saved.inverse_2);
        multiversioned(|| add_scaled(&mut dx, T::one(), &dy));
        let d_attended = linear_backward(&dx, block.out);
        let (mut dq, mut dkv) = (
            vec![T::zero(); saved.q.len()],
            vec![T::zero(); saved.kv.len()],
        );
        each_sequence(lengths, last, |query, key, segment| {
            let queries = query * w..(query + segment.queries) * w;
            let keys = key * 2 * w..(key + segment.keys) * 2 * w;
            sequence(&saved.q, &saved.kv, (query, key), segment, dims).attend_backward(
                &d_attended[queries.clone()],
                &mut dq[queries],
                &mut dkv[keys],
                dims.heads,
            );
        });
        let mut dy = linear_backward(&dkv, block.key_value);
        let d_query = linear_backward(&dq, block.query);
        if last {
            // Only the rows that are read go on.
            let read = std::mem::replace(&mut dx, vec![T::zero(); dy.len()]);
            each_sequence(lengths, true, |query, key, segment| {
                let end = (key + segment.keys - 1) * w;
                dx[end..end + w].copy_from_slice(&read[query * w..(query + 1) * w]);
                let from = &d_query[query * w..(query + 1) * w];
                add_scaled(&mut dy[end..end + w], T::one(), from);
            });
        } else {
            multiversioned(|| add_scaled(&mut dy, T::one(), &d_query));
        }
        norm_backward(&mut dy, block.norm_1.0, &saved.normal_1, &saved.inverse_1);
        multiversioned(|| add_scaled(&mut dx, T::one(), &dy));
    }
    dx
}

impl CustomOp1 for Operation {
    fn name(&self) -> &'static str {
        "frozen-transformer"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let y = dispatch!(x, self.name(), T => {
            T::to_cpu_storage_owned(self.compute::<T>(elements(x, layout)?, width)?)
        });
        let sequences: usize = self.groups.iter().map(Vec::len).sum();
        Ok((y, (sequences, width).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = x.dim(1)?;
        let grad = grad.contiguous()?;
        let dx = match x.dtype() {
            DType::F32 => with_elements::<f32, _>(&grad, |grad| {
                Tensor::from_vec(self.compute_backward(grad, width)?, x.shape(), &Device::Cpu)
            })?,
            _ => with_elements::<f64, _>(&grad, |grad| {
                Tensor::from_vec(self.compute_backward(grad, width)?, x.shape(), &Device::Cpu)
            })?,
        };
        Ok(Some(dx))
    }
}

#[cfg(test)]
mod tests;
