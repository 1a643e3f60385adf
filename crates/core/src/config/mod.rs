//! Configurations: a TOML file, then `TAGSTREAM_*` environment variables, then flags.
//!
//! The room reads any type that [`settings!`] declares; it knows one of them, the stage's.
//! Reference files (`configs/`) and JSON Schemas (`schemas/`) are made from the same declarations,
//! and tests prove them fresh. An error names file, line, column and key, or the variable, and what
//! was likely meant; the values of secrets are in no message.

mod decode;
mod environment;
mod error;
mod file;
mod load;
mod nearest;
mod notify;
mod output;
mod reference;
mod schema;
mod secret;
mod settings;
mod source;
mod stage;
#[cfg(test)]
mod tests;
mod trace;
mod values;

pub use decode::{DamagedPictures, DecodeConfig, JpegReader};
pub use error::{ConfigError, Flaw, Mistake, Origin, Origins};
pub use file::section_names;
pub use load::{Configuration, Loaded, Shape, load, read, read_with};
pub use nearest::nearest;
pub use notify::{NotifyConfig, authorization_flaw, is_web_address};
pub use output::{BoxForm, FileFormat, PredictionsOrder, VectorEncoding};
pub use reference::reference;
pub use schema::schema;
pub use secret::Secret;
pub use settings::{Key, Kind, Setting, choice, settings};
pub use source::{MappingConfig, SchemaRegistryConfig, SourceConfig, StartAt, UnknownId};
pub use stage::*;
pub use trace::TraceConfig;
pub use values::refuse_unknown_option;
