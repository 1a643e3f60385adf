//! TRM-ML, text-region matching for multi-label recognition with missing labels. Knows tensors, never Kafka or files.

pub mod ops;
