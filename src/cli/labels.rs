//! `tagstream labels`: partial labels from and to files and the topic.

mod import;

pub(super) use import::NamingArgs;

use anyhow::Context;
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tagstream::labelling::publish;
use tagstream::labelling::store::{join_uris, read_labels};
use tagstream::labelling::suggest::{GlobalView, SuggestOptions, suggest};
use tagstream_core::config::{ObjectStoreConfig, StageConfig};
use tagstream_core::error::{Exit, usage};
use tagstream_core::events::QuestionPurpose;
use tagstream_core::redact::redact_place;
use tagstream_core::storage::atomic::AtomicFile;
use tagstream_core::storage::store::TableStore;
use tagstream_train::labels::cells::guarded;
use tagstream_train::labels::layouts::DatasetLayout;
use tagstream_train::labels::{Form, ImportOptions, LabelTable, export, import_at, layouts};

/// Arguments of `tagstream labels`.
#[derive(Debug, Args)]
pub(super) struct LabelsArgs {
    #[command(subcommand)]
    pub command: LabelsCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum LabelsCommand {
    /// Read a label file and write label events to a topic or a file.
    Import(import::ImportArgs),
    /// Write the labels known now as a label file.
    Export {
        #[command(flatten)]
        from: LabelsFrom,
        /// Form to write: events, csv, open-images, coco or label-studio.
        #[arg(long, default_value = "csv", value_parser = written_form)]
        form: Form,
        /// File to write; standard output if missing.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show how much is known and unknown about each category.
    Stats {
        #[command(flatten)]
        from: LabelsFrom,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Rank stored predictions by how much a label would teach.
    Suggest(SuggestArgs),
    /// Turn a public data set in its distributed layout into labels.csv, categories.txt and
    /// splits.csv.
    Dataset {
        /// coco14, coco17, voc07, voc12, vg200, nus-wide or cub.
        #[arg(long, value_parser = layout)]
        layout: DatasetLayout,
        /// Only this split; without it all that are there.
        #[arg(long)]
        split: Option<String>,
        /// The data set's folder.
        folder: PathBuf,
        /// Folder to write.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

fn layout(name: &str) -> Result<DatasetLayout, String> {
    let names = || DatasetLayout::ALL.map(|(name, _)| name).join(", ");
    DatasetLayout::named(name).ok_or_else(|| format!("the layouts are {}", names()))
}

/// Where labels are read.
#[derive(Debug, Args)]
pub(super) struct LabelsFrom {
    /// A label file.
    #[arg(long = "from", value_name = "FILE", conflicts_with = "store")]
    pub file: Option<PathBuf>,
    /// The form of that file.
    #[arg(long, default_value = "csv", value_parser = form)]
    pub from_form: Form,
    /// Where the label table is: the stage's `output.url`.
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// The label table.
    #[arg(long, default_value = "labels")]
    pub table: String,
    /// The predictions table, for addresses that label events do not tell.
    #[arg(long, default_value = "predictions")]
    pub predictions: String,
    /// Configuration file whose `[object_store]` section holds the store's options.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `tagstream labels suggest`.
#[derive(Debug, Args)]
pub(super) struct SuggestArgs {
    /// How many images.
    #[arg(long, default_value_t = 100)]
    pub count: usize,
    /// Share of the images that are asked about for measuring: drawn evenly, of images that are
    /// never asked about for learning.
    #[arg(long, value_name = "SHARE", default_value_t = SuggestOptions::default().measure)]
    pub measure: f64,
    /// Where the tables are: the stage's `output.url`.
    #[arg(long, value_name = "URL")]
    pub store: String,
    /// The predictions table.
    #[arg(long, default_value = "predictions")]
    pub predictions: String,
    /// The label table.
    #[arg(long, default_value = "labels")]
    pub table: String,
    /// Consider only what this model has tagged, and ask first where its two views of an image
    /// disagree: a bundle directory or `registry-url[@version]`.
    #[arg(long)]
    pub model: Option<String>,
    /// CSV file to write; standard output if missing.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Also write the suggestions to a topic at these brokers, as label events that say nothing
    /// yet, with what to ask.
    #[arg(long, value_name = "HOST:PORT", requires = "topic")]
    pub brokers: Option<String>,
    /// The topic of suggestions.
    #[arg(long, requires = "brokers")]
    pub topic: Option<String>,
    /// Configuration file whose `[object_store]` section holds the store's options.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

fn form(name: &str) -> Result<Form, String> {
    Form::named(name).ok_or_else(|| format!("one of {}", Form::names(|_| true)))
}

fn written_form(name: &str) -> Result<Form, String> {
    let found = Form::named(name).filter(|form| form.is_written());
    found.ok_or_else(|| format!("one of {}", Form::names(Form::is_written)))
}

/// Runs the command.
pub(super) fn run(args: LabelsArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    runtime.block_on(async {
        match args.command {
            LabelsCommand::Import(args) => import::run(args).await,
            LabelsCommand::Export { from, form, out } => {
                let table = read(&from).await?;
                match out {
                    Some(path) => write_whole(&path, |w| Ok(export(form, &table, w)?))?,
                    None => export(form, &table, std::io::stdout().lock())?,
                }
                Ok(())
            }
            LabelsCommand::Stats { from, json } => stats(&read(&from).await?, json),
            LabelsCommand::Suggest(args) => run_suggest(args).await,
            LabelsCommand::Dataset {
                layout,
                split,
                folder,
                out,
            } => dataset(layout, split.as_deref(), &folder, &out),
        }
    })?;
    Ok(Exit::Success)
}

/// Turns a public data set into our files.
fn dataset(
    layout: DatasetLayout,
    split: Option<&str>,
    folder: &Path,
    out: &Path,
) -> anyhow::Result<()> {
    let set = layouts::read(layout, folder).map_err(|error| usage(error.to_string()))?;
    for missing in &set.missing {
        eprintln!("no file of the split `{missing}` is there");
    }
    let set = match split {
        None => set,
        Some(name) => set.only(name).ok_or_else(|| {
            let there: BTreeSet<&str> = set.splits.iter().copied().collect();
            let there: Vec<&str> = there.into_iter().collect();
            usage(format!("--split {name}: there is {}", there.join(" and ")))
        })?,
    };
    set.write(out)?;
    eprintln!(
        "{}: {} images, {} categories, {} present",
        out.display(),
        set.labels.images().len(),
        set.labels.categories().len(),
        set.labels.flat().iter().filter(|state| **state > 0).count()
    );
    Ok(())
}

/// Writes a file that is whole or not there.
fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<AtomicFile>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let whole = || {
        let mut writer = BufWriter::new(AtomicFile::create(path)?);
        write(&mut writer)?;
        writer.into_inner()?.commit()?;
        anyhow::Ok(())
    };
    whole().with_context(|| format!("writing {}", path.display()))
}

fn options(config: &Option<PathBuf>) -> anyhow::Result<ObjectStoreConfig> {
    Ok(match config {
        Some(path) => {
            super::config::load::<StageConfig>(Some(path))?
                .config
                .object_store
        }
        None => ObjectStoreConfig::default(),
    })
}

fn open_store(url: &str, options: &ObjectStoreConfig) -> anyhow::Result<TableStore> {
    let opened = TableStore::open_for_reading(url, options);
    opened.map_err(|error| match error.is_usage() {
        true => usage(format!("--store: {error}")).into(),
        false => error.into(),
    })
}

async fn read(from: &LabelsFrom) -> anyhow::Result<LabelTable> {
    if let Some(path) = &from.file {
        let read = import_at(from.from_form, path, &ImportOptions::default());
        let imported = read.map_err(|error| usage(error.to_string()))?;
        return Ok(LabelTable::of_events(&imported.events));
    }
    let Some(url) = &from.store else {
        return Err(usage("name where labels are: --store URL, or --from FILE").into());
    };
    let store = open_store(url, &options(&from.config)?)?;
    let mut table = read_labels(&store, &from.table).await?;
    if table.images().next().is_none() {
        eprintln!(
            "no labels in the table `{}` at {}",
            from.table,
            redact_place(url)
        );
    }
    join_uris(&mut table, &store, &from.predictions).await?;
    Ok(table)
}

fn stats(table: &LabelTable, json: bool) -> anyhow::Result<()> {
    let counts = table.counts();
    let images = table.images().count();
    if json {
        let object = serde_json::json!({
            "images": images,
            "known": table.known().count(),
            "snapshot": table.hash(),
            "categories": counts,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    println!("{images} images with labels; snapshot {}", table.hash());
    println!(
        "{:<32} {:>9} {:>9} {:>9}  known",
        "category", "present", "absent", "unknown"
    );
    for (name, c) in &counts {
        let share = 100.0 * (c.present + c.absent) as f64 / images.max(1) as f64;
        println!(
            "{name:<32} {:>9} {:>9} {:>9}  {share:.1} %",
            c.present, c.absent, c.unknown
        );
    }
    Ok(())
}

async fn run_suggest(args: SuggestArgs) -> anyhow::Result<()> {
    if !(0.0..=1.0).contains(&args.measure) {
        return Err(usage("--measure is a share between 0 and 1").into());
    }
    let stores = options(&args.config)?;
    let store = open_store(&args.store, &stores)?;
    let labels = read_labels(&store, &args.table).await?;
    let view = match &args.model {
        Some(spec) => {
            let opening = tagstream_model::open(spec, &stores).await;
            let bundle = opening.and_then(|model| model.into_bundle());
            let bundle =
                bundle.with_context(|| format!("opening the model `{}`", redact_place(spec)))?;
            Some(GlobalView::of(&bundle)?)
        }
        None => None,
    };
    let wanted = SuggestOptions {
        count: args.count,
        measure: args.measure,
        view,
        ..SuggestOptions::default()
    };
    let suggestions = suggest(&store, &args.predictions, &labels, &wanted).await?;
    let write = |to: &mut dyn Write| -> anyhow::Result<()> {
        let mut writer = csv::Writer::from_writer(to);
        writer.write_record(["rank", "image_id", "uri", "value", "purpose", "ask"])?;
        for (rank, s) in suggestions.iter().enumerate() {
            let ask: Vec<String> = s.ask.iter().map(|(c, p)| format!("{c}={p:.2}")).collect();
            let (rank, value) = ((rank + 1).to_string(), format!("{:.4}", s.value));
            let purpose = match s.purpose {
                QuestionPurpose::Learning => "learning",
                QuestionPurpose::Measuring => "measuring",
            };
            let ask = ask.join(" ");
            let [id, uri, ask] = [&*s.image_id, &*s.uri, &*ask].map(guarded);
            writer.write_record([&*rank, &*id, &*uri, &*value, purpose, &*ask])?;
        }
        writer.flush()?;
        Ok(())
    };
    match &args.out {
        Some(path) => write_whole(path, |w| write(w))?,
        None => write(&mut std::io::stdout().lock())?,
    }
    if let (Some(brokers), Some(topic)) = (&args.brokers, &args.topic) {
        let ranked = suggestions.iter().zip(1..);
        let questions: Vec<_> = ranked.map(|(s, rank)| s.question(rank)).collect();
        publish(brokers, topic, &questions).await?;
    }
    if suggestions.is_empty() {
        let of = args
            .model
            .as_deref()
            .map(|m| format!(" by the model {}", redact_place(m)));
        let (table, of) = (&args.predictions, of.unwrap_or_default());
        eprintln!(
            "no predictions{of} in the table `{table}` at {}",
            redact_place(&args.store)
        );
    }
    eprintln!("{} images suggested", suggestions.len());
    Ok(())
}
