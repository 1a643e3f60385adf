//! A writer of ONNX graphs: the only road by which a tower or a head becomes something ONNX Runtime runs.

/// The ONNX schema (`proto/onnx.proto`), compiled by `build.rs`.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}
