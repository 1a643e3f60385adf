//! CLIP's towers: weight names, configurations, tokenizer, the vision tower as an ONNX graph, the
//! text tower in candle.

pub(crate) mod byte_pairs;
pub(crate) mod open_ai;
pub mod text;
pub mod text_config;
mod text_weights;
pub mod tokenizer;
pub mod vision;
pub mod weights;
pub(crate) mod word_pieces;
