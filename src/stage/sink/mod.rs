//! Where rows and messages go: the exactly-once file sink, the predictions topic, the dead-letter
//! topic.

pub mod arrow_ipc;
pub mod begun;
pub mod broken;
mod broken_table;
pub mod chain;
#[cfg(test)]
mod chain_model;
pub mod dead_letter_topic;
#[cfg(test)]
mod epoch_model;
pub mod expire;
mod fence;
pub mod files;
pub mod floor;
#[cfg(test)]
mod floor_model;
pub mod footer;
pub mod hint;
pub mod kept_listing;
pub mod letter_file;
mod limits;
pub mod lineage;
pub mod log_facts;
pub mod outgoing;
pub mod parquet;
mod place;
pub mod predictions;
pub mod predictions_topic;
pub mod producer;
pub mod repair;
mod resume_error;
pub mod seal;
mod shortening;
pub mod table;
mod topic_settings;
pub mod verdict;
pub mod walk;
