//! Labels: what is known of which image, and the files that say so.
//!
//! Every file is read here and nowhere else, whoever asks: `labels import` and `labels dataset`,
//! `train` and `eval`, the retraining job. The room stands below the method and its trainer and
//! knows the label event alone, neither tensors nor models nor the topic. It is in this crate and
//! not beside the event because learning and the command line are all that read label files: a
//! change here builds neither the models nor the images again. The label store (its tables) and the
//! topic are above, with the stage.
//!
//! [`LabelTable`] is the state after all events, sparse, with who said so and when.
//! [`LabelMatrix`] is what training and evaluation take of it: no more than the states, of chosen
//! images and categories in a chosen order. It is made of a table, or at once of a file's rows,
//! where a table of some million entries would only be in the way.
//!
//! # Forms of files
//!
//! A file becomes [`LabelEvent`]s on the way in, and a table becomes a file on the way out. What a
//! file does not mention stays unknown; only a form that says that its annotation is exhaustive
//! makes absences out of silence, and only when asked to.
//!
//! | form | present | absent | left out, and counted |
//! |---|---|---|---|
//! | `csv` | `image_id,label,state` = `present`, or a column a category | `absent` | `unknown` |
//! | `open-images` | Confidence 1 | Confidence 0 | other confidences, the source `machine` |
//! | `coco` | an annotation | `neg_category_ids` | `not_exhaustive_category_ids` |
//! | `label-studio` | a checked choice, a labelled region | a choice of `--absent-control` | (1) |
//! | `events` | as `schemas/label_event.schema.json` | the same | nothing |
//! | `voc` | an object | none | objects that are marked difficult |
//! | `yolo` | an object | none | nothing |
//! | `cvat` | a tag, a shape | none | nothing |
//! | `fiftyone` | a label of the field `--control` | none | other fields of labels |
//!
//! With `--exhaustive` what has no annotation (objects) or is unchecked (Label Studio) is absent.
//! (1): cancelled, `ground_truth`, `predictions`, drafts.
//!
//! Which picture a record is about is said by a place (a path, an address), which
//! [`ImageNaming`] turns into a name, as `produce` does; or by a name that the form calls
//! `image_id`, which is taken as it is.
//!
//! Files may be compressed (`.gz`) where they are read by name; text may begin with a byte-order
//! mark or be UTF-16; fields of a table may be set apart by `,`, `;`, tab or `|`.

mod boxes;
pub mod cells;
mod coco;
mod csv_form;
mod cvat;
mod error;
mod events_form;
mod fifty_one;
mod file;
mod json;
mod label_studio;
pub mod layouts;
mod lists;
mod matrix;
mod objects;
mod open_images;
mod table;
#[cfg(test)]
mod tests;
mod times;
mod voc_xml;
mod xml;
mod yolo;

pub use boxes::TrueBoxes;
pub use csv_form::{read_states, write_states};
pub use error::{LabelFileError, LabelsError};
pub use file::open;
pub use label_studio::{
    AnnotationNotice, ImageControl, LabellingConfig, Notice, Preannotated, image_of_task, notice,
    predicted, write_labelling_config, write_tasks,
};
pub use lists::{read_categories, read_class_names, read_split};
pub use matrix::LabelMatrix;
pub use table::{CategoryCount, Gathering, ImageLabels, KeptError, Label, LabelTable, Said, Stamp};

use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tagstream_core::events::{LabelEvent, not_ahead};
use tagstream_core::image_id::{IdRule, ImageNaming, PicturePlace, is_address};

/// A form of label files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A label event a line, JSON.
    Events,
    /// `image_id,label,state` and optionally `annotator,event_time,uri`.
    Csv,
    /// Open Images' `ImageID,Source,LabelName,Confidence`.
    OpenImages,
    /// COCO's (and LVIS's) `images`, `annotations`, `categories`.
    Coco,
    /// Label Studio's export: a list of tasks.
    LabelStudio,
    /// Pascal VOC's annotations: an XML file, or a folder of them.
    Voc,
    /// YOLO's text files below a folder.
    Yolo,
    /// CVAT's `annotations.xml`, or the folder that holds it.
    Cvat,
    /// FiftyOne's `samples.json` or `labels.json`, or the folder that holds it.
    FiftyOne,
}

impl Form {
    /// Every form with its name.
    pub const ALL: [(&'static str, Form); 9] = [
        ("events", Form::Events),
        ("csv", Form::Csv),
        ("open-images", Form::OpenImages),
        ("coco", Form::Coco),
        ("label-studio", Form::LabelStudio),
        ("voc", Form::Voc),
        ("yolo", Form::Yolo),
        ("cvat", Form::Cvat),
        ("fiftyone", Form::FiftyOne),
    ];

    /// Whether labels can be written in this form, too.
    pub fn is_written(self) -> bool {
        !matches!(self, Form::Voc | Form::Yolo | Form::Cvat)
    }

    /// The names of the forms that `wanted` takes, for people.
    pub fn names(wanted: impl Fn(Form) -> bool) -> String {
        let wanted = Form::ALL.iter().filter(|(_, form)| wanted(*form));
        let names: Vec<&str> = wanted.map(|(name, _)| *name).collect();
        names.join(", ")
    }

    /// The form of that name.
    pub fn named(name: &str) -> Option<Form> {
        let found = Form::ALL.iter().find(|(n, _)| *n == name);
        found.map(|(_, form)| *form)
    }
}

/// What an importer must be told beyond the file.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// How pictures are named; without it by their paths, and what a form itself calls the
    /// picture's id is taken as it is.
    pub id: Option<IdRule>,
    /// What stands before the path in addresses and is no part of a name.
    pub root: String,
    /// The file's annotation is exhaustive: a category of the file that an image does not have is
    /// absent there.
    pub exhaustive: bool,
    /// Put before what is only a path to make URIs.
    pub uri_prefix: String,
    /// Annotator of labels whose form names none.
    pub annotator: String,
    /// File names begin as Label Studio's uploads do, in whatever form.
    pub uploaded: bool,
    /// Label Studio: the key of a task's data that holds the picture.
    pub image_key: Option<String>,
    /// Label Studio: the controls to read; all if there is none.
    pub controls: Vec<String>,
    /// Label Studio: the control whose choices mean absence; without it the one called `absent`, as
    /// exports call it.
    pub absent_control: Option<String>,
    /// CSV: the column of pictures' names; Label Studio: the key of a task's data.
    pub id_column: Option<String>,
    /// CSV: the column of labels; without a column `state` every row is a presence.
    pub label_column: Option<String>,
    /// CSV: what stands between the labels of a cell.
    pub label_separator: Option<String>,
    /// Open Images: class descriptions, from machine names (`/m/0199g`) to words.
    pub class_names: BTreeMap<String, String>,
}

/// What an importer found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imported {
    /// An event for each image and annotation.
    pub events: Vec<LabelEvent>,
    /// What was left out on purpose, or counted for other reasons, and how often.
    pub left_out: BTreeMap<&'static str, u64>,
    /// What was taken for what, where the file leaves it open.
    pub notes: Vec<String>,
}

/// Which picture a record is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Picture {
    /// By the name itself.
    Id(String),
    /// By where it is.
    At(PicturePlace),
}

/// Events whose pictures are not yet named.
#[derive(Debug, Default)]
struct Drafts {
    events: Vec<(Picture, LabelEvent)>,
    left_out: BTreeMap<&'static str, u64>,
    notes: Vec<String>,
    /// Times that say no zone.
    zoneless: u64,
}

impl Drafts {
    fn say(&mut self, picture: Picture, event: LabelEvent) {
        self.events.push((picture, event));
    }

    fn leave_out(&mut self, what: &'static str) {
        *self.left_out.entry(what).or_default() += 1;
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Names all pictures together, so that none gets the name of another.
    fn named(mut self, options: &ImportOptions) -> Result<Imported, LabelsError> {
        let naming = ImageNaming {
            rule: options.id.unwrap_or_default(),
            root: options.root.clone(),
        };
        let places = self.events.iter().filter_map(|(picture, _)| match picture {
            Picture::At(place) => Some(PicturePlace {
                path: match options.uploaded {
                    true => label_studio::as_before_upload(&place.path),
                    false => place.path.clone(),
                },
                ..place.clone()
            }),
            Picture::Id(_) => None,
        });
        let places: Vec<PicturePlace> = places.collect();
        let named = naming.ids(&places)?;
        self.notes.extend(named.note);
        if self.zoneless > 0 {
            let note = format!("{} times without a zone count as UTC", self.zoneless);
            self.notes.push(note);
        }
        let mut ids = named.ids.into_iter();
        let name = |(picture, mut event): (Picture, LabelEvent)| {
            event.image_id = match picture {
                Picture::Id(id) => id,
                Picture::At(_) => ids.next().unwrap_or_default(),
            };
            event
        };
        Ok(Imported {
            events: self.events.into_iter().map(name).collect(),
            left_out: self.left_out,
            notes: self.notes,
        })
    }
}

/// Reads a label file, or a folder of label files, by name.
///
/// # Errors
/// [`LabelFileError`] names the file and the first record that is wrong.
pub fn import_at(
    form: Form,
    path: &Path,
    options: &ImportOptions,
) -> Result<Imported, LabelFileError> {
    let drafts = match form {
        Form::Voc => voc_xml::read(path, options)?,
        Form::Yolo => yolo::read(path, options)?,
        Form::Cvat => one_file(form, &inside(path, &["annotations.xml"]), options)?,
        Form::FiftyOne => one_file(form, &inside(path, &fifty_one::FILES), options)?,
        form => one_file(form, path, options)?,
    };
    settled(drafts, options).map_err(|error| error.at(path))
}

/// The file that is read of a folder.
fn inside(path: &Path, names: &[&str]) -> PathBuf {
    let files: Vec<PathBuf> = names.iter().map(|name| path.join(name)).collect();
    let found = files.iter().find(|file| file.is_file());
    match path.is_dir() {
        true => found.unwrap_or(&files[0]).clone(),
        false => path.to_path_buf(),
    }
}

fn one_file(form: Form, path: &Path, options: &ImportOptions) -> Result<Drafts, LabelFileError> {
    let read = || drafts(form, open(path)?, options);
    read().map_err(|error| error.at(path))
}

/// Reads a label file from anything that can be read.
///
/// # Errors
/// [`LabelsError`] names the first record that is wrong; nothing is skipped silently.
pub fn import(
    form: Form,
    input: impl Read,
    options: &ImportOptions,
) -> Result<Imported, LabelsError> {
    settled(drafts(form, input, options)?, options)
}

fn drafts(
    form: Form,
    mut input: impl Read,
    options: &ImportOptions,
) -> Result<Drafts, LabelsError> {
    match form {
        Form::Events => events_form::read(input),
        Form::Csv => csv_form::read(input, options),
        Form::OpenImages => open_images::read(input, options),
        Form::Coco => coco::read(input, options),
        Form::LabelStudio => label_studio::read(input, options),
        Form::Cvat => cvat::read(input, options),
        Form::FiftyOne => fifty_one::read(input, options),
        Form::Voc => {
            let mut text = String::new();
            file::unicode(&mut input)?.read_to_string(&mut text)?;
            voc_xml::read_one(&text, options)
        }
        Form::Yolo => {
            let reason = "is one of many in YOLO's form: name the folder that holds them";
            Err(LabelsError::Empty(reason.to_owned()))
        }
    }
}

/// Names the pictures, and checks every event as the stage will.
fn settled(drafts: Drafts, options: &ImportOptions) -> Result<Imported, LabelsError> {
    let imported = drafts.named(options)?;
    let now = Utc::now();
    for event in &imported.events {
        let valid = event.validate().map_err(|e| e.to_string());
        let timely = valid.and_then(|()| in_time(event, now));
        let place = || format!("the labels of {:?}", event.image_id);
        timely.map_err(|reason| error::record(place(), reason))?;
    }
    Ok(imported)
}

/// What the stage would refuse is better said here, with the image it is about.
fn in_time(event: &LabelEvent, now: DateTime<Utc>) -> Result<(), String> {
    let Some(time) = event.event_time else {
        return Ok(());
    };
    not_ahead(time, now).map_err(|e| format!("`event_time` {e}"))
}

/// The address of a picture: as it is written, else with `prefix` before it. A path by itself is
/// no address: nobody could fetch it.
fn uri(prefix: &str, written: &str) -> String {
    match (is_address(written), prefix) {
        (true, _) => written.to_owned(),
        (false, "") => String::new(),
        (false, prefix) => {
            let path = written.replace('\\', "/");
            let path = path.trim_start_matches("./");
            format!("{prefix}{}", path.trim_start_matches('/'))
        }
    }
}

/// Writes the present state of all labels as a label file, images and categories in order.
///
/// # Errors
/// [`LabelsError`] if the output cannot be written.
pub fn export(form: Form, table: &LabelTable, mut output: impl Write) -> Result<(), LabelsError> {
    match form {
        Form::Events => events_form::write(table, &mut output)?,
        Form::Csv => csv_form::write(table, &mut output)?,
        Form::OpenImages => open_images::write(table, &mut output)?,
        Form::Coco => coco::write(table, &mut output)?,
        Form::LabelStudio => label_studio::write(table, &mut output)?,
        Form::FiftyOne => fifty_one::write(table, &mut output)?,
        Form::Voc | Form::Yolo | Form::Cvat => {
            return Err(LabelsError::NotWritten(Form::names(Form::is_written)));
        }
    }
    output.flush()?;
    Ok(())
}
