//! Plain CSV: `image_id,label,state`, and optionally `annotator`, `event_time` (RFC 3339) and
//! `uri`, in any order.

use super::{ImportOptions, Imported, LabelTable, LabelsError, record};
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use std::io::{Read, Write};
use tagstream_core::events::{LabelEvent, LabelState};

/// At most `most` characters of `text`.
fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Imported, LabelsError> {
    let mut reader = csv::Reader::from_reader(input);
    let headers = reader.headers()?.clone();
    let column = |name: &str| headers.iter().position(|h| h.trim() == name);
    let must = |name: &str| {
        column(name).ok_or_else(|| {
            // Of a file in another form the first line may be all of it.
            let found: Vec<String> = headers.iter().take(8).map(|h| beginning(h, 24)).collect();
            let more = if headers.len() > 8 { ", ..." } else { "" };
            let reason = format!(
                "there is no column `{name}`; found: {}{more}",
                found.join(", ")
            );
            record("line 1", reason)
        })
    };
    let (id, label, state) = (must("image_id")?, must("label")?, must("state")?);
    let (annotator, time, uri) = (column("annotator"), column("event_time"), column("uri"));
    let mut imported = Imported::default();
    // Rows of one image, annotator and time become one event; a repeated category begins another,
    // so that order counts.
    let mut open: HashMap<(String, String, Option<DateTime<Utc>>), usize> = HashMap::new();
    for row in reader.records() {
        let row = row?;
        let place = || format!("line {}", row.position().map_or(0, |p| p.line()));
        let cell = |index: Option<usize>| index.and_then(|i| row.get(i)).unwrap_or("").trim();
        let (image_id, category) = (cell(Some(id)), cell(Some(label)));
        if image_id.is_empty() || category.is_empty() {
            return Err(record(place(), "`image_id` and `label` must not be empty"));
        }
        let event_time = match cell(time) {
            "" => None,
            text => Some(text.parse::<DateTime<Utc>>().map_err(|e| {
                record(
                    place(),
                    format!("`event_time` {text:?} is not RFC 3339: {e}"),
                )
            })?),
        };
        let who = match cell(annotator) {
            "" => options.annotator.as_str(),
            who => who,
        };
        let key = (image_id.to_owned(), who.to_owned(), event_time);
        let mentions = |e: &LabelEvent| {
            [&e.present, &e.absent, &e.retract]
                .iter()
                .any(|list| list.iter().any(|c| c == category))
        };
        let index = match open.get(&key) {
            Some(&index) if !mentions(&imported.events[index]) => index,
            _ => {
                imported.events.push(LabelEvent {
                    image_id: image_id.into(),
                    uri: cell(uri).into(),
                    present: Vec::new(),
                    absent: Vec::new(),
                    retract: Vec::new(),
                    annotator: who.into(),
                    event_time,
                });
                open.insert(key, imported.events.len() - 1);
                imported.events.len() - 1
            }
        };
        let event = &mut imported.events[index];
        match cell(Some(state)) {
            "present" => event.present.push(category.into()),
            "absent" => event.absent.push(category.into()),
            "retract" => event.retract.push(category.into()),
            "unknown" => imported.leave_out("rows that say `unknown`"),
            other => {
                let reason =
                    format!("state {other:?} is none of `present`, `absent`, `retract`, `unknown`");
                return Err(record(place(), reason));
            }
        }
    }
    imported
        .events
        .retain(|e| !(e.present.is_empty() && e.absent.is_empty() && e.retract.is_empty()));
    Ok(imported)
}

pub(super) fn write(table: &LabelTable, output: &mut impl Write) -> Result<(), LabelsError> {
    let mut writer = csv::Writer::from_writer(output);
    writer.write_record([
        "image_id",
        "label",
        "state",
        "annotator",
        "event_time",
        "uri",
    ])?;
    for (id, image) in table.images() {
        for (category, state, label) in image.known() {
            let state = match state {
                LabelState::Present => "present",
                LabelState::Absent => "absent",
            };
            let time = label.stamp.time.to_rfc3339();
            writer.write_record([id, category, state, &label.annotator, &time, &image.uri])?;
        }
    }
    writer.flush()?;
    Ok(())
}
