//! `tagstream scenes`: draw synthetic labelled scenes.

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::time::Instant;
use tagstream::demo::scenes::{Container, DEFAULT_SIZE, Style, WriteError, WriteOptions, write};
use tagstream_core::error::{Exit, usage};

/// Arguments of `tagstream scenes`.
#[derive(Debug, Args)]
pub(super) struct ScenesArgs {
    /// Where to write them: images, labels.csv, boxes.csv, scenes.jsonl, categories.txt.
    #[arg(long)]
    pub out: PathBuf,
    /// How many.
    #[arg(long)]
    pub count: u64,
    /// Seed; the same seed draws the same scenes.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How they look: plain, pale, outline or grey.
    #[arg(long, default_value_t = Style::Plain)]
    pub style: Style,
    /// Height and width in pixels.
    #[arg(long, default_value_t = DEFAULT_SIZE)]
    pub size: u32,
    /// Threads that draw; the result does not depend on it. Default: one a core.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Write images.tar instead of a folder of images.
    #[arg(long)]
    pub tar: bool,
}

/// Runs the command.
pub(super) fn run(args: ScenesArgs) -> anyhow::Result<Exit> {
    let options = WriteOptions {
        out: args.out,
        count: args.count,
        seed: args.seed,
        style: args.style,
        size: args.size,
        threads: args.threads,
        container: if args.tar {
            Container::Tar
        } else {
            Container::Folder
        },
    };
    let started = Instant::now();
    let bar = ProgressBar::new(options.count).with_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} scenes, {per_sec}, {eta} left",
    )?);
    let written = write(&options, |written| bar.set_position(written));
    bar.finish_and_clear();
    match written {
        Ok(()) => (),
        Err(error @ (WriteError::Exists(_) | WriteError::Size(_))) => {
            return Err(usage(error.to_string()).into());
        }
        Err(error) => return Err(error).context("scenes were not written completely"),
    }
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{} {} scenes in {} ({:.0} a second)",
        options.count,
        options.style,
        options.out.display(),
        options.count as f64 / seconds
    );
    Ok(Exit::Success)
}
