//! `tagstream run`: the stage: image references in, Parquet and tags out.

mod serve;

use super::config::{checks, refused};
use super::news::Teller;
use anyhow::Context;
use clap::Args;
use serve::Shown;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tagstream::ops;
use tagstream::stage::infer::Engine;
use tagstream::stage::pipeline;
use tagstream::stage::pipeline::{
    Control, EngineModel, LABELS_BUDGET_MIB, LineError, PipelineError, RunOptions, StageStatus,
    TagColumns,
};
use tagstream::stage::sink::repair::Repair;
use tagstream::stage::source::{ImageTopics, SourceError};
use tagstream::stage::trace;
use tagstream::stage::trace::Traces;
use tagstream::stage::watch::{Look, Watch};
use tagstream_core::config::StageConfig;
use tagstream_core::error::{Exit, WithExit, usage};
use tagstream_core::events::DeadLetterKind;
use tagstream_core::process::blocking;
use tagstream_model as model;
use tagstream_model::bundle::Bundle;
use tagstream_model::registry::{Cache, Location, Registry, VersionChoice};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Arguments of `tagstream run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Configuration file; every key stands with its default in configs/stage.toml.
    #[arg(long, env = "TAGSTREAM_CONFIG")]
    pub config: Option<PathBuf>,
    /// Model: bundle directory or registry-url[@version]; overrides `model.path`.
    #[arg(long)]
    pub model: Option<String>,
    /// Run one part only.
    #[arg(long, value_name = "PART", value_parser = ["images", "labels"])]
    pub only: Option<String>,
    /// End when every partition of the topic is in files up to its end as of the start, whichever
    /// process of the group wrote them (for back-fills and tests).
    #[arg(long)]
    pub until_drained: bool,
    /// End the chain of files of a partition that ends at END, and go on at another offset (see
    /// docs/runbook.md). Does nothing if that was done before. May be repeated.
    #[arg(long, value_name = "TOPIC/PARTITION@END=earliest|latest|OFFSET")]
    pub new_epoch: Vec<String>,
    /// Record that retention deleted messages after END before they were read, and go on at the
    /// log's beginning. Does nothing if that was done before. May be repeated.
    #[arg(long, value_name = "TOPIC/PARTITION@END")]
    pub accept_gap: Vec<String>,
    /// Put the group's offset back to END, where the files end, after somebody has moved it. May be
    /// repeated.
    #[arg(long, value_name = "TOPIC/PARTITION@END")]
    pub restore_offset: Vec<String>,
}

/// Runs the command.
pub(super) fn run(args: RunArgs) -> anyhow::Result<Exit> {
    tagstream::process::arenas::bound();
    let loaded = super::config::load::<StageConfig>(args.config.as_deref())?;
    let mut config = loaded.config.clone();
    if let Some(model) = &args.model {
        config.model.path = model.clone();
    }
    let images = args.only.as_deref() != Some("labels");
    let labels = match args.only.as_deref() {
        Some(only) => only == "labels",
        None => config.labels.enabled,
    };
    if images && config.model.path.is_empty() {
        return Err(usage("no model: name one with --model or `model.path`").into());
    }
    if images {
        let flaws = checks::model_path(&config);
        match (&args.model, flaws.first()) {
            (Some(_), Some(flaw)) => return Err(usage(format!("--model {}", flaw.reason)).into()),
            _ => loaded.refuse(flaws).map_err(refused)?,
        }
    }
    let mut options = RunOptions {
        until_drained: args.until_drained,
        repairs: repairs_of(&args)?,
        ..RunOptions::default()
    };
    // The model takes seconds to load: what would be refused after it is refused before.
    let mut flaws = checks::properties(&config.kafka.properties);
    flaws.extend(trace::flaw(&config.trace));
    loaded.refuse(flaws).map_err(refused)?;
    ops::telemetry::init(&config.log).map_err(|e| usage(e.to_string()))?;
    // Before anything counts.
    ops::metrics::install();
    tagstream::process::priority::throughput();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // tokio's own variable.
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        runtime.worker_threads(task_threads()?);
    }
    let runtime = runtime.enable_all().build()?;
    let teller = Arc::new(Teller::new(&config.notify, "run")?);
    let outcome = runtime.block_on(async {
        let outcome = async {
            options.traces = Traces::start(&config.trace)?;
            stage(&config, &options, (images, labels), &teller).await
        };
        let outcome = outcome.await;
        options.traces.finish().await;
        teller.stopped(&outcome).await;
        outcome
    });
    // Tasks that hang in a system call must not keep a stage from ending that has committed all it
    // could.
    runtime.shutdown_background();
    match outcome {
        // Once, and where the rest of the log is, unless the log is silent.
        Err(error) if tracing::enabled!(tracing::Level::ERROR) => {
            tracing::error!("the stage ended: {}", super::said_once(&error));
            Ok(super::exit_of(&error))
        }
        outcome => outcome,
    }
}

/// What the operator says to do with chains, before anything is read.
fn repairs_of(args: &RunArgs) -> anyhow::Result<Vec<Repair>> {
    let skips = args.new_epoch.iter().map(|text| Repair::new_epoch(text));
    let gaps = args.accept_gap.iter().map(|text| Repair::accept_gap(text));
    let restored = args.restore_offset.iter();
    let restored = restored.map(|text| Repair::restore_offset(text));
    let repairs = skips.chain(gaps).chain(restored);
    let repairs = repairs.collect::<Result<Vec<_>, _>>();
    Ok(repairs.map_err(|e| usage(e.to_string()))?)
}

/// Threads for tasks: what is fetched, parsed and sent. Decoding, inference and encoding files have
/// their own, and more threads here would only wake each other for the little that is left.
pub(super) fn task_threads() -> anyhow::Result<usize> {
    let cores = std::thread::available_parallelism()?.get();
    Ok((cores / 4).max(2))
}

async fn stage(
    config: &StageConfig,
    options: &RunOptions,
    (images, labels): (bool, bool),
    teller: &Arc<Teller>,
) -> anyhow::Result<Exit> {
    let control = control_by_signals()?;
    let of_images = ImageTopics::of(&config.source).map_err(refused)?;
    let is_read = |topic: &str| {
        (images && of_images.takes(topic)) || (labels && config.labels.topic == topic)
    };
    if let Some(skip) = options
        .repairs
        .iter()
        .find(|s| !is_read(&s.partition.topic))
    {
        let message = format!(
            "{} belongs to no topic that this stage reads",
            skip.partition
        );
        return Err(usage(message).into());
    }
    let of_topics = |takes: &dyn Fn(&str) -> bool| RunOptions {
        repairs: options
            .repairs
            .iter()
            .filter(|s| takes(&s.partition.topic))
            .cloned()
            .collect(),
        ..options.clone()
    };
    let shown = Shown {
        images: images.then(Arc::default),
        labels: labels.then(Arc::default),
        engine: Arc::default(),
        control: control.clone(),
    };
    let _port = serve::start(config, &shown).await?;
    let label_line = async {
        let Some(status) = shown.labels.clone() else {
            return Ok(());
        };
        let options = of_topics(&|topic| topic == config.labels.topic);
        let line = pipeline::run_labels(config, &options, Arc::clone(&status), control.clone());
        let line = async { line.await.map_err(ended) };
        unless_told_to_end(&control, &status, line).await
    };
    let image_line = async {
        let Some(status) = shown.images.clone() else {
            return Ok(());
        };
        let mut config = config.clone();
        if labels {
            // One bound for the process.
            let rest = config.memory.budget_mib.saturating_sub(LABELS_BUDGET_MIB);
            config.memory.budget_mib = rest;
        }
        let options = of_topics(&|topic| of_images.takes(topic));
        let line = image_line(&config, &options, (&status, &shown), teller);
        unless_told_to_end(&control, &status, line).await
    };
    let outcome = tokio::try_join!(image_line, label_line);
    // A line that ended because the other did said nothing.
    options.lives.end_all().await;
    outcome?;
    Ok(Exit::Success)
}

/// Runs a line. One that is told to end before it has begun, because a store, a registry or a
/// broker keeps it waiting, has nothing to finish and ends at once.
async fn unless_told_to_end(
    control: &watch::Receiver<Control>,
    status: &StageStatus,
    line: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut control = control.clone();
    let told = async {
        let heard = control.wait_for(|told| *told == Control::Drain).await;
        if heard.is_err() || status.has_begun() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        outcome = line => outcome,
        () = told => {
            tracing::info!("told to end before anything was read");
            Ok(())
        }
    }
}

async fn image_line(
    config: &StageConfig,
    options: &RunOptions,
    (status, shown): (&Arc<StageStatus>, &Shown),
    teller: &Arc<Teller>,
) -> anyhow::Result<()> {
    let opened = model::open(&config.model.path, &config.object_store).await?;
    let bundle = opened.into_bundle()?;
    let (settings, columns) = (config.model.clone(), TagColumns::of(&config.output));
    let engine =
        blocking::run(move || Engine::start_with(&settings, &bundle, columns.region_embeddings))
            .await
            .context("starting the model")??;
    let following = follow_registry(config, engine.clone(), Arc::clone(teller)).await?;
    // Set nowhere else.
    let _ = shown.engine.set(engine.clone());
    let model = Arc::new(EngineModel::new(engine, columns));
    let line_status = Arc::clone(status);
    let line = pipeline::run(config, model, options, line_status, shown.control.clone());
    let outcome = tokio::select! {
        outcome = line => outcome,
        // Follows for ever.
        () = following => Ok(()),
    };
    outcome.map_err(ended)?;
    match options.until_drained {
        true => outlasted(status),
        false => Ok(()),
    }
}

/// A run to the end is not done well if messages were given up that nothing is wrong with.
fn outlasted(status: &StageStatus) -> anyhow::Result<()> {
    let letters = status.dead_letters();
    let Some(count) = letters.get(&DeadLetterKind::Outage) else {
        return Ok(());
    };
    let message = format!(
        "everything is in files or dead letters, but {count} messages were given up because their \
         hosts were down for longer than they are waited for (`fetch.outage_wait_ms`); \
         `tagstream dead-letters replay --kind outage` sends them again"
    );
    Err(WithExit {
        exit: Exit::Failure,
        message,
    }
    .into())
}

/// Follows the registry that the model came from, if it came from one and no version was named.
async fn follow_registry(
    config: &StageConfig,
    engine: Engine,
    teller: Arc<Teller>,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let spec = &config.model.path;
    let location = Location::parse(spec);
    let follows = config.model.watch_interval_ms > 0
        && location.version == VersionChoice::Current
        && Location::is_registry(spec)
        && !Bundle::is_at(spec);
    let watch = if follows {
        let registry = Registry::open(&location.url, &config.object_store).await?;
        Some(Watch::new(registry, Cache::default_location(), engine))
    } else {
        None
    };
    let interval = Duration::from_millis(config.model.watch_interval_ms);
    let registry = location.url;
    Ok(async move {
        match watch {
            Some(watch) => {
                let told = |look: &Look| teller.looked(&registry, look);
                watch.run_and_tell(interval, told).await;
            }
            None => std::future::pending().await,
        }
    })
}

pub(super) fn ended(error: PipelineError) -> anyhow::Error {
    let of_source = match &error {
        PipelineError::Source(error) | PipelineError::Line(LineError::Source(error)) => Some(error),
        _ => None,
    };
    let exit = match &error {
        _ if error.is_temporary() => Exit::Temporary,
        PipelineError::Config(_) | PipelineError::NoPartition(_) => Exit::Usage,
        PipelineError::Producer(_) => Exit::Usage,
        PipelineError::Store(error) if error.is_usage() => Exit::Usage,
        _ if of_source.is_some_and(SourceError::is_usage) => Exit::Usage,
        _ => Exit::Failure,
    };
    let message = error.to_string();
    WithExit { exit, message }.into()
}

/// The first SIGTERM or SIGINT drains, the second ends the process at once.
pub(super) fn control_by_signals() -> anyhow::Result<watch::Receiver<Control>> {
    let (sender, control) = watch::channel(Control::Run);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for pass in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if pass > 0 {
                tracing::warn!(
                    "second signal: ending at once; what is not committed is read again by the \
                     next run"
                );
                Exit::Failure.end_process();
            }
            // Fails only when the stage has ended by itself.
            let _ = sender.send(Control::Drain);
        }
    });
    Ok(control)
}
