//! Causal multi-head attention over sequences of different length, packed row after row in one
//! matrix.

use super::softmax::softmax_row;
use super::{Real, add_scaled, dispatch, dot, elements, multiversioned, with_elements};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;
use std::sync::Arc;

/// One sequence: `keys` rows of the key-value matrix and `queries` rows of the query matrix.
///
/// The queries stand at the last `queries` positions of the sequence, so that `queries == keys` is
/// ordinary causal attention and `queries == 1` reads the sequence at its last position only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Number of query rows, at most `keys`.
    pub queries: usize,
    /// Number of key and value rows.
    pub keys: usize,
}

/// `softmax(q kᵀ / sqrt(dh)) v` per head and sequence, each query seeing the positions up to its
/// own.
///
/// `q` is `[sum of queries, W]`, `kv` is `[sum of keys, 2W]` with the keys in the first half of a
/// row and the values in the second; heads are consecutive slices of `W / heads`. Returns
/// `[sum of queries, W]`. The gradient goes to both.
///
/// # Errors
/// If the shapes do not fit the segments, or `heads` does not divide `W`.
pub fn causal_attention(
    q: &Tensor,
    kv: &Tensor,
    heads: usize,
    segments: &[Segment],
) -> Result<Tensor> {
    let (query_rows, width) = q.dims2()?;
    let (key_rows, double) = kv.dims2()?;
    let queries: usize = segments.iter().map(|segment| segment.queries).sum();
    let keys: usize = segments.iter().map(|segment| segment.keys).sum();
    if double != 2 * width || heads == 0 || width % heads != 0 {
        bail!(
            "attention: {heads} heads, queries of width {width}, keys and values of width {double}"
        );
    }
    if queries != query_rows || keys != key_rows || segments.iter().any(|s| s.queries > s.keys) {
        bail!(
            "attention: segments of {queries} queries and {keys} keys for {query_rows} and \
             {key_rows} rows"
        );
    }
    let op = CausalAttention {
        heads,
        segments: Arc::from(segments),
    };
    q.contiguous()?.apply_op2(&kv.contiguous()?, op)
}

/// What a position of a sequence sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// All positions.
    All,
    /// Those before it, and itself.
    Before,
    /// The same, but the last position does not see itself.
    BeforeLastApart,
}

#[derive(Clone)]
struct CausalAttention {
    heads: usize,
    segments: Arc<[Segment]>,
}

/// The slices of one sequence.
pub(super) struct Sequence<'a, T> {
    pub(super) segment: Segment,
    pub(super) sight: Sight,
    /// `[queries, W]`.
    pub(super) q: &'a [T],
    /// `[keys, 2 W]`.
    pub(super) kv: &'a [T],
}

impl<T: Real> Sequence<'_, T> {
    fn width(&self) -> usize {
        self.kv.len() / (2 * self.segment.keys)
    }

    /// Adds the attended values to `out`, `[queries, W]`, on the calling thread.
    pub(super) fn attend(&self, out: &mut [T], heads: usize) {
        let width = self.width();
        let dh = width / heads;
        let mut weights = vec![T::zero(); self.segment.keys];
        for head in 0..heads {
            multiversioned(|| {
                self.each_query(head, heads, &mut weights, |query, weights| {
                    let out = &mut out[query * width + head * dh..][..dh];
                    for (key, &weight) in weights.iter().enumerate() {
                        let value = key * 2 * width + width + head * dh;
                        add_scaled(out, weight, &self.kv[value..][..dh]);
                    }
                });
            });
        }
    }

    /// Adds the gradients to `dq` and `dkv`, given that of the attended values.
    pub(super) fn attend_backward(&self, grad: &[T], dq: &mut [T], dkv: &mut [T], heads: usize) {
        let width = self.width();
        let dh = width / heads;
        let scale = T::from_f64(1.0 / (dh as f64).sqrt());
        let mut weights = vec![T::zero(); self.segment.keys];
        let mut slopes = vec![T::zero(); self.segment.keys];
        for head in 0..heads {
            multiversioned(|| {
                self.each_query(head, heads, &mut weights, |query, weights| {
                    let at = query * width + head * dh;
                    let grad = &grad[at..at + dh];
                    let slopes = &mut slopes[..weights.len()];
                    for (key, slope) in slopes.iter_mut().enumerate() {
                        let value = key * 2 * width + width + head * dh;
                        *slope = dot(grad, &self.kv[value..][..dh]);
                    }
                    let along = dot(weights, slopes);
                    for (key, (&weight, &slope)) in weights.iter().zip(slopes.iter()).enumerate() {
                        let d_logit = weight * (slope - along) * scale;
                        let row = key * 2 * width + head * dh;
                        add_scaled(&mut dq[at..at + dh], d_logit, &self.kv[row..row + dh]);
                        add_scaled(&mut dkv[row..row + dh], d_logit, &self.q[at..at + dh]);
                        add_scaled(&mut dkv[row + width..row + width + dh], weight, grad);
                    }
                });
            });
        }
    }

    /// Calls `f(query, weights over the keys it sees)` for each query of one head.
    #[inline(always)]
    fn each_query(
        &self,
        head: usize,
        heads: usize,
        weights: &mut [T],
        mut f: impl FnMut(usize, &[T]),
    ) {
        let width = self.width();
        let dh = width / heads;
        let scale = T::from_f64(1.0 / (dh as f64).sqrt());
        for query in 0..self.segment.queries {
            let Segment { queries, keys } = self.segment;
            let seen = match self.sight {
                Sight::All => keys,
                Sight::BeforeLastApart if query + 1 == queries => keys - 1,
                Sight::Before | Sight::BeforeLastApart => keys - queries + query + 1,
            };
            let q = &self.q[query * width + head * dh..][..dh];
            let weights = &mut weights[..seen];
            for (key, weight) in weights.iter_mut().enumerate() {
                *weight = dot(q, &self.kv[key * 2 * width + head * dh..][..dh]) * scale;
            }
            softmax_row(weights);
            f(query, weights);
        }
    }
}

impl CausalAttention {
    /// Splits the packed rows into sequences.
    fn sequences<'a, T>(&self, q: &'a [T], kv: &'a [T], width: usize) -> Vec<Sequence<'a, T>> {
        let (mut q, mut kv) = (q, kv);
        let split = |segment: &Segment| {
            let (q_here, q_rest) = q.split_at(segment.queries * width);
            let (kv_here, kv_rest) = kv.split_at(segment.keys * 2 * width);
            (q, kv) = (q_rest, kv_rest);
            Sequence {
                segment: *segment,
                sight: Sight::Before,
                q: q_here,
                kv: kv_here,
            }
        };
        self.segments.iter().map(split).collect()
    }

    fn compute<T: Real>(&self, q: &[T], kv: &[T], width: usize) -> Vec<T> {
        let mut out = vec![T::zero(); q.len()];
        let outs = split_rows(&mut out, self.segments.iter().map(|s| s.queries * width));
        self.sequences(q, kv, width)
            .into_par_iter()
            .zip(outs)
            .for_each(|(sequence, out)| sequence.attend(out, self.heads));
        out
    }

    /// Gradients of `q` and `kv`; the weights are computed again rather than kept from the forward
    /// pass.
    fn compute_backward<T: Real>(
        &self,
        q: &[T],
        kv: &[T],
        grad: &[T],
        width: usize,
    ) -> (Vec<T>, Vec<T>) {
        let mut dq = vec![T::zero(); q.len()];
        let mut dkv = vec![T::zero(); kv.len()];
        let dqs = split_rows(&mut dq, self.segments.iter().map(|s| s.queries * width));
        let dkvs = split_rows(&mut dkv, self.segments.iter().map(|s| s.keys * 2 * width));
        let grads = self.sequences(grad, kv, width);
        let work = self
            .sequences(q, kv, width)
            .into_par_iter()
            .zip(grads)
            .zip(dqs.into_par_iter().zip(dkvs));
        work.for_each(|((sequence, grad), (dq, dkv))| {
            sequence.attend_backward(grad.q, dq, dkv, self.heads);
        });
        (dq, dkv)
    }

    fn backward<T: Real>(
        &self,
        q: &Tensor,
        kv: &Tensor,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let width = q.dim(1)?;
        let (dq, dkv) = with_elements::<T, _>(q, |q| {
            with_elements::<T, _>(kv, |kv| {
                with_elements::<T, _>(grad, |grad| Ok(self.compute_backward(q, kv, grad, width)))
            })
        })?;
        Ok((
            Tensor::from_vec(dq, q.shape(), q.device())?,
            Tensor::from_vec(dkv, kv.shape(), kv.device())?,
        ))
    }
}

/// Cuts a buffer into consecutive pieces of the lengths given.
fn split_rows<T>(buffer: &mut [T], lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    let mut rest = buffer;
    lengths
        .map(|length| {
            let (here, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            here
        })
        .collect()
}

impl CustomOp2 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        kv: &CpuStorage,
        kvl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = ql.shape().dims2()?;
        let out = dispatch!(q, self.name(), T => {
            T::to_cpu_storage_owned(self.compute::<T>(elements(q, ql)?, elements(kv, kvl)?, width))
        });
        Ok((out, ql.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dq, dkv) = match q.dtype() {
            DType::F32 => self.backward::<f32>(q, kv, &grad)?,
            _ => self.backward::<f64>(q, kv, &grad)?,
        };
        Ok((Some(dq), Some(dkv)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composed;
    use crate::testing::{check_equal, check_gradients, noise};
    use candle_core::Device;

    const SEGMENTS: [Segment; 3] = [
        Segment {
            queries: 4,
            keys: 4,
        },
        Segment {
            queries: 1,
            keys: 3,
        },
        Segment {
            queries: 2,
            keys: 2,
        },
    ];

    /// The same from candle's own operations, one sequence and head after the other.
    fn composed(q: &Tensor, kv: &Tensor, heads: usize, segments: &[Segment]) -> Result<Tensor> {
        let width = q.dim(1)?;
        let dh = width / heads;
        let (mut q_row, mut kv_row, mut rows) = (0, 0, Vec::new());
        for segment in segments {
            let q = q.narrow(0, q_row, segment.queries)?;
            let kv = kv.narrow(0, kv_row, segment.keys)?;
            let hidden: Vec<f64> = (0..segment.queries)
                .flat_map(|query| {
                    let seen = segment.keys - segment.queries + query + 1;
                    (0..segment.keys)
                        .map(move |key| if key < seen { 0.0 } else { f64::NEG_INFINITY })
                })
                .collect();
            let mask = Tensor::from_vec(hidden, (segment.queries, segment.keys), &Device::Cpu)?
                .to_dtype(q.dtype())?;
            let head = |head: usize| -> Result<Tensor> {
                let q = q.narrow(1, head * dh, dh)?;
                let k = kv.narrow(1, head * dh, dh)?;
                let v = kv.narrow(1, width + head * dh, dh)?;
                let logits = ((q.matmul(&k.t()?)? / (dh as f64).sqrt())? + &mask)?;
                composed::softmax(&logits)?.matmul(&v)
            };
            let heads: Vec<Tensor> = (0..heads).map(head).collect::<Result<_>>()?;
            rows.push(Tensor::cat(&heads, 1)?);
            q_row += segment.queries;
            kv_row += segment.keys;
        }
        Tensor::cat(&rows, 0)
    }

    #[test]
    fn the_gradients_agree_with_differences() {
        check_gradients(
            &|x| causal_attention(&x[0], &x[1], 2, &SEGMENTS),
            &[noise(3, &[7, 6]), noise(4, &[9, 12])],
        );
    }

    #[test]
    fn it_equals_the_composed_operations() {
        check_equal(
            &|x| causal_attention(&x[0], &x[1], 2, &SEGMENTS),
            &|x| composed(&x[0], &x[1], 2, &SEGMENTS),
            &[noise(3, &[7, 32]), noise(4, &[9, 64])],
        );
    }

    #[test]
    fn segments_that_do_not_fit_are_an_error() {
        let (q, kv) = (noise(3, &[7, 6]), noise(4, &[9, 12]));
        assert!(causal_attention(&q, &kv, 2, &SEGMENTS[..2]).is_err());
        assert!(causal_attention(&q, &kv, 4, &SEGMENTS).is_err());
        assert!(causal_attention(&q, &kv, 0, &SEGMENTS).is_err());
    }
}
