//! Measuring: metrics that know partial labels, the partial-label protocol, calibration, tags.

pub mod calibration;
pub mod metrics;
pub mod protocol;
pub mod tags;
