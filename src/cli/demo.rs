//! `tagstream demo`: everything, with an embedded broker and the demo model.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many scenes to draw.
    #[arg(long, default_value_t = 2000)]
    pub images: usize,
    /// Where to leave the results.
    #[arg(long, default_value = "demo-out")]
    pub out: PathBuf,
}

/// Runs the command.
pub fn run(_args: DemoArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`demo` is not built yet")
}
