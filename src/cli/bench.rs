//! `tagstream bench`: measure the stage beside bare ONNX Runtime.

use clap::Args;
use tagstream::error::{Exit, usage};

/// Arguments of `tagstream bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(_args: BenchArgs) -> anyhow::Result<Exit> {
    Err(
        usage("`bench` is not in this version; `make bench` runs the benches of single steps")
            .into(),
    )
}
