//! A text tower's tokenizer, from a Hugging Face `tokenizer.json`: CLIP's byte pairs, SigLIP's
//! sentence pieces (T5's for the first, Gemma's for the second), those of many languages (MetaCLIP
//! 2), BERT's words and their pieces.

use super::text_config::{TextConfig, TextForm};
use std::borrow::Cow;
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
    /// The file knows no token that ends a text.
    #[error(
        "the tokenizer {path} has neither <eos> nor </s>; the tokenizer.json of a SigLIP is needed"
    )]
    NoEndToken {
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
    /// Whether a text begins with `begin`.
    begins: bool,
    /// What a text is filled up with, if it is.
    padding: Option<u32>,
    case: Case,
}

/// What is done to a text before it is cut into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Nothing.
    AsTyped,
    /// Small letters, single blanks.
    Small,
    /// The same, without punctuation, as the first SigLIP was trained.
    Bare,
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

    /// The tokenizer that a tower of this configuration needs.
    ///
    /// # Errors
    /// As [`ClipTokenizer::open`].
    pub fn for_tower(
        content: &[u8],
        path: &Path,
        tower: &TextConfig,
    ) -> Result<Self, TokenizerError> {
        let plain = || Self::from_json(content, path, tower.context_length);
        match tower.texts {
            TextForm::Plain => plain(),
            TextForm::Canonical => Ok(Self {
                case: Case::Bare,
                ..plain()?
            }),
            TextForm::SigLip => Self::filled(content, path, tower.context_length),
            TextForm::Filled => Ok(Self {
                padding: tower.padding,
                ..plain()?
            }),
            TextForm::Unended => Ok(Self {
                padding: tower.padding,
                end: tower.padding.unwrap_or_default(),
                ..plain()?
            }),
        }
    }

    /// SigLIP's. Texts are in small letters, as it was trained. There is no begin token: in its
    /// place stands the end token, which the tower takes off.
    fn filled(content: &[u8], path: &Path, context_length: usize) -> Result<Self, TokenizerError> {
        let tokenizer = read(content, path)?;
        let id = |token: &str| tokenizer.token_to_id(token);
        // Gemma's knows HTML's tags, too: its own token comes first.
        let (end, padding, case) = match (id("<eos>"), id("</s>")) {
            (Some(end), _) => (end, id("<pad>").unwrap_or(end), Case::Small),
            (None, Some(end)) => (end, end, Case::Bare),
            (None, None) => {
                let path = path.to_path_buf();
                return Err(TokenizerError::NoEndToken { path });
            }
        };
        Ok(Self {
            tokenizer,
            begin: end,
            end,
            context_length,
            begins: false,
            padding: Some(padding),
            case,
        })
    }

    /// CLIP's, with the content of a `tokenizer.json`; `path` is where it came from, for people.
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
        let tokenizer = read(content, path)?;
        let empty = tokenizer
            .encode("", true)
            .map_err(|error| unreadable(error.to_string()))?;
        let mut begins = true;
        let (begin, end) = match empty.get_ids() {
            [begin, end] => (*begin, *end),
            // T5's in many languages: in the begin token's place stands the end token, which the
            // tower takes off.
            [end] if tokenizer.token_to_id("</s>") == Some(*end) => {
                begins = false;
                (*end, *end)
            }
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
            begins,
            padding: None,
            case: Case::AsTyped,
        })
    }

    /// What a text is filled up with to the context length, if the tower needs that.
    pub fn padding(&self) -> Option<u32> {
        self.padding
    }

    /// Whether a text begins with [`ClipTokenizer::begin`]; else the tower takes that off.
    pub fn begins(&self) -> bool {
        self.begins
    }

    /// Positions that begin and end take.
    fn enclosing(&self) -> usize {
        1 + usize::from(self.begins)
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
        let given = match self.case {
            Case::AsTyped => Cow::Borrowed(text),
            case => Cow::Owned(canonical(text, case == Case::Bare)),
        };
        let encoding =
            self.tokenizer
                .encode(&*given, false)
                .map_err(|error| TokenizerError::Failed {
                    text: text.to_owned(),
                    reason: error.to_string(),
                })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of `text` as it stands behind `before` and a blank: a tokenizer may keep the
    /// blank with the word.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn words_behind(&self, before: &str, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let (head, whole) = (
            self.words(before)?,
            self.words(&format!("{before} {text}"))?,
        );
        match whole.strip_prefix(head.as_slice()) {
            Some(rest) if !rest.is_empty() => Ok(rest.to_vec()),
            _ => self.words(text),
        }
    }

    /// `[begin] words [end]`.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] if that is more than the context length.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let words = self.words(text)?;
        if words.len() + self.enclosing() > self.context_length {
            return Err(TokenizerError::TooLong {
                text: text.to_owned(),
                tokens: words.len() + self.enclosing(),
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
        let fitting = words
            .len()
            .min(self.context_length.saturating_sub(self.enclosing()));
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

/// The tokenizer of a file, without what it does about lengths, which is this module's business: it
/// may ask for padding to 77 or a silent cut.
fn read(content: &[u8], path: &Path) -> Result<Tokenizer, TokenizerError> {
    let unreadable = |reason: String| TokenizerError::Unreadable {
        path: path.to_path_buf(),
        reason,
    };
    let tokenizer = Tokenizer::from_bytes(content);
    let mut tokenizer = tokenizer.map_err(|error| unreadable(error.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| unreadable(error.to_string()))?;
    Ok(tokenizer)
}

/// A text in small letters, with single blanks, and without punctuation if `bare`.
fn canonical(text: &str, bare: bool) -> String {
    let text = text.replace('_', " ").to_lowercase();
    let kept = text.chars().filter(|c| !(bare && c.is_ascii_punctuation()));
    let kept: String = kept.collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
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
