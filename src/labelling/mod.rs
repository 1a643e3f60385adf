//! The labels of a running system: on the topic, in the label store, and which to ask for next.
//!
//! What a label is, and the files that hold some, are below (`tagstream_train::labels`).

mod publish;
pub mod store;
pub mod suggest;

pub use publish::{PublishError, Publisher, publish};
