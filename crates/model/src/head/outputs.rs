//! What a head's graph hands out.

/// What a head's graph hands out.
#[derive(Debug, Clone, PartialEq)]
pub enum GraphOutputs {
    /// The contract of `head.onnx`: `logits [B,C]`, `saliency [B,C,N]`, `region [B,C,D]` (R^),
    /// `embedding [B,D]` (G^).
    Full,
    /// `logits [B,C]`, `embedding [B,D]`, and of the `count` (K, at most C) categories whose logit
    /// exceeds its floor the furthest, in falling order: `tags [B,K]` (int64 indices),
    /// `tag_saliency [B,K,N]`, `tag_region [B,K,D]`.
    Top {
        /// K.
        count: usize,
        /// Per category the logit from which it counts as a tag, `[C]`. With it the K rows kept are
        /// those that can become tags, also where thresholds differ.
        floors: Vec<f32>,
        /// Whether `tag_region` is handed out; without it the region features are not computed.
        regions: bool,
    },
}
