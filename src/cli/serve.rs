//! `tagstream serve`: pages on which people see what the stages do and decide about models.

use super::config::{checks, refused};
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use tagstream::ops::telemetry;
use tagstream::serve::Pages;
use tagstream::serve::config::ServeConfig;
use tagstream_core::error::{Exit, usage};
use tagstream_core::process::priority;
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `tagstream serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Configuration file; every key stands with its default in configs/serve.toml.
    #[arg(long, env = "TAGSTREAM_SERVE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: ServeArgs) -> anyhow::Result<Exit> {
    let loaded = super::config::load::<ServeConfig>(args.config.as_deref())?;
    let flaws = checks::properties(&loaded.config.kafka.properties);
    loaded.refuse(flaws).map_err(refused)?;
    let config = loaded.config;
    telemetry::init(&config.log).map_err(|e| usage(e.to_string()))?;
    // Threads that are started from here on give way to a stage on the same machine.
    priority::lower();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    let served = runtime.block_on(serve(&config));
    runtime.shutdown_background();
    served
}

async fn serve(config: &ServeConfig) -> anyhow::Result<Exit> {
    let (mut terminated, mut interrupted) = (
        signal(SignalKind::terminate()).context("listening for SIGTERM")?,
        signal(SignalKind::interrupt()).context("listening for SIGINT")?,
    );
    let pages = Pages::start(config).await;
    let pages = pages.map_err(|error| match error.is_usage() {
        true => usage(error.to_string()).into(),
        false => anyhow::Error::new(error),
    })?;
    let address = pages.address();
    tracing::info!(%address, "the pages are served at http://{address}/");
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    drop(pages);
    Ok(Exit::Success)
}
