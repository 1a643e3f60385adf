//! Where things are kept: local folders and object stores, what their addresses mean and which
//! options they have, the names of files in them, and leases.

pub mod address;
pub mod atomic;
pub mod lease;
pub mod names;
pub mod options;
mod staging;
pub mod store;
