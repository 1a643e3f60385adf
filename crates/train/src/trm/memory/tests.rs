//! The closed form, and what it does on images it has not seen.

use super::*;
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

#[test]
fn conjugate_gradients_solve_every_masked_system() {
    let x = noise(3, &[6, 3]).to_dtype(candle_core::DType::F32).unwrap();
    let kernel = gaussian(&x, &x).unwrap();
    let (columns, ridge) = (2, 0.5);
    let masks: Vec<f32> = (0..12).map(|at| f32::from(at % 2 == 0 || at < 6)).collect();
    let right: Vec<f32> = masks
        .iter()
        .enumerate()
        .map(|(at, m)| m * (at as f32 - 5.0))
        .collect();
    let alpha = solve(&kernel, &masks, &right, columns, ridge).unwrap();
    let k = kernel.to_vec2::<f32>().unwrap();
    for j in 0..columns {
        for (i, row) in k.iter().enumerate() {
            let at = i * columns + j;
            if masks[at] == 0.0 {
                assert_eq!(alpha[at], 0.0);
                continue;
            }
            let sum: f32 = (0..6).map(|l| row[l] * alpha[l * columns + j]).sum();
            assert!((sum + ridge * alpha[at] - right[at]).abs() < 1e-3);
        }
    }
}

#[test]
fn a_memory_learns_and_judges_images_it_has_not_seen() {
    let (global, mean, labels) = data(300);
    let data = MemoryData {
        global: &global[..800],
        mean: &mean[..800],
        labels: &labels[..400],
        assume_negative: 0.0,
        dim: 4,
        categories: 2,
    };
    let order: Vec<usize> = (0..200).rev().collect();
    let config = MemoryConfig {
        ridge: 0.1,
        ..MemoryConfig::default()
    };
    let (memory, unseen) = Memory::fit(&data, &order, &config).unwrap();
    let logits = memory.logits(&global[800..], &mean[800..]).unwrap();
    let right = |logits: &[f32], labels: &[i8], c: usize| {
        let known = (c..labels.len()).step_by(2).filter(|&at| labels[at] != 0);
        let (hits, all) = known.fold((0, 0), |(hits, all), at| {
            (
                hits + i32::from((logits[at] > 0.0) == (labels[at] > 0)),
                all + 1,
            )
        });
        f64::from(hits) / f64::from(all)
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
    assert_eq!(memory, Memory::fit(&data, &order, &config).unwrap().0);
}

#[test]
fn a_small_bank_keeps_what_fits() {
    let (global, mean, labels) = data(50);
    let data = MemoryData {
        global: &global,
        mean: &mean,
        labels: &labels,
        assume_negative: 0.0,
        dim: 4,
        categories: 2,
    };
    let order: Vec<usize> = (0..50).collect();
    let config = MemoryConfig {
        size: 20,
        ..MemoryConfig::default()
    };
    let (memory, unseen) = Memory::fit(&data, &order, &config).unwrap();
    assert_eq!(
        (memory.bank.images.len(), memory.weight.len()),
        (20 * 8, 20 * 2)
    );
    assert_eq!(unseen.len(), 100);
    assert!(unseen.iter().all(|x| x.is_finite()));
}
