//! Tensor operations with a backward pass of their own.
//!
//! candle's fused softmax and layer norm have no backward (the gradient vanishes without an error),
//! and its `matmul` computes the gradient of both operands even where the weight is frozen. The
//! text tower is frozen and prompts are trained through it, so these operations compute exactly
//! what is needed: the gradient of the activations.
//!
//! | operation | forward | gradient |
//! |---|---|---|
//! | [`FrozenLinear`] | `x Wᵀ + b` | `dx = dy W`, never `dW` |
//! | [`FrozenLayerNorm`] | `(x - mean) / sqrt(var + eps) · w + b` | `dx` only |
//! | [`softmax()`] | over the last dimension | yes |
//! | [`quick_gelu`], [`gelu`], [`gelu_tanh`] | `x σ(1.702 x)`, `x Φ(x)`, by tanh | yes |
//! | [`select_rows`] | rows of a matrix by index | scattered back |
//! | [`ResidualMlp`] | `U + MLP(U)`, `U = LayerNorm(x + Q)` | yes |
//! | [`Branches`] | region- and query-level logits from positions to matches | to every weight |
//! | [`attention_pool`] | softmax-weighted mean of frozen positions | to the keys |
//! | [`l2_normalize()`], [`row_products`] | L2 normalisation; `rows[b,c] . weight[c]` | yes |
//! | [`FrozenTransformer`] | pre-norm blocks, each sequence read at its end | `dx` only |
//! | [`causal_attention`] | multi-head, sequences of different length packed in one matrix | yes |
//!
//! All run on the CPU in `f32` (training) and `f64` (gradient checks), on rayon's threads, each
//! thread a block of rows, so that results do not depend on the number of threads.

mod activation;
mod attention;
mod branches;
pub mod composed;
mod l2_normalize;
mod layer_norm;
mod linear;
pub(crate) mod matrix;
mod pool;
mod residual_mlp;
mod rows;
mod softmax;
mod transformer;

pub use activation::{Activation, gelu, gelu_tanh, quick_gelu};
pub use attention::{Segment, Sight, causal_attention};
pub use branches::{BranchOutputs, Branches};
pub use l2_normalize::l2_normalize_rows;
pub use l2_normalize::{l2_normalize, row_products};
pub use layer_norm::FrozenLayerNorm;
pub use linear::FrozenLinear;
pub use pool::{attention_pool, attention_saliency};
pub use residual_mlp::ResidualMlp;
pub use rows::select_rows;
pub use softmax::softmax;
pub use transformer::{FrozenBlock, FrozenTransformer};

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType, bail};
pub(crate) use tagstream_multiversion::multiversioned;

/// The element types the operations run in.
pub trait Real: WithDType {
    /// `e^x`.
    fn exp(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The normal distribution: `Φ(x)` and `exp(-x²/2)`.
    fn normal(self) -> (Self, Self);
}

impl Real for f32 {
    /// Cephes' expf without branches (relative error below 2e-7), so that loops over slices
    /// vectorise; inputs are clamped to the range in which the result is a normal number.
    #[inline(always)]
    fn exp(self) -> f32 {
        /// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer.
        const ROUND: f32 = 12_582_912.0;
        let x = self.clamp(-87.0, 88.0);
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
        let p = 1.987_569_1e-4;
        let p = p * r + 1.398_199_9e-3;
        let p = p * r + 8.333_452e-3;
        let p = p * r + 4.166_579_6e-2;
        let p = p * r + 1.666_666_6e-1;
        let p = p * r + 0.5;
        let y = p * r * r + r + 1.0;
        // The lowest bits of `shifted` hold n, which after the clamp lies in [-126, 127]: 2^n is a
        // normal number.
        y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
    }

    #[inline(always)]
    fn sqrt(self) -> f32 {
        self.sqrt()
    }

    /// The tail as `exp(-x²/2) P(t)`, `t = 1 / (1 + 0.26 |x|)`, without branches; P was fitted to
    /// `Φ(-z) exp(z²/2)` for z in [0, 14] (largest error 8e-8), so that the relative error of the
    /// tail stays below 2e-6 too.
    #[inline(always)]
    fn normal(self) -> (f32, f32) {
        let density = Real::exp(-0.5 * self * self);
        let t = 1.0 / (1.0 + 0.26 * self.abs());
        let p = -0.074_230_82;
        let p = p * t + 0.233_658_99;
        let p = p * t - 0.113_374_145;
        let p = p * t + 0.171_646_1;
        let p = p * t + 0.071_210_56;
        let p = p * t + 0.107_606_67;
        let p = p * t + 0.103_482_59;
        let tail = p * t * density;
        let cdf = if self < 0.0 { tail } else { 1.0 - tail };
        (cdf, density)
    }
}

impl Real for f64 {
    #[inline(always)]
    fn exp(self) -> f64 {
        self.exp()
    }

    #[inline(always)]
    fn sqrt(self) -> f64 {
        self.sqrt()
    }

    fn normal(self) -> (f64, f64) {
        let erfc = candle_core::cpu::erf::erfc_f64(-self * std::f64::consts::FRAC_1_SQRT_2);
        (0.5 * erfc, (-0.5 * self * self).exp())
    }
}

/// Runs `$body` with `$T` bound to the element type of the CPU storage `$storage`.
#[macro_export]
macro_rules! dispatch {
    ($storage:expr, $name:expr, $T:ident => $body:expr) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => {
                type $T = f32;
                $body
            }
            candle_core::CpuStorage::F64(_) => {
                type $T = f64;
                $body
            }
            _ => candle_core::bail!("{} runs in f32 and f64 only", $name),
        }
    };
}

/// The elements of a contiguous operand.
pub fn elements<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let data = T::cpu_storage_as_slice(storage)?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!(
            "the operand must be contiguous, its strides are {:?}",
            layout.stride()
        ),
    }
}

/// Calls `f` with the elements of a contiguous CPU tensor.
pub fn with_elements<T: WithDType, R>(
    tensor: &Tensor,
    f: impl FnOnce(&[T]) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(elements(storage, layout)?),
        _ => bail!("this operation runs on the CPU only"),
    }
}

/// How many rows a thread takes at once, so that a block is worth the hand-over (about 16 k
/// elements).
pub(crate) fn rows_per_block(width: usize) -> usize {
    (16_384 / width.max(1)).max(1)
}

/// The sum of products, over eight independent partial sums that the compiler keeps in vector
/// registers.
#[inline(always)]
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); 8];
    let (a_blocks, b_blocks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a_blocks
        .remainder()
        .iter()
        .zip(b_blocks.remainder())
        .fold(T::zero(), |sum, (&a, &b)| sum + a * b);
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().fold(rest, |sum, &lane| sum + lane)
}

/// `y += a x`.
#[inline(always)]
pub(crate) fn add_scaled<T: Real>(y: &mut [T], a: T, x: &[T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
