//! TRM-ML, text-region matching for multi-label recognition with missing labels. Knows tensors,
//! never Kafka or files.

pub mod blend;
pub mod config;
pub mod export;
pub mod features;
pub mod kernel_ridge;
pub mod losses;
pub mod matching;
pub mod model;
pub mod objective;
pub mod platt;
pub mod prompts;
pub mod prototypes;
pub mod pseudo_labels;
pub mod region;
pub mod settings;
pub mod weights;

#[cfg(test)]
pub(crate) mod testing;
