//! Partial labels from and to files: label events, plain CSV, Open Images CSV, COCO JSON, Label
//! Studio JSON.
//!
//! Everything is a [`LabelEvent`] on the way in, and a [`LabelTable`] (the state after all events)
//! on the way out. What a file does not mention stays unknown; only a form that says that its
//! annotation is exhaustive makes absences out of silence, and only when asked to.
//!
//! | form | present | absent | left out, and counted |
//! |---|---|---|---|
//! | `csv` | `image_id,label,state` = `present` | `absent` | `unknown` |
//! | `open-images` | Confidence 1 | Confidence 0 | any other confidence (machine made) |
//! | `coco` | an annotation | `neg_category_ids`; with `--exhaustive` what has no annotation | `not_exhaustive_category_ids` |
//! | `label-studio` | a checked choice, a labelled region | a choice of the control named by `--absent-control`; with `--exhaustive` what is unchecked | cancelled, `ground_truth`, `predictions` |
//! | `events` | as `schemas/label_event.schema.json` | the same | nothing |

mod coco;
mod csv_form;
mod events_form;
mod label_studio;
mod open_images;
mod publish;
pub mod store;
pub mod suggest;
mod table;
#[cfg(test)]
mod tests;

pub use publish::{PublishError, publish};
pub use table::{CategoryCount, ImageLabels, Label, LabelTable, Stamp};

use std::collections::BTreeMap;
use std::io::{Read, Write};
use tagstream_core::events::LabelEvent;

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

/// Why labels could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not CSV, or a column is missing.
    #[error("{0}")]
    Csv(#[from] csv::Error),
    /// Not JSON, or not JSON of this form.
    #[error("not a {form} file: {source}")]
    Json {
        /// The form expected.
        form: &'static str,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A line or record says something that cannot be.
    #[error("{place}: {reason}")]
    Record {
        /// Which line or record.
        place: String,
        /// What is wrong and what was expected.
        reason: String,
    },
}

fn record(place: impl Into<String>, reason: impl Into<String>) -> LabelsError {
    LabelsError::Record {
        place: place.into(),
        reason: reason.into(),
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
    match form {
        Form::Events => events_form::read(input),
        Form::Csv => csv_form::read(input, options),
        Form::OpenImages => open_images::read(input, options),
        Form::Coco => coco::read(input, options),
        Form::LabelStudio => label_studio::read(input, options),
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
