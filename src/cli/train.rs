//! `tagstream train`: train a head on partially labelled images.

use clap::Args;
use std::path::PathBuf;
use tagstream::error::Exit;

/// Arguments of `tagstream train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Model to start from: bundle directory, folder with encoder.onnx and text tower, or registry-url[@version].
    #[arg(long)]
    pub model: String,
    /// Labels: CSV with image_id,label,state; what is not mentioned is unknown.
    #[arg(long)]
    pub labels: PathBuf,
    /// Images: a folder or a tar, found by <image_id>.<ext>.
    #[arg(long)]
    pub images: PathBuf,
    /// Categories: a file with one name a line.
    #[arg(long)]
    pub categories: PathBuf,
    /// Where to write the trained bundle.
    #[arg(long)]
    pub out: PathBuf,
    /// zero-shot, linear-probe, dualcoop, positive-coop, trm-ml-base or trm-ml.
    #[arg(long, default_value = "trm-ml")]
    pub method: String,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Passes over the training set.
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Change a switch of the method, for example --set kd.weight=0.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(_args: TrainArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("`train` is not built yet")
}
