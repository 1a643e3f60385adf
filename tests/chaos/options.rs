//! What the driver is told.

use clap::Parser;
use std::path::PathBuf;

/// Chaos on real servers, and an independent checker.
#[derive(Debug, Parser)]
pub struct Options {
    /// Rounds to run.
    #[arg(long, default_value_t = 5)]
    pub rounds: u64,
    /// Seed of the faults.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Kafka brokers: 1 or 3.
    #[arg(long, default_value_t = 3)]
    pub brokers: usize,
    /// Partitions of the images topic.
    #[arg(long, default_value_t = 6)]
    pub partitions: i32,
    /// Messages of a round.
    #[arg(long, default_value_t = 300)]
    pub messages: usize,
    /// Stage processes.
    #[arg(long, default_value_t = 3)]
    pub stages: usize,
    /// A line of JSON for each round is added here.
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// Model bundle; default: one is made from models/demo-clip.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// `TAGSTREAM_FAILPOINTS` of the stages, for example a deliberately broken commit.
    #[arg(long)]
    pub failpoints: Option<String>,
    /// Expect the checker to find something: exit 0 only if it does.
    #[arg(long)]
    pub expect_broken: bool,
    /// Instead of rounds: the kill matrix, every cell of it or a `short` selection.
    #[arg(long, value_name = "full|short", value_parser = ["full", "short"])]
    pub matrix: Option<String>,
    /// Instead of rounds of faults: the stages begin as this older `tagstream`, and each round
    /// replaces them one by one, under load: by this build, and back.
    #[arg(long, value_name = "BINARY", conflicts_with = "matrix")]
    pub upgrade_from: Option<PathBuf>,
    /// Draw faults of this kind only, for example `TopicRecreated`; of the matrix, only cells that
    /// begin so.
    #[arg(long)]
    pub only: Option<String>,
    /// Keep the stages' logs here.
    #[arg(long)]
    pub keep: Option<PathBuf>,
    /// The `tagstream` to test instead of the one built beside this driver; it must have failpoints
    /// for `--failpoints`.
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// Libtest's flags are accepted and mean nothing here.
    #[arg(long, hide = true)]
    pub nocapture: bool,
}
