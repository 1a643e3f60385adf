//! Measuring: metrics that know partial labels, the partial-label protocol, calibration.

pub mod calibration;
pub mod metrics;
pub mod protocol;
