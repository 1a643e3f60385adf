//! From partial labels to a judged model: label store, features, trainer, judge, job, report.

pub mod checkpoint;
pub mod config;
pub mod features;
pub mod images;
pub mod job;
pub mod judge;
pub mod label_store;
pub mod labels;
pub mod lease;
mod memories;
pub mod optimizer;
pub mod report;
mod run;
pub mod run_folder;
pub mod scoring;
pub mod suggest;
mod teacher;
mod train_error;
pub mod trainer;
