//! TRM-ML, text-region matching for multi-label recognition with missing labels. Knows tensors,
//! never Kafka or files.

pub mod blend;
pub mod config;
pub mod export;
pub mod features;
mod forward;
pub mod losses;
pub mod matching;
pub mod memory;
pub mod model;
pub mod objective;
pub mod prompts;
pub mod prototypes;
pub mod pseudo_labels;
pub mod region;
pub mod regional;
pub mod settings;
pub mod start;
pub mod targets;
pub mod weights;

#[cfg(test)]
pub(crate) mod testing;
