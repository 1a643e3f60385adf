//! `tagstream bench`: the stage from broker to Parquet beside what it is made of, on the same
//! pictures and the same model.
//!
//! Every repetition measures, one after the other: (a) the bare model in a loop on ready tensors,
//! with every core; (b) decoding and resizing alone, with every core; (c) the whole stage, a
//! process of its own; (a) and (b) once more; and, if one is named, (d) another program that does
//! the stage's work. docs/performance.md explains the figures.

mod ceiling;
mod cluster;
mod gpu;
mod host;
mod http;
mod parity;
mod pictures;
mod process;
mod report;
mod subject;
mod table;

use super::installed::demo_clip;
use anyhow::{Context, ensure};
use ceiling::Side;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tagstream_core::config::{ModelConfig, ObjectStoreConfig, Provider};
use tagstream_core::error::{Exit, usage};
use tagstream_model::bundle::Bundle;
use tagstream_model::init::{CategoryList, ClipFolder, Init};
use tagstream_model::runtime::{Device, Runtime};
use tagstream_model::session::SessionOptions;
use tagstream_model::tagger::{HeadRows, Tagger, TaggerOptions};

/// Arguments of `tagstream bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Model: a bundle directory or registry-url[@version]. Default: the demo model, made
    /// zero-shot.
    #[arg(long)]
    pub model: Option<String>,
    /// Folder of pictures. Default: pictures like photographs, generated.
    #[arg(long)]
    pub images: Option<PathBuf>,
    /// How many pictures are generated, or taken from the folder at most.
    #[arg(long, default_value_t = 48)]
    pub pictures: usize,
    /// Size of generated pictures, megapixels.
    #[arg(long, default_value_t = 1.0)]
    pub megapixels: f64,
    /// Brokers of a real Kafka. Default: an embedded one.
    #[arg(long)]
    pub brokers: Option<String>,
    /// Partitions of the topics.
    #[arg(long, default_value_t = 4)]
    pub partitions: i32,
    /// Repetitions of every measurement.
    #[arg(long, default_value_t = 3)]
    pub repeat: usize,
    /// How long one measurement is meant to take, seconds.
    #[arg(long, default_value_t = 6.0)]
    pub seconds: f64,
    /// Execution provider.
    #[arg(long, value_enum, default_value_t = ProviderName::Cpu)]
    pub provider: ProviderName,
    /// Load of the latency measurement, as a share of the measured throughput; 0: none.
    #[arg(long, default_value_t = 0.7)]
    pub latency_load: f64,
    /// Measure the model over HTTP (`tagstream serve`) instead of the stage: latency, and images a
    /// second beside the bare model.
    #[arg(long, conflicts_with_all = ["brokers", "peer", "partitions"])]
    pub http: bool,
    /// A program that does the same work, to be measured beside the stage; called with --brokers,
    /// --topic, --group, --model, --predictions-topic and --out.
    #[arg(long)]
    pub peer: Option<PathBuf>,
    /// A model with which what is measured is compared first, on the processor: that of 32 bits,
    /// for one of 16 bits or on a GPU.
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<String>,
    /// A name for this run, kept in the JSON.
    #[arg(long, default_value = "default")]
    pub case: String,
    /// Append the JSON object to this file, one line.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Where files of the runs go; must not exist. Default: a folder that is removed at the end.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// `--provider`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProviderName {
    /// The processor.
    Cpu,
    /// CUDA.
    Cuda,
    /// TensorRT.
    Tensorrt,
}

impl From<ProviderName> for Provider {
    fn from(name: ProviderName) -> Self {
        match name {
            ProviderName::Cpu => Provider::Cpu,
            ProviderName::Cuda => Provider::Cuda,
            ProviderName::Tensorrt => Provider::Tensorrt,
        }
    }
}

/// A folder that goes with its guard.
struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new(out: Option<&Path>) -> anyhow::Result<Self> {
        let path = match out {
            Some(path) => {
                ensure!(!path.exists(), usage(format!("{} exists", path.display())));
                path.to_owned()
            }
            None => std::env::temp_dir().join(format!(
                "tagstream-bench-{}-{:08x}",
                std::process::id(),
                rand::random::<u32>()
            )),
        };
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Scratch {
            path: path.canonicalize()?,
            keep: out.is_some(),
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed is left to the system's cleaner.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs the command.
pub(super) fn run(args: BenchArgs) -> anyhow::Result<Exit> {
    check(&args)?;
    let scratch = Scratch::new(args.out.as_deref())?;
    let bundle = model(args.model.as_deref(), &scratch.path)?;
    let pictures = pictures::Pictures::collect(&args, &scratch.path)?;

    let runtime = Runtime::load()?;
    let device = runtime.resolve(args.provider.into(), 0)?;
    // The stage finds the engines that were built here.
    let engines = matches!(device, Device::Tensorrt(_)).then(|| scratch.path.join("engines"));
    let options = as_the_stage(device, engines.clone());
    let compared = args.reference.as_deref().map(|reference| {
        let session = &options.session;
        parity::Comparison::make(&runtime, &bundle, session, reference, &pictures)
    });
    let compared = compared.transpose()?;
    let opening = Instant::now();
    let tagger = Tagger::open(&runtime, &bundle, options, None)?;
    let model_load_seconds = opening.elapsed().as_secs_f64();
    let bench = ceiling::Bench::new(&tagger, &pictures)?;
    let batch = bench.best_batch(Duration::from_secs_f64((args.seconds / 6.0).min(2.0)))?;
    if args.http {
        let subjects = http::Subjects {
            args: &args,
            bundle: &bundle,
            tagger: &tagger,
            pictures: &pictures,
            scratch: &scratch.path,
            bench: &bench,
            batch,
        };
        http::run(&subjects)?;
        return Ok(Exit::Success);
    }
    let cluster = cluster::Cluster::open(args.brokers.as_deref())?;

    let third = Duration::from_secs_f64(args.seconds / 3.0);
    let first = bench.measure(batch, third, Side::Before)?;
    let images = ((first.shared() * args.seconds) as usize).clamp(64, 200_000);
    let world = subject::World {
        cluster: &cluster,
        pictures: &pictures,
        bundle: bundle.root(),
        scratch: &scratch.path,
        partitions: args.partitions,
        provider: args.provider.into(),
        on_gpu: device.is_gpu(),
        engines,
    };
    let load = subject::Load::flood(images, tagger.workers() * batch.max(4) * 2);
    let (ceilings, outcomes) = repeat(&args, &bench, batch, &world, &load)?;
    let paced = (args.latency_load > 0.0)
        .then(|| under_share(&args, &world, &outcomes[0], load.warm))
        .transpose()?;
    let report = report::Report {
        args: &args,
        bundle: &bundle,
        tagger: &tagger,
        model_load_seconds,
        compared: compared.as_ref(),
        pictures: &pictures,
        batch,
        images,
        ceilings: &ceilings,
        stage: &outcomes[0],
        peer: outcomes.get(1).map(Vec::as_slice),
        paced: paced.as_ref(),
        broker: cluster.kind(),
        bytes: bench.bytes_per_image()?,
    };
    publish(&args, &report.json(), || report.print())?;
    Ok(Exit::Success)
}

/// Refuses numbers with which nothing could be measured, before anything is written or loaded.
fn check(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!(args.repeat > 0, usage("--repeat: at least 1"));
    ensure!(args.partitions > 0, usage("--partitions: at least 1"));
    ensure!(
        args.seconds > 0.0 && args.seconds.is_finite(),
        usage("--seconds: more than 0")
    );
    ensure!(
        (0.0..1.0).contains(&args.latency_load),
        usage("--latency-load: at least 0 and less than 1")
    );
    Ok(())
}

/// Options with which the bare model does per image what it does in the stage.
fn as_the_stage(device: Device, engines: Option<PathBuf>) -> TaggerOptions {
    TaggerOptions {
        rows: HeadRows::Best {
            count: ModelConfig::default().max_tags,
            regions: false,
        },
        session: SessionOptions {
            engine_cache: engines,
            ..SessionOptions::on(device)
        },
        ..TaggerOptions::on(device)
    }
}

/// The ceilings of every repetition, and the outcomes subject by subject: the stage's first, then
/// the peer's if there is one.
fn repeat(
    args: &BenchArgs,
    bench: &ceiling::Bench<'_>,
    batch: usize,
    world: &subject::World<'_>,
    load: &subject::Load,
) -> anyhow::Result<(Vec<ceiling::Ceiling>, Vec<Vec<subject::Outcome>>)> {
    let mut subjects = vec![subject::Subject::Stage];
    subjects.extend(args.peer.clone().map(subject::Subject::Peer));
    let mut ceilings = Vec::new();
    let mut outcomes: Vec<Vec<subject::Outcome>> = subjects.iter().map(|_| Vec::new()).collect();
    let half = Duration::from_secs_f64(args.seconds / 2.0);
    for repetition in 1..=args.repeat {
        let before = bench.measure(batch, half, Side::Before)?;
        for (subject, outcomes) in subjects.iter().zip(&mut outcomes) {
            let outcome = world.run(subject, load)?;
            if matches!(subject, subject::Subject::Stage) {
                // A machine's speed drifts; what the stage is compared with is measured on both
                // sides of it.
                let around = before.mean(&bench.measure(batch, half, Side::After)?);
                eprintln!(
                    "repetition {repetition}: model alone {:.1}/s, decoding alone {:.1}/s",
                    around.model, around.decode
                );
                ceilings.push(around);
            }
            eprintln!(
                "repetition {repetition}: {} {:.1}/s, {:.0} MiB",
                subject.name(),
                outcome.images_per_second,
                outcome.peak_memory_bytes as f64 / f64::from(1 << 20)
            );
            outcomes.push(outcome);
        }
    }
    Ok((ceilings, outcomes))
}

/// The stage once more, with references sent evenly at a share of the rate that `flooded` reached:
/// latency says nothing while a queue stands before the stage.
fn under_share(
    args: &BenchArgs,
    world: &subject::World<'_>,
    flooded: &[subject::Outcome],
    warm: usize,
) -> anyhow::Result<subject::Outcome> {
    let middle = report::median(flooded.iter().map(|o| o.images_per_second)).middle;
    let rate = middle * args.latency_load;
    let images = ((rate * args.seconds) as usize).max(32);
    world.run(
        &subject::Subject::Stage,
        &subject::Load::paced(images, warm, rate),
    )
}

/// The figures to everywhere they were asked for; the log first, so that it has them even if
/// nobody reads what is printed.
fn publish(
    args: &BenchArgs,
    figures: &serde_json::Value,
    print: impl FnOnce(),
) -> anyhow::Result<()> {
    if let Some(path) = &args.log {
        report::append(path, figures)?;
    }
    if args.json {
        println!("{figures}");
    }
    print();
    Ok(())
}

/// The model to measure, as a bundle on this machine.
fn model(spec: Option<&str>, scratch: &Path) -> anyhow::Result<Bundle> {
    if let Some(spec) = spec {
        return Ok(super::open_model(spec, &ObjectStoreConfig::default())?.into_bundle()?);
    }
    let folder = demo_clip();
    ensure!(
        folder.is_dir(),
        usage(format!(
            "no demo model at {}: run this in the repository, or name a model with --model",
            folder.display()
        ))
    );
    let names = scratch.join("categories.txt");
    std::fs::write(&names, tagstream::demo::scenes::categories().join("\n"))?;
    let categories = CategoryList::read(&names)?;
    let clip = ClipFolder::open(&folder)?;
    let init = Init {
        clip: &clip,
        name: "demo-clip",
        source: "demo-clip",
        categories: &categories,
        tower: Default::default(),
        views: tagstream_model::views::Views::default(),
        fit: Default::default(),
    };
    Ok(init.run(&scratch.join("model"), |_| ())?)
}
