//! Models: bundles on disk, the towers inside them, the ONNX graphs written for them, the sessions
//! that run those, and the registry of versions.

pub mod add_category;
pub mod bundle;
pub mod categories;
pub mod clip;
pub mod encoder_pool;
pub mod head;
pub mod init;
pub mod new_head;
pub mod onnx;
pub mod parity;
pub mod registry;
pub mod runtime;
pub mod saliency;
pub mod session;
mod source;
pub mod text;

pub use source::{EncoderFolder, OpenError, OpenedModel, open};
pub mod tagger;
pub mod trained_on;
pub mod views;
