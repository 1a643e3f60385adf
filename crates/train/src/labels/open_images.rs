//! Open Images' labels: `ImageID,Source,LabelName,Confidence`, of images as of boxes.
//!
//! Confidence 1 is a verified presence, 0 a verified absence. What the source `machine` says is no
//! label, whatever its confidence, and neither is any confidence in between.

use super::cells::{guarded, unguarded};
use super::error::{LabelsError, line};
use super::{Drafts, ImportOptions, LabelTable, Picture, file, uri};
use csv::Trim;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use tagstream_core::events::{LabelEvent, LabelState};
use tagstream_core::image_id::PicturePlace;

/// The source of labels that nobody has verified.
const MACHINE: &str = "machine";

/// What one source says of an image.
#[derive(Default)]
struct Verified {
    present: BTreeSet<String>,
    absent: BTreeSet<String>,
}

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Drafts, LabelsError> {
    let mut drafts = Drafts::default();
    let mut images: BTreeMap<(String, String), Verified> = BTreeMap::new();
    let mut reader = file::table(input, &["ImageID"], Trim::Headers)?;
    let must = file::columns(&mut reader, ["ImageID", "LabelName", "Confidence"])?;
    let source = file::optional(reader.headers()?, "Source");
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record)? {
        let cell = |column: usize| unguarded(record.get(column).unwrap_or_default());
        let number = record.position().map_or(0, csv::Position::line);
        let [image, label, confidence] = must.map(cell);
        if image.is_empty() || label.is_empty() {
            return Err(line(number, "`ImageID` and `LabelName` must not be empty"));
        }
        let source = source.map_or("", cell);
        if source == MACHINE {
            drafts.leave_out("labels of the source `machine` (nobody has verified them)");
            continue;
        }
        let wrong = || {
            let reason = format!("`Confidence` {confidence:?} is no number from 0 to 1");
            line(number, reason)
        };
        let confidence: f64 = confidence.trim().parse().map_err(|_| wrong())?;
        let present = match confidence {
            1.0 => true,
            0.0 => false,
            between if (0.0..1.0).contains(&between) => {
                drafts.leave_out("labels with a confidence between 0 and 1 (machine made)");
                continue;
            }
            _ => return Err(wrong()),
        };
        let category = options.class_names.get(label).map_or(label, String::as_str);
        let annotator = match source {
            "" => options.annotator.as_str(),
            source => source,
        };
        let said = images.entry((image.into(), annotator.into())).or_default();
        let (list, other) = match present {
            true => (&mut said.present, &said.absent),
            false => (&mut said.absent, &said.present),
        };
        if other.contains(category) {
            let reason = format!("{category:?} is both present and absent in {image}");
            return Err(line(number, reason));
        }
        list.insert(category.to_owned());
    }
    for ((image, annotator), said) in images {
        let file = format!("{image}.jpg");
        let event = LabelEvent {
            present: said.present.into_iter().collect(),
            absent: said.absent.into_iter().collect(),
            annotator,
            ..LabelEvent::about("", uri(&options.uri_prefix, &file))
        };
        let picture = match options.id {
            Some(_) => Picture::At(PicturePlace::of(&file)),
            None => Picture::Id(image),
        };
        drafts.say(picture, event);
    }
    Ok(drafts)
}

pub(super) fn write(table: &LabelTable, output: &mut impl Write) -> Result<(), LabelsError> {
    let mut writer = csv::Writer::from_writer(output);
    writer.write_record(["ImageID", "Source", "LabelName", "Confidence"])?;
    for (id, image) in table.images() {
        for (category, state, label) in image.known() {
            let confidence = match state {
                LabelState::Present => "1",
                LabelState::Absent => "0",
            };
            let [id, who, category] = [id, &*label.annotator, category].map(guarded);
            writer.write_record([&*id, &*who, &*category, confidence])?;
        }
    }
    writer.flush()?;
    Ok(())
}
