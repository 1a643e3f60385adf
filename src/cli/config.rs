//! `tagstream config`: validate or print the configuration.

use clap::{Args, Subcommand};
use tagstream::error::Exit;

/// Arguments of `tagstream config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// (not built yet)
    Validate,
    /// (not built yet)
    Print,
}

/// Runs the command.
pub fn run(_args: ConfigArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`config` is not built yet")
}
