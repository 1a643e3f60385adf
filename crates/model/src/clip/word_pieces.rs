//! BERT's tokenizer from the file that older repositories hold instead of a `tokenizer.json`:
//! `vocab.txt`, a word or the piece of one a line.

use serde_json::{Map, Value, json};

/// The content of a `tokenizer.json` that says what the file says, with the steps that
/// transformers' own conversion of BERT's tokenizer takes, in small letters.
///
/// # Errors
/// Names the token that BERT's has and this has not.
pub(crate) fn tokenizer_json(vocabulary: &str) -> Result<Vec<u8>, String> {
    let words = vocabulary.lines().map(|line| line.trim_end_matches('\r'));
    let words: Map<String, Value> = words
        .enumerate()
        .map(|(id, word)| (word.to_owned(), Value::from(id)))
        .collect();
    let id = |token: &str| {
        let id = words.get(token).and_then(Value::as_u64);
        id.ok_or_else(|| format!("vocab.txt has no {token}: it is not BERT's"))
    };
    let special = |content: &str| -> Result<Value, String> {
        Ok(json!({
            "id": id(content)?, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }))
    };
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(special);
    let specials = specials.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (begin, end) = (id("[CLS]")?, id("[SEP]")?);
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": specials,
        "normalizer": {"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", end],
            "cls": ["[CLS]", begin]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": words},
    });
    Ok(tokenizer.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_berts_tokens_is_refused() {
        let whole = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nа\n猫\n##s\n";
        let json: Value = serde_json::from_slice(&tokenizer_json(whole).unwrap()).unwrap();
        assert_eq!(json["model"]["vocab"]["猫"], 5);
        let error = tokenizer_json("a\nb\n").unwrap_err();
        assert!(error.contains("[PAD]"), "{error}");
    }
}
