//! `tagstream scenes`: draw synthetic labelled scenes.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream scenes`.
#[derive(Debug, Args)]
pub struct ScenesArgs {
    /// Where to write them.
    #[arg(long)]
    pub out: PathBuf,
    /// How many.
    #[arg(long)]
    pub count: usize,
    /// Seed; the same seed draws the same scenes.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Runs the command.
pub fn run(_args: ScenesArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`scenes` is not built yet")
}
