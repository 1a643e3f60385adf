//! `tagstream produce`: write image references to a topic.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// Brokers, host:port, comma-separated.
    #[arg(long)]
    pub brokers: String,
    /// Topic to write to.
    #[arg(long)]
    pub topic: String,
    /// A folder of images, or a file with one path or URI a line.
    #[arg(value_name = "DIR|LIST")]
    pub input: PathBuf,
}

/// Runs the command.
pub fn run(_args: ProduceArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`produce` is not built yet")
}
