//! CLIP's tokenizer from the two files that older repositories hold instead of a `tokenizer.json`:
//! `vocab.json` (token to id) and `merges.txt` (pairs, the first joined first).

use serde_json::{Map, Value, json};

/// The tokens that begin and end a text.
const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// The content of a `tokenizer.json` that says what the two files say, with the steps that
/// transformers' own conversion of CLIP's tokenizer takes.
///
/// # Errors
/// Says which of the two is not what CLIP's is.
pub(crate) fn tokenizer_json(vocabulary: &str, merges: &str) -> Result<Vec<u8>, String> {
    let vocabulary: Map<String, Value> =
        serde_json::from_str(vocabulary).map_err(|error| format!("vocab.json: {error}"))?;
    let id = |token: &str| {
        let id = vocabulary.get(token).and_then(Value::as_u64);
        id.ok_or_else(|| format!("vocab.json has no {token}: it is not CLIP's"))
    };
    let (begin, end) = (id(BEGIN)?, id(END)?);
    let lines = merges.lines().enumerate();
    // The first line tells the format's version.
    let pairs = lines.filter(|(i, line)| !(line.trim().is_empty() || *i == 0 && is_head(line)));
    let pairs = pairs.map(|(i, line)| match line.trim_end().split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok(json!([left, right]))
        }
        _ => Err(format!("merges.txt line {}: no two tokens", i + 1)),
    });
    let pairs = pairs.collect::<Result<Vec<Value>, String>>()?;
    let special = |content: &str, id: u64| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": content == BEGIN, "special": true,
        })
    };
    // What is no letter, digit or blank stays together; the usual endings of words part.
    let words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(BEGIN, begin), special(END, end)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
             "use_regex": true},
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": [END, end], "cls": [BEGIN, begin],
            "trim_offsets": false, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": END,
            "continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": pairs},
    });
    serde_json::to_vec(&tokenizer).map_err(|error| error.to_string())
}

fn is_head(line: &str) -> bool {
    line.starts_with("#version")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::tokenizer::ClipTokenizer;
    use std::path::Path;

    /// The demo's tokenizer taken apart into the two files, and put together again.
    #[test]
    fn the_two_files_say_what_the_one_says() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .join("models/demo-clip/tokenizer.json");
        let content = std::fs::read(&path).unwrap();
        let whole: Value = serde_json::from_slice(&content).unwrap();
        let model = &whole["model"];
        let mut vocabulary = model["vocab"].as_object().unwrap().clone();
        for token in whole["added_tokens"].as_array().unwrap() {
            let content = token["content"].as_str().unwrap().to_owned();
            vocabulary.insert(content, token["id"].clone());
        }
        let pair = |pair: &Value| match pair {
            Value::Array(pair) => {
                format!(
                    "{} {}",
                    pair[0].as_str().unwrap(),
                    pair[1].as_str().unwrap()
                )
            }
            pair => pair.as_str().unwrap().to_owned(),
        };
        let merges: Vec<String> = model["merges"]
            .as_array()
            .unwrap()
            .iter()
            .map(pair)
            .collect();
        let merges = format!("#version: 0.2\n{}\n", merges.join("\n"));
        let vocabulary = Value::Object(vocabulary).to_string();
        let made = tokenizer_json(&vocabulary, &merges).unwrap();
        let ours = ClipTokenizer::from_json(&made, &path, 77).unwrap();
        let theirs = ClipTokenizer::from_json(&content, &path, 77).unwrap();
        for text in [
            "a photo of a cat",
            "A red_dog's 12 boats, in the SUN!",
            "",
            "überall 猫",
        ] {
            assert_eq!(
                ours.encode(text).unwrap(),
                theirs.encode(text).unwrap(),
                "{text}"
            );
        }
        assert!(
            tokenizer_json("{}", &merges)
                .unwrap_err()
                .contains("<|startoftext|>")
        );
        let message = tokenizer_json(&vocabulary, "#version: 0.2\na b\nab\n").unwrap_err();
        assert!(message.contains("line 3"), "{message}");
    }
}
