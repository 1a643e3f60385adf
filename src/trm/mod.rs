//! TRM-ML, text-region matching for multi-label recognition with missing labels. Knows tensors, never Kafka or files.

pub mod losses;
pub mod matching;
pub mod ops;
pub mod prototypes;
pub mod pseudo_labels;
pub mod region;

#[cfg(test)]
mod testing;
