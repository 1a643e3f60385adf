//! Image files to the pixels that a model takes: formats, decoding within limits, fitting and
//! resampling.
//!
//! Knows neither Kafka nor tensors: bytes come in, RGB bytes go out.

pub mod decode;
pub mod decoders;
pub mod folder;
pub mod helper;
pub mod preprocessing;
mod wire;
