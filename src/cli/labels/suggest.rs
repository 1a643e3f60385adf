//! `tagstream labels suggest`: the pictures that are worth a label, for people and their tools.

use super::{client, open_store, options, write_whole};
use crate::cli::kafka::KafkaArgs;
use anyhow::Context;
use clap::Args;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use tagstream::labelling::publish;
use tagstream::labelling::store::read_labels;
use tagstream::labelling::suggest::{GlobalView, SuggestOptions, Suggestion, categories, suggest};
use tagstream_core::error::usage;
use tagstream_core::events::QuestionPurpose;
use tagstream_core::redact::redact_place;
use tagstream_core::storage::store::TableStore;
use tagstream_train::labels::cells::guarded;
use tagstream_train::labels::{
    Form, LabelTable, Preannotated, write_labelling_config, write_tasks,
};

/// Arguments of `tagstream labels suggest`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SuggestArgs {
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
    /// Form to write: csv, or label-studio, tasks that Label Studio imports as they are, with what
    /// the model would answer (predictions).
    #[arg(long, default_value = "csv", value_parser = suggested_form)]
    pub form: Form,
    /// File to write; standard output if missing. Of the form label-studio the labelling
    /// configuration for the project is written beside it, with the extension `xml`.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Also write the suggestions to this topic, as label events that say nothing yet, with what to
    /// ask.
    #[arg(long)]
    pub topic: Option<String>,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Configuration file whose `[object_store]` section holds the store's options, and whose
    /// `[kafka]` section says how to reach the brokers.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

fn suggested_form(name: &str) -> Result<Form, String> {
    let is = |form: &Form| matches!(form, Form::Csv | Form::LabelStudio);
    let found = Form::named(name).filter(is);
    found.ok_or_else(|| format!("one of {}", Form::names(|form| is(&form))))
}

impl SuggestArgs {
    /// The file of the labelling configuration, if one is to be written.
    fn labelling_config(&self) -> Option<PathBuf> {
        let wanted = self.form == Form::LabelStudio;
        let path = self.out.as_ref().filter(|_| wanted)?;
        Some(path.with_extension("xml"))
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.out.is_some() && self.out == self.labelling_config() {
            let reason = "--out: the labelling configuration is written beside the tasks with the \
                          extension `xml`; give the tasks another";
            return Err(usage(reason).into());
        }
        Ok(())
    }
}

/// Writes a file, or to standard output.
fn put(
    path: &Option<PathBuf>,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match path {
        Some(path) => write_whole(path, |to| write(to)),
        None => write(&mut std::io::stdout().lock()),
    }
}

fn write_csv(suggestions: &[Suggestion], to: &mut dyn Write) -> anyhow::Result<()> {
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
}

/// Writes tasks, and beside them the configuration of a project that they can be imported into.
async fn write_studio(
    args: &SuggestArgs,
    store: &TableStore,
    labels: &LabelTable,
    suggestions: &[Suggestion],
) -> anyhow::Result<()> {
    let tasks = suggestions.iter().zip(1..).map(|(s, rank)| Preannotated {
        question: s.question(rank),
        model_version: s.model_version.clone(),
    });
    let tasks: Vec<Preannotated> = tasks.collect();
    if let Some(path) = args.labelling_config() {
        let mut offered: BTreeSet<String> = labels.counts().into_keys().collect();
        offered.extend(categories(store, &args.predictions).await?);
        let names = offered.iter().map(String::as_str);
        write_whole(&path, |to| Ok(write_labelling_config(names, to)?))?;
        eprintln!("the project's labelling configuration: {}", path.display());
    }
    put(&args.out, |mut to| Ok(write_tasks(&tasks, &mut to)?))
}

/// Runs the command.
pub(super) async fn run(args: SuggestArgs) -> anyhow::Result<()> {
    if !(0.0..=1.0).contains(&args.measure) {
        return Err(usage("--measure is a share between 0 and 1").into());
    }
    args.check()?;
    let to = client(&args.topic, &args.kafka, &args.config)?;
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
    match args.form {
        Form::LabelStudio => write_studio(&args, &store, &labels, &suggestions).await?,
        _ => put(&args.out, |to| write_csv(&suggestions, to))?,
    }
    if let Some((topic, client)) = &to {
        let ranked = suggestions.iter().zip(1..);
        let questions: Vec<_> = ranked.map(|(s, rank)| s.question(rank)).collect();
        publish(client, topic, &questions).await?;
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
