//! `tagstream train` and `tagstream eval` as a user calls them: partial labels in, a bundle out,
//! measured.

use candle_core::{Device, Tensor};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CATEGORIES: [&str; 3] = ["red", "green", "blue"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A folder with an encoder, a text tower of random weights that ends in the encoder's four
/// dimensions, and a tokenizer.
fn model(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::copy(
        fixtures().join("tiny-model/encoder.onnx"),
        folder.join("encoder.onnx"),
    )
    .unwrap();
    std::fs::copy(
        fixtures().join("text/tokenizer/tokenizer.json"),
        folder.join("tokenizer.json"),
    )
    .unwrap();
    let config = r#"{"vocab_size": 68, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 77, "projection_dim": 4,
        "eos_token_id": 1}"#;
    std::fs::write(folder.join("config.json"), config).unwrap();
    let mut state = 7u32;
    let mut noise = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        tensors.insert(name.to_owned(), noise(shape));
    };
    add("text_model.embeddings.token_embedding.weight", &[68, 16]);
    add("text_model.embeddings.position_embedding.weight", &[77, 16]);
    for part in [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
    ] {
        add(
            &format!("text_model.encoder.layers.0.{part}.weight"),
            &[16, 16],
        );
        add(&format!("text_model.encoder.layers.0.{part}.bias"), &[16]);
    }
    for norm in [
        "text_model.encoder.layers.0.layer_norm1",
        "text_model.encoder.layers.0.layer_norm2",
        "text_model.final_layer_norm",
    ] {
        add(&format!("{norm}.weight"), &[16]);
        add(&format!("{norm}.bias"), &[16]);
    }
    add("text_model.encoder.layers.0.mlp.fc1.weight", &[32, 16]);
    add("text_model.encoder.layers.0.mlp.fc1.bias", &[32]);
    add("text_model.encoder.layers.0.mlp.fc2.weight", &[16, 32]);
    add("text_model.encoder.layers.0.mlp.fc2.bias", &[16]);
    add("text_projection.weight", &[4, 16]);
    candle_core::safetensors::save(&tensors, folder.join("text_encoder.safetensors")).unwrap();
}

/// Pictures with a red, green or blue square (or two) on grey, and their full labels.
fn pictures(folder: &Path, count: u32) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let mut labels = String::from("image_id,label,state\n");
    for n in 0..count {
        let present = [n % 2 == 0, n % 3 == 0, n % 5 < 2];
        let mut picture = image::RgbImage::from_pixel(32, 32, image::Rgb([120, 120, 120]));
        for (category, _) in present.iter().enumerate().filter(|(_, present)| **present) {
            let mut colour = [40, 40, 40];
            colour[category] = 240;
            for (x, y) in (0..8).flat_map(|x| (0..8).map(move |y| (x, y))) {
                picture.put_pixel(8 * category as u32 + x, 8 * (n % 4) + y, image::Rgb(colour));
            }
        }
        picture.save(folder.join(format!("p{n}.png"))).unwrap();
        for (name, present) in CATEGORIES.iter().zip(present) {
            let _ = writeln!(
                labels,
                "p{n},{name},{}",
                if present { "present" } else { "absent" }
            );
        }
    }
    labels
}

fn tagstream(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn partial_labels_become_a_bundle_that_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    model(Path::new(&at("towers")));
    let labels = pictures(Path::new(&at("pictures")), 60);
    std::fs::write(at("labels.csv"), labels).unwrap();
    std::fs::write(at("categories.txt"), CATEGORIES.join("\n")).unwrap();
    let (towers, pictures, labels, categories) = (
        at("towers"),
        at("pictures"),
        at("labels.csv"),
        at("categories.txt"),
    );
    let data = ["--labels", &labels, "--images", &pictures, "--no-cache"];

    let train = |out: &str, more: &[&str]| {
        let mut arguments = vec![
            "train",
            "--model",
            &towers,
            "--categories",
            &categories,
            "--out",
            out,
            "--json",
        ];
        arguments.extend(data);
        arguments.extend([
            "--known",
            "0.6",
            "--epochs",
            "6",
            "--set",
            "optimizer.batch=16",
            // Trained, whatever the memories are worth.
            "--set",
            "optimizer.least_share=0",
        ]);
        arguments.extend(more);
        tagstream(&arguments)
    };
    let out = at("trained");
    let trained = json(&train(&out, &[]));
    assert_eq!(trained["images"], 60);
    let known = trained["known_labels"].as_u64().unwrap();
    assert!((80..=136).contains(&known), "{known} of 180 are known");
    let run = Path::new(&out).with_extension("run");
    let curves = std::fs::read_to_string(run.join("curves.csv")).unwrap();
    assert_eq!(curves.lines().count(), 7);
    assert!(run.join("curves.svg").is_file() && !run.join("checkpoint.safetensors").exists());

    let mut arguments = vec!["eval", "--model", &out, "--json"];
    arguments.extend(data);
    let measured = json(&tagstream(&arguments));
    for key in ["map_plain", "map_envelope", "cf1", "of1", "ece"] {
        assert!(
            measured[key].as_f64().is_some_and(f64::is_finite),
            "{key}: {measured}"
        );
    }
    assert_eq!(measured["images"], 60);
    assert_eq!(measured["per_category"][0]["category"], "red");
    assert_eq!(measured["per_category"][0]["positives"], 30);
    assert!(
        measured["map_plain"].as_f64().unwrap() > 60.0,
        "colours can be learned: {measured}"
    );

    // Unknown labels are ignored.
    let some: String = std::fs::read_to_string(&labels)
        .unwrap()
        .lines()
        .take(91)
        .map(|line| line.to_owned() + "\n")
        .collect();
    std::fs::write(at("some.csv"), some).unwrap();
    let some = at("some.csv");
    let partial = json(&tagstream(&[
        "eval",
        "--model",
        &out,
        "--json",
        "--no-cache",
        "--labels",
        &some,
        "--images",
        &pictures,
    ]));
    assert_eq!(partial["known_entries"], 90);

    // The same run gives the same model; an occupied place is refused.
    let again = json(&train(&at("again"), &[]));
    assert_eq!(trained["id"], again["id"]);
    let refused = train(&out, &[]);
    assert_eq!(refused.status.code(), Some(2));
    let wrong = train(&at("wrong"), &["--set", "no.such=1"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no.such"));
}
