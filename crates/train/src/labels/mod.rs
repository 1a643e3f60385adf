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
//! | `csv` | `image_id,label,state` = `present` | `absent` | `unknown` |
//! | `open-images` | Confidence 1 | Confidence 0 | other confidences (machine made) |
//! | `coco` | an annotation | `neg_category_ids` | `not_exhaustive_category_ids` |
//! | `label-studio` | a checked choice, a labelled region | a choice of `--absent-control` | (1) |
//! | `events` | as `schemas/label_event.schema.json` | the same | nothing |
//!
//! With `--exhaustive` what has no annotation (COCO) or is unchecked (Label Studio) is absent.
//! (1): cancelled, `ground_truth`, `predictions`.
//!
//! Files may be compressed (`.gz`) where they are read by name; text may begin with a byte-order
//! mark or be UTF-16 that begins with one; fields of a table may be set apart by `,`, `;` or tab.

pub mod cells;
mod coco;
mod csv_form;
mod error;
mod events_form;
mod file;
mod label_studio;
pub mod layouts;
mod lists;
mod matrix;
mod open_images;
mod table;
#[cfg(test)]
mod tests;

pub use csv_form::{read_states, write_states};
pub use error::{LabelFileError, LabelsError};
pub use file::open;
pub use lists::{read_categories, read_class_names, read_split};
pub use matrix::LabelMatrix;
pub use table::{CategoryCount, Gathering, ImageLabels, KeptError, Label, LabelTable, Said, Stamp};

use chrono::Utc;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use tagstream_core::events::{LabelEvent, not_ahead, readable_time};

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
}

impl Form {
    /// Every form with its name.
    pub const ALL: [(&'static str, Form); 5] = [
        ("events", Form::Events),
        ("csv", Form::Csv),
        ("open-images", Form::OpenImages),
        ("coco", Form::Coco),
        ("label-studio", Form::LabelStudio),
    ];

    /// The form of that name.
    pub fn named(name: &str) -> Option<Form> {
        let found = Form::ALL.iter().find(|(n, _)| *n == name);
        found.map(|(_, form)| *form)
    }
}

/// What an importer must be told beyond the file.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The file's annotation is exhaustive: a category of the file that an image does not have is
    /// absent there.
    pub exhaustive: bool,
    /// Put before file names to make URIs where a form has only names.
    pub uri_prefix: String,
    /// Annotator of labels whose form names none.
    pub annotator: String,
    /// Label Studio: the control whose choices mean absence; without it the one called `absent`, as
    /// exports call it.
    pub absent_control: Option<String>,
    /// Open Images: class descriptions, from machine names (`/m/0199g`) to words.
    pub class_names: BTreeMap<String, String>,
}

/// What an importer found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imported {
    /// An event for each image and annotation.
    pub events: Vec<LabelEvent>,
    /// What was left out on purpose, and how often.
    pub left_out: BTreeMap<&'static str, u64>,
}

impl Imported {
    fn leave_out(&mut self, what: &'static str) {
        *self.left_out.entry(what).or_default() += 1;
    }
}

/// Reads a label file.
///
/// # Errors
/// [`LabelsError`] names the first record that is wrong; nothing is skipped silently.
pub fn import(
    form: Form,
    input: impl Read,
    options: &ImportOptions,
) -> Result<Imported, LabelsError> {
    let imported = match form {
        Form::Events => events_form::read(input),
        Form::Csv => csv_form::read(input, options),
        Form::OpenImages => open_images::read(input, options),
        Form::Coco => coco::read(input, options),
        Form::LabelStudio => label_studio::read(input, options),
    }?;
    // What the stage would refuse is better said here, with the image it is about.
    let now = Utc::now();
    for event in &imported.events {
        let Some(time) = event.event_time else {
            continue;
        };
        let readable = readable_time(time, "`event_time`").map_err(|e| e.to_string());
        let ahead = || not_ahead(time, now).map_err(|e| format!("`event_time` {e}"));
        readable.and_then(|()| ahead()).map_err(|reason| {
            error::record(format!("the labels of {:?}", event.image_id), reason)
        })?;
    }
    Ok(imported)
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
    }
    output.flush()?;
    Ok(())
}

/// The name of an image file without folders and extension: what `<image_id>.<ext>` is found by.
fn stem(path: &str) -> &str {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}
