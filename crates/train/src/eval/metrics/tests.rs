//! Against an independent implementation, and against the definition.

use super::*;
use crate::arrays::rows;
use candle_core::npy::NpzTensors;
use candle_core::{DType, Tensor};
use ndarray::{array, aview1};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn golden() -> NpzTensors {
    NpzTensors::new(concat!(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../.."),
        "/tests/fixtures/goldens/metrics.npz"
    ))
    .unwrap()
}

fn array(name: &str) -> Vec<f64> {
    let tensor: Tensor = golden().get(name).unwrap().unwrap();
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn names(c: usize) -> Vec<String> {
    (0..c).map(|index| format!("category {index}")).collect()
}

#[test]
fn it_agrees_with_an_independent_implementation() {
    let scores = array("scores");
    let labels: Vec<i8> = array("labels")
        .iter()
        .map(|&label| if label > 0.0 { 1 } else { -1 })
        .collect();
    let report = report(
        rows(&scores, 5).unwrap(),
        rows(&labels, 5).unwrap(),
        &names(5),
    )
    .unwrap();
    let close = |found: f64, name: &str| {
        let expected = array(name)[0];
        assert!(
            (found - expected).abs() < 1e-9,
            "{name}: {expected}, not {found}"
        );
    };
    close(report.map_plain, "mAP");
    close(report.map_envelope, "mAP_env");
    close(report.cf1, "CF1_harmonic");
    close(report.cf1_mean, "CF1_meanF1");
    close(report.of1, "OF1");
    for (index, category) in report.per_category.iter().enumerate() {
        assert!((category.ap_plain.unwrap() / 100.0 - array("ap_plain")[index]).abs() < 1e-12);
        assert!((category.ap_envelope.unwrap() / 100.0 - array("ap_env")[index]).abs() < 1e-12);
    }
}

/// Average precision by its definition, in quadratic time.
fn brute_force(scores: &[f64], labels: &[i8]) -> Option<(f64, f64)> {
    let known: Vec<usize> = (0..scores.len()).filter(|&i| labels[i] != 0).collect();
    let before = |a: usize, b: usize| scores[a] > scores[b] || (scores[a] == scores[b] && a <= b);
    let precision = |i: usize| {
        let above = known.iter().filter(|&&other| before(other, i));
        let (hits, all) = above.fold((0, 0), |(hits, all), &other| {
            (hits + usize::from(labels[other] > 0), all + 1)
        });
        hits as f64 / all as f64
    };
    let positives: Vec<usize> = known.iter().copied().filter(|&i| labels[i] > 0).collect();
    if positives.is_empty() || positives.len() == known.len() {
        return None;
    }
    let count = positives.len() as f64;
    let plain = positives.iter().map(|&i| precision(i)).sum::<f64>() / count;
    let at_or_after = |i: usize| {
        positives
            .iter()
            .filter(|&&j| before(i, j))
            .map(|&j| precision(j))
            .fold(0.0, f64::max)
    };
    let envelope = positives.iter().map(|&i| at_or_after(i)).sum::<f64>() / count;
    Some((plain, envelope))
}

#[test]
fn it_equals_brute_force_with_ties_and_unknown_entries() {
    let mut rng = StdRng::seed_from_u64(5);
    let mut undefined = 0;
    for _ in 0..300 {
        let n = rng.random_range(0..30);
        let scores: Vec<f64> = (0..n)
            .map(|_| f64::from(rng.random_range(-4i32..4)) / 2.0)
            .collect();
        let labels: Vec<i8> = (0..n).map(|_| rng.random_range(-1..=1)).collect();
        match (
            average_precision(aview1(&scores), aview1(&labels)),
            brute_force(&scores, &labels),
        ) {
            (Some(fast), Some((plain, envelope))) => {
                assert!((fast.plain - plain).abs() < 1e-12);
                assert!((fast.envelope - envelope).abs() < 1e-12);
                assert!(fast.envelope >= fast.plain);
            }
            (None, None) => undefined += 1,
            (fast, slow) => panic!("{fast:?} and {slow:?}"),
        }
    }
    assert!(undefined > 0 && undefined < 150, "{undefined}");
}

#[test]
fn unknown_entries_change_nothing() {
    let scores = [2.0, 1.5, 1.0, 0.5, 0.0, -1.0];
    let with = average_precision(aview1(&scores), aview1(&[1, 0, -1, 1, 0, -1]));
    let without = average_precision(aview1(&[2.0, 1.0, 0.5, -1.0]), aview1(&[1, -1, 1, -1]));
    assert_eq!(with, without);
}

#[test]
fn categories_that_cannot_be_ranked_are_left_out_and_counted() {
    // Three categories: one ordinary, one without positives, one without negatives.
    let labels = array![[1, -1, 1], [-1, -1, 0]];
    let scores = array![[1.0f32, 3.0, 0.5], [-1.0, 2.0, 0.1]];
    let report = report(scores.view(), labels.view(), &names(3)).unwrap();
    assert_eq!((report.categories, report.map_plain), (1, 100.0));
    assert_eq!(
        (
            report.categories_without_positives,
            report.categories_without_negatives
        ),
        (1, 1)
    );
    assert_eq!((report.cf1, report.known_entries), (100.0, 5));
    assert_eq!(report.per_category[1].ap_plain, None);
    assert_eq!(report.per_category[2].unknown, 1);
}

#[test]
fn calibration_error_is_zero_for_honest_probabilities_and_large_for_confident_errors() {
    let honest = (0..1000).map(|i| (0.25, i % 4 == 0));
    assert!(expected_calibration_error(honest) < 1e-9);
    let wrong = (0..1000).map(|i| (1.0, i % 4 == 0));
    assert!((expected_calibration_error(wrong) - 0.75).abs() < 1e-9);
    assert_eq!(expected_calibration_error(std::iter::empty()), 0.0);
}

#[test]
fn bad_scores_are_named() {
    assert!(matches!(
        report(array![[1.0f32]].view(), array![[1, -1]].view(), &names(2)),
        Err(MetricsError::Sizes { .. })
    ));
    let scores = array![[1.0, 2.0], [f32::NAN, 0.0]];
    let labels = array![[1, -1], [1, 1]];
    let error = report(scores.view(), labels.view(), &names(2)).unwrap_err();
    assert_eq!(
        error,
        MetricsError::NotANumber {
            image: 1,
            category: 0
        }
    );
}
