//! Where things are kept: local folders and object stores, the names of files in them, and leases.

pub mod atomic;
pub mod lease;
pub mod names;
mod staging;
pub mod store;
