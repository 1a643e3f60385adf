//! `tagstream doctor`: check libraries, providers, broker, object store and model.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Configuration file to check against.
    #[arg(long, env = "TAGSTREAM_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Runs the command.
pub fn run(_args: DoctorArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`doctor` is not built yet")
}
