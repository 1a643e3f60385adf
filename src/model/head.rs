//! The head in the form that inference uses: every product of weights that does not depend on the image is folded.
//!
//! With V^ the L2-normalised dense features of one image (N x D) and G its global feature, per category c:
//!
//! ```text
//! A_h[c]   = softmax_n( V^ . attention[h,c] )                        attention = Q Wq_h Wk_h^T / sqrt(dh)
//! Abar[c]  = mean_h A_h[c]                                           saliency
//! R[c]     = sum_n Abar[c,n] V^_n ;  R^ = R / |R|                    region-level feature
//! s_r[c]   = R^ . region.weight[c] + region.bias[c]                  weight = kappa (T_c - n_c); R for R^ if not normalised
//! O[c]     = sum_h (A_h[c] V^) value_output[h]                       value_output = Wv_h Wo_h   (D x D)
//! U[c]     = LayerNorm(query[c] + O[c]) ;  F = U + MLP(U) ; F^ = F / |F|
//! s_q[c]   = F^ . query_branch.weight[c] + bias[c]
//! s_g[c]   = G^ . global.weight[c] + global.bias[c] + standardised(G) . residual[c]   (residual folded into G's affine map)
//! s_m[c]   = sum_j exp(-|phi - bank_j|^2) memory.weight[j,c] + memory.bias[c]
//!            phi = [ G * scale + offset ; spread (M - centre) / |M - centre| ],  M = mean_n V^_n
//! logit[c] = sum of branches, each already multiplied by its share
//! ```
//!
//! A zero-shot head is the same with `attention = T / 0.05` and no query branch.

use rayon::prelude::*;

/// A per-category linear read-out; `share`, scale and negative vectors are already folded in.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOut {
    /// `[C, D]`, row-major.
    pub weight: Vec<f32>,
    /// `[C]`.
    pub bias: Vec<f32>,
}

/// The query-level branch (docs/method.md, "Regions and queries").
#[derive(Debug, Clone, PartialEq)]
pub struct QueryBranch {
    /// Q, `[C, D]`.
    pub query: Vec<f32>,
    /// Per head `Wv_h Wo_h`, `[h, D, D]`, applied from the right.
    pub value_output: Vec<f32>,
    /// LayerNorm weight and bias, `[D]` each, eps 1e-5.
    pub norm: (Vec<f32>, Vec<f32>),
    /// First MLP layer: weight `[hidden, D]`, bias `[hidden]`; GELU (erf) follows.
    pub mlp_in: (Vec<f32>, Vec<f32>),
    /// Second MLP layer: weight `[D, hidden]`, bias `[D]`.
    pub mlp_out: (Vec<f32>, Vec<f32>),
    /// Read-out on F^.
    pub read_out: ReadOut,
}

/// The global branch: `G^ . weight + bias + G . residual` with G raw and G^ normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalBranch {
    /// Read-out on G^.
    pub read_out: ReadOut,
    /// Optional linear residual on the raw global feature, `[C, D]` (its offset lies in `read_out.bias`).
    pub residual: Option<Vec<f32>>,
}

/// The memory branch: a kernel machine over a bank of training images (docs/method.md, "Memory").
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryBranch {
    /// Multiplies the raw global feature, `[D]` (standardisation and bandwidth).
    pub global_scale: Vec<f32>,
    /// Added to it, `[D]`.
    pub global_offset: Vec<f32>,
    /// Subtracted from the mean of V^ before it is normalised, `[D]`.
    pub mean_centre: Vec<f32>,
    /// Multiplies the normalised mean (bandwidth).
    pub mean_spread: f32,
    /// The images remembered, as phi: `[M, 2 D]`.
    pub bank: Vec<f32>,
    /// What each of them says, `[M, C]`.
    pub weight: Vec<f32>,
    /// `[C]`.
    pub bias: Vec<f32>,
}

/// The folded head; see the module's equations.
#[derive(Debug, Clone, PartialEq)]
pub struct FoldedHead {
    /// D.
    pub dim: usize,
    /// C.
    pub categories: usize,
    /// h.
    pub heads: usize,
    /// `[h, C, D]`: what V^ is multiplied with to give attention logits.
    pub attention: Vec<f32>,
    /// Whether the region read-out takes R^ (text-region matching) or R itself (DualCoOp's spatial aggregation).
    pub normalise_region: bool,
    /// Read-out on R^ (or R).
    pub region: ReadOut,
    /// The query-level branch, if the method has one.
    pub query: Option<QueryBranch>,
    /// The global branch, if the method has one.
    pub global: Option<GlobalBranch>,
    /// The memory branch, if the method has one.
    pub memory: Option<MemoryBranch>,
}

/// What a head gives for a batch of B images.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeadOutput {
    /// `[B, C]`.
    pub logits: Vec<f32>,
    /// `[B, C, N]`, rows sum to 1.
    pub saliency: Vec<f32>,
    /// R^, `[B, C, D]`.
    pub region: Vec<f32>,
    /// G^, `[B, D]`.
    pub embedding: Vec<f32>,
}

impl FoldedHead {
    /// The module's equations, image by image: the reference that exported graphs are compared with.
    ///
    /// `dense` is `[B, N, D]` and `global` `[B, D]`, both as the encoder gives them.
    ///
    /// # Panics
    /// If the lengths of `dense` and `global` do not agree with `dim`; the head's own shapes are the maker's duty.
    pub fn evaluate(&self, dense: &[f32], global: &[f32]) -> HeadOutput {
        let batch = global.len() / self.dim;
        assert_eq!(global.len(), batch * self.dim, "global is not [B, D]");
        if batch == 0 {
            return HeadOutput::default();
        }
        let image = dense.len() / batch;
        assert_eq!(dense.len(), batch * image, "dense is not [B, N, D]");
        assert_eq!(image % self.dim, 0, "dense is not [B, N, D]");
        let outputs: Vec<HeadOutput> = dense
            .par_chunks(image)
            .zip(global.par_chunks(self.dim))
            .map(|(dense, global)| self.evaluate_image(dense, global))
            .collect();
        let mut all = HeadOutput::default();
        for output in outputs {
            all.logits.extend(output.logits);
            all.saliency.extend(output.saliency);
            all.region.extend(output.region);
            all.embedding.extend(output.embedding);
        }
        all
    }

    fn evaluate_image(&self, dense: &[f32], global: &[f32]) -> HeadOutput {
        let (d, n) = (self.dim, dense.len() / self.dim);
        let dense: Vec<f32> = dense.chunks(d).flat_map(normalised).collect();
        let embedding = normalised(global);
        let mut output = HeadOutput {
            embedding,
            ..HeadOutput::default()
        };
        for c in 0..self.categories {
            let row = c * d..(c + 1) * d;
            let mut saliency = vec![0.0; n];
            let mut pooled = vec![0.0; self.heads * d];
            for (h, pooled) in pooled.chunks_mut(d).enumerate() {
                let key = &self.attention[(h * self.categories + c) * d..][..d];
                let weights = softmax(dense.chunks(d).map(|v| dot(v, key)).collect());
                for (at, (weight, v)) in weights.iter().zip(dense.chunks(d)).enumerate() {
                    saliency[at] += weight / self.heads as f32;
                    add_scaled(pooled, *weight, v);
                }
            }
            let mut region = vec![0.0; d];
            for pooled in pooled.chunks(d) {
                add_scaled(&mut region, 1.0 / self.heads as f32, pooled);
            }
            let unit = normalised(&region);
            let read = if self.normalise_region {
                &unit
            } else {
                &region
            };
            let mut logit = dot(read, &self.region.weight[row.clone()]) + self.region.bias[c];
            if let Some(query) = &self.query {
                logit += query.logit(c, &pooled, d);
            }
            if let Some(branch) = &self.global {
                logit += dot(&output.embedding, &branch.read_out.weight[row.clone()])
                    + branch.read_out.bias[c];
                if let Some(residual) = &branch.residual {
                    logit += dot(global, &residual[row]);
                }
            }
            output.logits.push(logit);
            output.saliency.extend(saliency);
            output.region.extend(unit);
        }
        if let Some(memory) = &self.memory {
            memory.add_to(&mut output.logits, &dense, global);
        }
        output
    }
}

impl QueryBranch {
    /// s_q of category `c` from its pooled features, `[h, D]`.
    fn logit(&self, c: usize, pooled: &[f32], d: usize) -> f32 {
        let mut u = self.query[c * d..(c + 1) * d].to_vec();
        for (pooled, map) in pooled.chunks(d).zip(self.value_output.chunks(d * d)) {
            for (x, row) in pooled.iter().zip(map.chunks(d)) {
                add_scaled(&mut u, *x, row);
            }
        }
        let mean = u.iter().sum::<f32>() / d as f32;
        let variance = u.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / d as f32;
        for (x, (weight, bias)) in u.iter_mut().zip(self.norm.0.iter().zip(&self.norm.1)) {
            *x = (*x - mean) / (variance + 1e-5).sqrt() * weight + bias;
        }
        let hidden: Vec<f32> = self
            .mlp_in
            .0
            .chunks(d)
            .zip(&self.mlp_in.1)
            .map(|(row, bias)| gelu(dot(&u, row) + bias))
            .collect();
        let f: Vec<f32> = self
            .mlp_out
            .0
            .chunks(hidden.len())
            .zip(self.mlp_out.1.iter().zip(&u))
            .map(|(row, (bias, u))| u + dot(&hidden, row) + bias)
            .collect();
        dot(&normalised(&f), &self.read_out.weight[c * d..(c + 1) * d]) + self.read_out.bias[c]
    }
}

impl MemoryBranch {
    fn add_to(&self, logits: &mut [f32], dense: &[f32], global: &[f32]) {
        let d = global.len();
        let mut phi: Vec<f32> = global
            .iter()
            .zip(self.global_scale.iter().zip(&self.global_offset))
            .map(|(g, (scale, offset))| g * scale + offset)
            .collect();
        let mut mean: Vec<f32> = self.mean_centre.iter().map(|c| -c).collect();
        let share = d as f32 / dense.len() as f32;
        for v in dense.chunks(d) {
            add_scaled(&mut mean, share, v);
        }
        phi.extend(normalised(&mean).iter().map(|x| x * self.mean_spread));
        let categories = logits.len();
        for (logit, bias) in logits.iter_mut().zip(&self.bias) {
            *logit += bias;
        }
        for (image, weight) in self.bank.chunks(2 * d).zip(self.weight.chunks(categories)) {
            let distance: f32 = phi.iter().zip(image).map(|(a, b)| (a - b).powi(2)).sum();
            add_scaled(logits, (-distance).exp(), weight);
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// x / max(|x|, 1e-12).
fn normalised(x: &[f32]) -> Vec<f32> {
    let norm = dot(x, x).sqrt().max(1e-12);
    x.iter().map(|x| x / norm).collect()
}

fn softmax(mut x: Vec<f32>) -> Vec<f32> {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in &mut x {
        *x = (*x - max).exp();
    }
    let sum: f32 = x.iter().sum();
    for x in &mut x {
        *x /= sum;
    }
    x
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + candle_core::cpu::erf::erf_f32(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two positions along the axes, one category that looks along the first: everything can be done by hand.
    fn head() -> FoldedHead {
        FoldedHead {
            dim: 2,
            categories: 1,
            heads: 1,
            attention: vec![(3.0f32).ln(), 0.0],
            normalise_region: false,
            region: ReadOut {
                weight: vec![4.0, 8.0],
                bias: vec![0.5],
            },
            query: None,
            global: None,
            memory: None,
        }
    }

    #[test]
    fn the_region_is_the_saliency_weighted_mean() {
        let output = head().evaluate(&[2.0, 0.0, 0.0, 5.0], &[3.0, 4.0]);
        assert!((output.saliency[0] - 0.75).abs() < 1e-6);
        assert!((output.logits[0] - (0.75 * 4.0 + 0.25 * 8.0 + 0.5)).abs() < 1e-5);
        let norm = (0.75f32 * 0.75 + 0.25 * 0.25).sqrt();
        assert!((output.region[0] - 0.75 / norm).abs() < 1e-6);
        assert_eq!(output.embedding, [0.6, 0.8]);
    }

    #[test]
    fn the_memory_answers_with_what_it_holds_nearest() {
        let mut head = head();
        head.region.weight = vec![0.0; 2];
        head.memory = Some(MemoryBranch {
            global_scale: vec![1.0, 1.0],
            global_offset: vec![-1.0, 0.0],
            mean_centre: vec![0.5, 0.0],
            mean_spread: 2.0,
            bank: vec![0.0, 0.0, 0.0, 2.0, 1.0, 0.0, 0.0, 2.0],
            weight: vec![5.0, 7.0],
            bias: vec![0.25],
        });
        // G = (1, 0) -> (0, 0); mean of V^ = (0.5, 0.5), centred (0, 0.5), normalised and spread (0, 2).
        let output = head.evaluate(&[2.0, 0.0, 0.0, 5.0], &[1.0, 0.0]);
        let expected = 0.5 + 0.25 + 5.0 + 7.0 * (-1.0f32).exp();
        assert!((output.logits[0] - expected).abs() < 1e-5);
    }

    #[test]
    fn no_image_gives_no_output() {
        assert_eq!(head().evaluate(&[], &[]), HeadOutput::default());
    }
}
