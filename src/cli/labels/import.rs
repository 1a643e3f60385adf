//! `tagstream labels import`: label files to label events.

use super::{form, open_store, options as store_options, write_whole};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use tagstream::labelling::publish;
use tagstream::labelling::store::{KnownPictures, known_pictures};
use tagstream_core::error::usage;
use tagstream_core::events::LabelEvent;
use tagstream_core::image_id::IdRule;
use tagstream_core::redact::redact_place;
use tagstream_train::labels::{
    Form, ImportOptions, Imported, LabelTable, import_at, read_class_names,
};

/// Arguments of `tagstream labels import`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArgs {
    /// The label file; of voc, yolo, cvat and fiftyone also the folder.
    pub file: PathBuf,
    /// Its form: events, csv, open-images, coco, label-studio, voc, yolo, cvat or fiftyone.
    #[arg(long, default_value = "csv", value_parser = form)]
    pub form: Form,
    #[command(flatten)]
    pub naming: NamingArgs,
    /// The annotation is exhaustive: what an image does not have is absent there (forms of objects,
    /// Label Studio).
    #[arg(long)]
    pub exhaustive: bool,
    /// Put before what is only a path to make URIs, for example s3://bucket/photos/.
    #[arg(long, default_value = "")]
    pub uri_prefix: String,
    /// Annotator of labels whose form names none.
    #[arg(long, default_value = "")]
    pub annotator: String,
    /// File names begin with what Label Studio gives to uploads (eight hexadecimal digits and `-`):
    /// take it off. Its JSON, COCO and YOLO exports need no telling.
    #[arg(long)]
    pub uploaded: bool,
    /// Label Studio: the key of a task's data that holds the picture; without it `image`, or the
    /// only one that looks so.
    #[arg(long, value_name = "KEY")]
    pub image_key: Option<String>,
    /// Label Studio: read this control alone (may be repeated); without it all of them. FiftyOne:
    /// the field that holds the labels; without it `ground_truth`.
    #[arg(long = "control", value_name = "NAME")]
    pub controls: Vec<String>,
    /// Label Studio: name of the control whose choices mean absence; without it `absent`, as
    /// `labels export` calls it.
    #[arg(long, value_name = "NAME")]
    pub absent_control: Option<String>,
    /// CSV: the column of the pictures' names; without it `image_id`, else `filename`. Label
    /// Studio: the key of a task's data that holds the name.
    #[arg(long, value_name = "NAME")]
    pub id_column: Option<String>,
    /// CSV: the column of the labels. Without a column `state` every row is then a presence.
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// CSV: what stands between several labels of a cell.
    #[arg(long, value_name = "TEXT")]
    pub label_separator: Option<String>,
    /// Open Images: the file of class descriptions (machine name, display name).
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    #[command(flatten)]
    pub known: KnownArgs,
    #[command(flatten)]
    pub to: Destination,
}

/// How pictures are named, on producing and importing alike.
#[derive(Debug, Args)]
pub(in crate::cli) struct NamingArgs {
    /// What a picture is called: path (folders kept), uri, stem or sha256 (of the address). Without
    /// it by path, and what a label file itself calls the picture's id is taken as it is.
    #[arg(long, value_name = "RULE", value_parser = rule)]
    pub id: Option<IdRule>,
    /// What stands before the path in addresses and is no part of a name, for example
    /// s3://bucket/photos/; without it the host or bucket.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub root: String,
}

fn rule(name: &str) -> Result<IdRule, String> {
    let names = || IdRule::ALL.map(|(name, _)| name).join(", ");
    IdRule::named(name).ok_or_else(|| format!("the rules are {}", names()))
}

/// Where predictions are that may know the pictures.
#[derive(Debug, Args)]
pub(in crate::cli) struct KnownArgs {
    /// Say how many of the pictures the predictions know: where the tables are (the stage's
    /// `output.url`).
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// The predictions table.
    #[arg(long, default_value = "predictions")]
    pub predictions: String,
    /// Configuration file whose `[object_store]` section holds the store's options.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Where label events go.
#[derive(Debug, Args)]
pub(in crate::cli) struct Destination {
    /// Write label events to this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write label events to the topic at these brokers.
    #[arg(long, value_name = "HOST:PORT", requires = "topic")]
    pub brokers: Option<String>,
    /// The labels topic.
    #[arg(long, requires = "brokers")]
    pub topic: Option<String>,
}

impl ImportArgs {
    /// Refuses what would have no effect: whoever asks for it expects one.
    fn check(&self) -> anyhow::Result<()> {
        use Form::{Csv, FiftyOne, LabelStudio, OpenImages};
        let objects = ![Form::Events, Csv, OpenImages].contains(&self.form);
        let is = |forms: &[Form]| forms.contains(&self.form);
        for (given, takes, option) in [
            (self.exhaustive, objects, "--exhaustive"),
            (self.image_key.is_some(), is(&[LabelStudio]), "--image-key"),
            (
                !self.controls.is_empty(),
                is(&[LabelStudio, FiftyOne]),
                "--control",
            ),
            (
                self.absent_control.is_some(),
                is(&[LabelStudio]),
                "--absent-control",
            ),
            (
                self.id_column.is_some(),
                is(&[Csv, LabelStudio]),
                "--id-column",
            ),
            (self.label_column.is_some(), is(&[Csv]), "--label-column"),
            (
                self.label_separator.is_some(),
                is(&[Csv]),
                "--label-separator",
            ),
            (self.classes.is_some(), is(&[OpenImages]), "--classes"),
        ] {
            if given && !takes {
                let reason = format!("{option} has no meaning for this --form");
                return Err(usage(reason).into());
            }
        }
        Ok(())
    }

    fn options(&self) -> anyhow::Result<ImportOptions> {
        Ok(ImportOptions {
            id: self.naming.id,
            root: self.naming.root.clone(),
            exhaustive: self.exhaustive,
            uri_prefix: self.uri_prefix.clone(),
            annotator: self.annotator.clone(),
            uploaded: self.uploaded,
            image_key: self.image_key.clone(),
            controls: self.controls.clone(),
            absent_control: self.absent_control.clone(),
            id_column: self.id_column.clone(),
            label_column: self.label_column.clone(),
            label_separator: self.label_separator.clone(),
            class_names: match &self.classes {
                Some(path) => read_class_names(path).map_err(|e| usage(e.to_string()))?,
                None => BTreeMap::new(),
            },
        })
    }
}

pub(super) async fn run(args: ImportArgs) -> anyhow::Result<()> {
    if args.to.out.is_none() && args.to.brokers.is_none() {
        return Err(usage("name where events go: --out FILE, or --brokers and --topic").into());
    }
    args.check()?;
    let read = import_at(args.form, &args.file, &args.options()?);
    let imported = read.map_err(|error| usage(error.to_string()))?;
    for note in &imported.notes {
        eprintln!("{note}");
    }
    for (what, count) in &imported.left_out {
        eprintln!("left out {count} {what}");
    }
    known(&args.known, &imported).await?;
    let table = LabelTable::of_events(&imported.events);
    let known = table.known().count();
    if let Some(path) = &args.to.out {
        write_whole(path, |w| write_events(&imported.events, w))?;
    }
    if let (Some(brokers), Some(topic)) = (&args.to.brokers, &args.to.topic) {
        publish(brokers, topic, &imported.events).await?;
    }
    eprintln!(
        "{} label events about {} images, {known} known labels",
        imported.events.len(),
        table.images().count()
    );
    Ok(())
}

/// Says how many of the pictures the predictions know: labels of others teach nothing.
async fn known(args: &KnownArgs, imported: &Imported) -> anyhow::Result<()> {
    let Some(url) = &args.store else {
        eprintln!("--store URL would say how many of these pictures the predictions know");
        return Ok(());
    };
    let store = open_store(url, &store_options(&args.config)?)?;
    let pictures = imported.events.iter();
    let pictures: BTreeSet<(&str, &str)> = pictures
        .map(|e| (e.image_id.as_str(), e.uri.as_str()))
        .collect();
    let found = known_pictures(&store, &args.predictions, pictures).await?;
    let KnownPictures {
        asked,
        known,
        predicted,
        misses,
    } = &found;
    let table = &args.predictions;
    eprintln!(
        "the predictions know {known} of {asked} pictures ({predicted} rows of `{table}` at {})",
        redact_place(url)
    );
    for miss in misses {
        match &miss.nearest {
            Some(nearest) => eprintln!("not known: `{}`; nearest: `{nearest}`", miss.image_id),
            None => eprintln!("not known: `{}`; nothing is like it", miss.image_id),
        }
    }
    if known < asked {
        eprintln!(
            "labels of pictures that are not known teach nothing: --id and --root say how pictures \
             are named, here and in `tagstream produce`"
        );
    }
    Ok(())
}

fn write_events(events: &[LabelEvent], to: &mut impl Write) -> anyhow::Result<()> {
    for event in events {
        serde_json::to_writer(&mut *to, event)?;
        writeln!(to)?;
    }
    Ok(())
}
