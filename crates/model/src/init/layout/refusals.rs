//! Names for what is there instead of a CLIP's weights, each with what would do.

use super::names::Names;
use std::collections::BTreeSet;

/// Why names make no layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Weights and configuration are there, a tokenizer is not.
    NoTokenizer,
    /// What is there is no CLIP's weights; this is what it is, and what would do.
    Known(String),
    /// Nothing that is known.
    Unknown,
}

/// Formats that are not read, told by how a file's name ends.
const OTHERS: [(&str, &str); 7] = [
    (".gguf", "weights for llama.cpp"),
    (".h5", "TensorFlow's weights"),
    (".msgpack", "Flax's weights"),
    (".ot", "weights of rust-bert"),
    (".mlpackage", "a Core ML program"),
    (".mlmodel", "a Core ML program"),
    ("openvino_model.xml", "an OpenVINO program"),
];

/// What `names` are, where they make no layout. `inside` are those that belong together.
pub(super) fn refusal(names: &BTreeSet<String>, inside: &Names<'_>) -> Refusal {
    let would_do = "what would do is the repository that it was made from, with config.json, \
                    tokenizer.json and model.safetensors or pytorch_model.bin";
    let configured = inside.has("config.json") || inside.has("open_clip_config.json");
    if let Some(name) = names.iter().find(|name| name.ends_with(".onnx")) {
        return Refusal::Known(format!(
            "is an ONNX export ({name}): its graphs give one feature for a whole picture, none for \
             its locations, and hold a text tower whose prompts cannot be trained; {would_do}"
        ));
    }
    if names.contains("modules.json") {
        return Refusal::Known(
            "is a sentence-transformers model without a folder 0_CLIPModel: it has no vision \
             tower; take the CLIP that it was distilled from"
                .to_owned(),
        );
    }
    let other = |name: &String| OTHERS.iter().find(|(ending, _)| name.ends_with(ending));
    if let Some((name, (_, what))) = names.iter().find_map(|name| Some((name, other(name)?))) {
        return Refusal::Known(format!("holds {what} only ({name}); {would_do}"));
    }
    let weights = |name: &&str| {
        let endings = [".safetensors", ".bin", ".pt", ".pth", ".ckpt"];
        endings.iter().any(|ending| name.ends_with(ending))
    };
    let there: Vec<&str> = inside.here().filter(weights).collect();
    match there.as_slice() {
        [] => Refusal::Unknown,
        [first, ..] if !configured => Refusal::Known(format!(
            "has weights ({first}) without config.json or open_clip_config.json, which say what \
             they are weights of"
        )),
        several => Refusal::Known(format!(
            "has weights by names of its own ({}): name the one that is meant in place of the \
             folder",
            several.join(", ")
        )),
    }
}
