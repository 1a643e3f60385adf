//! What the judge can be told.

use tagstream_core::config::settings;

settings! {
    /// What the judge asks for.
    JudgeConfig {
        /// Parts of the labelled images, whole groups together. The version that serves learns from
        /// all; for every part a head that has not seen it is kept for judging only. 1: the old
        /// way, a share is held out and judges.
        folds: usize = 5,
        /// With `folds = 1`: the share of the images that is held out, by hash of the image's id.
        /// With more: the share that versions of the old way have not seen. Lowering it later is
        /// safe; raising it is not: images that earlier models were trained on would then judge
        /// them.
        held_out_share: f64 = 0.2,
        /// The lower bound of the mAP difference must be above minus this (1 = 100 points).
        margin: f64 = 0.01,
        /// The mAP difference must be at least this, or the change is not worth it.
        min_gain: f64 = 0.002,
        /// A category may lose this much AP; only a loss that is certainly larger rejects.
        category_tolerance: f64 = 0.1,
        /// Confidence of the one-sided bounds: what it leaves over is the chance to promote a worse
        /// candidate, over all looks at one champion together.
        confidence: f64 = 0.95,
        /// Confidence of the categories' own bounds, of all together.
        category_confidence: f64 = 0.95,
        /// Bootstrap resamples.
        resamples: usize = 1000,
        /// The share of tags that are right, or of what is there that is found, may fall by this
        /// much; a fall that is certainly larger, and not made up for by the other, holds.
        tags_tolerance: f64 = 0.05,
        /// A category with fewer known presences is not measured: a single picture would move it
        /// by dozens of points.
        min_present: usize = 3,
        /// Fewer categories that can be measured (or fewer than all, where a model has fewer):
        /// HOLD.
        min_categories: usize = 3,
        /// Fewer judged images with a known label: HOLD.
        min_images: usize = 30,
    }
}
