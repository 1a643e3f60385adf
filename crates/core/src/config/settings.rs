//! How settings are declared: one macro gives a struct, its defaults, its documentation and what is
//! known of every key. Reading, the files in `configs/` and the schemas all live on that.

use crate::address::options::OptionNames;

/// One key of a group of settings.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name within the group.
    pub name: &'static str,
    /// The lines of its description.
    pub docs: &'static [&'static str],
    /// What it holds.
    pub kind: Kind,
}

/// What a key holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number from 0 to this.
    Whole(u64),
    /// Any number.
    Number,
    /// A string.
    Text,
    /// A string that is never shown.
    Secret,
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// A list of strings.
    Texts,
    /// A table of strings, with names of any kind.
    Entries,
    /// A table of strings that are never shown, with names of any kind (librdkafka's properties).
    Properties,
    /// A table of strings that are never shown, with the names of an object store's options.
    Options(&'static OptionNames),
    /// A group of keys.
    Section(&'static [Key]),
}

impl Kind {
    /// What is expected, for error messages.
    pub(crate) fn expected(&self) -> String {
        match self {
            Kind::Bool => "true or false".into(),
            Kind::Whole(most) if *most < i64::MAX as u64 => {
                format!("a whole number from 0 to {most}")
            }
            Kind::Whole(_) => "a whole number of at least 0".into(),
            Kind::Number => "a number".into(),
            Kind::Text | Kind::Secret => "a string (in quotes)".into(),
            Kind::OneOf(names) => Self::expected_of(names),
            Kind::Texts => "a list of strings, as [\"a\", \"b\"]".into(),
            Kind::Entries | Kind::Properties | Kind::Options(_) => {
                "a table of names and strings".into()
            }
            Kind::Section(_) => "a section with keys of its own".into(),
        }
    }

    /// The same, of one of `names`.
    pub(crate) fn expected_of(names: &[&str]) -> String {
        let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        format!("one of {}", quoted.join(", "))
    }

    /// Of a table with names of its own, what each of them holds; of anything else nothing.
    pub(crate) fn entries(&self) -> Option<Kind> {
        match self {
            Kind::Entries => Some(Kind::Text),
            Kind::Properties | Kind::Options(_) => Some(Kind::Secret),
            _ => None,
        }
    }

    /// The keys of a section; of anything else none.
    pub(crate) fn keys(&self) -> &'static [Key] {
        match self {
            Kind::Section(keys) => keys,
            _ => &[],
        }
    }
}

/// A type that a key can hold.
pub trait Setting {
    /// What a file may say there.
    const KIND: Kind;
}

macro_rules! setting {
    ($($ty:ty: $kind:expr,)*) => {
        $(impl Setting for $ty {
            const KIND: Kind = $kind;
        })*
    };
}

setting! {
    bool: Kind::Bool,
    u32: Kind::Whole(u32::MAX as u64),
    u64: Kind::Whole(i64::MAX as u64),
    usize: Kind::Whole(i64::MAX as u64),
    f64: Kind::Number,
    String: Kind::Text,
    super::Secret: Kind::Secret,
    Vec<String>: Kind::Texts,
}

/// Declares a group of settings: the struct, its defaults, and its keys with their descriptions.
/// Keys that it does not have are refused where it is read. `as KIND` behind a type names a
/// [`Kind`](crate::config::Kind) where the type alone does not tell it.
#[doc(hidden)]
#[macro_export]
macro_rules! settings {
    (@kind $ty:ty) => { <$ty as $crate::config::Setting>::KIND };
    (@kind $ty:ty, $kind:path) => { $kind };
    ($(#[$meta:meta])* $name:ident {
        $($(#[doc = $doc:literal])* $field:ident: $ty:ty $(as $kind:path)? = $default:expr,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[allow(unreachable_pub)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $ty,)*
        }

        impl $name {
            /// The keys, in the order of the file.
            #[allow(unreachable_pub)]
            pub const KEYS: &'static [$crate::config::Key] = &[$($crate::config::Key {
                name: stringify!($field),
                docs: &[$($doc),*],
                kind: $crate::settings!(@kind $ty $(, $kind)?),
            }),*];
        }

        impl $crate::config::Setting for $name {
            const KIND: $crate::config::Kind = $crate::config::Kind::Section(Self::KEYS);
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }
    };
}

/// Declares an enumeration that a key can hold, with the names of its values in a file.
#[doc(hidden)]
#[macro_export]
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident {
        $($(#[doc = $doc:literal])* $variant:ident = $text:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[allow(unreachable_pub)]
        pub enum $name {
            $($(#[doc = $doc])* #[serde(rename = $text)] $variant,)*
        }

        impl $crate::config::Setting for $name {
            const KIND: $crate::config::Kind = $crate::config::Kind::OneOf(&[$($text),*]);
        }
    };
}

pub use choice;
pub use settings;
