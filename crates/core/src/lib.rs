//! What every other room stands on: wire types, configuration, storage, and what is asked of the
//! operating system.

pub mod config;
pub mod error;
pub mod events;
pub mod failpoint;
pub mod process;
pub mod redact;
pub mod storage;
