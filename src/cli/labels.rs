//! `tagstream labels`: partial labels from and to files and the topic.

mod import;
mod suggest;

pub(super) use import::NamingArgs;

use super::kafka::KafkaArgs;
use anyhow::Context;
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use tagstream::labelling::store::{join_uris, read_labels};
use tagstream::stage::source::ClientSettings;
use tagstream_core::config::{ObjectStoreConfig, StageConfig};
use tagstream_core::error::{Exit, usage};
use tagstream_core::redact::redact_place;
use tagstream_core::storage::atomic::AtomicFile;
use tagstream_core::storage::store::TableStore;
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
        /// Form to write: events, csv, open-images, coco, label-studio or fiftyone.
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
    Suggest(suggest::SuggestArgs),
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

/// A client of the brokers that `topic` is at; `None` without a topic.
fn client(
    topic: &Option<String>,
    kafka: &KafkaArgs,
    config: &Option<PathBuf>,
) -> anyhow::Result<Option<(String, ClientSettings)>> {
    let Some(topic) = topic else {
        return match kafka.brokers {
            Some(_) => Err(usage("--brokers needs --topic, the topic to write to").into()),
            None => Ok(None),
        };
    };
    Ok(Some((topic.clone(), kafka.client(config.as_deref())?)))
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
            LabelsCommand::Stats { from, json } => stats(&read_table(&from).await?.0, json),
            LabelsCommand::Suggest(args) => suggest::run(args).await,
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

/// The labels, with addresses from wherever they are known.
async fn read(from: &LabelsFrom) -> anyhow::Result<LabelTable> {
    let (mut table, store) = read_table(from).await?;
    if let Some(store) = store {
        join_uris(&mut table, &store, (&from.table, &from.predictions)).await?;
    }
    Ok(table)
}

/// The labels as events tell them, and the store that they are in.
async fn read_table(from: &LabelsFrom) -> anyhow::Result<(LabelTable, Option<TableStore>)> {
    if let Some(path) = &from.file {
        let read = import_at(from.from_form, path, &ImportOptions::default());
        let imported = read.map_err(|error| usage(error.to_string()))?;
        return Ok((LabelTable::of_events(&imported.events), None));
    }
    let Some(url) = &from.store else {
        return Err(usage("name where labels are: --store URL, or --from FILE").into());
    };
    let store = open_store(url, &options(&from.config)?)?;
    let table = read_labels(&store, &from.table).await?;
    if table.images().next().is_none() {
        eprintln!(
            "no labels in the table `{}` at {}",
            from.table,
            redact_place(url)
        );
    }
    Ok((table, Some(store)))
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
