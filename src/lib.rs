//! tagstream: a streaming stage that tags images, and gets better by itself from labels that are
//! mostly missing.
//!
//! # The promise
//!
//! 1. **Every Parquet file that exists is committed, and every input message is in exactly one of
//!    them** (or in the dead-letter topic), through crashes, rebalances, retries, zombie writers
//!    and idle tails. A reader needs no manifest: a glob is correct.
//! 2. Tags reach the predictions topic at least once, each carrying the key (topic, partition,
//!    offset, model version) that makes duplicates recognisable.
//! 3. Memory is bounded by configuration, whatever the input or the sink does.
//! 4. A model is promoted only if it is measurably not worse, swapped without dropping or
//!    re-ordering a message, and can be rolled back with one command.
//! 5. No hidden fallback: asked for a GPU and none usable, it stops with an error that names the
//!    missing library.
//!
//! # The map
//!
//! ```text
//!  images topic ─► source ─► fetch ─► decode ─► batch ─► infer ─► sinks ──► predictions/*.parquet   (exactly once)
//!                                                          ▲      ├──────► predictions topic       (at least once)
//!  labels topic ─► label store ─► retrain ─► registry ─────┘      └──────► dead-letter topic
//! ```
//!
//! | room | owns | may know |
//! |---|---|---|
//! | [`events`] | the wire types: image reference, label event, prediction, dead letter, offsets | nothing |
//! | [`stage`] | the upper line, a file per step | bytes and offsets, never losses |
//! | [`model`] | bundles, towers, the ONNX writer, the registry | files and tensors, never Kafka |
//! | [`trm`] | the method: prompts, regions, matching, prototypes, losses | tensors, never Kafka or files |
//! | [`retrain`] | label store, features, trainer, judge, job, report | everything above |
//! | [`eval`] | metrics, the partial-label protocol, baselines | tensors and tables |
//! | [`redact`] | what of an address may be printed | nothing |
//! | [`ops`] | health, metrics, telemetry, doctor | a view of the rest |
//! | [`demo`] | synthetic scenes and the embedded broker | everything |

pub mod demo;
pub mod labels;
pub mod ops;
pub mod retrain;
pub mod stage;

pub use tagstream_core::{config, error, events, failpoint, process, redact, storage};
pub use tagstream_image as image;
pub use tagstream_kernels as kernels;
pub use tagstream_model as model;
pub use tagstream_train::{eval, features, images, trainer, trm};
