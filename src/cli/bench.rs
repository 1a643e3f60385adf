//! `tagstream bench`: measure the stage beside bare ONNX Runtime.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(_args: BenchArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`bench` is not built yet")
}
