//! The file of tokens.

use super::{is_name, same};
use crate::serve::visitor::Role;
use sha2::{Digest, Sha256};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

/// Shortest token: 20 characters of base 64 are 120 bits.
const SHORTEST: usize = 20;
/// Largest file, bytes.
const LARGEST: u64 = 1 << 20;

/// Why the file of tokens cannot be used. Shows no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("{path} (access.token_file): {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error("{path}:{line} (access.token_file): {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It has no token, or is no such file at all.
    #[error(
        "{path} (access.token_file): {reason}; it takes lines of the form `read NAME TOKEN` or \
         `act NAME TOKEN`"
    )]
    NoTokens {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The digest of a token: what is remembered of it.
pub(super) type TokenDigest = [u8; 32];

pub(super) fn digest_of(token: &str) -> TokenDigest {
    Sha256::digest(token.as_bytes()).into()
}

/// Whose a token is, and what it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) digest: TokenDigest,
}

/// The file of tokens, read again when it changes.
#[derive(Debug)]
pub(super) struct Tokens {
    path: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    seen: Option<(SystemTime, u64)>,
    holders: Vec<Holder>,
}

impl Tokens {
    pub(super) fn open(path: impl Into<PathBuf>) -> Result<Self, TokenFileError> {
        let path = path.into();
        let (seen, holders) = read(&path)?;
        Ok(Tokens {
            path,
            held: Mutex::new(Held {
                seen: Some(seen),
                holders,
            }),
        })
    }

    /// Whose `digest` it is now. A file that has become unreadable or wrong lets nobody in.
    pub(super) fn holder(&self, digest: &TokenDigest) -> Option<Holder> {
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        let now = std::fs::metadata(&self.path).ok().as_ref().and_then(stamp);
        if now.is_none() || now != held.seen {
            (held.seen, held.holders) = match read(&self.path) {
                Ok((seen, holders)) => (Some(seen), holders),
                Err(error) => {
                    if !held.holders.is_empty() {
                        tracing::error!("nobody is let in: {error}");
                    }
                    (now, Vec::new())
                }
            };
        }
        // Every entry is looked at, so that the time does not tell which one it was.
        let holders = held.holders.iter();
        let found = holders.fold(None, |found, holder| match same(&holder.digest, digest) {
            true => Some(holder),
            false => found,
        });
        found.cloned()
    }
}

fn stamp(metadata: &Metadata) -> Option<(SystemTime, u64)> {
    Some((metadata.modified().ok()?, metadata.len()))
}

type Read = ((SystemTime, u64), Vec<Holder>);

fn read(path: &Path) -> Result<Read, TokenFileError> {
    let unreadable = |source| TokenFileError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let none = |reason| TokenFileError::NoTokens {
        path: path.to_path_buf(),
        reason,
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.len() > LARGEST {
        return Err(none("it is larger than 1 MiB"));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let mut holders: Vec<Holder> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let holder = holder(line).map_err(|reason| TokenFileError::Line {
            path: path.to_path_buf(),
            line: at + 1,
            reason,
        })?;
        if holders.iter().any(|other| other.digest == holder.digest) {
            let (path, line, reason) = (path.to_path_buf(), at + 1, "the token stands twice");
            return Err(TokenFileError::Line { path, line, reason });
        }
        holders.push(holder);
    }
    if holders.is_empty() {
        return Err(none("it has no token"));
    }
    let seen = stamp(&metadata).ok_or_else(|| none("the system does not tell when it changed"))?;
    Ok((seen, holders))
}

fn holder(line: &str) -> Result<Holder, &'static str> {
    let parts: Vec<&str> = line.split_whitespace().collect();
    let [role, name, token] = parts[..] else {
        return Err("it does not have three parts: `read NAME TOKEN` or `act NAME TOKEN`");
    };
    let role = match role {
        "read" => Role::Read,
        "act" => Role::Act,
        _ => return Err("it begins neither with `read` nor with `act`"),
    };
    if !is_name(name) {
        return Err("its name is longer than 100 characters, or has some that cannot be seen");
    }
    if token.len() < SHORTEST {
        return Err("its token is shorter than 20 characters: make one with \
                    `openssl rand -base64 24`");
    }
    Ok(Holder {
        name: name.to_owned(),
        role,
        digest: digest_of(token),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn tokens_are_found_and_follow_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, format!("# team\nread ann {A}\n\n act  bob {B} \n")).unwrap();
        let tokens = Tokens::open(&path).unwrap();
        let ann = tokens.holder(&digest_of(A)).unwrap();
        assert_eq!((ann.name.as_str(), ann.role), ("ann", Role::Read));
        assert_eq!(tokens.holder(&digest_of(B)).unwrap().role, Role::Act);
        assert_eq!(tokens.holder(&digest_of("")), None);
        std::fs::write(&path, format!("act bob {B}\n")).unwrap();
        assert_eq!(tokens.holder(&digest_of(A)), None, "it was taken out");
        assert!(tokens.holder(&digest_of(B)).is_some());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            tokens.holder(&digest_of(B)),
            None,
            "nobody without the file"
        );
    }

    #[test]
    fn what_is_wrong_is_named_without_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        for (text, said) in [
            (format!("read ann {A}\nwrite bob {B}\n"), "tokens:2"),
            (format!("read ann {A}\nact bob {A}\n"), "twice"),
            ("act bob hunter2-short\n".into(), "20 characters"),
            (format!("act {B}\n"), "three parts"),
            (format!("act bo\u{7}b {B}\n"), "cannot be seen"),
            ("# nothing\n".into(), "no token"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = Tokens::open(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("hunter2") && !error.contains(B), "{error}");
        }
        let error = Tokens::open(folder.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("access.token_file"), "{error}");
    }
}
