//! Where rows and messages go: the exactly-once file sink, the predictions topic, the dead-letter
//! topic.

pub mod arrow_ipc;
pub mod chain;
#[cfg(test)]
mod chain_model;
pub mod dead_letter_topic;
mod fence;
pub mod files;
pub mod footer;
mod hint;
pub mod parquet;
mod place;
pub mod predictions;
pub mod predictions_topic;
pub mod producer;
pub mod table;
pub mod walk;
