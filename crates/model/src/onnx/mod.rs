//! A writer of ONNX graphs: the only road by which a tower or a head becomes something ONNX Runtime
//! runs.
//!
//! [`GraphBuilder`] adds nodes one by one and gives back the [`Value`] each makes; the finished
//! graph is one protobuf message. Same calls, same bytes: names are counters and nothing depends on
//! addresses or hash maps, so that a bundle's hashes can be repeated.

mod each;
mod graph;
mod integers;
mod tensor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub(crate) use graph::parse;
pub use graph::{Attribute, GraphBuilder, Value};
pub use integers::IntegerRange;
pub use tensor::{Dim, Element, ExternalData};

/// The ONNX schema (`proto/onnx.proto`), compiled by `build.rs`.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

/// The operator set the graphs are written against. 17 is the first with `LayerNormalization` and
/// is read by every provider we use (CPU, CUDA, TensorRT).
pub const OPSET: i64 = 17;

/// The file format version that goes with [`OPSET`].
pub const IR_VERSION: i64 = 8;

/// Why a graph cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// protobuf messages end at 2 GiB.
    #[error(
        "the graph `{graph}` takes {bytes} bytes, more than the 2 GiB an ONNX file can hold: \
         write it with --precision fp16"
    )]
    TooLarge {
        /// Name of the graph.
        graph: String,
        /// Its encoded size.
        bytes: usize,
    },
}
