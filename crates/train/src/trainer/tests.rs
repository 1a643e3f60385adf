//! Training on small synthetic features.

use super::*;
use crate::arrays::{rows, to_matrix};
use crate::groups::Groups;
use crate::trainer::checkpoint::CheckpointError;
use crate::trm::blend::Blend;
use crate::trm::config::{Method, MethodConfig, PseudoForm};
use crate::trm::features::FeatureSet;
use crate::trm::kernel_ridge::images::ImageExamples;
use crate::trm::matching::spatial_keys;
use crate::trm::model::Batch;
use crate::trm::prompts::Prompts;
use crate::trm::region::Pooled;
use crate::trm::testing::{TestEncoder, numbers, test_tokens};
use candle_core::DType;
use half::f16;
use ndarray::{Array2, Axis};
use tagstream_kernels::l2_normalize;
use tagstream_kernels::testing::noise;
use tagstream_model::head::{GraphOutputs, WeightStorage};
use tagstream_model::onnx::testing::{Input, difference, run as run_onnx};

const IMAGES: usize = 48;
const POSITIONS: usize = 4;
const D: usize = 8;
const C: usize = 3;

/// Images that hold a category's direction at one position; half of the labels are unknown.
fn data() -> (FeatureSet, Vec<i8>, Vec<i8>) {
    let directions = numbers(&noise(70, &[C, D]));
    let mut dense = numbers(&noise(71, &[IMAGES * POSITIONS, D]));
    let mut truth = vec![-1i8; IMAGES * C];
    for image in 0..IMAGES {
        for c in (0..C).filter(|c| (image + c * c) % (2 + c) == 0) {
            truth[image * C + c] = 1;
            let at = (image * POSITIONS + (image + c) % POSITIONS) * D;
            for d in 0..D {
                dense[at + d] += 4.0 * directions[c * D + d];
            }
        }
    }
    let global: Vec<f32> = dense
        .chunks(POSITIONS * D)
        .flat_map(|image| {
            (0..D)
                .map(|d| image.iter().skip(d).step_by(D).sum::<f64>() as f32)
                .collect::<Vec<_>>()
        })
        .collect();
    let labels = truth
        .iter()
        .enumerate()
        .map(|(at, y)| if at * 7 % 10 < 5 { 0 } else { *y })
        .collect();
    let dense = dense.iter().map(|x| f16::from_f64(*x)).collect();
    (FeatureSet::new(dense, global, POSITIONS, D), labels, truth)
}

fn model(method: Method, change: impl FnOnce(&mut MethodConfig)) -> (Model, TestEncoder) {
    let mut config = MethodConfig::preset(method);
    config.optimizer.epochs = config.optimizer.epochs.min(6);
    // The branches are trained whatever the memories are worth.
    config.optimizer.least_share = 0.0;
    config.optimizer.batch = 16;
    config.optimizer.feature_dropout = 0.1;
    config.query.hidden = 1.0;
    change(&mut config);
    let encoder = TestEncoder::new(DType::F32);
    let prompts = Prompts::new(&test_tokens(), &encoder).unwrap();
    (Model::new(config, prompts, &encoder).unwrap(), encoder)
}

fn values_of(trained: &Trained) -> Vec<(String, Vec<f32>)> {
    trained
        .trainable()
        .unwrap()
        .into_iter()
        .map(|t| (t.name, t.data))
        .collect()
}

/// Share of entries on the right side of zero.
fn accuracy(head: &ExportedHead, features: &FeatureSet, truth: &[i8]) -> f64 {
    let rows: Vec<usize> = (0..IMAGES).collect();
    let found = head.evaluate(&features.dense(&rows).unwrap(), features.global(), IMAGES);
    let right = found
        .logits
        .iter()
        .zip(truth)
        .filter(|(s, y)| (**s > 0.0) == (**y > 0))
        .count();
    right as f64 / truth.len() as f64
}

/// The exported graph of a trained head, run by ONNX Runtime, against the model's own forward pass
/// and memories.
fn onnx_says_what_candle_says(model: &Model, trained: &Trained, features: &FeatureSet) {
    let all: Vec<usize> = (0..IMAGES).collect();
    let (dense, global) = (features.dense(&all).unwrap(), features.global());
    let graph = trained
        .head
        .to_onnx(&GraphOutputs::Full, Some(POSITIONS), &WeightStorage::Inline)
        .unwrap();
    let inputs = [
        ("dense", Input::F32(vec![IMAGES, POSITIONS, D], &dense)),
        ("global", Input::F32(vec![IMAGES, D], global)),
    ];
    let outputs = run_onnx(&graph, &inputs);
    let found = &outputs["logits"].1;

    let batch = Batch::new(dense.clone(), global, &trained.standard, None).unwrap();
    let forward = model
        .forward(&trained.weights, &trained.text, &batch)
        .unwrap();
    let blend = &trained.ridges.blend;
    let mut expected = Array2::<f32>::zeros((IMAGES, C));
    let mut add = |logits: &Array2<f32>, share: f64| expected.scaled_add(share as f32, logits);
    for branch in &forward.branches {
        let logits = to_matrix(&branch.logits).unwrap();
        add(&logits, model.share(branch.name, blend));
    }
    if let Some(ridge) = &trained.ridges.images {
        let mean = to_matrix(&batch.positions.mean(1).unwrap()).unwrap();
        let words = ridge.bank.words.as_ref().map(|bank| &bank.words);
        let roots = words.map(|words| words.roots(&batch.positions).unwrap());
        let logits = ridge.logits(&ImageExamples {
            global: rows(global, D).unwrap(),
            mean: mean.view(),
            words: words.zip(roots.as_ref().map(|roots| roots.view())),
        });
        add(&logits.unwrap(), blend.memory);
    }
    if let Some(ridge) = &trained.ridges.regions {
        let keys = spatial_keys(model.template()).unwrap();
        let pooled = Pooled::new(&keys, &batch.positions, 1).unwrap();
        let regions = l2_normalize(&pooled.region().unwrap()).unwrap();
        let regions = to_matrix(&regions.reshape((IMAGES * C, D)).unwrap()).unwrap();
        let logits = Array2::from_shape_fn((IMAGES, C), |(image, c)| {
            let cosines = regions
                .row(image * C + c)
                .dot(&ridge.bank.index_axis(Axis(0), c));
            let kernel = cosines.mapv(|cosine| (ridge.sharpness * (cosine - 1.0)).exp());
            kernel.dot(&ridge.weight.row(c)) + ridge.bias[c]
        });
        add(&logits, blend.regional);
    }
    let (expected, _) = expected.into_raw_vec_and_offset();
    let largest = difference(found, &expected);
    assert!(largest < 1e-4, "{largest}");
}

#[test]
fn every_method_trains_and_gets_better_than_its_start() {
    let (features, labels, truth) = data();
    for method in Method::ALL {
        let (model, encoder) = model(method, |config| {
            for rate in [
                &mut config.optimizer.rate,
                &mut config.optimizer.context_rate,
                &mut config.optimizer.residual_rate,
            ] {
                *rate = 2e-2;
            }
            config.optimizer.average = 0.0;
            config.optimizer.feature_dropout = 0.0;
        });
        let trained = train(
            &model,
            &encoder,
            &features,
            &labels,
            TrainOptions::default(),
        )
        .unwrap();
        trained.head.check().unwrap();
        let found = accuracy(&trained.head, &features, &truth);
        onnx_says_what_candle_says(&model, &trained, &features);
        // The stand-in's texts know nothing of the images: without training there is nothing to
        // expect.
        assert!(trained.epochs == 0 || found > 0.6, "{method:?}: {found}");
        if let (Some((_, first)), Some((_, last))) = (trained.curves.first(), trained.curves.last())
        {
            let part =
                |parts: &[(&str, f64)]| parts.iter().find(|p| p.0 == "supervised").unwrap().1;
            assert!(part(last) < part(first), "{method:?}: {first:?} {last:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_one_others() {
    let (features, labels, _) = data();
    let (model, encoder) = model(Method::TrmMl, |_| {});
    let run = |seed| {
        let options = TrainOptions {
            seed,
            ..TrainOptions::default()
        };
        values_of(&train(&model, &encoder, &features, &labels, options).unwrap())
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
}

#[test]
fn a_killed_run_goes_on_bit_for_bit() {
    let (features, labels, _) = data();
    for form in [PseudoForm::Prototype, PseudoForm::Ensemble] {
        let (model, encoder) = model(Method::TrmMl, |config| config.pseudo.form = form);
        let whole = train(
            &model,
            &encoder,
            &features,
            &labels,
            TrainOptions::default(),
        )
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        // Time is over after the first epoch; the second call finds the checkpoint, and so on.
        let part = |minutes| {
            let options = TrainOptions {
                max_minutes: minutes,
                checkpoint: Some(path.clone()),
                ..TrainOptions::default()
            };
            train(&model, &encoder, &features, &labels, options).unwrap()
        };
        assert_eq!(part(Some(0.0)).epochs, 1);
        assert_eq!(part(Some(0.0)).epochs, 2);
        let resumed = part(None);
        assert_eq!(resumed.epochs, whole.epochs);
        assert_eq!(values_of(&resumed), values_of(&whole));
        // Another seed is another run: the checkpoint is refused.
        let options = TrainOptions {
            seed: 9,
            checkpoint: Some(path.clone()),
            ..TrainOptions::default()
        };
        let error = train(&model, &encoder, &features, &labels, options).unwrap_err();
        assert!(matches!(
            error,
            TrainError::Checkpoint(CheckpointError::OtherRun { .. })
        ));
    }
}

#[test]
fn a_warm_start_takes_up_what_was_learned() {
    let (features, labels, truth) = data();
    let (model, encoder) = model(Method::TrmMl, |config| config.optimizer.epochs = 0);
    let mut weights = model.start(&mut || 0.1).unwrap();
    weights.insert(
        "region.bias",
        Tensor::new(&[5.0f32, 6.0, 7.0], &Device::Cpu).unwrap(),
    );
    let options = TrainOptions {
        warm_start: Some((weights, vec![Some(2), None, Some(0)])),
        ..TrainOptions::default()
    };
    let trained = train(&model, &encoder, &features, &labels, options).unwrap();
    let bias = trained.weights.values("region.bias").unwrap();
    assert_eq!((bias[0], bias[2]), (7.0, 5.0));
    assert!(bias[1] != 6.0);
    let stored = stored_weights(&trained.trainable().unwrap()).unwrap();
    assert_eq!(stored.values("region.bias").unwrap(), bias);
    assert!(truth.len() == labels.len());
}

#[test]
fn positives_alone_are_learned_from() {
    let (features, mut labels, _) = data();
    labels.iter_mut().for_each(|y| *y = (*y).max(0));
    let (model, encoder) = model(Method::TrmMl, |_| {});
    let trained = train(
        &model,
        &encoder,
        &features,
        &labels,
        TrainOptions::default(),
    )
    .unwrap();
    let rows: Vec<usize> = (0..IMAGES).collect();
    let found = trained
        .head
        .evaluate(&features.dense(&rows).unwrap(), features.global(), IMAGES);
    assert!(
        found.logits.iter().any(|s| *s < 0.0),
        "everything present is not an answer"
    );
}

#[test]
fn progress_is_told_and_counts_to_the_end() {
    let (features, labels, _) = data();
    let (model, encoder) = model(Method::TrmMlBase, |config| config.optimizer.epochs = 2);
    let mut seen = Vec::new();
    let mut progress = |p: &TrainingProgress| seen.push((p.step, p.losses.len(), p.rate));
    let options = TrainOptions {
        progress: Some(&mut progress),
        ..TrainOptions::default()
    };
    train(&model, &encoder, &features, &labels, options).unwrap();
    assert_eq!(
        seen.iter().map(|s| s.0).collect::<Vec<_>>(),
        (1..=6).map(|at| (at, 6)).collect::<Vec<_>>()
    );
    assert!(seen.iter().all(|s| s.1 >= 3 && s.2 > 0.0));
}

#[test]
fn data_that_cannot_be_trained_on_are_refused() {
    let (features, labels, _) = data();
    let (model, encoder) = model(Method::TrmMlBase, |_| {});
    let error = |labels: &[i8]| {
        train(&model, &encoder, &features, labels, TrainOptions::default())
            .unwrap_err()
            .to_string()
    };
    assert!(error(&labels[1..]).contains("labels for"));
    assert!(error(&vec![-1; labels.len()]).contains("nothing to learn"));
}

#[test]
fn where_memories_count_more_all_is_closed_form_and_says_what_it_left_out() {
    let (features, labels, _) = data();
    let (model, encoder) = model(Method::TrmMl, |config| config.optimizer.least_share = 1.1);
    let groups = Groups::of_names((0..IMAGES).map(|image| (image / 2).to_string()));
    let fit = |labels: &[i8]| {
        let options = TrainOptions {
            groups: Some(groups.clone()),
            ..TrainOptions::default()
        };
        train(&model, &encoder, &features, labels, options).unwrap()
    };
    let whole = fit(&labels);
    assert_eq!((whole.epochs, whole.steps), (0, 0));
    onnx_says_what_candle_says(&model, &whole, &features);
    let left_out = whole.left_out.as_ref().unwrap();
    let rows: Vec<usize> = (0..IMAGES).collect();
    let seen = whole
        .head
        .evaluate(&features.dense(&rows).unwrap(), features.global(), IMAGES);
    let entropy = |logits: &mut dyn Iterator<Item = f32>| -> f32 {
        let entries = logits.zip(&labels).filter(|(_, label)| **label != 0);
        entries
            .map(|(s, label)| (1.0 + (-s * f32::from(*label)).exp()).ln())
            .sum()
    };
    let (own, others) = (
        entropy(&mut seen.logits.iter().copied()),
        entropy(&mut left_out.iter().copied()),
    );
    assert!(
        own < others,
        "{own} {others}: a memory flatters what it remembers"
    );

    // Without any label the memory smooths zero-shot, and nothing else has a say.
    let smoothed = fit(&vec![0; labels.len()]);
    assert_eq!(smoothed.ridges.blend, Blend::new(0.0, 1.0, 0.0));
    assert!(smoothed.head.memory.is_some());
    onnx_says_what_candle_says(&model, &smoothed, &features);
}
