//! What every other room stands on: wire types, configuration, storage, the name of the build, and
//! what is asked of the operating system.

pub mod address;
pub mod build;
pub mod calls;
pub mod config;
pub mod digest;
pub mod error;
pub mod events;
pub mod failpoint;
pub mod image_id;
pub mod mapping;
pub mod process;
pub mod redact;
pub mod storage;
pub mod tls;
