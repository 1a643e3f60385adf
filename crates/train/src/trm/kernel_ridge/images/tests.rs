//! The closed form, and what it does on images it has not seen.

use super::*;
use crate::arrays::{into_rows, rows};
use crate::trm::kernel_ridge::targets::folds;
use crate::trm::testing::{Golden, labels, numbers};
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

fn examples<'a>(global: &'a [f32], mean: &'a [f32]) -> ImageExamples<'a> {
    ImageExamples {
        global: rows(global, 4).unwrap(),
        mean: rows(mean, 4).unwrap(),
        words: None,
    }
}

/// Fitted on known entries alone; every image is a group of its own.
fn fitted(
    examples: &ImageExamples,
    labels: &[i8],
    order: &[usize],
    config: &MemoryConfig,
) -> (ImageRidge, Array2<f32>) {
    let targets = Targets {
        labels: rows(labels, 2).unwrap(),
        assume_negative: 0.0,
    };
    let parts: Vec<usize> = (0..order.len()).map(|image| image % config.folds).collect();
    let fold_of = folds(order, config.size, &parts);
    let system = ImageSystem::new(examples, &fold_of, config).unwrap();
    let aims = Aims::known(&targets);
    let left_out = system.left_out(&aims).unwrap();
    system.fit(&aims, &targets, left_out).unwrap()
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
    let examples = examples(&global[..800], &mean[..800]);
    let order: Vec<usize> = (0..200).rev().collect();
    let config = MemoryConfig {
        ridge: 0.1,
        ..MemoryConfig::default()
    };
    let (memory, unseen) = fitted(&examples, &labels[..400], &order, &config);
    let [global, mean] = [&global, &mean].map(|x| rows(&x[800..], 4).unwrap());
    let new = ImageExamples {
        global,
        mean,
        words: None,
    };
    let logits = memory.logits(&new).unwrap();
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
    assert_eq!(memory, fitted(&examples, &labels[..400], &order, &config).0);
}

#[test]
fn a_small_bank_keeps_what_fits() {
    let (global, mean, labels) = data(50);
    let examples = examples(&global, &mean);
    let order: Vec<usize> = (0..50).collect();
    let config = MemoryConfig {
        size: 20,
        ..MemoryConfig::default()
    };
    let (memory, unseen) = fitted(&examples, &labels, &order, &config);
    assert_eq!(
        (memory.bank.images.dim(), memory.weight.dim()),
        ((20, 8), (20, 2))
    );
    assert_eq!(unseen.dim(), (50, 2));
    assert!(unseen.iter().all(|x| x.is_finite()));
}

/// The golden's own kernel, in place of one made of features.
fn golden_system(golden: &Golden) -> (ImageSystem, Vec<usize>) {
    let kernel = golden.get("K");
    let n = kernel.dim(0).unwrap();
    let of_groups: Vec<usize> = numbers(&golden.get("folds"))
        .iter()
        .map(|f| *f as usize)
        .collect();
    let order: Vec<usize> = (0..n).collect();
    let fixed = noise(1, &[n, 2]).to_dtype(candle_core::DType::F32).unwrap();
    let global = to_matrix(&fixed).unwrap();
    let examples = ImageExamples {
        global: global.view(),
        mean: global.view(),
        words: None,
    };
    let config = MemoryConfig {
        ridge: golden.scalar("ridge"),
        folds: 4,
        ..MemoryConfig::default()
    };
    let fold_of = folds(&order, n, &of_groups);
    let mut system = ImageSystem::new(&examples, &fold_of, &config).unwrap();
    system.kernel = kernel;
    (system, of_groups)
}

/// alpha, and scores of the images left out, of METHOD's soft-target memory.
#[test]
fn soft_targets_agree_with_the_golden() {
    let golden = Golden::open("soft_memory", candle_core::DType::F32);
    let (system, of_groups) = golden_system(&golden);
    let states = labels(&golden.get("labels"));
    let c = golden.get("labels").dim(1).unwrap();
    let targets = Targets {
        labels: rows(&states, c).unwrap(),
        assume_negative: 0.0,
    };
    let guesses = to_matrix(&golden.get("p0")).unwrap();
    let soft = SoftConfig {
        unknown_weight: golden.scalar("lam"),
        absent_share: 0.0,
        group_cap: 0.0,
        automatic: false,
    };
    let mut aims = Aims::soft(&targets, guesses.view(), &of_groups, &soft);
    // The golden starts from the labels' priors; in its folds from those of the fold's own part.
    aims.priors = targets.priors();
    let alpha = system.solve(&aims, 0..c, 0..1).unwrap();
    let expected = to_matrix(&golden.get("alpha")).unwrap();
    let far =
        |a: &Array2<f32>, b: &Array2<f32>| (a - b).iter().fold(0.0f32, |most, x| most.max(x.abs()));
    assert!(far(&alpha, &expected) < 1e-4, "{}", far(&alpha, &expected));
    let kernel = to_matrix(&system.kernel).unwrap();
    let expected = to_matrix(&golden.get("left_out")).unwrap();
    for fold in 0..4 {
        let mut part = states.clone();
        for (image, row) in part.chunks_mut(c).enumerate() {
            if of_groups[image] == fold {
                row.fill(0);
            }
        }
        aims.priors = Targets {
            labels: rows(&part, c).unwrap(),
            assume_negative: 0.0,
        }
        .priors();
        let alpha = system.solve(&aims, 0..c, fold + 1..fold + 2).unwrap();
        let scores = kernel.dot(&alpha);
        for image in (0..of_groups.len()).filter(|image| of_groups[*image] == fold) {
            for category in 0..c {
                let gap = (scores[[image, category]] - expected[[image, category]]).abs();
                assert!(gap < 1e-4, "image {image}, category {category}: {gap}");
            }
        }
    }
}

#[test]
fn categories_in_parts_are_those_of_one_solution() {
    let golden = Golden::open("soft_memory", candle_core::DType::F32);
    let (system, _) = golden_system(&golden);
    let states = labels(&golden.get("labels"));
    let c = golden.get("labels").dim(1).unwrap();
    let targets = Targets {
        labels: rows(&states, c).unwrap(),
        assume_negative: 0.0,
    };
    let aims = Aims::known(&targets);
    let all = system.solve(&aims, 0..c, 1..5).unwrap();
    let last = system.solve(&aims, c - 1..c, 1..5).unwrap();
    for fold in 0..4 {
        let column = all.column(fold * c + c - 1);
        let gap = (&column - &last.column(fold)).mapv(f32::abs);
        assert!(gap.iter().all(|x| *x < 1e-4));
    }
}
