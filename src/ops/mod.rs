//! Operations: health, metrics, telemetry, news for people.

pub mod build_info;
pub mod connections;
pub mod first_values;
pub mod http;
pub mod metrics;
pub mod tag_page;
pub mod telemetry;
pub mod token_buckets;
pub mod webhook;
