//! The whole model: gradients, switches, and the exported head.

use super::*;
use crate::arrays::{rows, to_matrix};
use crate::trm::blend::Blend;
use crate::trm::config::{Method, PseudoForm};
use crate::trm::export::KernelRidges;
use crate::trm::kernel_ridge::aims::Aims;
use crate::trm::kernel_ridge::images::{ImageExamples, ImageSystem};
use crate::trm::kernel_ridge::regions::{KnownRegions, RegionFit, RegionRidge, RegionalConfig};
use crate::trm::kernel_ridge::targets::Targets;
use crate::trm::kernel_ridge::words::VisualWords;
use crate::trm::objective::Teaching;
use crate::trm::region::Pooled;
use crate::trm::testing::{TestEncoder, numbers, test_tokens};
use crate::trm::weights::values;
use candle_core::Var;
use ndarray::Array2;
use tagstream_kernels::composed;
use tagstream_kernels::testing::{distance, noise};
use tagstream_kernels::{l2_normalize, row_products};

const B: usize = 4;
const C: usize = 3;
const N: usize = 5;
const D: usize = 8;

fn model(config: MethodConfig, dtype: DType) -> (Model, TestEncoder) {
    let encoder = TestEncoder::new(dtype);
    let prompts = Prompts::new(&test_tokens(), &encoder).unwrap();
    (Model::new(config, prompts, &encoder).unwrap(), encoder)
}

fn small(method: Method) -> MethodConfig {
    let mut config = MethodConfig::preset(method);
    config.query.hidden = 1.0;
    config.scale = 8.0;
    config
}

/// Weights off their start, so that no gradient vanishes by symmetry.
fn moved(model: &Model) -> Weights {
    let mut seed = 100;
    let mut normal = || {
        seed += 1;
        numbers(&noise(seed, &[1]))[0]
    };
    let start = model.start(&mut normal).unwrap();
    start
        .iter()
        .enumerate()
        .map(|(at, (name, tensor))| {
            let shift = (noise(at as u64, tensor.dims()) * 0.1)
                .unwrap()
                .to_dtype(tensor.dtype())
                .unwrap();
            (name.to_owned(), (tensor + shift).unwrap())
        })
        .collect()
}

fn batch(dtype: DType) -> Batch {
    Batch {
        positions: l2_normalize(&noise(1, &[B, N, D]))
            .unwrap()
            .to_dtype(dtype)
            .unwrap(),
        global: l2_normalize(&noise(2, &[B, D]))
            .unwrap()
            .to_dtype(dtype)
            .unwrap(),
        standard: noise(3, &[B, D]).to_dtype(dtype).unwrap(),
    }
}

fn teaching(dtype: DType) -> Teaching {
    let labels: Vec<f64> = vec![1., -1., 0., -1., 1., 1., 0., 0., -1., 1., 0., -1.];
    let labels = Tensor::from_vec(labels, (B, C), &Device::Cpu).unwrap();
    let unknown = labels.abs().unwrap().affine(-1.0, 1.0).unwrap();
    let targets = composed::sigmoid(&noise(7, &[B, C])).unwrap();
    Teaching {
        labels: labels.to_dtype(dtype).unwrap(),
        targets: Some((
            targets.to_dtype(dtype).unwrap(),
            unknown.to_dtype(dtype).unwrap(),
        )),
        target_weight: 0.7,
        assume_negative: 0.1,
        distillation_weight: 1.0,
        prototypes: Some(
            l2_normalize(&noise(8, &[C, D]))
                .unwrap()
                .to_dtype(dtype)
                .unwrap(),
        ),
    }
}

fn loss_of(model: &Model, encoder: &TestEncoder, weights: &Weights) -> Tensor {
    let text = model.text(weights, encoder).unwrap();
    let forward = model.forward(weights, &text, &batch(DType::F64)).unwrap();
    let teaching = Teaching {
        distillation_weight: model.config().distillation.weight,
        ..teaching(DType::F64)
    };
    model
        .loss(weights, &text, &forward, &teaching)
        .unwrap()
        .total
}

#[test]
fn every_trained_tensor_receives_the_gradient_that_differences_give() {
    for method in Method::ALL {
        let mut config = small(method);
        // Class distillation holds its teacher constant: differences would see through it.
        config.distillation.weight = 0.0;
        let (model, encoder) = model(config, DType::F64);
        let weights = moved(&model);
        let trained = model.trained(&weights);
        let vars: Vec<(String, Var)> = trained
            .iter()
            .map(|name| {
                (
                    name.clone(),
                    Var::from_tensor(weights.get(name).unwrap()).unwrap(),
                )
            })
            .collect();
        let mut live = weights.clone();
        for (name, var) in &vars {
            live.insert(name.clone(), var.as_tensor().clone());
        }
        let grads = loss_of(&model, &encoder, &live).backward().unwrap();
        for (name, var) in &vars {
            let grad = numbers(
                grads
                    .get(var)
                    .unwrap_or_else(|| panic!("{method:?}: no gradient for {name}")),
            );
            assert!(
                grad.iter().any(|g| *g != 0.0),
                "{method:?}: the gradient of {name} is zero"
            );
            let base = numbers(var);
            let shape = var.dims().to_vec();
            // Some elements of each tensor: every operation has been checked element by element on
            // its own.
            for at in (0..base.len()).step_by((base.len() / 5).max(1)) {
                let value = |by: f64| {
                    let mut values = base.clone();
                    values[at] += by;
                    let mut weights = weights.clone();
                    weights.insert(
                        name.clone(),
                        Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap(),
                    );
                    loss_of(&model, &encoder, &weights)
                        .to_scalar::<f64>()
                        .unwrap()
                };
                let numeric = (value(1e-5) - value(-1e-5)) / 2e-5;
                let error = (numeric - grad[at]).abs() / (1.0 + numeric.abs());
                assert!(
                    error < 1e-6,
                    "{method:?} {name}[{at}]: {numeric} against {}",
                    grad[at]
                );
            }
        }
    }
}

#[test]
fn distillation_teaches_the_query_branch_and_not_its_teacher() {
    let mut config = small(Method::TrmMlBase);
    config.contrastive.weight = 0.0;
    config.prompts.negative = NegativeMode::Bias;
    let (model, encoder) = model(config, DType::F64);
    let weights = moved(&model);
    let wv = Var::from_tensor(weights.get(names::WV).unwrap()).unwrap();
    let bias = Var::from_tensor(weights.get("region.bias").unwrap()).unwrap();
    let mut live = weights.clone();
    live.insert(names::WV, wv.as_tensor().clone());
    live.insert("region.bias", bias.as_tensor().clone());
    let text = model.text(&live, &encoder).unwrap();
    let forward = model.forward(&live, &text, &batch(DType::F64)).unwrap();
    let silent = Teaching {
        labels: Tensor::zeros((B, C), DType::F64, &Device::Cpu).unwrap(),
        targets: None,
        target_weight: 0.0,
        assume_negative: 0.0,
        distillation_weight: 1.0,
        prototypes: None,
    };
    let loss = model.loss(&live, &text, &forward, &silent).unwrap();
    let grads = loss.total.backward().unwrap();
    assert!(
        numbers(grads.get(&wv).unwrap())
            .iter()
            .any(|g| g.abs() > 1e-9)
    );
    assert!(numbers(grads.get(&bias).unwrap()).iter().all(|g| *g == 0.0));
}

#[test]
fn unknown_labels_do_not_move_the_supervised_loss() {
    let (model, encoder) = model(small(Method::TrmMlBase), DType::F64);
    let weights = moved(&model);
    let text = model.text(&weights, &encoder).unwrap();
    let forward = model.forward(&weights, &text, &batch(DType::F64)).unwrap();
    let part = |teaching: &Teaching, name: &str| {
        let loss = model.loss(&weights, &text, &forward, teaching).unwrap();
        loss.parts
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| *value)
    };
    let mut plain = teaching(DType::F64);
    plain.assume_negative = 0.0;
    let with = part(&plain, "supervised").unwrap();
    let whole = part(&plain, "distillation").unwrap();
    plain.distillation_weight = 0.5;
    assert!((part(&plain, "distillation").unwrap() - 0.5 * whole).abs() < 1e-12);
    plain.distillation_weight = 0.0;
    assert_eq!(part(&plain, "distillation"), None);
    plain.targets = None;
    assert_eq!(part(&plain, "supervised").unwrap(), with);
    assert_eq!(part(&plain, "targets"), None);
}

#[test]
fn an_informed_start_is_the_zero_shot_model() {
    let (trm, encoder) = model(small(Method::TrmMlBase), DType::F64);
    let weights = trm.start(&mut || 0.3).unwrap();
    let text = trm.text(&weights, &encoder).unwrap();
    assert!(distance(&text.positive, trm.template()) < 1e-12);
    let keys = trm.keys(&weights, &text).unwrap();
    assert!(distance(&keys, &spatial_keys(&text.positive).unwrap()) < 1e-9);
    let forward = trm.forward(&weights, &text, &batch(DType::F64)).unwrap();
    let region = forward.region.unwrap();
    let cosine = row_products(&region, &text.positive).unwrap();
    let logits = forward.branches[0].logits.clone();
    assert!(distance(&logits, &(cosine * 8.0).unwrap()) < 1e-9);
}

#[test]
fn the_folded_head_gives_what_the_branches_give() {
    let dense: Vec<f32> = numbers(&noise(1, &[B, N, D]))
        .iter()
        .map(|x| *x as f32)
        .collect();
    let global: Vec<f32> = numbers(&noise(2, &[B, D]))
        .iter()
        .map(|x| *x as f32)
        .collect();
    let standard = Standard::new(rows(&global, D).unwrap());
    let batch = Batch::new(dense.clone(), &global, &standard, None).unwrap();
    let mean = to_matrix(&batch.positions.mean(1).unwrap()).unwrap();
    let labels: Vec<i8> = vec![1, -1, 0, -1, 1, 1, 0, 0, -1, 1, 0, -1];
    let targets = Targets {
        labels: rows(&labels, C).unwrap(),
        assume_negative: 0.0,
    };
    let local = to_matrix(&batch.positions.flatten(0, 1).unwrap()).unwrap();
    let words = VisualWords::find(local.view(), 2, 15.0).unwrap();
    let roots = words.roots(&batch.positions).unwrap();
    let examples = ImageExamples {
        global: rows(&global, D).unwrap(),
        mean: mean.view(),
        words: Some((&words, roots.view())),
    };
    for method in Method::ALL {
        for heads in [1, 2] {
            let mut config = small(method);
            config.region.heads = heads;
            let (model, encoder) = model(config, DType::F32);
            let weights = moved(&model);
            let text = model.text(&weights, &encoder).unwrap();
            let mut ridges = KernelRidges::NONE;
            if model.config().memory.enabled {
                let parts = [Some(0), Some(1), Some(1), Some(0)];
                let system = ImageSystem::new(&examples, &parts, &model.config().memory).unwrap();
                let aims = Aims::known(&targets);
                let left_out = system.left_out(&aims).unwrap();
                let fitted = system.fit(&aims, &targets, left_out);
                ridges.images = Some(fitted.unwrap().0);
                ridges.blend = Blend::new(0.5, 0.2, 0.3);
            }
            let keys = spatial_keys(model.template()).unwrap();
            let first = Pooled::new(&keys, &batch.positions, 1).unwrap();
            let first = l2_normalize(&first.region().unwrap()).unwrap();
            let on_regions = region_ridge(&first, targets);
            if model.config().regional.enabled {
                ridges.regions = Some(on_regions.0);
            }
            let head = model.export(&weights, &text, &standard, &ridges).unwrap();
            head.check().unwrap();
            let found = head.evaluate(&dense, &global, B);
            let forward = model.forward(&weights, &text, &batch).unwrap();
            let mut expected = Array2::<f32>::zeros((B, C));
            let mut add = |logits: &Array2<f32>, share: f64| {
                expected.scaled_add(share as f32, logits);
            };
            for branch in &forward.branches {
                let share = model.share(branch.name, &ridges.blend);
                add(&to_matrix(&branch.logits).unwrap(), share);
            }
            if let Some(ridge) = &ridges.images {
                let logits = ridge.logits(&examples);
                add(&logits.unwrap(), 0.2);
            }
            if ridges.regions.is_some() {
                add(&on_regions.1, 0.3);
            }
            for (a, b) in found.logits.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-4, "{method:?} {heads}: {a} {b}");
            }
        }
    }
}

/// A regression on the batch's own regions, and what it says of them.
fn region_ridge(regions: &Tensor, targets: Targets) -> (RegionRidge, Array2<f32>) {
    let found = values(regions).unwrap();
    let mut known = vec![KnownRegions::default(); C];
    let labels = targets.labels.iter().enumerate();
    for (at, label) in labels.filter(|(_, y)| **y != 0) {
        let known = &mut known[at % C];
        known.images.push(at / C);
        known.targets.push(f32::from(*label > 0));
        known.weights.push(1.0);
        known
            .regions
            .extend_from_slice(&found[at * D..(at + 1) * D]);
    }
    let nowhere = [None; B];
    let config = RegionalConfig::default();
    let fit = RegionFit::new(&known, &targets, D, (&nowhere, 2), &config).unwrap();
    let mut scores = fit.out_of_fold(regions, &nowhere).unwrap();
    let ridge = fit.finish(&targets, &mut scores, D);
    (ridge, scores)
}

#[test]
fn switches_decide_what_is_trained() {
    let mut config = small(Method::TrmMl);
    config.prompts.train = false;
    config.region.train = false;
    config.pseudo.form = PseudoForm::None;
    let (frozen, _) = model(config, DType::F32);
    let trained = frozen.trained(&frozen.start(&mut || 0.1).unwrap());
    for name in [names::CONTEXT, names::QUERY, names::WQ, names::WK] {
        assert!(!trained.iter().any(|t| t == name), "{name}");
    }
    assert!(trained.iter().any(|t| t == names::MLP_IN_WEIGHT));
    let (probe, _) = model(small(Method::LinearProbe), DType::F32);
    let weights = probe.start(&mut || 0.1).unwrap();
    let names: Vec<&str> = weights.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["global.bias", "global.residual"]);
}
