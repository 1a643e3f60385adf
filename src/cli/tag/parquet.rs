//! `tagstream tag --parquet OUT`: a folder, a list or a prefix of a bucket into the predictions
//! table, by the stage's own line, without Kafka.

use super::TagArgs;
use crate::cli::listing;
use crate::cli::run::{control_by_signals, ended, task_threads};
use anyhow::Context as _;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tagstream::ops;
use tagstream::stage::infer::Engine;
use tagstream::stage::pipeline::{EngineModel, ListingRun, StageStatus, TagColumns, run_listing};
use tagstream::stage::sink::files::FileSink;
use tagstream::stage::sink::kept_listing::{KeptListing, KeptListingError, ListingChanges};
use tagstream::stage::sink::letter_file::LetterFile;
use tagstream::stage::sink::predictions::PredictionRow;
use tagstream::stage::source::Listing;
use tagstream_core::config::{FetchConfig, SourceConfig, StageConfig};
use tagstream_core::error::{Exit, WithExit, usage};
use tagstream_core::events::{ImageReference, Offset};
use tagstream_core::process::blocking;
use tagstream_core::redact::redact_place;
use tagstream_core::storage::store::TableStore;
use tagstream_model as model;

/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// How often it is told where nobody looks at a bar.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// What becomes of a list that is another one than when its table was begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Changed {
    /// Say what changed, and do nothing.
    #[default]
    Refuse,
    /// Take new images behind the others.
    Append,
    /// Go on with the list as it was.
    Keep,
}

/// Runs the command.
pub(super) fn run(args: &TagArgs, out: &str) -> anyhow::Result<Exit> {
    let [input] = &args.inputs[..] else {
        let message = "--parquet takes one folder, list or address; a list may name many";
        return Err(usage(message).into());
    };
    tagstream::process::arenas::bound();
    let config = configured(args, out)?;
    ops::telemetry::init(&config.log).map_err(|e| usage(e.to_string()))?;
    ops::metrics::install();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(task_threads()?)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(work(args, input, &config));
    runtime.shutdown_background();
    outcome
}

/// The stage's configuration for this: whoever types an address on the command line may read it.
fn configured(args: &TagArgs, out: &str) -> anyhow::Result<StageConfig> {
    let mut config = crate::cli::config::load::<StageConfig>(args.config.as_deref())?.config;
    if args.config.is_none() && std::env::var_os("TAGSTREAM_LOG__FILTER").is_none() {
        config.log.filter = "warn".into();
    }
    config.output.url = out.to_owned();
    config.model.path.clone_from(&args.model);
    config.source = SourceConfig::default();
    config.fetch = FetchConfig {
        allow_schemes: ["file", "s3", "gs", "az", "http", "https", "data"]
            .map(String::from)
            .to_vec(),
        allow_hosts: Vec::new(),
        allow_buckets: vec!["*".into()],
        allow_path_prefixes: vec!["/".into()],
        allow_private_addresses: true,
        ..config.fetch
    };
    Ok(config)
}

async fn work(args: &TagArgs, input: &str, config: &StageConfig) -> anyhow::Result<Exit> {
    let control = control_by_signals()?;
    let found = listing::images(input, &args.naming, &config.object_store).await?;
    let opened = TableStore::open(&config.output.url, &config.object_store).await;
    let store = opened.map_err(|error| store_exit(error.is_transient(), error.to_string()))?;
    let listing = Arc::new(kept(args, &store, &config.output.table, found).await?);
    let letters = Arc::new(LetterFile::at(letter_path(args, config), &listing.id));
    let sink = FileSink::<PredictionRow>::new(
        store.clone(),
        config.output.table.as_str(),
        config.output.format,
    );
    let reached = sink.reached(&listing.partition, &listing.log()).await;
    let begun_at = reached.map_err(|e| store_exit(e.is_transient(), e.to_string()))?;
    let begun_at = begun_at.unwrap_or(Offset(0));
    let status = Arc::<StageStatus>::default();
    if begun_at < listing.end() {
        let engine = engine(config).await?;
        let run = ListingRun {
            store: store.clone(),
            listing: Arc::clone(&listing),
            letters: Arc::clone(&letters),
        };
        let line = run_listing(config, engine, &run, Arc::clone(&status), control);
        tokio::select! {
            outcome = line => outcome.map_err(ended)?,
            never = show(&status, begun_at, listing.end()) => match never? {},
        }
    }
    let reached = sink.reached(&listing.partition, &listing.log()).await;
    let reached = reached.map_err(|e| store_exit(e.is_transient(), e.to_string()))?;
    summary(&listing, reached.unwrap_or(begun_at), &status, &letters)
}

fn store_exit(is_transient: bool, message: String) -> WithExit {
    let exit = match is_transient {
        true => Exit::Temporary,
        false => Exit::Failure,
    };
    WithExit { exit, message }
}

async fn engine(config: &StageConfig) -> anyhow::Result<Arc<EngineModel>> {
    let opened = model::open(&config.model.path, &config.object_store).await;
    let opened = opened
        .with_context(|| format!("opening the model `{}`", redact_place(&config.model.path)))?;
    let bundle = opened.into_bundle()?;
    let (settings, columns) = (config.model.clone(), TagColumns::of(&config.output));
    let engine =
        blocking::run(move || Engine::start_with(&settings, &bundle, columns.region_embeddings))
            .await
            .context("starting the model")??;
    Ok(Arc::new(EngineModel::new(engine, columns)))
}

/// The list as it is kept: what was found now decides about it only where nothing was kept before,
/// or so far as was asked for.
async fn kept(
    args: &TagArgs,
    store: &TableStore,
    table: &str,
    found: Vec<ImageReference>,
) -> anyhow::Result<Listing> {
    let failed = |error: KeptListingError| match &error {
        KeptListingError::Store(e) => store_exit(e.is_transient(), error.to_string()),
        KeptListingError::Overtaken { .. } => store_exit(true, error.to_string()),
        _ => store_exit(false, error.to_string()),
    };
    let keeps = KeptListing::of(store, table, &args.name);
    let Some(listing) = keeps.read().await.map_err(failed)? else {
        if found.is_empty() {
            return Err(usage("there are no images").into());
        }
        return Ok(keeps.begin(found).await.map_err(failed)?);
    };
    let changes = ListingChanges::between(&listing.images, found);
    if changes.is_empty() {
        return Ok(listing);
    }
    let told = format!(
        "the images are not those that the list `{}` of {} was begun with on {}: {} are new, {} \
         are gone, {} have another address",
        args.name,
        store.url(),
        listing.created.format("%Y-%m-%d %H:%M"),
        changes.added.len(),
        changes.gone,
        changes.moved
    );
    match args.changed {
        Changed::Refuse => Err(usage(format!(
            "{told}. `--changed append` takes new ones behind the others, `--changed keep` goes \
             on with the list as it was, `--name NAME` begins another list in the same table"
        ))
        .into()),
        Changed::Append if !changes.added.is_empty() => {
            eprintln!("{told}; the new ones come behind the others");
            let all = keeps.append(listing, changes.added).await;
            Ok(all.map_err(failed)?)
        }
        _ => {
            eprintln!("{told}; going on with the list as it was");
            Ok(listing)
        }
    }
}

/// A name as topics have them, for it stands where theirs do.
pub(super) fn list_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
    match !text.is_empty()
        && text.len() <= 200
        && text.chars().all(fits)
        && text != "."
        && text != ".."
    {
        true => Ok(text.to_owned()),
        false => Err("a name is made of letters, digits, `.`, `_` and `-`".into()),
    }
}

/// Where dead letters go: beside the table, if that is a folder here.
fn letter_path(args: &TagArgs, config: &StageConfig) -> PathBuf {
    if let Some(path) = &args.dead_letters {
        return path.clone();
    }
    let name = format!("{}-dead-letters.jsonl", args.name);
    let url = &config.output.url;
    let folder = url.strip_prefix("file://").unwrap_or(url);
    match folder.contains("://") {
        true => PathBuf::from(name),
        false => PathBuf::from(folder).join(name),
    }
}

/// Never ends.
enum Endless {}

async fn show(status: &StageStatus, from: Offset, end: Offset) -> anyhow::Result<Endless> {
    let all = u64::try_from(end.0 - from.0).unwrap_or_default();
    let on_screen = std::io::stderr().is_terminal();
    let bar = match on_screen {
        true => ProgressBar::new(all),
        false => ProgressBar::hidden(),
    };
    bar.set_style(ProgressStyle::with_template(
        "  tagging {bar:40} {pos}/{len} ({per_sec}, {eta} left)",
    )?);
    let mut told = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(SHOW_EVERY).await;
        let reached = status.partitions().into_values().next();
        let done = reached.map_or(0, |at| u64::try_from(at.0 - from.0).unwrap_or_default());
        bar.set_position(done);
        if !on_screen && told.elapsed() >= TELL_EVERY {
            told = tokio::time::Instant::now();
            eprintln!("{done} of {all} images are in the table");
        }
    }
}

fn summary(
    listing: &Listing,
    reached: Offset,
    status: &StageStatus,
    letters: &LetterFile,
) -> anyhow::Result<Exit> {
    let kinds = letters.kinds()?;
    let lost: u64 = kinds.values().sum();
    let (end, rows) = (listing.end(), status.rows.load(Ordering::Relaxed));
    let files = status.files.load(Ordering::Relaxed);
    let done = reached.0;
    eprintln!(
        "{done} of {} images of the list `{}` are done: {rows} rows in {files} files by this run",
        end.0, listing.partition.topic
    );
    if lost > 0 {
        let kinds: Vec<String> = kinds.iter().map(|(k, n)| format!("{n} {k}")).collect();
        eprintln!(
            "{lost} images came to nothing ({}): see {}",
            kinds.join(", "),
            letters.path().display()
        );
    }
    Ok(match (reached < end, lost) {
        (true, _) => {
            eprintln!("broken off: run the same command again to go on");
            Exit::Temporary
        }
        (false, 0) => Exit::Success,
        (false, _) => Exit::Failure,
    })
}
