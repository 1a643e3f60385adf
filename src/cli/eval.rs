//! `tagstream eval`: measure a model against labels.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Model: bundle directory or registry-url[@version].
    #[arg(long)]
    pub model: String,
    /// Labels: CSV with image_id,label,state.
    #[arg(long)]
    pub labels: PathBuf,
    /// Images: a folder or a tar, found by <image_id>.<ext>.
    #[arg(long)]
    pub images: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(_args: EvalArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`eval` is not built yet")
}
