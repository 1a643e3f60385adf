//! `tagstream search-index`: an index of the embeddings, beside the predictions table.

use super::config::refused;
use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use tagstream::ops::telemetry;
use tagstream::serve::config::ServeConfig;
use tagstream::serve::{IndexReport, SearchIndexError, bring_up_to_date};
use tagstream_core::error::{Exit, WithExit, usage};
use tagstream_core::process::priority;
use tagstream_core::storage::store::TableStore;

/// Arguments of `tagstream search-index`.
#[derive(Debug, Args)]
pub(super) struct SearchIndexArgs {
    /// Configuration file of the pages: `tables.url`, `tables.predictions`, `[object_store]`.
    #[arg(long, env = "TAGSTREAM_SERVE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(super) fn run(args: SearchIndexArgs) -> anyhow::Result<Exit> {
    let loaded = super::config::load::<ServeConfig>(args.config.as_deref())?;
    loaded.refuse(Vec::new()).map_err(refused)?;
    let config = loaded.config;
    if config.tables.url.is_empty() {
        return Err(usage("tables.url is empty: it names where the table is").into());
    }
    telemetry::init(&config.log).map_err(|error| usage(error.to_string()))?;
    // Nobody waits for it; a stage on the same machine must not.
    priority::lower();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    let report = runtime.block_on(build(&config))?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(Exit::Success)
}

async fn build(config: &ServeConfig) -> anyhow::Result<IndexReport> {
    let tables = &config.tables;
    let store = TableStore::open_for_reading(&tables.url, &config.object_store);
    let store = store.map_err(|error| match error.is_usage() {
        true => usage(format!("tables.url: {error}")).into(),
        false => anyhow::Error::from(error),
    })?;
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} files {elapsed} (left: {eta})");
    bar.set_style(style.context("the bar's form")?);
    let step = |read: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(read as u64);
    };
    let report = bring_up_to_date(&store, &tables.predictions, step).await;
    bar.finish_and_clear();
    report.map_err(|error| {
        let exit = match &error {
            SearchIndexError::NotBuilt => Exit::Usage,
            error if error.is_transient() => Exit::Temporary,
            _ => Exit::Failure,
        };
        let message = error.to_string();
        WithExit { exit, message }.into()
    })
}

fn print(report: &IndexReport) {
    let read = match (report.files_read, report.anew) {
        (0, _) => "nothing is new".to_owned(),
        (files, true) => format!("built anew from {files} files"),
        (files, false) => format!("{} rows of {files} new files added", report.rows_added),
    };
    eprintln!(
        "{} files, {} rows, {} bytes: {read}; {} rows are of files that have gone",
        report.files, report.rows, report.bytes, report.rows_gone
    );
}
