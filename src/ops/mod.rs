//! Operations: health, metrics, telemetry, doctor.

pub mod doctor;
pub mod heaps;
pub mod heartbeat;
pub mod http;
pub mod metrics;
pub mod priority;
pub mod tag_page;
pub mod telemetry;
pub mod thread_cost;
