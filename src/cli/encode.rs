//! `tagstream encode`: print embeddings of images and texts.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream encode`.
#[derive(Debug, Args)]
pub struct EncodeArgs {
    /// Model: bundle directory, folder with encoder.onnx and text tower, or registry-url[@version].
    #[arg(long)]
    pub model: String,
    /// Print a JSON line for each input: {"input", "kind", "embedding"}.
    #[arg(long)]
    pub json: bool,
    /// A text to embed; may be repeated.
    #[arg(long)]
    pub text: Vec<String>,
    /// Images to embed.
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// Runs the command.
pub fn run(_args: EncodeArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`encode` is not built yet")
}
