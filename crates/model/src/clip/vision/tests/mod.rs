//! Against transformers and open_clip: `tests/fixtures/towers`, made by
//! `scripts/make_tower_goldens.py`.

mod trunks;

use super::*;
use crate::onnx::testing::{Input, Outputs, difference, run};
use safetensors::SafeTensors;
use std::path::PathBuf;

fn folder(name: &str) -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    root.join("tests/fixtures/towers").join(name)
}

fn open(name: &str) -> (VisionConfig, WeightFiles) {
    let folder = folder(name);
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    if name == "hugging_face" {
        let preprocessor = [PreprocessorFile {
            name: "preprocessor_config.json",
            json: &read("preprocessor_config.json"),
        }];
        (
            VisionConfig::hugging_face(&read("config.json"), &preprocessor).unwrap(),
            WeightFiles::open(&[folder.join("model.safetensors")]).unwrap(),
        )
    } else {
        (
            VisionConfig::open_clip(&read("open_clip_config.json")).unwrap(),
            WeightFiles::open(&[folder.join("open_clip_model.safetensors")]).unwrap(),
        )
    }
}

/// Name, sides, dense modes of each golden.
type Case = (&'static str, &'static [usize], &'static [DenseMode]);
const TRANSFORMER: &[DenseMode] = &[
    DenseMode::Value,
    DenseMode::SelfCorrelating,
    DenseMode::Neighbour,
    DenseMode::Plain,
    DenseMode::ValueBare,
];
const RESNET: &[DenseMode] = &[DenseMode::Value, DenseMode::ValuePositional];
const CASES: [Case; 3] = [
    ("hugging_face", &[32, 48], TRANSFORMER),
    ("open_clip_vit", &[32, 16, 48], TRANSFORMER),
    ("open_clip_resnet", &[64, 96], RESNET),
];

/// Runs the written tower on the golden's pixels; gives its outputs and the expected `dense` and
/// `global`.
fn outputs(name: &str, options: TowerOptions) -> (Outputs, Vec<f32>, Vec<f32>) {
    let (config, weights) = open(name);
    let tower = Tower::write(&config, &weights, options).unwrap();
    assert_eq!(
        tower.onnx,
        Tower::write(&config, &weights, options).unwrap().onnx
    );
    let side = tower.input_size;
    let content = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&content).unwrap();
    let floats = |key: String| -> Vec<f32> {
        let view = golden.tensor(&format!("{side}/{key}")).unwrap();
        let chunks = view.data().chunks_exact(4);
        chunks
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let pixels = golden.tensor(&format!("{side}/pixels")).unwrap();
    let outputs = run(
        &tower.onnx,
        &[("pixels", Input::U8(pixels.shape().to_vec(), pixels.data()))],
    );
    let positions = tower.dims.grid_height * tower.dims.grid_width;
    assert_eq!(outputs["dense"].0, [2, positions, config.dim]);
    assert_eq!(outputs["global"].0, [2, config.dim]);
    let dense = floats(format!("dense/{}", options.dense_mode.name()));
    (outputs, dense, floats("global".to_owned()))
}

#[test]
fn towers_equal_the_libraries() {
    for (name, sides, modes) in CASES {
        for &side in sides {
            for &dense_mode in modes {
                let options = TowerOptions {
                    input_size: Some(side),
                    dense_mode,
                    ..TowerOptions::default()
                };
                let (found, dense, global) = outputs(name, options);
                let d = difference(&found["dense"].1, &dense);
                assert!(
                    d < 1e-4,
                    "{name} at {side}, {dense_mode:?}: dense differs by {d}"
                );
                let d = difference(&found["global"].1, &global);
                assert!(
                    d < 1e-4,
                    "{name} at {side}, {dense_mode:?}: global differs by {d}"
                );
            }
        }
    }
}

#[test]
fn the_default_size_is_the_towers_own() {
    let (config, weights) = open("hugging_face");
    let tower = Tower::write(&config, &weights, TowerOptions::default()).unwrap();
    assert_eq!(tower.input_size, 32);
    assert_eq!((tower.dims.grid_height, tower.dims.grid_width), (4, 4));
}

#[test]
fn half_precision_points_the_same_way() {
    for (name, sides, modes) in CASES {
        for &dense_mode in modes {
            let options = TowerOptions {
                precision: Precision::Fp16,
                input_size: Some(sides[sides.len() - 1]),
                dense_mode,
            };
            let (found, dense, global) = outputs(name, options);
            let pairs = [(&found["dense"].1, &dense), (&found["global"].1, &global)];
            for (found, expected) in pairs {
                let rows = found.chunks_exact(24).zip(expected.chunks_exact(24));
                let lowest = rows.map(|(a, b)| cosine(a, b)).fold(1.0, f32::min);
                assert!(lowest > 0.999, "{name}, {dense_mode:?}: cosine {lowest}");
                // It is half precision, not the other one under its name.
                assert!(difference(found, expected) > 1e-6);
            }
        }
    }
}

#[test]
fn integers_point_the_same_way_whatever_stands_beside_an_image() {
    for (name, sides, modes) in CASES {
        if name == "open_clip_resnet" {
            continue;
        }
        for (range, &dense_mode) in [IntegerRange::Full, IntegerRange::Reduced]
            .into_iter()
            .flat_map(|range| modes.iter().map(move |mode| (range, mode)))
        {
            let options = TowerOptions {
                precision: Precision::Int8(range),
                input_size: Some(sides[sides.len() - 1]),
                dense_mode,
            };
            let (found, dense, global) = outputs(name, options);
            let least = if range == IntegerRange::Full {
                0.99
            } else {
                0.98
            };
            let pairs = [(&found["dense"].1, &dense), (&found["global"].1, &global)];
            for (found, expected) in pairs {
                let rows = found.chunks_exact(24).zip(expected.chunks_exact(24));
                let lowest = rows.map(|(a, b)| cosine(a, b)).fold(1.0, f32::min);
                assert!(
                    lowest > least,
                    "{name}, {range:?}, {dense_mode:?}: cosine {lowest}"
                );
                assert!(difference(found, expected) > 1e-5, "they are integers");
            }
        }
    }
}

#[test]
fn an_image_in_integers_is_the_same_in_every_batch() {
    let (config, weights) = open("hugging_face");
    let tower = |precision| {
        let options = TowerOptions {
            precision,
            ..TowerOptions::default()
        };
        Tower::write(&config, &weights, options).unwrap()
    };
    let tower = tower(Precision::Int8(IntegerRange::Full));
    let image = 3 * tower.input_size * tower.input_size;
    let dark: Vec<u8> = (0..image).map(|i| (i % 11) as u8).collect();
    let loud: Vec<u8> = (0..image)
        .map(|i| if i / 13 % 2 == 0 { 255 } else { 0 })
        .collect();
    let global = |pixels: &[u8]| {
        let side = tower.input_size;
        let shape = vec![pixels.len() / image, side, side, 3];
        run(&tower.onnx, &[("pixels", Input::U8(shape, pixels))])["global"].clone()
    };
    let alone = global(&dark);
    let among = global(&[&loud[..], &dark, &loud].concat());
    assert_eq!((alone.0, among.0), (vec![1, 24], vec![3, 24]));
    assert_eq!(alone.1, among.1[24..48]);
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn half_precision_halves_the_file() {
    let (config, weights) = open("open_clip_resnet");
    let size = |precision| {
        let options = TowerOptions {
            precision,
            ..TowerOptions::default()
        };
        Tower::write(&config, &weights, options).unwrap().onnx.len()
    };
    assert!(size(Precision::Fp16) * 10 < size(Precision::Fp32) * 6);
}

#[test]
fn what_cannot_be_written_is_named() {
    let refusal = |name: &str, options: TowerOptions| {
        let (config, weights) = open(name);
        Tower::write(&config, &weights, options)
            .unwrap_err()
            .to_string()
    };
    let mode = |dense_mode| TowerOptions {
        dense_mode,
        ..TowerOptions::default()
    };
    let message = refusal("hugging_face", mode(DenseMode::ValuePositional));
    assert!(message.contains("value_positional"), "{message}");
    let integers = TowerOptions {
        precision: Precision::Int8(IntegerRange::Full),
        ..TowerOptions::default()
    };
    let message = refusal("open_clip_resnet", integers);
    assert!(
        message.contains("ResNet") && message.contains("fp32"),
        "{message}"
    );
    for absent in [
        DenseMode::Plain,
        DenseMode::SelfCorrelating,
        DenseMode::Neighbour,
    ] {
        let message = refusal("open_clip_resnet", mode(absent));
        assert!(
            message.contains(&format!("`{}`", absent.name())),
            "{message}"
        );
    }
    let size = |size| TowerOptions {
        input_size: Some(size),
        ..TowerOptions::default()
    };
    assert!(refusal("hugging_face", size(33)).contains("multiple of 8"));
    assert!(refusal("open_clip_resnet", size(0)).contains("multiple of 32"));

    // A configuration of other weights.
    let (mut config, weights) = open("hugging_face");
    config.dim = 25;
    let message = Tower::write(&config, &weights, TowerOptions::default()).unwrap_err();
    assert!(
        message.to_string().contains("visual_projection.weight"),
        "{message}"
    );
    let (config, _) = open("hugging_face");
    let (_, weights) = open("open_clip_vit");
    let message = Tower::write(&config, &weights, TowerOptions::default()).unwrap_err();
    assert!(
        message.to_string().contains("lacks the tensor"),
        "{message}"
    );
}
