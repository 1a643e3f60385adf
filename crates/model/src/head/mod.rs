//! The head in the form that inference uses: every product of weights that does not depend on the
//! image is folded.
//!
//! With V the dense features of one image (`N x D`), V^ their rows L2-normalised and G the global
//! feature (`D`), per category c:
//!
//! ```text
//! A_h[c]   = softmax_n( V^ . (q[h,c] Wk_h^T) )                       q = Q Wq_h / sqrt(dh)
//! A[c]     = mean_h A_h[c]                                           saliency
//! R[c]     = sum_n A[c,n] V^_n ;  R^ = R / |R|                       region-level feature
//! s_r[c]   = R^ . region.weight[c] + region.bias[c]
//!            (R instead of R^ for pooled cosines: DualCoOp, zero-shot)
//! O[c]     = concat_h( A_h[c] V^ Wv_h ) Wo
//! U[c]     = LayerNorm(Q[c] + O[c]) ;  F = U + MLP(U) ; F^ = F / |F| query-level feature
//! s_q[c]   = F^ . query.read_out.weight[c] + query.read_out.bias[c]
//! s_g[c]   = G^ . global.weight[c] + global.bias[c] + G . residual[c]
//! s_m[c]   = sum_j exp(-|phi - bank_j|^2) memory.weight[j,c] + memory.bias[c]
//!            phi = [ G * scale + offset ; spread (M - centre) / |M - centre| ; words ],
//!            M = mean_n V^_n
//! words    = spread_w u(sqrt(H) - centre_w),  u(x) = x / |x|
//!            H = mean_n softmax_k( codebook_k . u(V^_n - centre_v) )   histogram of visual words
//! s_l[c]   = sum_j exp(b (R0^ . regional.bank[c,:,j] - 1)) regional.weight[c,j] + regional.bias[c]
//!            R0 as R, from a softmax of V^ . regional.attention[c]
//! logit[c] = s_r[c] + s_q[c] + s_g[c] + s_m[c] + s_l[c]
//!            each already multiplied by its share
//! ```
//!
//! With one head `q Wk^T` folds to one `[C, D]` matrix and `Wv Wo` to one `[D, D]`. With more,
//! folding would make the work grow with the number of heads, so the projections are kept
//! ([`Attention::Projected`]).
//!
//! One [`ExportedHead`] is written in two forms from the same weights: [`GraphOutputs::Full`], the
//! bundle's `head.onnx`, and [`GraphOutputs::Top`], which never builds the `[C, D]` region features
//! of all categories and hands out the rows of the K best tags only (what the stage runs; with
//! 10,000 categories the difference is 20 MB an image).

mod evaluate;
mod file;
mod graph;
mod new_category;
mod outputs;
mod zero_shot;

pub use evaluate::HeadEvaluation;
pub use file::{HeadFiles, NamedTensor, TRAINABLE_PREFIX};
pub use graph::WeightStorage;
pub use new_category::NewDirection;
pub use outputs::GraphOutputs;
pub use zero_shot::ZeroShot;

/// LayerNorm's epsilon in the query-level branch.
pub const NORM_EPSILON: f32 = 1e-5;

/// A per-category linear read-out; share, scale and negative vectors are already folded in.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOut {
    /// `[C, D]`, row-major.
    pub weight: Vec<f32>,
    /// `[C]`.
    pub bias: Vec<f32>,
}

/// What gives the attention's logits.
#[derive(Debug, Clone, PartialEq)]
pub enum Attention {
    /// One head: `[C, D]`, multiplied with V^.
    Folded(Vec<f32>),
    /// `heads` heads.
    Projected {
        /// `Q Wq_h / sqrt(dh)`, `[h, C, dh]`.
        query: Vec<f32>,
        /// Wk, `[D, D]`, applied to V^ from the right; head h owns columns
        /// `h * dh .. (h + 1) * dh`.
        key: Vec<f32>,
    },
}

impl Attention {
    /// The cheapest form of `softmax(Q Wq (V^ Wk)^T / sqrt(dh))`. `query` is `[C, D]`; `wq` and
    /// `wk` are `[D, D]`, applied from the right; heads are consecutive slices of `D / heads`
    /// columns.
    ///
    /// # Panics
    /// If the sizes do not fit together.
    pub fn from_projections(
        query: &[f32],
        wq: &[f32],
        wk: &[f32],
        dim: usize,
        heads: usize,
    ) -> Self {
        assert!(dim > 0 && heads > 0 && dim.is_multiple_of(heads));
        assert!(wq.len() == dim * dim && wk.len() == dim * dim && query.len().is_multiple_of(dim));
        let categories = query.len() / dim;
        let width = dim / heads;
        let scale = 1.0 / (width as f64).sqrt();
        let projected = product(query, wq, categories, dim, dim);
        if heads == 1 {
            // q Wk^T: row c, column d is q[c] . wk[d].
            let folded = projected.chunks_exact(dim).flat_map(|q| {
                wk.chunks_exact(dim)
                    .map(move |k| (dot64(q, k) * scale) as f32)
            });
            return Self::Folded(folded.collect());
        }
        let mut sliced = Vec::with_capacity(categories * dim);
        for head in 0..heads {
            for q in projected.chunks_exact(dim) {
                let slice = &q[head * width..(head + 1) * width];
                sliced.extend(slice.iter().map(|x| (x * scale) as f32));
            }
        }
        Self::Projected {
            query: sliced,
            key: wk.to_vec(),
        }
    }
}

/// Value and output projection of the query-level branch.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueOutput {
    /// One head: `Wv Wo`, `[D, D]`, applied from the right.
    Folded(Vec<f32>),
    /// `heads` heads.
    Projected {
        /// Wv, `[D, D]`; head h owns columns `h * dh .. (h + 1) * dh`.
        value: Vec<f32>,
        /// Wo, `[D, D]`.
        output: Vec<f32>,
    },
}

impl ValueOutput {
    /// The cheapest form of `concat_h(A_h V^ Wv_h) Wo`.
    ///
    /// # Panics
    /// If the sizes do not fit together.
    pub fn from_projections(wv: &[f32], wo: &[f32], dim: usize, heads: usize) -> Self {
        assert!(wv.len() == dim * dim && wo.len() == dim * dim);
        if heads == 1 {
            let folded = product(wv, wo, dim, dim, dim);
            return Self::Folded(folded.iter().map(|&x| x as f32).collect());
        }
        Self::Projected {
            value: wv.to_vec(),
            output: wo.to_vec(),
        }
    }
}

/// The query-level branch.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryBranch {
    /// Q, `[C, D]`.
    pub query: Vec<f32>,
    /// Value and output projections.
    pub value_output: ValueOutput,
    /// LayerNorm weight and bias, `[D]` each, epsilon [`NORM_EPSILON`].
    pub norm: (Vec<f32>, Vec<f32>),
    /// First MLP layer: weight `[hidden, D]`, bias `[hidden]`; GELU (erf) follows.
    pub mlp_in: (Vec<f32>, Vec<f32>),
    /// Second MLP layer: weight `[D, hidden]`, bias `[D]`.
    pub mlp_out: (Vec<f32>, Vec<f32>),
    /// Read-out on F^.
    pub read_out: ReadOut,
}

impl QueryBranch {
    /// Width of the MLP's hidden layer.
    pub fn hidden(&self) -> usize {
        self.mlp_in.1.len()
    }
}

/// The global branch: `G^ . weight + bias + G . residual`, with G raw and G^ normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalBranch {
    /// Read-out on G^.
    pub read_out: ReadOut,
    /// Optional linear residual on the raw global feature, `[C, D]` (its offset lies in
    /// `read_out.bias`).
    pub residual: Option<Vec<f32>>,
}

/// The memory branch: a kernel machine over a bank of M training images.
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
    /// The histogram of visual words in phi, if it has one.
    pub words: Option<WordHistogram>,
    /// The images remembered, as phi: `[M, 2 D + K]`.
    pub bank: Vec<f32>,
    /// What each of them says, `[M, C]`.
    pub weight: Vec<f32>,
    /// `[C]`.
    pub bias: Vec<f32>,
}

/// A picture as a histogram of K visual words: which kinds of local features it is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct WordHistogram {
    /// Subtracted from V^ before it is normalised again, `[D]`.
    pub centre: Vec<f32>,
    /// The words, multiplied by the sharpness of their softmax: `[K, D]`.
    pub codebook: Vec<f32>,
    /// Subtracted from the roots of the histogram, `[K]`.
    pub root_centre: Vec<f32>,
    /// Multiplies what is left after it is normalised (bandwidth).
    pub spread: f32,
}

impl MemoryBranch {
    /// Length of phi where features have `dim` dimensions.
    fn phi(&self, dim: usize) -> usize {
        2 * dim + self.words.as_ref().map_or(0, |w| w.root_centre.len())
    }
}

/// The regional memory: for each category, a kernel machine over M regions of training images.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionalBranch {
    /// What gives the saliency whose regions are remembered, `[C, D]`, multiplied with V^.
    pub attention: Vec<f32>,
    /// b: the kernel is `exp(b (cosine - 1))`.
    pub sharpness: f32,
    /// The regions remembered, columns of norm 1: `[C, D, M]`.
    pub bank: Vec<f32>,
    /// What each of them says, `[C, M]`.
    pub weight: Vec<f32>,
    /// `[C]`.
    pub bias: Vec<f32>,
}

/// What the region read-out is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionForm {
    /// R^, of norm 1: cosine of the region and the text (TRM-ML).
    Normalised,
    /// R itself: the attention-weighted mean of cosines (DualCoOp, zero-shot).
    Raw,
}

/// The exported head; see the module's equations.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedHead {
    /// D.
    pub dim: usize,
    /// C.
    pub categories: usize,
    /// h.
    pub heads: usize,
    /// The attention's logits.
    pub attention: Attention,
    /// Read-out on the region-level feature.
    pub region: ReadOut,
    /// Whether that is normalised.
    pub region_form: RegionForm,
    /// The query-level branch, if the method has one.
    pub query: Option<QueryBranch>,
    /// The global branch, if the method has one.
    pub global: Option<GlobalBranch>,
    /// The memory branch, if the method has one.
    pub memory: Option<MemoryBranch>,
    /// The regional memory, if the method has one.
    pub regional: Option<RegionalBranch>,
}

/// Why a head cannot be used, written or read.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// A tensor has the wrong number of elements.
    #[error(
        "head tensor `{name}` has {found} elements; its shape {shape:?} needs {}",
        .shape.iter().product::<usize>()
    )]
    Shape {
        /// Name as in `head.safetensors`.
        name: &'static str,
        /// The shape it must have.
        shape: Vec<usize>,
        /// The elements it has.
        found: usize,
    },
    /// A weight is NaN or infinite.
    #[error("head tensor `{name}` holds a value that is not finite")]
    NotFinite {
        /// Name as in `head.safetensors`.
        name: &'static str,
    },
    /// Sizes that exclude each other.
    #[error("head sizes do not fit together: {0}")]
    Sizes(String),
    /// The file is no head.
    #[error("head.safetensors cannot be read: {0}")]
    Format(String),
    /// The graph cannot be written.
    #[error(transparent)]
    Graph(#[from] super::onnx::GraphError),
}

impl ExportedHead {
    /// Every tensor with its name and shape, in a fixed order. The names are those of
    /// `head.safetensors` and of the initializers of `head.onnx`.
    fn tensors(&self) -> Vec<(&'static str, Vec<usize>, &[f32])> {
        let (c, d, h) = (self.categories, self.dim, self.heads);
        let mut all: Vec<(&'static str, Vec<usize>, &[f32])> = Vec::new();
        match &self.attention {
            Attention::Folded(weight) => all.push(("attention.weight", vec![c, d], weight)),
            Attention::Projected { query, key } => {
                all.push(("attention.query", vec![h, c, d / h.max(1)], query));
                all.push(("attention.key", vec![d, d], key));
            }
        }
        all.push(("region.weight", vec![c, d], &self.region.weight));
        all.push(("region.bias", vec![c], &self.region.bias));
        if let Some(branch) = &self.query {
            let hidden = branch.hidden();
            all.push(("query.embedding", vec![c, d], &branch.query));
            match &branch.value_output {
                ValueOutput::Folded(weight) => {
                    all.push(("query.value_output", vec![d, d], weight));
                }
                ValueOutput::Projected { value, output } => {
                    all.push(("query.value", vec![d, d], value));
                    all.push(("query.output", vec![d, d], output));
                }
            }
            all.push(("query.norm.weight", vec![d], &branch.norm.0));
            all.push(("query.norm.bias", vec![d], &branch.norm.1));
            all.push(("query.mlp_in.weight", vec![hidden, d], &branch.mlp_in.0));
            all.push(("query.mlp_in.bias", vec![hidden], &branch.mlp_in.1));
            all.push(("query.mlp_out.weight", vec![d, hidden], &branch.mlp_out.0));
            all.push(("query.mlp_out.bias", vec![d], &branch.mlp_out.1));
            all.push(("query.read_out.weight", vec![c, d], &branch.read_out.weight));
            all.push(("query.read_out.bias", vec![c], &branch.read_out.bias));
        }
        if let Some(branch) = &self.global {
            all.push(("global.weight", vec![c, d], &branch.read_out.weight));
            all.push(("global.bias", vec![c], &branch.read_out.bias));
            if let Some(residual) = &branch.residual {
                all.push(("global.residual", vec![c, d], residual));
            }
        }
        if let Some(branch) = &self.memory {
            let phi = branch.phi(d);
            let images = branch.bank.len() / phi.max(1);
            let spread = std::slice::from_ref(&branch.mean_spread);
            all.push(("memory.global_scale", vec![d], &branch.global_scale));
            all.push(("memory.global_offset", vec![d], &branch.global_offset));
            all.push(("memory.mean_centre", vec![d], &branch.mean_centre));
            all.push(("memory.mean_spread", vec![1], spread));
            if let Some(words) = &branch.words {
                let k = words.root_centre.len();
                let spread = std::slice::from_ref(&words.spread);
                all.push(("memory.word_centre", vec![d], &words.centre));
                all.push(("memory.word_codebook", vec![k, d], &words.codebook));
                all.push(("memory.word_root_centre", vec![k], &words.root_centre));
                all.push(("memory.word_spread", vec![1], spread));
            }
            all.push(("memory.bank", vec![images, phi], &branch.bank));
            all.push(("memory.weight", vec![images, c], &branch.weight));
            all.push(("memory.bias", vec![c], &branch.bias));
        }
        if let Some(branch) = &self.regional {
            let regions = branch.weight.len() / c.max(1);
            let sharpness = std::slice::from_ref(&branch.sharpness);
            all.push(("regional.attention", vec![c, d], &branch.attention));
            all.push(("regional.sharpness", vec![1], sharpness));
            all.push(("regional.bank", vec![c, d, regions], &branch.bank));
            all.push(("regional.weight", vec![c, regions], &branch.weight));
            all.push(("regional.bias", vec![c], &branch.bias));
        }
        all
    }

    /// Checks sizes and that every weight is finite.
    pub fn check(&self) -> Result<(), HeadError> {
        let (c, d, h) = (self.categories, self.dim, self.heads);
        if c == 0 || d == 0 || h == 0 || !d.is_multiple_of(h) {
            return Err(HeadError::Sizes(format!(
                "{c} categories, dimension {d}, {h} heads (the dimension must be a multiple of \
                 the heads)"
            )));
        }
        let folded = matches!(self.attention, Attention::Folded(_));
        let folded_values = self
            .query
            .as_ref()
            .map_or(folded, |q| matches!(q.value_output, ValueOutput::Folded(_)));
        if folded != (h == 1) || folded_values != folded {
            return Err(HeadError::Sizes(format!(
                "folded projections stand for one head, separate ones for several; this head has \
                 {h}"
            )));
        }
        if self.memory.as_ref().is_some_and(|m| m.bank.is_empty())
            || self.regional.as_ref().is_some_and(|m| m.bank.is_empty())
        {
            return Err(HeadError::Sizes(
                "a memory branch remembers nothing".to_owned(),
            ));
        }
        for (name, shape, data) in self.tensors() {
            if data.len() != shape.iter().product::<usize>() {
                let found = data.len();
                return Err(HeadError::Shape { name, shape, found });
            }
            if data.iter().any(|x| !x.is_finite()) {
                return Err(HeadError::NotFinite { name });
            }
        }
        Ok(())
    }
}

/// `a [rows, inner] @ b [inner, columns]`, summed in 64 bit.
fn product(a: &[f32], b: &[f32], rows: usize, inner: usize, columns: usize) -> Vec<f64> {
    let mut out = vec![0.0; rows * columns];
    for r in 0..rows {
        let row = &mut out[r * columns..(r + 1) * columns];
        for k in 0..inner {
            let x = f64::from(a[r * inner + k]);
            for (o, y) in row.iter_mut().zip(&b[k * columns..(k + 1) * columns]) {
                *o += x * f64::from(*y);
            }
        }
    }
    out
}

fn dot64(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * f64::from(*y)).sum()
}

#[cfg(test)]
mod tests;
