//! The model bundle: a directory that holds all that is needed to tag, and what is needed to
//! retrain.
//!
//! ```text
//! bundle.json        the manifest: categories, sizes, preprocessing, and the hash of every other
//!                    file
//! encoder.onnx       pixels uint8 [B,H,W,3] -> dense [B,N,D], global [B,D]
//! head.onnx          dense, global -> logits [B,C], saliency [B,C,N], region [B,C,D],
//!                    embedding [B,D]
//! head.safetensors   the head's initializers, and its trainable form
//! text/              text tower, its config and tokenizer (needed only to retrain)
//! ```
//!
//! [`Bundle::open`] verifies everything before anything is used; [`BundleWriter`] writes aside and
//! renames, so that a bundle is there whole or not at all.

mod error;
mod external_data;
mod manifest;
mod reader;
mod writer;

pub use error::BundleError;
pub use manifest::{
    Calibration, Category, Dims, FORMAT_VERSION, FileEntry, Lineage, Manifest, is_read_format,
    preprocessing_hash,
};
pub use reader::{Bundle, check_graph_files};
pub use writer::{BundleWriter, Draft};

/// The manifest's file name.
pub const MANIFEST_FILE: &str = "bundle.json";
/// The encoder's file name.
pub const ENCODER_FILE: &str = "encoder.onnx";
/// The head's graph.
pub const HEAD_FILE: &str = "head.onnx";
/// The head's weights.
pub const HEAD_WEIGHTS_FILE: &str = "head.safetensors";
/// The text tower's weights.
pub const TEXT_WEIGHTS_FILE: &str = "text/model.safetensors";
/// The text tower's configuration.
pub const TEXT_CONFIG_FILE: &str = "text/config.json";
/// The tokenizer, in the format of Hugging Face's `tokenizers`.
pub const TOKENIZER_FILE: &str = "text/tokenizer.json";

#[cfg(test)]
mod tests;
