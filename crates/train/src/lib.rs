//! Learning: the method, its trainer, the features it learns from, and its evaluation.

pub mod arrays;
pub mod chart;
pub mod eval;
pub mod features;
pub mod groups;
pub mod images;
pub mod labels;
pub mod trainer;
pub mod trm;
