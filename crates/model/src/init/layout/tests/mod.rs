//! The layouts that disks and hubs hold, each with a tiny model that was saved in it:
//! `tests/fixtures/layouts`, made by `scripts/make_layouts.py`.

mod languages;
mod siglip;

use super::*;
use crate::clip::vision::TowerOptions;
use crate::init::{CategoryList, Init};
use crate::onnx::testing::{Input, difference, run_file};
use crate::text::ClipTextEncoder;
use safetensors::SafeTensors;

fn fixture(name: &str) -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    root.join("tests/fixtures/layouts").join(name)
}

/// Folder, the model in it, and what the layout is called.
const LAYOUTS: [(&str, &str, &str); 10] = [
    ("transformers_5", "hugging_face", "Hugging Face layout"),
    (
        "sharded",
        "hugging_face",
        "Hugging Face layout, model.safetensors.index.json",
    ),
    (
        "variant",
        "hugging_face",
        "Hugging Face layout, model.fp16.safetensors",
    ),
    (
        "pickle",
        "hugging_face",
        "Hugging Face layout, pytorch_model.bin",
    ),
    (
        "sharded_pickle",
        "hugging_face",
        "Hugging Face layout, pytorch_model.bin.index.json",
    ),
    (
        "sentence_transformers",
        "hugging_face",
        "Hugging Face layout, 0_CLIPModel/pytorch_model.bin",
    ),
    (
        "open_clip_pickle",
        "open_clip",
        "OpenCLIP layout, open_clip_pytorch_model.bin",
    ),
    (
        "open_clip_robot",
        "open_clip",
        "OpenCLIP layout, open_clip_pytorch_model.safetensors",
    ),
    (
        "open_clip_training",
        "open_clip",
        "OpenCLIP layout, epoch_1.pt",
    ),
    ("open_ai", "open_ai", "OpenAI's TorchScript, ViT-T-16.pt"),
];

/// A golden's tensors as numbers, and its pixels.
struct Golden {
    content: Vec<u8>,
}

impl Golden {
    /// Of a folder, or a file.
    fn open(path: PathBuf) -> Self {
        let path = match path.is_dir() {
            true => path.join("expected.safetensors"),
            false => path,
        };
        let content = std::fs::read(path).unwrap();
        Self { content }
    }

    fn integers(&self, name: &str) -> Vec<u32> {
        let all = SafeTensors::deserialize(&self.content).unwrap();
        let numbers = all.tensor(name).unwrap();
        let numbers = numbers.data().chunks_exact(8);
        numbers
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let all = SafeTensors::deserialize(&self.content).unwrap();
        let numbers = all.tensor(name).unwrap();
        let numbers = numbers.data().chunks_exact(4);
        numbers
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn pixels(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let all = SafeTensors::deserialize(&self.content).unwrap();
        let pixels = all.tensor(name).unwrap();
        (pixels.shape().to_vec(), pixels.data().to_vec())
    }
}

#[test]
fn every_public_layout_gives_what_its_library_gives() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("categories.txt");
    std::fs::write(&list, "cat\nred_dog\n").unwrap();
    let categories = CategoryList::read(&list).unwrap();
    for (name, model, kind) in LAYOUTS {
        let clip = ClipFolder::open(&fixture(name)).unwrap();
        assert_eq!(clip.kind(), kind);
        let init = Init {
            clip: &clip,
            name,
            source: "a fixture",
            categories: &categories,
            tower: TowerOptions::default(),
            views: crate::views::Views::default(),
            fit: Default::default(),
        };
        let bundle = init.run(&folder.path().join(name), |_| ());
        let bundle = bundle.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(bundle.manifest().lineage.source.contains(kind), "{name}");

        let golden = Golden::open(fixture(&format!("{model}.safetensors")));
        let (shape, pixels) = golden.pixels("pixels");
        let found = run_file(&bundle.encoder(), &[("pixels", Input::U8(shape, &pixels))]);
        for (output, expected) in [("global", "global"), ("dense", "dense/value")] {
            let d = difference(&found[output].1, &golden.floats(expected));
            assert!(d < 1e-4, "{name}: {output} differs by {d}");
        }
        let text = ClipTextEncoder::open(&bundle.text_files().unwrap()).unwrap();
        let prompts = ["a photo of a cat", "a photo of a red dog"];
        let tokens = prompts.map(|prompt| text.tokenizer.encode(prompt).unwrap());
        let features = text.tower.forward_tokens(&tokens).unwrap();
        let features: Vec<f32> = features.flatten_all().unwrap().to_vec1().unwrap();
        let d = difference(&features, &golden.floats("text"));
        assert!(d < 1e-4, "{name}: text differs by {d}");
    }
}

/// Whoever saved the file decides what is in it: nothing of it is run, and nothing it claims is
/// believed.
#[test]
fn a_damaged_pickle_is_refused_and_never_more() {
    let whole = std::fs::read(fixture("pickle").join("pytorch_model.bin")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    let at = whole.windows(8).position(|w| w == b"data.pkl").unwrap();
    for change in (at..at + 4000).step_by(7) {
        let mut damaged = whole.clone();
        damaged[change] ^= 0x55;
        std::fs::write(&path, &damaged).unwrap();
        // Damage in the middle of a pickle is found by its checksum.
        let opened = WeightFiles::open(&[&path]);
        let message = opened.map(|_| ()).map_err(|error| error.to_string());
        if let Err(message) = message {
            assert!(message.contains("pytorch_model.bin"), "{message}");
        }
    }
    for length in (0..whole.len()).step_by(997) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(WeightFiles::open(&[&path]).is_err(), "{length} bytes");
    }
}
