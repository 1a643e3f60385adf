//! The retraining job: labels in, a judged model out.

pub mod config;
pub mod job;
pub mod judge;
pub mod report;
pub mod tracking;
