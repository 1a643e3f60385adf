//! Trunks of timm's in OpenCLIP's models, and the forms of OpenCLIP's own transformer, against timm
//! and open_clip: `tests/fixtures/trunks`, made by `scripts/make_trunk_goldens.py`.

use super::*;

fn folder(name: &str) -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    root.join("tests/fixtures/trunks").join(name)
}

fn configuration(name: &str) -> String {
    std::fs::read_to_string(folder(name).join("open_clip_config.json")).unwrap()
}

fn weights(name: &str) -> WeightFiles {
    WeightFiles::open(&[folder(name).join("open_clip_model.safetensors")]).unwrap()
}

/// Every transformer has these.
const MODES: &[DenseMode] = &[
    DenseMode::Value,
    DenseMode::SelfCorrelating,
    DenseMode::Neighbour,
];
const VALUE: &[DenseMode] = &[DenseMode::Value];

/// Name, sides, dense modes.
type Trunk = (&'static str, &'static [usize], &'static [DenseMode]);
const TRUNKS: [Trunk; 19] = [
    ("eva02_base_patch16_clip_224", &[32, 48], MODES),
    ("eva02_enormous_patch14_clip_224", &[32, 48], MODES),
    ("eva_giant_patch14_224", &[32, 16], MODES),
    ("vit_pe_core_tiny_patch16_384", &[48, 64], MODES),
    ("vit_pe_core_gigantic_patch14_448", &[32, 48], MODES),
    ("vit_large_patch14_clip_224", &[32, 48], MODES),
    ("vit_medium_patch16_gap_256", &[48, 64], MODES),
    ("vit_base_mci_224", &[48], MODES),
    ("convnext_large", &[64, 96], VALUE),
    ("convnext_xxlarge", &[64, 96], VALUE),
    ("fastvit_mci0", &[64, 96], VALUE),
    ("fastvit_mci0+joined", &[64, 96], VALUE),
    ("fastvit_mci3", &[64, 128], VALUE),
    ("vitamin_small_224", &[48], MODES),
    ("vitamin_xlarge_256", &[48], MODES),
    ("coca", &[32, 48], MODES),
    ("clipa", &[32, 48], MODES),
    ("mean", &[32, 48], MODES),
    ("layer_scale", &[32, 48], MODES),
];

#[test]
fn trunks_equal_timm_and_open_clip() {
    for (name, sides, modes) in TRUNKS {
        let weights = weights(name);
        let config = VisionConfig::open_clip_of(&configuration(name), &weights);
        let config = config.unwrap_or_else(|error| panic!("{name}: {error}"));
        let content = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
        let golden = SafeTensors::deserialize(&content).unwrap();
        let floats = |key: &str| -> Vec<f32> {
            let tensor = golden.tensor(key).unwrap();
            let numbers = tensor.data().chunks_exact(4);
            numbers
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect()
        };
        assert_eq!(config.image_size, sides[0], "{name}");
        for &side in sides {
            for &dense_mode in modes {
                let options = TowerOptions {
                    input_size: Some(side),
                    dense_mode,
                    ..TowerOptions::default()
                };
                let tower = Tower::write(&config, &weights, options);
                let tower = tower.unwrap_or_else(|error| panic!("{name}: {error}"));
                let pixels = golden.tensor(&format!("{side}/pixels")).unwrap();
                let given = Input::U8(pixels.shape().to_vec(), pixels.data());
                let found = run(&tower.onnx, &[("pixels", given)]);
                let dense = format!("dense/{}", dense_mode.name());
                for (output, key) in [("global", "global"), ("dense", &dense)] {
                    let d = difference(&found[output].1, &floats(&format!("{side}/{key}")));
                    assert!(
                        d < 1e-4,
                        "{name} at {side}: {output} of {key} differs by {d}"
                    );
                }
            }
        }
    }
}

#[test]
fn half_precision_of_trunks_points_the_same_way() {
    for (name, sides, _) in TRUNKS {
        let weights = weights(name);
        let config = VisionConfig::open_clip_of(&configuration(name), &weights).unwrap();
        let [fp32, fp16] = [Precision::Fp32, Precision::Fp16].map(|precision| {
            let options = TowerOptions {
                precision,
                ..TowerOptions::default()
            };
            let tower = Tower::write(&config, &weights, options).unwrap();
            let pixels = vec![90u8; sides[0] * sides[0] * 3];
            let given = Input::U8(vec![1, sides[0], sides[0], 3], &pixels);
            run(&tower.onnx, &[("pixels", given)])["global"].1.clone()
        });
        let cosine = cosine(&fp32, &fp16);
        assert!(cosine > 0.999, "{name}: {cosine}");
    }
}

#[test]
fn what_is_no_known_trunk_is_named() {
    let (json, trunk) = (configuration("eva02_base_patch16_clip_224"), "eva02_base");
    let weights_of = weights("eva02_base_patch16_clip_224");
    for (from, to, word) in [
        (trunk, "vitamin_base", "vitamin_base"),
        (trunk, "eva02_huge", "eva02_huge"),
        ("\"token\"", "\"map\"", "timm_pool"),
        ("\"token\"", "\"rot_attn\"", "rot_attn"),
        (
            "\"timm_proj\"",
            "\"block_size\": 3, \"timm_proj\"",
            "block_size",
        ),
    ] {
        assert!(json.contains(from), "{from}");
        let error = VisionConfig::open_clip_of(&json.replace(from, to), &weights_of).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    // Weights of another trunk than the name says.
    let convnext = configuration("convnext_large");
    let error = VisionConfig::open_clip_of(&convnext, &weights_of).unwrap_err();
    assert!(error.to_string().contains("lacks the tensor"), "{error}");
    // Others of FastViT's family lack an activation.
    let (fast, fast_weights) = (configuration("fastvit_mci0"), weights("fastvit_mci0"));
    for (from, to, word) in [
        ("fastvit_mci0", "fastvit_sa12", "fastvit_sa12"),
        ("\"avg\"", "\"token\"", "timm_pool"),
    ] {
        let error = VisionConfig::open_clip_of(&fast.replace(from, to), &fast_weights).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = VisionConfig::open_clip_of(&fast, &weights_of).unwrap_err();
    assert!(error.to_string().contains("lacks the tensor"), "{error}");
    let conv = weights("convnext_large");
    let config = VisionConfig::open_clip_of(&convnext, &conv).unwrap();
    let options = TowerOptions {
        dense_mode: DenseMode::Neighbour,
        ..TowerOptions::default()
    };
    let error = Tower::write(&config, &conv, options).unwrap_err();
    assert!(error.to_string().contains("it has value"), "{error}");
}
