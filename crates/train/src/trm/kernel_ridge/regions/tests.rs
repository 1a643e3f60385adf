//! The closed form against its normal equations, and what it does on images it has not seen.

use super::super::targets::folds;
use super::*;
use crate::arrays::into_rows;
use crate::trm::weights::values;
use candle_core::DType;
use ndarray::array;
use tagstream_kernels::l2_normalize;
use tagstream_kernels::testing::noise;

const D: usize = 4;

/// Regions of two categories, `[n, 2, D]`: category 0 is present where the first coordinate is
/// positive, category 1 where the product of the first two is (which no linear read-out tells);
/// every fifth label is unknown.
fn scene(n: usize) -> (Tensor, Vec<i8>) {
    let regions = noise(5, &[n * 2, D]).to_dtype(DType::F32).unwrap();
    let regions = l2_normalize(&regions).unwrap();
    let found = values(&regions).unwrap();
    let labels = (0..n * 2)
        .map(|at| {
            let region = &found[at * D..(at + 1) * D];
            let sign = if at % 2 == 0 {
                region[0]
            } else {
                region[0] * region[1]
            };
            match (at % 5, sign > 0.0) {
                (4, _) => 0,
                (_, true) => 1,
                _ => -1,
            }
        })
        .collect();
    (regions.reshape((n, 2, D)).unwrap(), labels)
}

fn known(regions: &Tensor, targets: &Targets, images: usize) -> Vec<KnownRegions> {
    let found = values(regions).unwrap();
    (0..2)
        .map(|category| {
            let mut known = KnownRegions::default();
            for image in 0..images {
                let (target, weight) = targets.of(image, category);
                if weight > 0.0 {
                    known.images.push(image);
                    known.targets.push(target);
                    known.weights.push(weight);
                    let at = (image * 2 + category) * D;
                    known.regions.extend_from_slice(&found[at..at + D]);
                }
            }
            known
        })
        .collect()
}

#[test]
fn cholesky_solves() {
    let full = array![[4.0, 2.0, 0.4], [2.0, 5.0, 1.0], [0.4, 1.0, 3.0]];
    let right = array![1.0, -2.0, 0.5];
    let (mut left, mut x) = (full.clone(), right.clone());
    solve(&mut left, &mut x);
    assert!((full.dot(&x) - right).iter().all(|gap| gap.abs() < 1e-12));
}

#[test]
fn with_every_region_remembered_it_is_kernel_ridge_regression() {
    let (regions, labels) = scene(12);
    let targets = Targets {
        labels: rows(&labels, 2).unwrap(),
        assume_negative: 0.0,
    };
    let known = known(&regions, &targets, 12);
    let config = RegionalConfig {
        regions: 64,
        ridge: 0.7,
        ..RegionalConfig::default()
    };
    let fold_of = vec![None; 12];
    let fit = RegionFit::new(&known, &targets, D, (&fold_of, 2), &config).unwrap();
    let scores = fit.out_of_fold(&regions, &fold_of).unwrap();
    // (K + ridge I) alpha = y - prior, so that k = y - prior - ridge alpha on the images fitted.
    for (category, known) in known.iter().enumerate() {
        let regions = to_tensor(rows(&known.regions, D).unwrap()).unwrap();
        let k = kernel(&regions, &regions, fit.sharpness).unwrap();
        let mut left = to_matrix(&k).unwrap().mapv(f64::from);
        left.diag_mut().mapv_inplace(|x| x + 0.7);
        let prior = f64::from(targets.priors()[category]);
        let gaps = known.targets.iter().map(|y| f64::from(*y) - prior);
        let gaps: Array1<f64> = gaps.collect();
        let mut alpha = gaps.clone();
        solve(&mut left, &mut alpha);
        for ((image, gap), alpha) in known.images.iter().zip(&gaps).zip(&alpha) {
            let found = f64::from(scores[[*image, category]]);
            assert!((found - (gap - 0.7 * alpha)).abs() < 5e-3, "{found}");
        }
    }
}

#[test]
fn it_judges_images_it_has_not_seen() {
    let (regions, labels) = scene(500);
    let targets = Targets {
        labels: rows(&labels[..800], 2).unwrap(),
        assume_negative: 0.0,
    };
    let order: Vec<usize> = (0..400).rev().collect();
    let parts: Vec<usize> = (0..order.len()).map(|image| image % 5).collect();
    let fold_of = folds(&order, 400, &parts);
    let known = known(&regions, &targets, 400);
    let config = RegionalConfig {
        ridge: 0.1,
        bandwidth: 0.5,
        ..RegionalConfig::default()
    };
    let fit = RegionFit::new(&known, &targets, D, (&fold_of, 5), &config).unwrap();
    let seen = regions.narrow(0, 0, 400).unwrap();
    let mut unseen = fit.out_of_fold(&seen, &fold_of).unwrap();
    let memory = fit.finish(&targets, &mut unseen, D);
    assert_eq!(memory.bank.dim(), (2, D, config.regions));

    let new = values(&regions.narrow(0, 400, 100).unwrap()).unwrap();
    let new = into_rows(new, D).unwrap();
    let logit = |image: usize, category: usize| -> f32 {
        let cosines = new
            .row(image * 2 + category)
            .dot(&memory.bank.index_axis(Axis(0), category));
        let kernel = cosines.mapv(|cosine| (memory.sharpness * (cosine - 1.0)).exp());
        kernel.dot(&memory.weight.row(category)) + memory.bias[category]
    };
    for category in 0..2 {
        let right = (0..100).filter(|&image| {
            let label = labels[(400 + image) * 2 + category];
            label != 0 && (logit(image, category) > 0.0) == (label > 0)
        });
        assert!(right.count() > 68, "of 80 new images, category {category}");
        let right = (0..400).filter(|&image| {
            let label = labels[image * 2 + category];
            label != 0 && (unseen[[image, category]] > 0.0) == (label > 0)
        });
        assert!(
            right.count() > 272,
            "of 320 left-out images, category {category}"
        );
    }
}

#[test]
fn a_category_without_a_known_presence_says_its_prior() {
    let (regions, mut labels) = scene(30);
    labels
        .iter_mut()
        .skip(1)
        .step_by(2)
        .for_each(|y| *y = -y.abs());
    let targets = Targets {
        labels: rows(&labels, 2).unwrap(),
        assume_negative: 0.0,
    };
    let known = known(&regions, &targets, 30);
    let fold_of = vec![None; 30];
    let config = RegionalConfig::default();
    let fit = RegionFit::new(&known, &targets, D, (&fold_of, 5), &config).unwrap();
    let mut unseen = fit.out_of_fold(&regions, &fold_of).unwrap();
    let memory = fit.finish(&targets, &mut unseen, D);
    assert!(memory.weight.row(1).iter().all(|w| *w == 0.0));
    assert!(unseen.column(1).iter().all(|s| *s == memory.bias[1]));
}
