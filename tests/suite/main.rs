//! Integration tests that need no broker.

#[path = "../common/mod.rs"]
mod common;

mod build_name;
mod completions;
mod compose;
mod config_command;
mod decoders;
mod demonstration;
mod documents;
mod fetch_decode;
mod fetching;
mod fit;
mod formats;
mod fuzz_replay;
mod gpu;
mod hostile_pictures;
mod kubernetes;
mod label_tables;
mod map;
mod names;
mod program;
mod retraining;
mod serve;
mod train_eval;
mod words;
