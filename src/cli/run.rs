//! `tagstream run`: the stage: image references in, Parquet and tags out.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Configuration file; every key stands with its default in configs/stage.toml.
    #[arg(long, env = "TAGSTREAM_CONFIG")]
    pub config: Option<PathBuf>,
    /// Model: bundle directory or registry-url[@version]; overrides `model.path`.
    #[arg(long)]
    pub model: Option<String>,
    /// Run one part only.
    #[arg(long, value_name = "PART", value_parser = ["images", "labels"])]
    pub only: Option<String>,
    /// End when every partition has been read to its end as of the start (for back-fills and tests).
    #[arg(long)]
    pub until_drained: bool,
}

/// Runs the command.
pub fn run(_args: RunArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`run` is not built yet")
}
