//! Why a configuration was refused, and where what is wrong with it stands.

use std::collections::BTreeMap;
use std::fmt;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable {
        /// The path asked for.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Keys or values that cannot be, each with its place.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<Mistake>),
    /// A value is out of its range or contradicts another.
    #[error("configuration: `{key}` {reason}")]
    BadValue {
        /// Path of the key.
        key: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// A value that is of the right type and yet cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Path of the key.
    pub key: String,
    /// What is wrong and what to do; goes on where the key's name ends.
    pub reason: String,
}

impl Flaw {
    /// A flaw of `key`.
    pub fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Flaw {
            key: key.into(),
            reason: reason.into(),
        }
    }
}

impl From<Flaw> for ConfigError {
    fn from(Flaw { key, reason }: Flaw) -> Self {
        ConfigError::BadValue { key, reason }
    }
}

/// Where something was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File {
        /// The file, as it was named.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// In an environment variable of this name.
    Variable(String),
    /// Nowhere: the default counts. The file that does not say it, if there is one.
    Unset(Option<String>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line, column } => write!(f, "{path}:{line}:{column}"),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Unset(Some(path)) => f.write_str(path),
            Origin::Unset(None) => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands.
    pub origin: Origin,
    /// Path of the key; empty if what stands there is no key at all.
    pub key: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.origin, self.reason),
            key => write!(f, "{}: `{key}` {}", self.origin, self.reason),
        }
    }
}

/// Where each key that was given got its value.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    pub(super) file: Option<String>,
    pub(super) keys: BTreeMap<String, Origin>,
}

impl Origins {
    /// Where `key` got its value.
    pub fn of(&self, key: &str) -> Origin {
        let found = self.keys.get(key).cloned();
        found.unwrap_or_else(|| Origin::Unset(self.file.clone()))
    }

    /// Flaws with their places.
    pub fn locate(&self, flaws: Vec<Flaw>) -> Vec<Mistake> {
        let placed = |Flaw { key, reason }| Mistake {
            origin: self.of(&key),
            key,
            reason,
        };
        flaws.into_iter().map(placed).collect()
    }
}
