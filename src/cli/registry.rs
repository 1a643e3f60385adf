//! `tagstream registry`: versions of the model: list, show, promote, roll back.

use clap::{Args, Subcommand};
use tagstream::error::Exit;

/// Arguments of `tagstream registry`.
#[derive(Debug, Args)]
pub struct RegistryArgs {
    #[command(subcommand)]
    pub command: RegistryCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// (not built yet)
    List,
    /// (not built yet)
    Show,
    /// (not built yet)
    Promote,
    /// (not built yet)
    Rollback,
}

/// Runs the command.
pub fn run(_args: RegistryArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`registry` is not built yet")
}
