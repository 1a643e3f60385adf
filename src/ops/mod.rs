//! Operations: health, metrics, telemetry, doctor.
