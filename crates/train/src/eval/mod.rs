//! Measuring: metrics that know partial labels, the partial-label protocol, calibration, data-set
//! adapters.

pub mod calibration;
pub mod labels;
pub mod layouts;
pub mod metrics;
pub mod protocol;
