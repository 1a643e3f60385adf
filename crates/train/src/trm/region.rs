//! Category-aware region learning: saliency, region-level and query-level features.
//!
//! ```text
//! A_h = softmax_n( (Q Wq_h)(V^ Wk_h)^T / sqrt(dh) )
//! R   = mean_h A_h V^
//! O   = concat_h( A_h V^ Wv_h ) Wo
//! U   = LayerNorm(Q + O) ;  F = U + MLP(U)              MLP = Linear, GELU, Linear
//! ```
//!
//! Heads are consecutive slices of dh = D / h columns. R has no value projection, so that it stays
//! in the joint space.
//!
//! The encoder is frozen, so V^ carries no gradient, and every product that would touch all
//! positions is moved to the categories' side: `V^ (Wk_h (Q Wq_h)^T)` needs no projection of V^,
//! and `(A_h V^) Wv_h` projects C rows instead of N.

use candle_core::{Result, Tensor};
use tagstream_kernels::{ResidualMlp, attention_pool, l2_normalize};

/// Added to the variance in LayerNorm.
pub const NORM_EPSILON: f64 = 1e-5;

/// What V^ is multiplied with to give attention logits, `[h C, D]` (head-major):
/// `Q Wq_h Wk_h^T / sqrt(dh)`.
///
/// `queries` is `[C, D]`, `wq` and `wk` are `[D, D]`, applied from the right.
///
/// # Errors
/// If D is no multiple of `heads` or the shapes do not fit.
pub fn attention_keys(queries: &Tensor, wq: &Tensor, wk: &Tensor, heads: usize) -> Result<Tensor> {
    let width = head_width(queries.dim(1)?, heads)?;
    let scale = 1.0 / (width as f64).sqrt();
    let projected = (queries.matmul(wq)? * scale)?;
    let keys = (0..heads)
        .map(|h| {
            let q = projected.narrow(1, h * width, width)?.contiguous()?;
            q.matmul(&wk.narrow(1, h * width, width)?.t()?.contiguous()?)
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&keys, 0)
}

fn head_width(dim: usize, heads: usize) -> Result<usize> {
    if heads == 0 || !dim.is_multiple_of(heads) {
        candle_core::bail!(
            "{heads} heads on {dim} dimensions: the dimension must be a multiple of the heads"
        );
    }
    Ok(dim / heads)
}

/// Dense features pooled by every head's saliency.
#[derive(Debug, Clone)]
pub struct Pooled {
    /// `A_h V^`, `[B, h C, D]`, head-major.
    per_head: Tensor,
    heads: usize,
}

impl Pooled {
    /// Pools `positions` (V^, `[B, N, D]`) with `keys` (`[h C, D]`).
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn new(keys: &Tensor, positions: &Tensor, heads: usize) -> Result<Self> {
        Ok(Self {
            per_head: attention_pool(keys, positions)?,
            heads,
        })
    }

    fn head(&self, h: usize) -> Result<Tensor> {
        let categories = self.per_head.dim(1)? / self.heads;
        self.per_head.narrow(1, h * categories, categories)
    }

    /// R, the mean over heads, `[B, C, D]`: in the convex hull of V^, so its rows have at most
    /// norm 1.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn region(&self) -> Result<Tensor> {
        let mut sum = self.head(0)?;
        for h in 1..self.heads {
            sum = (sum + self.head(h)?)?;
        }
        if self.heads == 1 {
            Ok(sum)
        } else {
            sum / self.heads as f64
        }
    }

    /// O, `[B, C, D]`; `wv` and `wo` are `[D, D]`, applied from the right.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn attended(&self, wv: &Tensor, wo: &Tensor) -> Result<Tensor> {
        let (batch, rows, d) = self.per_head.dims3()?;
        let shape = (batch, rows / self.heads, d);
        if self.heads == 1 {
            // Two small matrices first: half the work on B C rows.
            let folded = wv.matmul(wo)?;
            return self
                .per_head
                .reshape(((), d))?
                .matmul(&folded)?
                .reshape(shape);
        }
        let width = head_width(d, self.heads)?;
        let heads = (0..self.heads)
            .map(|h| {
                let rows = self.head(h)?.contiguous()?.reshape(((), d))?;
                rows.matmul(&wv.narrow(1, h * width, width)?.contiguous()?)
            })
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&heads, 1)?.matmul(wo)?.reshape(shape)
    }
}

/// The MLP and the norm of the query-level branch.
#[derive(Debug, Clone)]
pub struct QueryLayers<'a> {
    /// LayerNorm weight, `[D]`.
    pub norm_weight: &'a Tensor,
    /// LayerNorm bias, `[D]`.
    pub norm_bias: &'a Tensor,
    /// First layer, `[hidden, D]` and `[hidden]`.
    pub mlp_in: (&'a Tensor, &'a Tensor),
    /// Second layer, `[D, hidden]` and `[D]`.
    pub mlp_out: (&'a Tensor, &'a Tensor),
}

/// F, `[B, C, D]`, from O (`attended`) and Q (`queries`, `[C, D]`).
///
/// # Errors
/// If the shapes do not fit.
pub fn query_level(attended: &Tensor, queries: &Tensor, layers: &QueryLayers) -> Result<Tensor> {
    let operation = ResidualMlp {
        queries,
        norm_weight: layers.norm_weight,
        norm_bias: layers.norm_bias,
        mlp_in: layers.mlp_in,
        mlp_out: layers.mlp_out,
        epsilon: NORM_EPSILON,
    };
    operation.forward(attended)
}

/// R^ or F^: rows of norm 1.
///
/// # Errors
/// Those of tensor operations.
pub fn normalised(features: &Tensor) -> Result<Tensor> {
    l2_normalize(features)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trm::losses::{Asymmetric, class_distillation, contrastive};
    use crate::trm::matching::pair_logits;
    use crate::trm::testing::Golden;
    use candle_core::{DType, Var};
    use tagstream_kernels::attention_saliency;
    use tagstream_kernels::testing::{check_gradients, distance, noise};

    const NAMES: [&str; 13] = [
        "Q", "Wq", "Wk", "Wv", "Wo", "ln_w", "ln_b", "W1", "b1", "W2", "b2", "T", "Tneg",
    ];

    struct Forward {
        saliency: Tensor,
        region: Tensor,
        attended: Tensor,
        query: Tensor,
        loss: Tensor,
        parts: [f64; 3],
    }

    fn number(x: &Tensor) -> f64 {
        x.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
    }

    /// The golden's whole forward pass; `p` in the order of `NAMES`.
    fn forward(golden: &Golden, p: &[Tensor], positions: &Tensor, heads: usize) -> Result<Forward> {
        let kappa = golden.scalar("kappa");
        let (y, visual) = (golden.get("y"), golden.get("Pv"));
        let keys = attention_keys(&p[0], &p[1], &p[2], heads)?;
        let pooled = Pooled::new(&keys, positions, heads)?;
        let region = normalised(&pooled.region()?)?;
        let attended = pooled.attended(&p[3], &p[4])?;
        let layers = QueryLayers {
            norm_weight: &p[5],
            norm_bias: &p[6],
            mlp_in: (&p[7], &p[8]),
            mlp_out: (&p[9], &p[10]),
        };
        let query = normalised(&query_level(&attended, &p[0], &layers)?)?;
        let s_r = (pair_logits(&region, &p[11], &p[12])? * kappa)?;
        let s_q = (pair_logits(&query, &p[11], &p[12])? * kappa)?;
        let asl = Asymmetric {
            positive_focus: 1.0,
            negative_focus: 2.0,
            margin: 0.05,
        };
        let (b, c) = y.dims2()?;
        let known = y
            .abs()?
            .sum_all()?
            .to_dtype(DType::F64)?
            .to_scalar::<f64>()?
            / (b * c) as f64;
        let supervised = ((asl.elements(&s_r, &y)?.sum_all()?
            + asl.elements(&s_q, &y)?.sum_all()?)?
            / (b as f64 * known))?;
        let kd = class_distillation(&s_r, &s_q, 4.0)?;
        let con = contrastive(&region, &visual, &p[11], &y, 0.07)?;
        let parts = [number(&supervised), number(&kd), number(&con)];
        let loss = ((supervised + kd)? + (con * 0.05)?)?;
        let saliency = attention_saliency(&keys, positions)?;
        Ok(Forward {
            saliency,
            region,
            attended,
            query,
            loss,
            parts,
        })
    }

    #[test]
    fn forward_and_gradients_agree_with_the_golden() {
        for (name, heads) in [("forward_h1", 1), ("forward_h4", 4)] {
            for (dtype, tolerance) in [(DType::F64, 1e-6), (DType::F32, 1e-4)] {
                let golden = Golden::open(name, dtype);
                let vars: Vec<Var> = NAMES
                    .iter()
                    .map(|n| Var::from_tensor(&golden.get(n)).unwrap())
                    .collect();
                let p: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
                let positions = normalised(&golden.get("V")).unwrap();
                let out = forward(&golden, &p, &positions, heads).unwrap();
                let (b, n) = (positions.dim(0).unwrap(), positions.dim(1).unwrap());
                let per_head = out.saliency.reshape((b, heads, (), n)).unwrap();
                for (ours, theirs) in [
                    (&per_head, "A_heads"),
                    (&out.region, "R_norm"),
                    (&out.attended, "O"),
                    (&out.query, "F_norm"),
                ] {
                    assert!(
                        distance(ours, &golden.get(theirs)) < tolerance,
                        "{name} {theirs}"
                    );
                }
                for (ours, theirs) in out.parts.iter().zip(["loss_asl", "loss_kd", "loss_con"]) {
                    let expected = golden.scalar(theirs);
                    assert!(
                        (ours - expected).abs() < tolerance * expected.max(1.0),
                        "{name} {theirs}"
                    );
                }
                let grads = out.loss.backward().unwrap();
                for (var, n) in vars.iter().zip(NAMES) {
                    let expected = golden.get(&format!("grad_{n}"));
                    let size = number(
                        &expected
                            .abs()
                            .unwrap()
                            .flatten_all()
                            .unwrap()
                            .max(0)
                            .unwrap(),
                    );
                    let off = distance(grads.get(var).expect(n), &expected);
                    assert!(
                        off < tolerance * size.max(1.0),
                        "{name} {dtype:?} gradient of {n}: {off}"
                    );
                }
            }
        }
    }

    #[test]
    fn saliency_rows_sum_to_one_and_regions_lie_in_the_hull() {
        let positions = normalised(&noise(1, &[2, 6, 8])).unwrap();
        let (w, q) = (noise(2, &[8, 8]), noise(3, &[3, 8]));
        let keys = attention_keys(&q, &w, &w, 2).unwrap();
        let sums = attention_saliency(&keys, &positions)
            .unwrap()
            .sum(2)
            .unwrap();
        assert!(distance(&sums, &sums.ones_like().unwrap()) < 1e-12);
        let region = Pooled::new(&keys, &positions, 2).unwrap().region().unwrap();
        let norms = region.sqr().unwrap().sum(2).unwrap().flatten_all().unwrap();
        assert!(
            norms
                .to_vec1::<f64>()
                .unwrap()
                .iter()
                .all(|norm| *norm <= 1.0)
        );
    }

    #[test]
    fn gradients_agree_with_differences() {
        let positions = normalised(&noise(1, &[2, 4, 4])).unwrap();
        for heads in [1, 2] {
            check_gradients(
                &|x| {
                    let keys = attention_keys(&x[0], &x[1], &x[2], heads)?;
                    let pooled = Pooled::new(&keys, &positions, heads)?;
                    let layers = QueryLayers {
                        norm_weight: &x[5],
                        norm_bias: &x[6],
                        mlp_in: (&x[7], &x[8]),
                        mlp_out: (&x[9], &x[10]),
                    };
                    let query = query_level(&pooled.attended(&x[3], &x[4])?, &x[0], &layers)?;
                    normalised(&query)? + pooled.region()?
                },
                &[
                    noise(2, &[3, 4]),
                    noise(3, &[4, 4]),
                    noise(4, &[4, 4]),
                    noise(5, &[4, 4]),
                    noise(6, &[4, 4]),
                    noise(7, &[4]),
                    noise(8, &[4]),
                    noise(9, &[5, 4]),
                    noise(10, &[5]),
                    noise(11, &[4, 5]),
                    noise(12, &[4]),
                ],
            );
        }
    }

    #[test]
    fn heads_must_divide_the_dimension() {
        let w = noise(1, &[4, 4]);
        assert!(attention_keys(&noise(2, &[3, 4]), &w, &w, 3).is_err());
    }
}
