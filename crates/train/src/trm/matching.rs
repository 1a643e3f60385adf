//! One-to-one matching of texts with category-specific features, and DualCoOp's text-pixel matching
//! for comparison.

use candle_core::{Result, Tensor};
use tagstream_kernels::row_products;

/// `x[b,c] . (T[c] - T-[c])`, `[B, C]`: every category's own feature row with its own texts, before
/// the scale.
///
/// `rows` is `[B, C, D]`; `text` and `negative` are `[C, D]`. The negative side may be a text
/// feature of norm 1 or a free vector of any length.
///
/// # Errors
/// If the shapes do not fit.
pub fn pair_logits(rows: &Tensor, text: &Tensor, negative: &Tensor) -> Result<Tensor> {
    row_products(rows, &(text - negative)?)
}

/// Temperature's inverse inside the softmax over positions of zero-shot and DualCoOp matching.
pub const SPATIAL_SCALE: f64 = 20.0;

/// The keys that make attention pooling DualCoOp's spatial aggregation:
/// `w_cn = softmax_n(20 V^_n . T_c)`.
///
/// Pooled rows P then give `z+ = P . T` and `z- = P . T-` (the same weights on both sides), which
/// equal the weighted sums of cosines, because the weights sum over positions only.
///
/// # Errors
/// Those of tensor operations.
pub fn spatial_keys(text: &Tensor) -> Result<Tensor> {
    text * SPATIAL_SCALE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trm::testing::Golden;
    use candle_core::DType;
    use tagstream_kernels::testing::{check_gradients, distance, noise};
    use tagstream_kernels::{attention_pool, attention_saliency, l2_normalize};

    #[test]
    fn text_pixel_matching_agrees_with_the_golden() {
        for (dtype, tolerance) in [(DType::F64, 1e-6), (DType::F32, 1e-4)] {
            let golden = Golden::open("dualcoop", dtype);
            let (text, negative) = (golden.get("T"), golden.get("Tneg"));
            let positions = l2_normalize(&golden.get("V")).unwrap();
            let keys = spatial_keys(&text).unwrap();
            let weights = attention_saliency(&keys, &positions).unwrap();
            assert!(distance(&weights, &golden.get("weights")) < tolerance);
            let pooled = attention_pool(&keys, &positions).unwrap();
            let zero = text.zeros_like().unwrap();
            let positive = pair_logits(&pooled, &text, &zero).unwrap();
            assert!(distance(&positive, &golden.get("z_pos")) < tolerance);
            assert!(distance(&positive, &golden.get("zero_shot_spatial")) < tolerance);
            let logit =
                (pair_logits(&pooled, &text, &negative).unwrap() * golden.scalar("kappa")).unwrap();
            assert!(distance(&logit, &golden.get("logit")) < tolerance * 10.0);
            let global = l2_normalize(&golden.get("G"))
                .unwrap()
                .matmul(&text.t().unwrap())
                .unwrap();
            assert!(distance(&global, &golden.get("zero_shot_global")) < tolerance);
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        let positions = l2_normalize(&noise(1, &[2, 4, 3])).unwrap();
        check_gradients(
            &|x| {
                let pooled = attention_pool(&spatial_keys(&x[0])?, &positions)?;
                pair_logits(&pooled, &x[0], &x[1])
            },
            &[noise(2, &[2, 3]), noise(3, &[2, 3])],
        );
    }
}
