//! The stage end to end: a broker, a store, and the stage between them, in this process or as a child that can be killed.
//!
//! The broker is librdkafka's mock cluster in this process, or a real Apache Kafka at `TAGSTREAM_TEST_KAFKA=host:port`; stores are a
//! folder, memory, and a real S3 where `TAGSTREAM_TEST_S3_URL` (with the usual `AWS_*` variables) names a bucket.

mod basics;
mod child;
mod crash;
mod harness;
mod labels;
mod memory;
mod refusals;
mod stores;
mod zombie;
