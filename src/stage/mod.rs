//! The stage, a file per step, in order: source, fetch, decode, batch, infer, sink, with the ledger
//! that restores order and the pipeline that joins them. Knows bytes and offsets, never losses.

pub mod batch;
pub mod budget;
pub mod decoding;
pub use tagstream_core::failpoint;
pub mod fetch;
pub mod guard;
pub mod infer;
pub mod label_rows;
pub mod ledger;
pub mod pipeline;
pub mod row_maker;
pub mod schemas;
pub mod sink;
pub mod source;
pub mod trace;
pub mod watch;
