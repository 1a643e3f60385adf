//! `tagstream labels`: partial labels from and to files and the topic.

use clap::{Args, Subcommand};
use tagstream::error::Exit;

/// Arguments of `tagstream labels`.
#[derive(Debug, Args)]
pub struct LabelsArgs {
    #[command(subcommand)]
    pub command: LabelsCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum LabelsCommand {
    /// (not built yet)
    Import,
    /// (not built yet)
    Export,
    /// (not built yet)
    Stats,
}

/// Runs the command.
pub fn run(_args: LabelsArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`labels` is not built yet")
}
