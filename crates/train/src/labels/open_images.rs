//! Open Images' image-level labels: `ImageID,Source,LabelName,Confidence`.
//!
//! Confidence 1 is a verified presence, 0 a verified absence; everything else in between is machine
//! made and no label.

use super::cells::{guarded, unguarded};
use super::error::{LabelsError, record};
use super::{ImportOptions, Imported, LabelTable, file};
use csv::Trim;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use tagstream_core::events::{LabelEvent, LabelState};

#[derive(Debug, Deserialize)]
struct Row {
    #[serde(rename = "ImageID")]
    image_id: String,
    #[serde(rename = "Source", default)]
    source: String,
    #[serde(rename = "LabelName")]
    label_name: String,
    #[serde(rename = "Confidence")]
    confidence: f64,
}

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Imported, LabelsError> {
    let mut imported = Imported::default();
    let mut images: BTreeMap<(String, String), LabelEvent> = BTreeMap::new();
    let mut reader = file::table(input, "ImageID", Trim::None)?;
    for (row, number) in reader.deserialize::<Row>().zip(1..) {
        let mut row = row?;
        for text in [&mut row.image_id, &mut row.source, &mut row.label_name] {
            *text = unguarded(text).to_owned();
        }
        if row.image_id.is_empty() || row.label_name.is_empty() {
            let place = format!("record {number}");
            return Err(record(place, "`ImageID` and `LabelName` must not be empty"));
        }
        let present = match row.confidence {
            1.0 => true,
            0.0 => false,
            _ => {
                imported.leave_out("labels with a confidence between 0 and 1 (machine made)");
                continue;
            }
        };
        let category = match options.class_names.get(&row.label_name) {
            Some(name) => name.clone(),
            None => row.label_name,
        };
        let annotator = if row.source.is_empty() {
            options.annotator.clone()
        } else {
            row.source
        };
        let key = (row.image_id.clone(), annotator.clone());
        let event = images.entry(key).or_insert_with(|| LabelEvent {
            uri: match options.uri_prefix.as_str() {
                "" => String::new(),
                prefix => format!("{prefix}{}.jpg", row.image_id),
            },
            image_id: row.image_id,
            present: Vec::new(),
            absent: Vec::new(),
            retract: Vec::new(),
            annotator,
            event_time: None,
        });
        let (list, other) = if present {
            (&mut event.present, &event.absent)
        } else {
            (&mut event.absent, &event.present)
        };
        if other.contains(&category) {
            let place = format!("record {number}");
            let reason = format!(
                "{category:?} is both present and absent in {}",
                event.image_id
            );
            return Err(record(place, reason));
        }
        list.push(category);
    }
    imported.events.extend(images.into_values());
    Ok(imported)
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
            let [id, who, category] = [id, label.annotator, category].map(guarded);
            writer.write_record([&*id, &*who, &*category, confidence])?;
        }
    }
    writer.flush()?;
    Ok(())
}
