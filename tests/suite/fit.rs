//! `init --fit`: the model's own way of fitting pictures, so that its embeddings can stand in one
//! index with those that others made.

use crate::program::Folder;
use image::{Rgb, RgbImage};
use serde_json::Value;
use std::path::Path;
use tagstream_image::preprocessing::Fit;
use tagstream_model::bundle::Bundle;

impl Folder {
    fn init_fit(&self, clip: &Path, out: &str, more: &[&str]) -> (Bundle, String) {
        let clip = clip.to_str().unwrap();
        let arguments = ["init", "--clip", clip, "--categories", "names.csv", "--out"];
        let [_, said] = self.both(&[&arguments[..], &[out], more].concat());
        (Bundle::open(self.path(out)).unwrap(), said)
    }

    fn embedding(&self, model: &str, picture: &str) -> Vec<f64> {
        let line = self.done(&["encode", "--model", model, "--json", picture]);
        let line: Value = serde_json::from_str(&line).unwrap();
        let numbers = line["embedding"].as_array().unwrap();
        numbers.iter().map(|x| x.as_f64().unwrap()).collect()
    }
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn a_cropping_models_embeddings_are_those_of_the_picture_that_somebody_cropped() {
    let folder = Folder::new();
    let at = |name: &str| folder.path(name);
    std::fs::write(at("names.csv"), "name,threshold\nhouse,0\ntree,0\n").unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-clip");
    let (squash, said) = folder.init_fit(&demo, "squash", &[]);
    assert!(said.contains("(squashed, bicubic)"), "{said}");
    let side = squash.manifest().preprocessing.width as u32;

    // Three times as wide as high, a colour of its own on each third; and its middle alone.
    let wide = RgbImage::from_fn(3 * side, side, |x, y| {
        let third = x / side;
        Rgb([third * 100, x % side, (y + third * 40) % 256].map(|sample| sample as u8))
    });
    wide.save(at("wide.png")).unwrap();
    let middle = image::imageops::crop_imm(&wide, side, 0, side, side).to_image();
    middle.save(at("middle.png")).unwrap();

    let (cropped, said) = folder.init_fit(&demo, "crop", &["--fit", "crop"]);
    assert_eq!(cropped.manifest().preprocessing.fit, Fit::CenterCrop);
    assert!(said.contains("(centre cropped, bicubic)"), "{said}");
    let (_, said) = folder.init_fit(&demo, "own", &["--fit", "model"]);
    assert!(said.contains("as open_clip_config.json says:"), "{said}");
    let ours = folder.embedding("crop", "wide.png");
    let theirs = folder.embedding("squash", "middle.png");
    assert!(
        cosine(&ours, &theirs) > 0.99999,
        "{}",
        cosine(&ours, &theirs)
    );
    let squashed = folder.embedding("squash", "wide.png");
    assert!(
        cosine(&squashed, &theirs) < 0.999,
        "{}",
        cosine(&squashed, &theirs)
    );

    // Boxes are the whole picture's, and of the part that was seen.
    let arguments = ["tag", "--model", "crop", "--json", "wide.png"];
    let line = folder.done(&arguments);
    let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    let tags = line["tags"].as_array().unwrap();
    assert!(!tags.is_empty(), "{line}");
    for tag in tags {
        let side = |key: &str| tag["box"][key].as_f64().unwrap();
        let (x, w) = (side("x"), side("w"));
        assert!(x > 0.333 && x + w < 0.667 && w > 0.0, "{tag}");
    }
}
