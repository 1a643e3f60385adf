//! The closed form, and what it does on images it has not seen.

use super::*;
use crate::arrays::{into_rows, rows};
use crate::trm::testing::numbers;
use tagstream_kernels::testing::noise;

fn data(n: usize) -> (Vec<f32>, Vec<f32>, Vec<i8>) {
    let narrow = |seed, width| -> Vec<f32> {
        numbers(&noise(seed, &[n, width]))
            .iter()
            .map(|x| *x as f32)
            .collect()
    };
    let (global, mean) = (narrow(1, 4), narrow(2, 4));
    // Category 0: the first coordinate's sign; category 1: known for every other image only.
    let labels = (0..n)
        .flat_map(|i| {
            let sign = |x: f32| if x > 0.0 { 1 } else { -1 };
            [
                sign(global[4 * i]),
                if i % 2 == 0 { sign(mean[4 * i + 1]) } else { 0 },
            ]
        })
        .collect();
    (global, mean, labels)
}

fn examples<'a>(global: &'a [f32], mean: &'a [f32], labels: &'a [i8]) -> ImageExamples<'a> {
    ImageExamples {
        global: rows(global, 4).unwrap(),
        mean: rows(mean, 4).unwrap(),
        targets: Targets {
            labels: rows(labels, 2).unwrap(),
            assume_negative: 0.0,
        },
    }
}

#[test]
fn conjugate_gradients_solve_every_masked_system() {
    let x = noise(3, &[6, 3]).to_dtype(candle_core::DType::F32).unwrap();
    let kernel = gaussian(&x, &x).unwrap();
    let (columns, ridge) = (2, 0.5);
    let masks = (0..12).map(|at| f32::from(at % 2 == 0 || at < 6)).collect();
    let masks = into_rows(masks, columns).unwrap();
    let right = (0..12).map(|at| at as f32 - 5.0).collect();
    let right = into_rows(right, columns).unwrap() * &masks;
    let alpha = conjugate_gradients(&kernel, masks.view(), right.clone(), ridge).unwrap();
    let image = to_matrix(&kernel).unwrap().dot(&alpha) + ridge * &alpha;
    for (at, mask) in masks.indexed_iter() {
        if *mask == 0.0 {
            assert_eq!(alpha[at], 0.0);
        } else {
            assert!((image[at] - right[at]).abs() < 1e-3);
        }
    }
}

#[test]
fn a_memory_learns_and_judges_images_it_has_not_seen() {
    let (global, mean, labels) = data(300);
    let examples = examples(&global[..800], &mean[..800], &labels[..400]);
    let order: Vec<usize> = (0..200).rev().collect();
    let config = MemoryConfig {
        ridge: 0.1,
        ..MemoryConfig::default()
    };
    let (memory, unseen) = ImageRidge::fit(&examples, &order, &config).unwrap();
    let [global, mean] = [&global, &mean].map(|x| rows(&x[800..], 4).unwrap());
    let logits = memory.logits(global, mean).unwrap();
    let right = |logits: &Array2<f32>, labels: &[i8], c: usize| {
        let labels = rows(labels, 2).unwrap();
        let (mut hits, mut all) = (0.0, 0.0);
        for (logit, label) in logits.column(c).iter().zip(labels.column(c)) {
            all += f64::from(label.abs());
            hits += f64::from(u8::from(*label != 0 && (*logit > 0.0) == (*label > 0)));
        }
        hits / all
    };
    for c in 0..2 {
        assert!(
            right(&logits, &labels[400..], c) > 0.8,
            "new images, category {c}"
        );
        assert!(
            right(&unseen, &labels[..400], c) > 0.8,
            "left-out images, category {c}"
        );
    }
    assert_eq!(
        memory,
        ImageRidge::fit(&examples, &order, &config).unwrap().0
    );
}

#[test]
fn a_small_bank_keeps_what_fits() {
    let (global, mean, labels) = data(50);
    let examples = examples(&global, &mean, &labels);
    let order: Vec<usize> = (0..50).collect();
    let config = MemoryConfig {
        size: 20,
        ..MemoryConfig::default()
    };
    let (memory, unseen) = ImageRidge::fit(&examples, &order, &config).unwrap();
    assert_eq!(
        (memory.bank.images.dim(), memory.weight.dim()),
        ((20, 8), (20, 2))
    );
    assert_eq!(unseen.dim(), (50, 2));
    assert!(unseen.iter().all(|x| x.is_finite()));
}
