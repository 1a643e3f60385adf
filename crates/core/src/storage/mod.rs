//! Where things are kept: local folders and object stores. What their addresses mean and which
//! options they have, the one way to open them, what is asked of them and how that is proven, the
//! names of files in them, and leases.

pub mod atomic;
pub mod conformance;
mod http;
pub mod lease;
mod listing;
pub mod names;
pub mod open;
pub mod options;
mod profile;
mod purpose;
mod staging;
pub mod store;
pub mod swap;
