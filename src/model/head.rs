//! The head in the form that inference uses: every product of weights that does not depend on the image is folded.
//!
//! With V^ the L2-normalised dense features of one image (N x D), per category c:
//!
//! ```text
//! A_h[c]   = softmax_n( V^ . attention[h,c] )                        attention = Q Wq_h Wk_h^T / sqrt(dh)
//! Abar[c]  = mean_h A_h[c]                                           saliency
//! R[c]     = sum_n Abar[c,n] V^_n ;  R^ = R / |R|                    region-level feature
//! s_r[c]   = R^ . region.weight[c] + region.bias[c]                  weight = kappa (T_c - n_c)
//! O[c]     = sum_h (A_h[c] V^) value_output[h]                       value_output = Wv_h Wo_h   (D x D)
//! U[c]     = LayerNorm(query[c] + O[c]) ;  F = U + MLP(U) ; F^ = F / |F|
//! s_q[c]   = F^ . query_branch.weight[c] + bias[c]
//! s_g[c]   = G^ . global.weight[c] + global.bias[c] + standardised(G) . residual[c]   (residual folded into G's affine map)
//! logit[c] = sum of branches, each already multiplied by its share
//! ```
//!
//! A zero-shot head is the same with `attention = T / 0.05` and no query branch.

/// A per-category linear read-out; `share`, scale and negative vectors are already folded in.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOut {
    /// `[C, D]`, row-major.
    pub weight: Vec<f32>,
    /// `[C]`.
    pub bias: Vec<f32>,
}

/// The query-level branch (METHOD 4.4).
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
    /// Read-out on R^.
    pub region: ReadOut,
    /// The query-level branch, if the method has one.
    pub query: Option<QueryBranch>,
    /// The global branch, if the method has one.
    pub global: Option<GlobalBranch>,
}
