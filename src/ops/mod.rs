//! Operations: health, metrics, telemetry, doctor.
pub mod tag_page;
