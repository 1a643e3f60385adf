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
//!  images topic ─► source ─► fetch ─► decode ─► batch ─► infer ─► sinks ──► predictions/*.parquet
//!                                                          ▲      ├──────► predictions topic
//!  labels topic ─► label store ─► retrain ─► registry ─────┘      └──────► dead-letter topic
//! ```
//!
//! Rows reach the files exactly once and the predictions topic at least once.
//!
//! | room | owns | may import |
//! |---|---|---|
//! | `multiversion` | loops compiled for what the processor has | nothing |
//! | [`kernels`] | tensor operations with a backward pass of their own | `multiversion` |
//! | [`image`] | image files to the pixels that a model takes | `multiversion` |
//! | [`address`] | where things are kept, as people write it, and the options of stores | nothing |
//! | [`build`] | which build this is | nothing |
//! | [`calls`] | requests to servers of others that are told something | `config`, `redact`, `tls` |
//! | [`config`] | reading configurations, and the stage's | `address`, `digest`, `mapping` |
//! | [`digest`] | SHA-256 of bytes and files | nothing |
//! | [`error`] | exit codes, and the error that carries one | nothing |
//! | [`events`] | wire types: image reference, label event, prediction, dead letter, offsets | nothing |
//! | [`failpoint`] | where a test can kill, stop or fail the process | nothing |
//! | [`image_id`] | what a picture is called, wherever it is written | `digest`, `redact` |
//! | [`mapping`] | how the messages of a topic name images | `events` |
//! | [`process`] | what is asked of the operating system | nothing |
//! | [`redact`] | what of an address may be printed | nothing |
//! | [`storage`] | folders and object stores, atomic files, names of tables' files, leases | `address`, `config`, `events`, `failpoint`, `process`, `redact`, `tls` |
//! | [`tls`] | the one way to an HTTP client | nothing |
//! | [`model`] | bundles, towers, ONNX graphs, sessions, the registry | `address`, `build`, `config`, `digest`, `events`, `failpoint`, `image`, `kernels`, `process`, `redact`, `storage`, `tls` |
//! | [`trm`] | the method: prompts, regions, matching, prototypes, losses | `arrays`, `config`, `kernels`, `model` |
//! | [`eval`] | metrics, the partial-label protocol, calibration, tags | `arrays`, `config` |
//! | [`labels`] | partial labels: the table, the matrix made of it, files of other tools | `digest`, `events`, `image_id`, `redact` |
//! | [`arrays`] | views of matrices with a shape | nothing |
//! | [`chart`] | curves as SVG | nothing |
//! | [`features`] | dense features of images, and their cache | `config`, `digest`, `image`, `model`, `trm` |
//! | [`groups`] | which images are relatives, and the folds made of them | `config` |
//! | [`images`] | images by id, in a folder or a tar | `features`, `image` |
//! | [`trainer`] | what trains a head, and its checkpoints | `arrays`, `chart`, `features`, `groups`, `kernels`, `model`, `multiversion`, `storage`, `trm` |
//! | [`stage`] | the upper line, a folder per step | `address`, `build`, `config`, `digest`, `events`, `failpoint`, `image`, `mapping`, `model`, `process`, `redact`, `storage`, `tls` |
//! | [`labelling`] | labels of a running system: on the topic, in the label store, what to ask next | `config`, `events`, `image_id`, `labels`, `model`, `stage`, `storage` |
//! | [`retrain`] | the job: candidate, judge, decision, report, record on a tracking server | `build`, `calls`, `chart`, `config`, `digest`, `eval`, `events`, `features`, `groups`, `image`, `labelling`, `labels`, `model`, `redact`, `stage`, `storage`, `trainer`, `trm` |
//! | [`ops`] | health, metrics, telemetry, the page of tags, news for people | `build`, `calls`, `config`, `events`, `process` |
//! | [`serve`] | pages for people and the model over HTTP; who may | `build`, `config`, `digest`, `events`, `image`, `image_id`, `labelling`, `labels`, `model`, `ops`, `process`, `redact`, `retrain`, `stage`, `storage`, `tls` |
//! | [`demo`] | synthetic scenes and the embedded broker | `arrays`, `config`, `eval`, `events`, `labelling`, `labels`, `stage`, `storage` |
//! | `cli` | the commands | `address`, `arrays`, `build`, `config`, `demo`, `digest`, `error`, `eval`, `events`, `features`, `groups`, `image`, `image_id`, `images`, `labelling`, `labels`, `mapping`, `model`, `ops`, `process`, `redact`, `retrain`, `serve`, `stage`, `storage`, `tls`, `trainer`, `trm` |
//!
//! The first three and `model` are crates of their own; `address` to `tls` are one crate
//! (`tagstream-core`), `trm` to `trainer` another (`tagstream-train`); the rest is this package,
//! `cli` its binary. `tests/suite/map.rs` reads the imports and fails on any other arrow.

#[cfg(feature = "demo")]
pub mod demo;
pub mod labelling;
pub mod ops;
pub mod retrain;
pub mod serve;
pub mod stage;

pub use tagstream_core::{
    address, build, calls, config, digest, error, events, failpoint, image_id, mapping, process,
    redact, storage, tls,
};
pub use tagstream_image as image;
pub use tagstream_kernels as kernels;
pub use tagstream_model as model;
pub use tagstream_train::{arrays, chart, eval, features, groups, images, labels, trainer, trm};
