//! The head's equations in plain Rust: the golden of the graphs, and the way for tools that run
//! without ONNX Runtime.

use super::{
    Attention, ExportedHead, MemoryBranch, NORM_EPSILON, QueryBranch, ReadOut, RegionForm,
    RegionalBranch, ValueOutput, WordHistogram,
};

/// What the head makes of a batch; all row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadEvaluation {
    /// `[B, C]`.
    pub logits: Vec<f32>,
    /// `[B, C, N]`; rows sum to 1.
    pub saliency: Vec<f32>,
    /// R^, `[B, C, D]`.
    pub region: Vec<f32>,
    /// G^, `[B, D]`.
    pub embedding: Vec<f32>,
}

impl ExportedHead {
    /// Evaluates `batch` images: `dense` is `[B, N, D]`, `global` `[B, D]`. Sums are taken in 64
    /// bit.
    ///
    /// # Panics
    /// If the lengths do not fit; call [`ExportedHead::check`] on a head from elsewhere first.
    pub fn evaluate(&self, dense: &[f32], global: &[f32], batch: usize) -> HeadEvaluation {
        assert_eq!(global.len(), batch * self.dim, "global is [B, D]");
        assert!(
            batch > 0 && dense.len().is_multiple_of(batch * self.dim),
            "dense is [B, N, D]"
        );
        let positions = dense.len() / (batch * self.dim);
        let mut all = HeadEvaluation {
            logits: Vec::with_capacity(batch * self.categories),
            saliency: Vec::with_capacity(batch * self.categories * positions),
            region: Vec::with_capacity(batch * self.categories * self.dim),
            embedding: Vec::with_capacity(batch * self.dim),
        };
        for (dense, global) in dense
            .chunks_exact(positions * self.dim)
            .zip(global.chunks_exact(self.dim))
        {
            self.evaluate_one(dense, global, &mut all);
        }
        all
    }

    fn evaluate_one(&self, dense: &[f32], global: &[f32], all: &mut HeadEvaluation) {
        let d = self.dim;
        let dense: Vec<Vec<f64>> = dense.chunks_exact(d).map(normalised).collect();
        let embedding = normalised(global);
        // [h][C][N]
        let attention = self.attention_rows(&dense);
        let raw: Vec<f64> = global.iter().map(|&x| f64::from(x)).collect();
        let memory = self
            .memory
            .as_ref()
            .map(|branch| branch.logits(&raw, &dense));
        let values = self.query.as_ref().map(|query| match &query.value_output {
            ValueOutput::Folded(_) => Vec::new(),
            ValueOutput::Projected { value, .. } => {
                dense.iter().map(|v| times(v, value, d)).collect()
            }
        });
        for c in 0..self.categories {
            let mut saliency = vec![0.0; dense.len()];
            for head in &attention {
                for (s, a) in saliency.iter_mut().zip(&head[c]) {
                    *s += a / self.heads as f64;
                }
            }
            let region = mix(&saliency, &dense);
            let direction = unit(&region);
            let mut logit = match self.region_form {
                RegionForm::Normalised => self.region.at(c, &direction),
                RegionForm::Raw => self.region.at(c, &region),
            };
            if let (Some(branch), Some(values)) = (&self.query, &values) {
                let heads: Vec<&[f64]> = attention.iter().map(|head| head[c].as_slice()).collect();
                let output = branch.attended(&heads, &region, values, d);
                logit += branch.read_out.at(c, &unit(&branch.feature(c, &output)));
            }
            if let Some(branch) = &self.global {
                logit += branch.read_out.at(c, &embedding);
                if let Some(residual) = &branch.residual {
                    logit += dot(&raw, &residual[c * d..(c + 1) * d]);
                }
            }
            if let Some(memory) = &memory {
                logit += memory[c];
            }
            if let Some(branch) = &self.regional {
                logit += branch.logit(c, &dense);
            }
            all.logits.push(logit as f32);
            all.saliency.extend(saliency.iter().map(|&x| x as f32));
            all.region.extend(direction.iter().map(|&x| x as f32));
        }
        all.embedding.extend(embedding.iter().map(|&x| x as f32));
    }

    /// Attention weights `[h][C][N]` over normalised positions.
    fn attention_rows(&self, dense: &[Vec<f64>]) -> Vec<Vec<Vec<f64>>> {
        let d = self.dim;
        match &self.attention {
            Attention::Folded(weight) => {
                let rows = weight
                    .chunks_exact(d)
                    .map(|w| softmax(dense.iter().map(|v| dot(v, w)).collect()));
                vec![rows.collect()]
            }
            Attention::Projected { query, key } => {
                let width = d / self.heads;
                let keys: Vec<Vec<f64>> = dense.iter().map(|v| times(v, key, d)).collect();
                (0..self.heads)
                    .map(|h| {
                        let queries = &query[h * self.categories * width..];
                        queries
                            .chunks_exact(width)
                            .take(self.categories)
                            .map(|q| {
                                let logits = keys.iter().map(|k| dot(&k[h * width..], q));
                                softmax(logits.collect())
                            })
                            .collect()
                    })
                    .collect()
            }
        }
    }
}

impl ReadOut {
    fn at(&self, c: usize, x: &[f64]) -> f64 {
        let d = x.len();
        dot(x, &self.weight[c * d..(c + 1) * d]) + f64::from(self.bias[c])
    }
}

impl QueryBranch {
    /// O of one category: `heads` are its attention rows, `region` is R (one head: `A V^`).
    fn attended(
        &self,
        heads: &[&[f64]],
        region: &[f64],
        values: &[Vec<f64>],
        d: usize,
    ) -> Vec<f64> {
        match &self.value_output {
            ValueOutput::Folded(weight) => times(region, weight, d),
            ValueOutput::Projected { output, .. } => {
                let width = d / heads.len();
                let mut joined = Vec::with_capacity(d);
                for (h, attention) in heads.iter().enumerate() {
                    let pooled = mix(attention, values);
                    joined.extend_from_slice(&pooled[h * width..(h + 1) * width]);
                }
                times(&joined, output, d)
            }
        }
    }

    /// F of category `c` from O.
    fn feature(&self, c: usize, output: &[f64]) -> Vec<f64> {
        let d = output.len();
        let sum: Vec<f64> = output
            .iter()
            .zip(&self.query[c * d..(c + 1) * d])
            .map(|(o, q)| o + f64::from(*q))
            .collect();
        let mean = sum.iter().sum::<f64>() / d as f64;
        let variance = sum.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / d as f64;
        let inverse = 1.0 / (variance + f64::from(NORM_EPSILON)).sqrt();
        let u: Vec<f64> = (0..d)
            .map(|i| {
                (sum[i] - mean) * inverse * f64::from(self.norm.0[i]) + f64::from(self.norm.1[i])
            })
            .collect();
        let hidden: Vec<f64> = self
            .mlp_in
            .0
            .chunks_exact(d)
            .zip(&self.mlp_in.1)
            .map(|(w, b)| gelu(dot(&u, w) + f64::from(*b)))
            .collect();
        self.mlp_out
            .0
            .chunks_exact(hidden.len())
            .zip(&self.mlp_out.1)
            .zip(&u)
            .map(|((w, b), u)| u + dot(&hidden, w) + f64::from(*b))
            .collect()
    }
}

impl MemoryBranch {
    /// s_m of every category, from G and the rows of V^.
    fn logits(&self, global: &[f64], dense: &[Vec<f64>]) -> Vec<f64> {
        let mut phi: Vec<f64> = global
            .iter()
            .zip(self.global_scale.iter().zip(&self.global_offset))
            .map(|(g, (scale, offset))| g * f64::from(*scale) + f64::from(*offset))
            .collect();
        let share = vec![1.0 / dense.len() as f64; dense.len()];
        let centred: Vec<f64> = mix(&share, dense)
            .iter()
            .zip(&self.mean_centre)
            .map(|(x, centre)| x - f64::from(*centre))
            .collect();
        let spread = f64::from(self.mean_spread);
        phi.extend(unit(&centred).iter().map(|x| x * spread));
        if let Some(words) = &self.words {
            phi.extend(words.part_of_phi(dense));
        }
        let mut logits: Vec<f64> = self.bias.iter().map(|&b| f64::from(b)).collect();
        let images = self.bank.chunks_exact(phi.len());
        for (image, weights) in images.zip(self.weight.chunks_exact(logits.len())) {
            let distance: f64 = phi
                .iter()
                .zip(image)
                .map(|(a, b)| (a - f64::from(*b)).powi(2))
                .sum();
            for (logit, weight) in logits.iter_mut().zip(weights) {
                *logit += (-distance).exp() * f64::from(*weight);
            }
        }
        logits
    }
}

impl WordHistogram {
    /// From the rows of V^, `[K]`.
    fn part_of_phi(&self, dense: &[Vec<f64>]) -> Vec<f64> {
        let less = |x: &[f64], centre: &[f32]| -> Vec<f64> {
            let pairs = x.iter().zip(centre);
            pairs.map(|(x, c)| x - f64::from(*c)).collect()
        };
        let shares: Vec<Vec<f64>> = dense
            .iter()
            .map(|v| {
                let local = unit(&less(v, &self.centre));
                let words = self.codebook.chunks_exact(local.len());
                softmax(words.map(|word| dot(&local, word)).collect())
            })
            .collect();
        let each = vec![1.0 / dense.len() as f64; dense.len()];
        let roots: Vec<f64> = mix(&each, &shares).iter().map(|x| x.sqrt()).collect();
        let direction = unit(&less(&roots, &self.root_centre));
        let spread = f64::from(self.spread);
        direction.iter().map(|x| x * spread).collect()
    }
}

impl RegionalBranch {
    /// s_l of category `c`, from the rows of V^.
    fn logit(&self, c: usize, dense: &[Vec<f64>]) -> f64 {
        let d = dense.first().map_or(0, Vec::len);
        let row = &self.attention[c * d..(c + 1) * d];
        let saliency = softmax(dense.iter().map(|v| dot(v, row)).collect());
        let region = unit(&mix(&saliency, dense));
        let regions = self.weight.len() / self.bias.len();
        let bank = &self.bank[c * d * regions..(c + 1) * d * regions];
        let cosines = times(&region, bank, regions);
        let weights = &self.weight[c * regions..(c + 1) * regions];
        let said = cosines.iter().zip(weights).map(|(cosine, weight)| {
            (f64::from(self.sharpness) * (cosine - 1.0)).exp() * f64::from(*weight)
        });
        said.sum::<f64>() + f64::from(self.bias[c])
    }
}

/// `a . b` over the shorter length of the two.
fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * f64::from(*y)).sum()
}

/// `x [D] @ w [D, columns]`.
fn times(x: &[f64], w: &[f32], columns: usize) -> Vec<f64> {
    let mut out = vec![0.0; columns];
    for (x, row) in x.iter().zip(w.chunks_exact(columns)) {
        for (o, w) in out.iter_mut().zip(row) {
            *o += x * f64::from(*w);
        }
    }
    out
}

/// `sum_n weights[n] rows[n]`.
fn mix(weights: &[f64], rows: &[Vec<f64>]) -> Vec<f64> {
    let mut out = vec![0.0; rows.first().map_or(0, Vec::len)];
    for (weight, row) in weights.iter().zip(rows) {
        for (o, x) in out.iter_mut().zip(row) {
            *o += weight * x;
        }
    }
    out
}

fn softmax(mut x: Vec<f64>) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    x.iter_mut().for_each(|x| *x = (*x - top).exp());
    let sum: f64 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
    x
}

fn normalised(x: &[f32]) -> Vec<f64> {
    let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    unit(&wide)
}

fn unit(x: &[f64]) -> Vec<f64> {
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    x.iter().map(|x| x / norm).collect()
}

/// GELU with the error function.
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// erf by its Maclaurin series for small arguments and its continued fraction for large ones
/// (Abramowitz and Stegun 7.1.5 and 7.1.14); good to about 1e-15.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a > 6.0 {
        return x.signum();
    }
    if a < 2.5 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 * sum.abs() && n < 200.0 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        return x.signum() * 2.0 / std::f64::consts::PI.sqrt() * sum;
    }
    let mut tail = a;
    for k in (1..=60).rev() {
        tail = a + f64::from(k) / 2.0 / tail;
    }
    x.signum() * (1.0 - (-a * a).exp() / (tail * std::f64::consts::PI.sqrt()))
}
