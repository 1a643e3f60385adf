//! Shared by the test binaries.
#![allow(dead_code, reason = "not every test binary uses all of it")]

pub mod garbage;
pub mod pictures;
pub mod web_server;
