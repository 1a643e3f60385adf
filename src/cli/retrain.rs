//! `tagstream retrain`: retrain prompts and prototypes from the labels so far, judge, register, promote.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream retrain`.
#[derive(Debug, Args)]
pub struct RetrainArgs {
    /// Configuration file; every key stands with its default in configs/retrain.toml.
    #[arg(long, env = "TAGSTREAM_RETRAIN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Run once and exit (the default).
    #[arg(long, conflicts_with = "every")]
    pub once: bool,
    /// Repeat at this interval, for example 6h.
    #[arg(long, value_name = "DURATION")]
    pub every: Option<String>,
    /// Compute and report, write nothing else.
    #[arg(long)]
    pub dry_run: bool,
    /// Refresh prototypes without gradients.
    #[arg(long)]
    pub prototypes_only: bool,
}

/// Runs the command.
pub fn run(_args: RetrainArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`retrain` is not built yet")
}
