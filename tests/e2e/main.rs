//! The stage end to end: a broker, a store, and the stage between them, in this process or as a
//! child that can be killed.
//!
//! The broker is librdkafka's mock cluster in this process, or a real Apache Kafka at
//! `TAGSTREAM_TEST_KAFKA=host:port`; stores are a folder, or a real S3 where `TAGSTREAM_TEST_S3_*`
//! (as `scripts/s3.sh` prints them) names a bucket. What cannot be tested without a server says
//! `NOT TESTED` on standard output.

// The tests' own clients have no secrets.
#![allow(clippy::disallowed_methods)]

#[path = "../common/mod.rs"]
mod common;

mod acl;
mod basics;
mod browser;
mod child;
mod crash;
mod dead_letters;
mod decoders;
mod edges;
mod examples;
mod expiry;
mod garbage;
mod harness;
mod health;
mod label_studio;
mod labels;
mod latest;
mod listed;
mod memory;
mod news;
mod outages;
mod outgoing;
mod own_brokers;
mod pages;
mod poison;
mod readers;
mod real_label_studio;
mod rebalance;
mod refusals;
mod registry;
mod registry_tls;
mod relay;
#[cfg(feature = "search-index")]
mod search_index;
mod secrets;
mod secure;
mod serve;
mod serve_retraining;
mod servers;
mod several;
mod stores;
mod swaps;
mod topics;
#[cfg(feature = "otlp")]
mod traces;
mod truncation;
mod unclean_election;
mod zombie;
