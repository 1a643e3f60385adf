//! SigLIP in both of its layouts, against transformers, timm and open_clip:
//! `tests/fixtures/siglip`, made by `scripts/make_siglip_goldens.py`.

use super::*;
use crate::clip::vision::{DenseMode, Tower};
use crate::onnx::testing::run;

fn folder(name: &str) -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    root.join("tests/fixtures/siglip").join(name)
}

fn parts(name: &str) -> Box<ClipParts> {
    match ClipFolder::open(&folder(name)).unwrap().parts().unwrap() {
        ClipSource::Weights(parts) => parts,
        ClipSource::Encoder(_) => panic!("weights"),
    }
}

/// Each layout's own size (one leaves a rest behind its last patch) and another.
const CASES: [(&str, [usize; 2]); 2] = [("hugging_face", [36, 48]), ("open_clip", [32, 48])];

#[test]
fn vision_towers_equal_the_libraries() {
    for (name, sides) in CASES {
        let (parts, golden) = (parts(name), Golden::open(folder(name)));
        for side in sides {
            for dense_mode in [
                DenseMode::Value,
                DenseMode::SelfCorrelating,
                DenseMode::Neighbour,
                DenseMode::ValueBare,
            ] {
                let options = TowerOptions {
                    input_size: Some(side),
                    dense_mode,
                    ..TowerOptions::default()
                };
                let tower = Tower::write(&parts.vision, &parts.weights, options).unwrap();
                let (shape, pixels) = golden.pixels(&format!("{side}/pixels"));
                let found = run(&tower.onnx, &[("pixels", Input::U8(shape, &pixels))]);
                let mode = format!("{side}/dense/{}", dense_mode.name());
                for (output, expected) in [("global", format!("{side}/global")), ("dense", mode)] {
                    let d = difference(&found[output].1, &golden.floats(&expected));
                    assert!(d < 1e-4, "{name}, {expected}: {output} differs by {d}");
                }
            }
        }
        for dense_mode in [DenseMode::Plain, DenseMode::ValuePositional] {
            let options = TowerOptions {
                dense_mode,
                ..TowerOptions::default()
            };
            let refused = Tower::write(&parts.vision, &parts.weights, options).unwrap_err();
            assert!(refused.to_string().contains("value_bare"), "{refused}");
        }
    }
}

/// Texts in three scripts, in capitals and with punctuation.
#[test]
fn text_towers_and_tokenizers_equal_the_libraries() {
    for (name, _) in CASES {
        let (parts, golden) = (parts(name), Golden::open(folder(name)));
        let texts = std::fs::read(folder(name).join("texts.json")).unwrap();
        let texts: Vec<String> = serde_json::from_slice(&texts).unwrap();
        let text = parts.text_encoder().unwrap();
        let context = text.tower.config().context_length;
        let padding = text.tokenizer.padding().unwrap();
        let mut tokens = Vec::new();
        for (text_of, expected) in texts.iter().zip(golden.integers("tokens").chunks(context)) {
            // Punctuation stays with Gemma's pieces, which no library takes out of all texts.
            let typed = text_of.replace('!', "");
            let ids = text.tokenizer.encode(&typed).unwrap();
            let mut filled = ids[1..].to_vec();
            filled.resize(context, padding);
            assert_eq!(filled, expected, "{name}: {text_of}");
            assert_eq!(text.tokenizer.words(&typed).unwrap(), ids[1..ids.len() - 1]);
            tokens.push(ids);
        }
        let features = text.tower.forward_tokens(&tokens).unwrap();
        let features: Vec<f32> = features.flatten_all().unwrap().to_vec1().unwrap();
        let d = difference(&features, &golden.floats("text"));
        assert!(d < 1e-4, "{name}: text differs by {d}");
        // A prompt made of its parts is the prompt.
        let whole = text.tokenizer.words("a photo of a cat").unwrap();
        let mut made = text.tokenizer.words("a photo of a").unwrap();
        made.extend(text.tokenizer.words_behind("a photo of a", "cat").unwrap());
        assert_eq!(made, whole, "{name}");
    }
    let bare = parts("hugging_face").text_encoder().unwrap().tokenizer;
    let of = |text: &str| bare.encode(text).unwrap();
    assert_eq!(of("A photo, of: a red_dog!"), of("a photo of a red dog"));
}

#[test]
fn a_bundle_of_one_tags_with_its_own_scale_and_bias() {
    let scratch = tempfile::tempdir().unwrap();
    let list = scratch.path().join("categories.txt");
    std::fs::write(&list, "cat\tcat\nкот\tкот\n猫\t猫\n").unwrap();
    let clip = ClipFolder::open(&folder("open_clip")).unwrap();
    let init = Init {
        clip: &clip,
        name: "siglip",
        source: "a fixture",
        categories: &CategoryList::read(&list).unwrap(),
        tower: TowerOptions::default(),
        views: crate::views::Views::default(),
        fit: Default::default(),
    };
    let bundle = init.run(&scratch.path().join("bundle"), |_| ()).unwrap();
    assert_eq!(bundle.manifest().categories[2].name, "猫");
    // The bias and the scale that belong together, whatever the scale: 4.7 and -12 in the weights.
    let (head, _) = bundle.head().unwrap();
    let (bias, weight) = (head.region.bias[0], &head.region.weight[..head.dim]);
    let norm = weight.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((bias + 6.0).abs() < 0.01, "{bias}");
    assert!((norm - 0.5 * 4.7f32.exp()).abs() < 0.5, "{norm}");
    // Its text tower, opened from the bundle, is the same.
    let again = ClipTextEncoder::open(&bundle.text_files().unwrap()).unwrap();
    let there = parts("open_clip").text_encoder().unwrap();
    let embed = |encoder: &ClipTextEncoder| encoder.embed(&["кот"], |_| ()).unwrap();
    assert_eq!(embed(&again), embed(&there));
}

#[test]
fn what_is_no_siglip_of_a_fixed_size_is_named() {
    let config = |json: &str| {
        VisionConfig::hugging_face(json, &[])
            .unwrap_err()
            .to_string()
    };
    let naflex = config(r#"{"model_type":"siglip2","vision_config":{}}"#);
    assert!(naflex.contains("NaFlex"), "{naflex}");
    let headless = r#"{"model_type":"siglip","vision_config":{"vision_use_head":false}}"#;
    assert!(config(headless).contains("vision_use_head"));
    let json = std::fs::read_to_string(folder("open_clip").join("open_clip_config.json")).unwrap();
    let weights = parts("open_clip").weights;
    for (from, to, word) in [
        ("vit_base_patch16_siglip_32", "vitamin_base", "vitamin_base"),
        (
            "vit_base_patch16_siglip_32",
            "vit_base_patch16_siglip_gap_32",
            "siglip_gap",
        ),
        (
            "\"timm_pool\": \"map\"",
            "\"timm_pool\": \"avg\"",
            "timm_pool",
        ),
        ("\"embed_dim\": 24", "\"embed_dim\": 32", "embed_dim"),
    ] {
        assert!(json.contains(from), "{from}");
        let error = VisionConfig::open_clip_of(&json.replace(from, to), &weights).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}
