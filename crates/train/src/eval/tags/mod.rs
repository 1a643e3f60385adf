//! Emitted tags: the probability from which on a category becomes one, and how good they are.
//!
//! A tag is a category whose calibrated probability reaches its threshold. Users see these, not
//! rankings; so what they ask for is said of tags ([`TagsConfig`]), and what is measured, too
//! ([`measure()`]): the share that is right, the share of what is there that is found, tags a
//! picture. All of it from known entries, weighted so that they stand for all ([`weights()`]).
//!
//! ```
//! use ndarray::Array2;
//! use tagstream_train::eval::tags::{TagsConfig, measure, thresholds, weights};
//!
//! // One category; every third of 60 images shows it, and the model sees most of them.
//! let labels = Array2::from_shape_fn((60, 1), |(at, _)| if at % 3 == 0 { 1i8 } else { -1 });
//! let logits = Array2::from_shape_fn((60, 1), |(at, _)| match at % 12 {
//!     0 | 3 | 6 => 1.0f32,
//!     _ => -3.0,
//! });
//! let found = thresholds(logits.view(), labels.view(), 1.0, &TagsConfig::default());
//! let weights = weights(logits.view(), labels.view());
//! let tags = measure(logits.view(), labels.view(), weights.view(), &found);
//! assert_eq!((tags.overall.right, tags.overall.found), (Some(1.0), Some(0.75)));
//! assert_eq!(tags.overall.per_image, 0.25);
//! ```

mod guess;
mod measure;
mod thresholds;
mod weights;

pub use guess::{FEWEST_PICTURES, GuessedThreshold, guess_threshold};
pub use measure::{ImageTags, TagMeasures, TagQuality, image_tags, measure, measure_with, tagged};
pub use thresholds::thresholds;
pub use weights::weights;

use tagstream_core::config::{Flaw, settings};

settings! {
    /// From which probability on a category becomes a tag. Without `precision` and `per_image`
    /// thresholds aim at the best F1.
    TagsConfig {
        /// The share of tags that shall be right (0.8: four of five); 0: not asked for.
        precision: f64 = 0.0,
        /// How many tags a picture shall have on average; 0: not asked for.
        per_image: f64 = 0.0,
        /// No category becomes a tag below this probability, whatever is asked for.
        floor: f64 = 0.1,
        /// A category's own threshold counts n / (n + this) against the one for all categories, n
        /// being its known presences.
        shrinkage: f64 = 20.0,
    }
}

/// What thresholds aim at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TagTarget {
    /// The largest F1.
    BestF1,
    /// This share of tags right, and as many found as that allows.
    Precision(f64),
    /// This many tags a picture.
    PerImage(f64),
}

impl TagsConfig {
    /// What is asked for.
    pub fn target(&self) -> TagTarget {
        match (self.precision > 0.0, self.per_image > 0.0) {
            (true, _) => TagTarget::Precision(self.precision),
            (false, true) => TagTarget::PerImage(self.per_image),
            (false, false) => TagTarget::BestF1,
        }
    }

    /// What cannot be; keys are named as of the section `tags`.
    pub fn flaws(&self) -> Vec<Flaw> {
        let share = |x: f64| (0.0..1.0).contains(&x);
        let amount = |x: f64| x >= 0.0 && x.is_finite();
        let wrong = [
            (
                !share(self.precision),
                "tags.precision",
                "must be at least 0 and less than 1",
            ),
            (
                !amount(self.per_image),
                "tags.per_image",
                "must be at least 0",
            ),
            (
                self.precision > 0.0 && self.per_image > 0.0,
                "tags.per_image",
                "cannot be asked for beside tags.precision: leave one of them 0",
            ),
            (
                !share(self.floor),
                "tags.floor",
                "must be at least 0 and less than 1",
            ),
            (
                !amount(self.shrinkage),
                "tags.shrinkage",
                "must be at least 0",
            ),
        ];
        let wrong = wrong.into_iter().filter(|(wrong, ..)| *wrong);
        wrong.map(|(_, key, why)| Flaw::new(key, why)).collect()
    }
}

#[cfg(test)]
mod tests;
