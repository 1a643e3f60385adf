//! Learning: the method, its trainer, the features it learns from, and its evaluation.

pub mod arrays;
pub mod eval;
pub mod features;
pub mod images;
pub mod trainer;
pub mod trm;
