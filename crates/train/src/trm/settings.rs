//! What is said of settings of the method that cannot be.

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// No such method.
    #[error(
        "there is no method `{0}`; the methods are zero-shot, linear-probe, dualcoop, \
         positive-coop, trm-ml-base and trm-ml"
    )]
    UnknownMethod(String),
    /// An override that is not `key=value`.
    #[error("`{0}` is not of the form key=value")]
    NotAnOverride(String),
    /// An override names no setting.
    #[error("there is no setting `{key}`; {hint}")]
    UnknownKey {
        /// The key.
        key: String,
        /// What there is.
        hint: String,
    },
    /// A value has the wrong type or is out of range.
    #[error("setting `{key}`: {reason}")]
    BadValue {
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
}
