//! CLIP's byte-pair tokenizer, from a Hugging Face `tokenizer.json`.

use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Why a text could not be turned into tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is missing or no tokenizer.
    #[error("cannot read the tokenizer {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// The file knows no tokens that begin and end a text.
    #[error(
        "the tokenizer {path} adds no begin and end token to a text and has no <|startoftext|> \
         and <|endoftext|>; \
         a CLIP tokenizer.json is needed"
    )]
    NoSpecialTokens {
        /// The file.
        path: PathBuf,
    },
    /// The text has more tokens than the tower has positions.
    #[error(
        "{text:?} has {tokens} tokens with begin and end, the text tower takes at most {limit}"
    )]
    TooLong {
        /// The text.
        text: String,
        /// Its tokens, begin and end included.
        tokens: usize,
        /// The context length.
        limit: usize,
    },
    /// The tokenizer failed on the text.
    #[error("cannot tokenize {text:?}: {reason}")]
    Failed {
        /// The text.
        text: String,
        /// What the tokenizer said.
        reason: String,
    },
}

/// Text to token ids: `[begin] words [end]`, without padding.
#[derive(Debug, Clone)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
    context_length: usize,
}

impl ClipTokenizer {
    /// Reads a `tokenizer.json`; texts may have at most `context_length` tokens, begin and end
    /// included.
    ///
    /// # Errors
    /// If the file is no tokenizer, or names no tokens that begin and end a text.
    pub fn open(path: &Path, context_length: usize) -> Result<Self, TokenizerError> {
        let content = std::fs::read(path).map_err(|error| TokenizerError::Unreadable {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })?;
        Self::from_json(&content, path, context_length)
    }

    /// The same with the content of a `tokenizer.json`; `path` is where it came from, for people.
    ///
    /// # Errors
    /// As [`ClipTokenizer::open`].
    pub fn from_json(
        content: &[u8],
        path: &Path,
        context_length: usize,
    ) -> Result<Self, TokenizerError> {
        let unreadable = |reason: String| TokenizerError::Unreadable {
            path: path.to_path_buf(),
            reason,
        };
        let mut tokenizer =
            Tokenizer::from_bytes(content).map_err(|error| unreadable(error.to_string()))?;
        // Length is this type's business: a file may ask for padding to 77 or a silent cut.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| unreadable(error.to_string()))?;
        let empty = tokenizer
            .encode("", true)
            .map_err(|error| unreadable(error.to_string()))?;
        let (begin, end) = match empty.get_ids() {
            [begin, end] => (*begin, *end),
            _ => {
                let id = |token| tokenizer.token_to_id(token);
                match (id("<|startoftext|>"), id("<|endoftext|>")) {
                    (Some(begin), Some(end)) => (begin, end),
                    _ => {
                        return Err(TokenizerError::NoSpecialTokens {
                            path: path.to_path_buf(),
                        });
                    }
                }
            }
        };
        Ok(Self {
            tokenizer,
            begin,
            end,
            context_length,
        })
    }

    /// The token that begins every text.
    pub fn begin(&self) -> u32 {
        self.begin
    }

    /// The token that ends every text, at which the tower is read.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Most tokens a text may have, begin and end included.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The tokens of the words alone, without begin and end, of any number.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn words(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding =
            self.tokenizer
                .encode(text, false)
                .map_err(|error| TokenizerError::Failed {
                    text: text.to_owned(),
                    reason: error.to_string(),
                })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// `[begin] words [end]`.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] if that is more than the context length.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let words = self.words(text)?;
        if words.len() + 2 > self.context_length {
            return Err(TokenizerError::TooLong {
                text: text.to_owned(),
                tokens: words.len() + 2,
                limit: self.context_length,
            });
        }
        Ok(self.enclose(&words))
    }

    /// `[begin] words [end]` with words dropped from the end until it fits (what CLIP does to long
    /// captions).
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_truncated(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let words = self.words(text)?;
        let fitting = words.len().min(self.context_length.saturating_sub(2));
        Ok(self.enclose(&words[..fitting]))
    }

    fn enclose(&self, words: &[u32]) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(words.len() + 2);
        tokens.push(self.begin);
        tokens.extend_from_slice(words);
        tokens.push(self.end);
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Golden {
        text: String,
        tokens: Vec<u32>,
    }

    fn folder() -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .join("tests/fixtures/text/tokenizer")
    }

    fn open(context_length: usize) -> ClipTokenizer {
        ClipTokenizer::open(&folder().join("tokenizer.json"), context_length).unwrap()
    }

    /// The goldens come from the Python bindings (scripts/make_text_goldens.py); the file asks for
    /// padding.
    #[test]
    fn it_gives_the_tokens_of_the_reference_without_padding() {
        let json = std::fs::read_to_string(folder().join("expected.json")).unwrap();
        let goldens: Vec<Golden> = serde_json::from_str(&json).unwrap();
        let tokenizer = open(77);
        for golden in goldens {
            assert_eq!(
                tokenizer.encode(&golden.text).unwrap(),
                golden.tokens,
                "{:?}",
                golden.text
            );
            assert_eq!(golden.tokens.first(), Some(&tokenizer.begin()));
            assert_eq!(golden.tokens.last(), Some(&tokenizer.end()));
            assert_eq!(
                tokenizer.words(&golden.text).unwrap(),
                golden.tokens[1..golden.tokens.len() - 1]
            );
        }
    }

    #[test]
    fn a_long_text_is_an_error_or_cut_before_the_end_token() {
        let text = "a photo of a cat";
        let whole = open(77).encode(text).unwrap();
        let short = open(5);
        assert!(matches!(
            short.encode(text),
            Err(TokenizerError::TooLong { limit: 5, .. })
        ));
        let cut = short.encode_truncated(text).unwrap();
        assert_eq!(cut[..4], whole[..4]);
        assert_eq!(cut[4..], [short.end()]);
    }

    #[test]
    fn a_file_without_end_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        std::fs::write(
            &path,
            r#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#,
        )
        .unwrap();
        assert!(matches!(
            ClipTokenizer::open(&path, 77),
            Err(TokenizerError::NoSpecialTokens { .. })
        ));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(
            ClipTokenizer::open(&path, 77),
            Err(TokenizerError::Unreadable { .. })
        ));
    }
}
