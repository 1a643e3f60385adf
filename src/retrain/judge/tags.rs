//! Emitted tags before and after, by paired bootstrap.

use super::config::JudgeConfig;
use super::interval::Interval;
use super::looks::Alpha;
use ndarray::{ArrayView2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tagstream_train::eval::tags::{
    ImageTags, TagMeasures, TagQuality, TagTarget, image_tags, measure_with, weights,
};

/// What a model says of the judged images, as tags.
#[derive(Debug, Clone, Copy)]
pub struct Emitted<'a> {
    /// Calibrated log-odds `[images, C]`.
    pub odds: ArrayView2<'a, f32>,
    /// Thresholds `[images, C]`: an image's must not have been chosen by its own labels.
    pub thresholds: ArrayView2<'a, f32>,
}

/// The tags of both models, for a trial.
#[derive(Debug, Clone, Copy)]
pub struct TrialTags<'a> {
    /// The candidate's.
    pub candidate: Emitted<'a>,
    /// The champion's as it emits them. Its thresholds were chosen by other labels, fewer, for
    /// another target, or by the very labels that it is measured on.
    pub champion: Emitted<'a>,
    /// The champion's with thresholds chosen as the candidate's are: by the same labels, of other
    /// images. What differs then is the models.
    pub champion_alike: Emitted<'a>,
    /// What thresholds aim at.
    pub target: TagTarget,
}

/// A category's tags before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryTags {
    /// Its name in the candidate.
    pub category: String,
    /// Champion's tags.
    pub champion: TagQuality,
    /// Candidate's tags.
    pub candidate: TagQuality,
    /// Difference of F1, thresholds chosen alike, at the category's confidence.
    pub f1: Interval,
}

/// Tags before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TagOutcome {
    /// Champion's, as it emits them.
    pub champion: TagQuality,
    /// Champion's, thresholds chosen as the candidate's are.
    pub champion_alike: TagQuality,
    /// Candidate's.
    pub candidate: TagQuality,
    /// Difference of the share that is right, thresholds chosen alike.
    pub right: Interval,
    /// Difference of the share that is found, thresholds chosen alike.
    pub found: Interval,
    /// Difference of F1, thresholds chosen alike.
    pub f1: Interval,
    /// Difference of F1 from the champion's tags as it emits them.
    pub emitted_f1: Interval,
    /// The candidate's share that is right.
    pub candidate_right: Interval,
    /// How many categories a picture has, estimated.
    pub present_per_image: f64,
    /// Every category, in its order.
    pub categories: Vec<CategoryTags>,
    /// What thresholds aim at, in words.
    pub target: String,
}

/// Known tags of the candidate, of the champion with thresholds alike, and of the champion as it
/// is, image by image.
pub(super) struct PairedTags {
    images: [Vec<Vec<(usize, ImageTags)>>; 3],
    measures: [TagMeasures; 3],
    present_per_image: f64,
    target: TagTarget,
}

/// Sums over all categories and for each, in the order of [`PairedTags`].
struct Sums {
    all: [ImageTags; 3],
    each: Vec<[ImageTags; 3]>,
}

impl PairedTags {
    pub(super) fn new(tags: TrialTags<'_>, labels: ArrayView2<'_, i8>) -> Self {
        let mut present = 0.0;
        let each = [tags.champion, tags.champion_alike, tags.candidate].map(|tags| {
            let weights = weights(tags.odds, labels);
            let thresholds = |image: usize, category: usize| tags.thresholds[[image, category]];
            let known = weights.iter().zip(labels).filter(|(_, label)| **label > 0);
            present = known.map(|(weight, _)| f64::from(*weight)).sum();
            (
                image_tags(tags.odds, labels, weights.view(), thresholds),
                measure_with(tags.odds, labels, weights.view(), thresholds),
            )
        });
        let [
            (emitted, of_emitted),
            (alike, of_alike),
            (candidate, of_candidate),
        ] = each;
        PairedTags {
            images: [candidate, alike, emitted],
            measures: [of_candidate, of_alike, of_emitted],
            // By the candidate's weights, which came last.
            present_per_image: present / labels.len_of(Axis(0)).max(1) as f64,
            target: tags.target,
        }
    }

    fn sums(&self, times: impl Fn(usize) -> f64) -> Sums {
        let categories = self.measures[0].per_category.len();
        let mut sums = Sums {
            all: [ImageTags::default(); 3],
            each: vec![[ImageTags::default(); 3]; categories],
        };
        for (model, images) in self.images.iter().enumerate() {
            for (image, tags) in images.iter().enumerate() {
                let times = times(image);
                if times == 0.0 {
                    continue;
                }
                for (category, tags) in tags {
                    sums.all[model].add(tags, times);
                    sums.each[*category][model].add(tags, times);
                }
            }
        }
        sums
    }

    /// The outcome over resamples, each a weight an image.
    pub(super) fn outcome(
        &self,
        names: &[String],
        resamples: &[Vec<u32>],
        (alpha, config): (Alpha, &JudgeConfig),
    ) -> TagOutcome {
        let here = self.sums(|_| 1.0);
        let resampled: Vec<Sums> = resamples
            .par_iter()
            .map(|weights| self.sums(|image| f64::from(weights[image])))
            .collect();
        let difference = |of: fn(&ImageTags) -> f64, from: usize| {
            let apart = |sums: &Sums| of(&sums.all[0]) - of(&sums.all[from]);
            let apart_in: Vec<f64> = resampled.iter().map(apart).collect();
            Interval::of(apart(&here), &apart_in, alpha.promote, alpha.reject)
        };
        let own: Vec<f64> = resampled.iter().map(|s| s.all[0].precision()).collect();
        let beyond = super::beyond_category(config, names.len());
        let categories = names.iter().enumerate().map(|(at, name)| {
            let apart = |sums: &Sums| sums.each[at][0].f1() - sums.each[at][1].f1();
            let apart_in: Vec<f64> = resampled.iter().map(apart).collect();
            CategoryTags {
                category: name.clone(),
                candidate: self.measures[0].per_category[at],
                champion: self.measures[2].per_category[at],
                f1: Interval::of(apart(&here), &apart_in, beyond, beyond),
            }
        });
        TagOutcome {
            candidate: self.measures[0].overall,
            champion_alike: self.measures[1].overall,
            champion: self.measures[2].overall,
            right: difference(ImageTags::precision, 1),
            found: difference(ImageTags::recall, 1),
            f1: difference(ImageTags::f1, 1),
            emitted_f1: difference(ImageTags::f1, 2),
            candidate_right: Interval::of(
                here.all[0].precision(),
                &own,
                alpha.reject,
                alpha.reject,
            ),
            present_per_image: self.present_per_image,
            categories: categories.collect(),
            target: match self.target {
                TagTarget::BestF1 => "best F1".into(),
                TagTarget::Precision(p) => format!("{:.0} % right", 100.0 * p),
                TagTarget::PerImage(n) => format!("{n} a picture"),
            },
        }
    }
}
