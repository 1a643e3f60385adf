//! Scores and labels of which the truth is known.

use super::*;
use crate::eval::metrics::sigmoid;
use crate::eval::protocol::RandomState;
use ndarray::Array2;

/// Calibrated log-odds and the truth they were drawn by, for categories of `rates`.
fn world(images: usize, rates: &[f64], seed: u32) -> (Array2<f32>, Array2<i8>) {
    let mut random = RandomState::new(seed);
    let mut odds = Array2::zeros((images, rates.len()));
    let mut truth = Array2::zeros((images, rates.len()));
    for image in 0..images {
        for (category, rate) in rates.iter().enumerate() {
            let noise = (0..12).map(|_| random.uniform()).sum::<f64>() - 6.0;
            let logit = (rate / (1.0 - rate)).ln() + 1.5 * noise;
            odds[[image, category]] = logit as f32;
            let present = random.uniform() < sigmoid(logit);
            truth[[image, category]] = if present { 1 } else { -1 };
        }
    }
    (odds, truth)
}

/// Hides labels; the chance to stay depends on the category and on the score.
fn hide(
    odds: &Array2<f32>,
    truth: &Array2<i8>,
    chance: impl Fn(usize, f32) -> f64,
    seed: u32,
) -> Array2<i8> {
    let mut random = RandomState::new(seed);
    let mut labels = truth.clone();
    for ((at, label), odds) in labels.indexed_iter_mut().zip(odds) {
        if random.uniform() >= chance(at.1, *odds) {
            *label = 0;
        }
    }
    labels
}

fn all_of(odds: &Array2<f32>, truth: &Array2<i8>, thresholds: &[f32]) -> TagQuality {
    let ones = Array2::from_elem(truth.dim(), 1.0f32);
    measure(odds.view(), truth.view(), ones.view(), thresholds).overall
}

#[test]
fn labels_that_were_picked_by_score_do_not_bias_what_is_measured() {
    let rates = [0.3, 0.2, 0.1, 0.1, 0.05, 0.05];
    let (odds, truth) = world(6000, &rates, 1);
    let thresholds = [0.4; 6];
    let whole = all_of(&odds, &truth, &thresholds);
    // Doubtful scores are asked about, and the frequent categories more.
    let doubtful = |category: usize, odds: f32| {
        let p = sigmoid(f64::from(odds));
        (if category < 2 { 0.5 } else { 0.15 }) * (0.1 + 3.0 * p * (1.0 - p)).min(1.0)
    };
    let labels = hide(&odds, &truth, doubtful, 2);
    let weights = weights(odds.view(), labels.view());
    let weighted = measure(odds.view(), labels.view(), weights.view(), &thresholds).overall;
    let plain = Array2::from_elem(labels.dim(), 1.0f32);
    let plain = measure(odds.view(), labels.view(), plain.view(), &thresholds).overall;
    let off = |tags: &TagQuality| {
        let (right, found) = (tags.right.unwrap(), tags.found.unwrap());
        (right - whole.right.unwrap())
            .abs()
            .max((found - whole.found.unwrap()).abs())
    };
    assert!(off(&weighted) < 0.03, "{weighted:?} of {whole:?}");
    assert!(off(&plain) > 0.08, "the labels are no hard case: {plain:?}");
    assert_eq!(weighted.per_image, whole.per_image);
}

#[test]
fn a_fair_sample_weighs_alike() {
    let (odds, truth) = world(2000, &[0.3, 0.1, 0.05], 3);
    let labels = hide(&odds, &truth, |_, _| 0.2, 4);
    let weights = weights(odds.view(), labels.view());
    let known = weights.iter().filter(|w| **w > 0.0);
    let (least, most) = known.fold((f32::MAX, 0.0f32), |(a, b), w| (a.min(*w), b.max(*w)));
    assert!(least > 3.0 && most < 8.0, "{least} to {most}, all about 5");
    let total: f32 = weights.iter().sum();
    assert!((total / 6000.0 - 1.0).abs() < 0.01, "{total}");
}

#[test]
fn what_is_asked_for_holds_on_other_pictures() {
    let rates = [0.3, 0.2, 0.1, 0.1, 0.05, 0.05, 0.03, 0.03];
    let (odds, truth) = world(3000, &rates, 5);
    let labels = hide(&odds, &truth, |_, _| 0.1, 6);
    let (other_odds, other) = world(6000, &rates, 7);
    for wanted in [0.5, 0.6, 0.7, 0.8] {
        let config = TagsConfig {
            precision: wanted,
            ..TagsConfig::default()
        };
        let found = thresholds(odds.view(), labels.view(), 1.0, &config);
        let right = all_of(&other_odds, &other, &found).right.unwrap();
        assert!((right - wanted).abs() < 0.05, "{wanted}: {right}");
    }
    for wanted in [0.5, 1.0, 2.0] {
        let config = TagsConfig {
            per_image: wanted,
            floor: 0.0,
            ..TagsConfig::default()
        };
        let found = thresholds(odds.view(), labels.view(), 1.0, &config);
        let tags = all_of(&other_odds, &other, &found).per_image;
        assert!((tags / wanted - 1.0).abs() < 0.1, "{wanted}: {tags}");
    }
}

#[test]
fn few_labels_cost_little_f1_and_none_is_lost_where_there_are_many() {
    let rates = [0.3, 0.2, 0.1, 0.1, 0.05, 0.05, 0.03, 0.03];
    let (odds, truth) = world(2500, &rates, 8);
    let (other_odds, other) = world(6000, &rates, 9);
    let f1 = |labels: &Array2<i8>, config: &TagsConfig| {
        let found = thresholds(odds.view(), labels.view(), 1.0, config);
        all_of(&other_odds, &other, &found).f1.unwrap()
    };
    let all = f1(&truth, &TagsConfig::default());
    let few = hide(&odds, &truth, |_, _| 0.05, 10);
    let alone = TagsConfig {
        shrinkage: 0.0,
        ..TagsConfig::default()
    };
    let (shrunk, own) = (f1(&few, &TagsConfig::default()), f1(&few, &alone));
    assert!(
        shrunk > own && shrunk > all - 0.03,
        "{shrunk}, {own} of {all}"
    );
}

#[test]
fn no_tag_below_the_floor() {
    // One category is hopeless: its best F1 tags everything.
    let odds = Array2::from_shape_fn((100, 1), |(at, _)| -4.0 + at as f32 / 100.0);
    let labels = Array2::from_shape_fn((100, 1), |(at, _)| if at % 2 == 0 { 1 } else { -1 });
    let found = thresholds(odds.view(), labels.view(), 1.0, &TagsConfig::default());
    assert_eq!(found, [0.1]);
    let none = TagsConfig {
        floor: 0.0,
        ..TagsConfig::default()
    };
    assert!(thresholds(odds.view(), labels.view(), 1.0, &none)[0] < 0.1);
}

#[test]
fn labels_that_tell_nothing_leave_one_half() {
    let odds = Array2::from_elem((10, 2), 0.3f32);
    for state in [0i8, 1, -1] {
        let labels = Array2::from_elem((10, 2), state);
        let found = thresholds(odds.view(), labels.view(), 1.0, &TagsConfig::default());
        assert_eq!(found, [0.5, 0.5], "all labels {state}");
    }
}

#[test]
fn settings_that_cannot_be_are_named() {
    let flaws = |config: TagsConfig| config.flaws().len();
    assert_eq!(flaws(TagsConfig::default()), 0);
    let with = |change: fn(&mut TagsConfig)| {
        let mut config = TagsConfig::default();
        change(&mut config);
        config
    };
    assert_eq!(flaws(with(|c| c.precision = 1.0)), 1);
    assert_eq!(flaws(with(|c| c.per_image = f64::NAN)), 1);
    assert_eq!(flaws(with(|c| c.floor = -0.1)), 1);
    assert_eq!(flaws(with(|c| c.shrinkage = f64::INFINITY)), 1);
    let both = with(|c| (c.precision, c.per_image) = (0.8, 3.0));
    assert_eq!(flaws(both), 1);
    let target = |config: TagsConfig| config.target();
    assert_eq!(target(TagsConfig::default()), TagTarget::BestF1);
    assert_eq!(
        target(with(|c| c.precision = 0.8)),
        TagTarget::Precision(0.8)
    );
    assert_eq!(
        target(with(|c| c.per_image = 2.0)),
        TagTarget::PerImage(2.0)
    );
}
