//! How groups of settings are declared, and what is said of those that cannot be.

/// Declares a group of settings with their defaults; keys that it does not have are refused where
/// it is read.
#[macro_export]
macro_rules! settings {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }
    };
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// No such method.
    #[error(
        "there is no method `{0}`; the methods are zero-shot, linear-probe, dualcoop, positive-coop, trm-ml-base and trm-ml"
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
