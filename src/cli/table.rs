//! `tagstream table`: what is done to the files of a table, beside writing them.

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use tagstream::stage::sink::chain::WriterId;
use tagstream::stage::sink::expire::{ExpireError, Expired, Expiry, HOLD, expire};
use tagstream_core::config::StageConfig;
use tagstream_core::error::{Exit, WithExit, usage};
use tagstream_core::storage::store::TableStore;

/// Arguments of `tagstream table`.
#[derive(Debug, Args)]
pub(super) struct TableArgs {
    #[command(subcommand)]
    pub command: TableCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum TableCommand {
    /// Delete the rows of old files, and keep what the stage needs to go on without writing any row
    /// twice. Safe while stages write; run it as often as you like.
    Expire(ExpireArgs),
}

/// Arguments of `tagstream table expire`.
#[derive(Debug, Args)]
pub(super) struct ExpireArgs {
    /// The stage's configuration file: `output.url`, `output.table`, `[object_store]`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Files that were written longer ago than this: 90d, 12h, 30m.
    #[arg(long, value_name = "TIME", value_parser = super::retrain::duration)]
    pub older_than: Duration,
    /// The table; `output.table` if missing. Rows of the label table are the labels themselves.
    #[arg(long, value_name = "NAME")]
    pub table: Option<String>,
    /// Say what would go, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(super) fn run(args: TableArgs) -> anyhow::Result<Exit> {
    let TableCommand::Expire(args) = args.command;
    let config = super::config::load::<StageConfig>(args.config.as_deref())?.config;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    runtime.block_on(expire_table(&args, &config))
}

fn ago(time: Duration) -> anyhow::Result<DateTime<Utc>> {
    let time = TimeDelta::from_std(time).ok();
    time.and_then(|time| Utc::now().checked_sub_signed(time))
        .ok_or_else(|| usage("--older-than lies before all calendars").into())
}

async fn expire_table(args: &ExpireArgs, config: &StageConfig) -> anyhow::Result<Exit> {
    let output = &config.output;
    let store = TableStore::open_for_reading(&output.url, &config.object_store);
    let store = store.map_err(|error| match error.is_usage() {
        true => usage(error.to_string()).into(),
        false => anyhow::Error::from(error),
    })?;
    let expiry = Expiry {
        before: ago(args.older_than)?,
        free_before: ago(HOLD)?,
        dry_run: args.dry_run,
        writer: WriterId(format!("table-expire-{:016x}", rand::random::<u64>())),
    };
    let table = args.table.as_ref().unwrap_or(&output.table);
    let expired = expire(&store, table, &expiry).await.map_err(|error| {
        let exit = match &error {
            ExpireError::NoTable { .. } => Exit::Usage,
            error if error.is_transient() => Exit::Temporary,
            _ => Exit::Failure,
        };
        let message = error.to_string();
        WithExit { exit, message }
    })?;
    if args.json {
        println!("{}", serde_json::to_string(&expired)?);
    } else {
        print(&expired, args.dry_run);
    }
    Ok(Exit::Success)
}

fn print(expired: &[Expired], dry_run: bool) {
    let would = if dry_run { "would go" } else { "gone" };
    let mut all = Expired::default();
    for of in expired {
        let floor = of.floor.map_or_else(String::new, |(epoch, offset)| {
            format!("; offsets below {offset} of epoch {epoch} have expired")
        });
        eprintln!(
            "{}: {} files, {} rows, {} bytes {would}, {} names freed{floor}",
            of.folder, of.files, of.rows, of.bytes, of.freed
        );
        all.files += of.files;
        all.rows += of.rows;
        all.bytes += of.bytes;
        all.freed += of.freed;
    }
    eprintln!(
        "all: {} files, {} rows, {} bytes {would}, {} names freed",
        all.files, all.rows, all.bytes, all.freed
    );
}
