use super::*;
use crate::clip::vision::DenseMode;
use crate::onnx::testing::{Input, difference, run_file};
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
            fit: FitChoice::Squash,
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
            ZeroShot::from_logit(clip.logit().unwrap().0, None),
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
            fit: FitChoice::Squash,
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
    let write = |name: &str| std::fs::write(folder.path().join(name), b"{}").unwrap();
    write("pytorch_model.bin");
    assert!(message().contains("save it as safetensors"));
    write("config.json");
    write("model.safetensors");
    assert!(message().contains("lacks tokenizer.json"));
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
            fit,
        };
        init.run(&folder.path().join(out), |_| ())
    };
    let clip = ClipFolder::open(&fixture("open_clip_vit")).unwrap();
    let fit = |bundle: Bundle| {
        let preprocessing = &bundle.manifest().preprocessing;
        (preprocessing.fit, preprocessing.filter)
    };
    let squash = fit(made(&clip, "squash", FitChoice::Squash).unwrap());
    assert_eq!(squash, (Fit::Squash, Filter::Bicubic));
    let crop = fit(made(&clip, "crop", FitChoice::Crop).unwrap());
    assert_eq!(crop, (Fit::CenterCrop, Filter::Bicubic));
    // OpenCLIP's own way where its file says nothing else.
    let model = fit(made(&clip, "model", FitChoice::Model).unwrap());
    assert_eq!(model, (Fit::CenterCrop, Filter::Bicubic));

    // A folder that does not say it is not guessed at.
    let silent = folder.path().join("silent");
    std::fs::create_dir(&silent).unwrap();
    for entry in std::fs::read_dir(fixture("hugging_face")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_file() && name != "preprocessor_config.json" {
            std::fs::copy(&path, silent.join(name)).unwrap();
        }
    }
    let clip = ClipFolder::open(&silent).unwrap();
    let error = made(&clip, "none", FitChoice::Model)
        .unwrap_err()
        .to_string();
    assert!(error.contains("preprocessor_config.json"), "{error}");
}
