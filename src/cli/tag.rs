//! `tagstream tag`: tag images and print or draw what was found.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Model: bundle directory or registry-url[@version].
    #[arg(long)]
    pub model: String,
    /// Write a self-contained page with pictures, tags, boxes and saliency maps.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print a JSON line for each image.
    #[arg(long)]
    pub json: bool,
    /// Images, folders or URIs.
    #[arg(required = true, value_name = "IMAGE|DIR|URI")]
    pub inputs: Vec<String>,
}

/// Runs the command.
pub fn run(_args: TagArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`tag` is not built yet")
}
