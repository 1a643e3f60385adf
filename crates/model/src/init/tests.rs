use super::*;
use crate::clip::vision::{DenseMode, Precision};
use crate::onnx::IntegerRange;
use crate::onnx::testing::{Input, difference, run_file};
use crate::runtime::Runtime;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    root.join("tests/fixtures/towers").join(name)
}

fn categories(folder: &Path) -> CategoryList {
    let path = folder.join("categories.txt");
    std::fs::write(&path, "cat\nred_dog\n").unwrap();
    CategoryList::read(&path).unwrap()
}

fn weights_of(clip: &ClipFolder) -> Box<ClipParts> {
    match clip.parts().unwrap() {
        ClipSource::Weights(parts) => parts,
        ClipSource::Encoder(_) => panic!("a ready-made encoder"),
    }
}

#[test]
fn every_layout_becomes_a_bundle_that_tags() {
    let folder = tempfile::tempdir().unwrap();
    let categories = categories(folder.path());
    for (name, side) in [
        ("hugging_face", 48),
        ("open_clip_vit", 32),
        ("open_clip_resnet", 96),
    ] {
        let clip = ClipFolder::open(&fixture(name)).unwrap();
        let out = folder.path().join(name);
        let init = Init {
            clip: &clip,
            name,
            source: "a fixture",
            categories: &categories,
            tower: TowerOptions {
                input_size: Some(side),
                ..TowerOptions::default()
            },
            views: crate::views::Views::default(),
            fit: Default::default(),
        };
        let mut steps = Vec::new();
        let bundle = init.run(&out, |step| steps.push(step)).unwrap();
        assert_eq!(
            steps,
            [InitStep::Vision, InitStep::Text(2), InitStep::Write]
        );
        let manifest = bundle.manifest();
        assert_eq!(manifest.categories[1].name, "red_dog");
        assert_eq!(manifest.categories[1].prompt, "red dog");
        assert_eq!(manifest.preprocessing.height, side);
        assert!(
            manifest.lineage.source.starts_with("a fixture (")
                && manifest.lineage.method == "zero-shot"
        );
        // The id comes from the content: made again, it is the same.
        let again = init.run(&folder.path().join("again"), |_| ()).unwrap();
        assert_eq!(again.id(), bundle.id());
        std::fs::remove_dir_all(again.root()).unwrap();

        // The text tower was copied without the vision tower, and gives the features that the head
        // was made of.
        let text = ClipTextEncoder::open(&bundle.text_files().unwrap()).unwrap();
        let prompts = ["a photo of a cat", "a photo of a red dog"];
        let features = text.embed(&prompts, |_| ()).unwrap();
        let (head, _) = bundle.head().unwrap();
        let expected = ExportedHead::zero_shot(
            &features,
            24,
            ZeroShot::from_logit(weights_of(&clip).logit().unwrap().0, None),
        );
        assert_eq!(head, expected);

        // Encoder and head run one after the other.
        let pixels: Vec<u8> = (0..side * side * 3).map(|i| (i * 7 % 251) as u8).collect();
        let shape = vec![1, side, side, 3];
        let encoded = run_file(&bundle.encoder(), &[("pixels", Input::U8(shape, &pixels))]);
        let (dense, global) = (&encoded["dense"], &encoded["global"]);
        let inputs = [
            ("dense", Input::F32(dense.0.clone(), &dense.1)),
            ("global", Input::F32(global.0.clone(), &global.1)),
        ];
        let tagged = run_file(&bundle.head_graph(), &inputs);
        let evaluated = head.evaluate(&dense.1, &global.1, 1);
        assert!(difference(&tagged["logits"].1, &evaluated.logits) < 1e-4);
    }
}

#[test]
fn a_ready_made_encoder_is_copied() {
    // The encoder folder is made of another bundle's files.
    let folder = tempfile::tempdir().unwrap();
    let list = categories(folder.path());
    let clip = ClipFolder::open(&fixture("hugging_face")).unwrap();
    let init = |clip: &ClipFolder, out: &str, tower| {
        let init = Init {
            clip,
            name: "x",
            source: "a fixture",
            categories: &list,
            tower,
            views: crate::views::Views::default(),
            fit: Default::default(),
        };
        init.run(&folder.path().join(out), |_| ())
    };
    let bundle = init(&clip, "first", TowerOptions::default()).unwrap();
    let encoder = folder.path().join("encoder");
    std::fs::create_dir(&encoder).unwrap();
    for (from, to) in [
        (ENCODER_FILE, "encoder.onnx"),
        (TEXT_WEIGHTS_FILE, "text_encoder.safetensors"),
        (TEXT_CONFIG_FILE, "config.json"),
        (TOKENIZER_FILE, "tokenizer.json"),
    ] {
        std::fs::copy(bundle.path(from).unwrap(), encoder.join(to)).unwrap();
    }
    let clip = ClipFolder::open(&encoder).unwrap();
    let second = init(&clip, "second", TowerOptions::default()).unwrap();
    assert_eq!(second.encoder_hash(), bundle.encoder_hash());
    assert_eq!(second.manifest().dims, bundle.manifest().dims);
    assert_eq!(
        second.manifest().preprocessing,
        bundle.manifest().preprocessing
    );
    let options = TowerOptions {
        dense_mode: DenseMode::Plain,
        ..TowerOptions::default()
    };
    assert!(matches!(
        init(&clip, "third", options),
        Err(InitError::ReadyMade)
    ));
    assert!(!folder.path().join("third").exists());
}

#[test]
fn folders_that_are_no_clip_are_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let message = || ClipFolder::open(folder.path()).unwrap_err().to_string();
    assert!(message().contains("open_clip_config.json"));
    let write = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"{}").unwrap();
    };
    // Each is found before what was written earlier.
    for (name, word) in [
        (
            "flax_model.msgpack",
            "Flax's weights only (flax_model.msgpack)",
        ),
        ("modules.json", "no vision tower"),
        (
            "onnx/vision_model.onnx",
            "ONNX export (onnx/vision_model.onnx)",
        ),
        ("adapter_config.json", "merge_and_unload"),
    ] {
        write(name);
        assert!(message().contains(word), "{}", message());
    }
    for name in [
        "adapter_config.json",
        "modules.json",
        "onnx/vision_model.onnx",
    ] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    std::fs::remove_file(folder.path().join("flax_model.msgpack")).unwrap();
    write("pytorch_model.bin");
    assert!(message().contains("without config.json"), "{}", message());
    write("config.json");
    write("model.safetensors");
    assert!(message().contains("lacks tokenizer.json"));
    write("tokenizer.json");
    let clip = ClipFolder::open(&folder.path().join("pytorch_model.bin")).unwrap();
    assert_eq!(clip.kind(), "Hugging Face layout, pytorch_model.bin");
    assert_eq!(
        ClipFolder::open(folder.path()).unwrap().kind(),
        "Hugging Face layout"
    );
    let nowhere = ClipFolder::open(Path::new("/nowhere"))
        .unwrap_err()
        .to_string();
    assert!(nowhere.contains("/nowhere"), "{nowhere}");
}

#[test]
fn an_index_names_the_pieces_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(fixture("hugging_face").join(name), at(name)).unwrap();
    }
    let message = |index: &str| {
        std::fs::write(at("model.safetensors.index.json"), index).unwrap();
        ClipFolder::open(folder.path()).unwrap_err().to_string()
    };
    let outside = message(r#"{"weight_map":{"a":"../model-00001-of-00001.safetensors"}}"#);
    assert!(outside.contains("not beside it"), "{outside}");
    let missing = message(r#"{"weight_map":{"a":"model-00001-of-00001.safetensors"}}"#);
    assert!(
        missing.contains("lacks model-00001-of-00001.safetensors"),
        "{missing}"
    );
    assert!(message(r#"{"weight_map":{}}"#).contains("names no files"));
    assert!(message("[]").contains("model.safetensors.index.json"));
}

/// Another encoder, so that nothing fitted on the one's features is taken for the other's; and the
/// report says how near they are.
#[test]
fn a_bundle_in_integers_is_another_one_and_says_how_near_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let categories = categories(folder.path());
    let clip = ClipFolder::open(&fixture("hugging_face")).unwrap();
    let init = |precision| Init {
        clip: &clip,
        name: "vit",
        source: "a fixture",
        categories: &categories,
        tower: TowerOptions {
            precision,
            ..TowerOptions::default()
        },
        views: Views::default(),
        fit: Default::default(),
    };
    let precisions = [
        Precision::Fp32,
        Precision::Int8(IntegerRange::Full),
        Precision::Int8(IntegerRange::Reduced),
    ];
    let bundles = precisions.map(|precision| {
        let out = folder.path().join(precision.name());
        init(precision).run(&out, |_| ()).unwrap()
    });
    let ids: std::collections::BTreeSet<&str> = bundles.iter().map(Bundle::id).collect();
    let hashes: std::collections::BTreeSet<&str> =
        bundles.iter().map(Bundle::encoder_hash).collect();
    assert_eq!((ids.len(), hashes.len()), (3, 3));
    let source = &bundles[2].manifest().lineage.source;
    assert!(source.contains("int8, reduced range"), "{source}");

    let runtime = Runtime::load().unwrap();
    let side = bundles[0].manifest().preprocessing.height;
    let pixels = drawn(side, 4);
    let mut steps = Vec::new();
    let [whole, full, reduced] = [0, 1, 2].map(|i| {
        let init = init(precisions[i]);
        let found = init.parity(&runtime, &bundles[i], &pixels, |step| steps.push(step));
        found.unwrap()
    });
    assert_eq!(steps.len(), 3 * 4);
    assert_eq!(steps[3], InitStep::Parity(4));
    assert!(
        whole.dense.least > 0.999_999 && whole.same_top == 4,
        "{whole:?}"
    );
    for found in [full, reduced] {
        assert!(
            found.dense.least > 0.98 && found.dense.least < 0.999_999,
            "{found:?}"
        );
        assert!(
            found.global.mean > 0.98 && !found.is_doubtful(),
            "{found:?}"
        );
        assert!(found.to_string().contains("of 4"), "{found}");
    }
    let none = init(precisions[1]).parity(&runtime, &bundles[1], &[], |_| ());
    assert!(matches!(none, Err(InitError::NoPictures)));
}

/// A fixture's folder with one file more, or one that says something else.
fn with_file(of: &str, folder: &Path, name: &str, content: &str) -> ClipFolder {
    std::fs::create_dir(folder).unwrap();
    for entry in std::fs::read_dir(fixture(of)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(folder.join(name), content).unwrap();
    ClipFolder::open(folder).unwrap()
}

#[test]
fn pictures_are_fitted_as_is_asked_or_as_the_models_files_say() {
    use tagstream_image::preprocessing::{Filter, Fit};
    let folder = tempfile::tempdir().unwrap();
    let list = categories(folder.path());
    let made = |clip: &ClipFolder, out: &str, fit| {
        let init = Init {
            clip,
            name: "x",
            source: "a fixture",
            categories: &list,
            tower: TowerOptions::default(),
            views: Views::default(),
            fit,
        };
        init.run(&folder.path().join(out), |_| ())
    };
    let fit = |bundle: &Bundle| {
        let preprocessing = &bundle.manifest().preprocessing;
        (preprocessing.fit, preprocessing.filter)
    };
    let (crop, squash) = (
        (Fit::CenterCrop, Filter::Bicubic),
        (Fit::Squash, Filter::Bicubic),
    );
    let clip = ClipFolder::open(&fixture("open_clip_vit")).unwrap();
    let squashed = made(&clip, "squash", FitChoice::Squash).unwrap();
    assert_eq!(fit(&squashed), squash);
    let cropped = made(&clip, "crop", FitChoice::Crop).unwrap();
    assert_eq!(fit(&cropped), crop);
    // One encoder, and features that are not to be mixed: another preprocessing, another bundle.
    assert_eq!(squashed.encoder_hash(), cropped.encoder_hash());
    assert_ne!(squashed.id(), cropped.id());
    let hash = |bundle: &Bundle| bundle.manifest().preprocessing_hash.clone();
    assert_ne!(hash(&squashed), hash(&cropped));
    // OpenCLIP's own way where its file says nothing else.
    let model = made(&clip, "model", FitChoice::Model).unwrap();
    assert_eq!(fit(&model), crop);
    assert_eq!(own_fit(&clip).unwrap().said_by, "open_clip_config.json");

    let at = |name: &str| folder.path().join(name);
    let old = r#"{"size":32,"crop_size":32,"resample":2}"#;
    let clip = with_file("hugging_face", &at("old"), "preprocessor_config.json", old);
    let bundle = made(&clip, "of-old", FitChoice::Model).unwrap();
    assert_eq!(fit(&bundle), (Fit::CenterCrop, Filter::Bilinear));
    // The two files of Hugging Face's, one of which says otherwise.
    let new = r#"{"image_processor":{"size":{"height":32,"width":32}}}"#;
    let clip = with_file("hugging_face", &at("new"), "processor_config.json", new);
    let error = made(&clip, "of-both", FitChoice::Model).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("preprocessor_config.json says") && error.contains("processor_config.json"),
        "{error}"
    );
    // Nobody who asks for no word of theirs is kept from a bundle by it.
    assert_eq!(fit(&made(&clip, "asked", FitChoice::Crop).unwrap()), crop);

    // A folder that does not say it is not guessed at.
    std::fs::remove_file(at("new").join("preprocessor_config.json")).unwrap();
    std::fs::remove_file(at("new").join("processor_config.json")).unwrap();
    let clip = ClipFolder::open(&at("new")).unwrap();
    let error = made(&clip, "none", FitChoice::Model).unwrap_err();
    assert!(
        matches!(&error, InitError::Fit(FitError::Missing(_))),
        "{error}"
    );
    assert!(
        error.to_string().contains("--fit squash or crop"),
        "{error}"
    );
    assert!(!at("none").exists());
}
