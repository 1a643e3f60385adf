//! Why a vision tower's configuration is refused.

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VisionConfigError {
    /// No JSON of a known form.
    #[error("not a CLIP configuration: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A setting these towers do not have.
    #[error("the vision tower has {key} = {value}, which is not supported ({hint})")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is supported.
        hint: &'static str,
    },
}

pub(super) fn unsupported(
    key: &str,
    value: impl ToString,
    hint: &'static str,
) -> VisionConfigError {
    VisionConfigError::Unsupported {
        key: key.to_owned(),
        value: value.to_string(),
        hint,
    }
}
