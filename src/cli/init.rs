//! `tagstream init`: make a bundle from CLIP weights and a list of categories.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// CLIP weights: a directory or hf:owner/name.
    #[arg(long)]
    pub clip: String,
    /// Categories: a file with one name a line.
    #[arg(long)]
    pub categories: PathBuf,
    /// Where to write the bundle.
    #[arg(long)]
    pub out: PathBuf,
    /// fp32 or fp16.
    #[arg(long, default_value = "fp32", value_parser = ["fp32", "fp16"])]
    pub precision: String,
    /// Input size in pixels; default: the size that the tower was made for.
    #[arg(long)]
    pub input_size: Option<usize>,
}

/// Runs the command.
pub fn run(_args: InitArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`init` is not built yet")
}
