//! From partial labels to a judged model: label store, features, trainer, judge, job, report.

pub mod features;
pub mod images;
pub mod judge;
pub mod labels;
pub mod lease;
