//! A head from text features alone.

use super::{Attention, ExportedHead, GlobalBranch, ReadOut, RegionForm};

/// How cosines become logits when no label has been seen yet.
///
/// A zero-shot logit is `scale * (cosine - zero_cosine)`, averaged over the spatially pooled cosine
/// and the global one. CLIP's own training says nothing about where "present" begins, since its
/// softmax compares texts with each other; so the zero point is a convention until labels are
/// there, and only thresholds and probabilities depend on it, never the order within a category.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ZeroShot {
    /// Temperature of the softmax over positions: weights are `softmax(cosine / temperature)`.
    pub spatial_temperature: f32,
    /// What a cosine is multiplied with (kappa).
    pub scale: f32,
    /// The cosine at which the probability is one half.
    pub zero_cosine: f32,
    /// Whether the global feature is averaged in.
    pub global: bool,
}

impl Default for ZeroShot {
    /// Temperature 0.05 and scale 50; 0.24 is where cosines of CLIP's towers for "a photo of a ..."
    /// part: those for what is there lie around 0.25 to 0.30, the others around 0.15 to 0.22.
    fn default() -> Self {
        Self {
            spatial_temperature: 0.05,
            scale: 50.0,
            zero_cosine: 0.24,
            global: true,
        }
    }
}

impl ZeroShot {
    /// From what a model's weights say about its logits: `logit_scale` (a logarithm, as CLIP stores
    /// it) and, for towers trained with a sigmoid loss, `logit_bias` (a logit). The scale is kept
    /// between 1 and 100; with a bias, which belongs to it, it may be larger.
    pub fn from_logit(logit_scale: Option<f32>, logit_bias: Option<f32>) -> Self {
        let mut calibration = Self::default();
        if let Some(log) = logit_scale.filter(|x| x.is_finite()) {
            let most = if logit_bias.is_some() { 1000.0 } else { 100.0 };
            calibration.scale = log.exp().clamp(1.0, most);
        }
        if let Some(bias) = logit_bias.filter(|x| x.is_finite()) {
            calibration.zero_cosine = -bias / calibration.scale;
        }
        calibration
    }
}

impl ExportedHead {
    /// The zero-shot head of `text_features` (`[C, D]`, L2-normalised rows): attention
    /// `T / temperature`, pooled cosines of the positions and, unless switched off, the cosine of
    /// the global feature, half and half.
    ///
    /// # Panics
    /// If `text_features` is no multiple of `dim`.
    pub fn zero_shot(text_features: &[f32], dim: usize, calibration: ZeroShot) -> Self {
        assert!(dim > 0 && text_features.len().is_multiple_of(dim));
        let categories = text_features.len() / dim;
        let times =
            |factor: f32| -> Vec<f32> { text_features.iter().map(|x| x * factor).collect() };
        let share = if calibration.global { 0.5 } else { 1.0 };
        let scale = share * calibration.scale;
        let read_out = ReadOut {
            weight: times(scale),
            bias: vec![-scale * calibration.zero_cosine; categories],
        };
        Self {
            dim,
            categories,
            heads: 1,
            attention: Attention::Folded(times(1.0 / calibration.spatial_temperature)),
            region: read_out.clone(),
            region_form: RegionForm::Raw,
            query: None,
            global: calibration.global.then_some(GlobalBranch {
                read_out,
                residual: None,
            }),
            memory: None,
            regional: None,
        }
    }
}
