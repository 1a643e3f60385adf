//! Plain CSV: `image_id,label,state`, and optionally `annotator`, `event_time` (RFC 3339) and
//! `uri`, in any order.

use super::cells::{guarded, unguarded};
use super::error::{LabelsError, line};
use super::file;
use super::table::{Gathering, LabelTable, Said, Stamp};
use super::{ImportOptions, Imported};
use chrono::{DateTime, Utc};
use csv::Trim;
use std::collections::HashMap;
use std::io::{Read, Write};
use tagstream_core::events::{LabelEvent, LabelState, not_ahead};

/// The columns that must be there.
const COLUMNS: [&str; 3] = ["image_id", "label", "state"];

/// What a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statement {
    /// `present` or `absent`.
    Known(LabelState),
    /// `retract`: what was said before is taken back.
    Retracted,
    /// `unknown`.
    Unknown,
}

impl Statement {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "present" => Self::Known(LabelState::Present),
            "absent" => Self::Known(LabelState::Absent),
            "retract" => Self::Retracted,
            "unknown" => Self::Unknown,
            _ => return None,
        })
    }
}

/// A row, checked but for its optional columns, which are empty where they are missing.
pub(super) struct CsvRow<'a> {
    pub(super) line: u64,
    pub(super) image_id: &'a str,
    pub(super) category: &'a str,
    pub(super) statement: Statement,
    annotator: &'a str,
    event_time: &'a str,
    uri: &'a str,
}

/// Hands every row to `take`, in the file's order. This is the one reader of plain label tables.
pub(super) fn rows(
    input: impl Read,
    trim: Trim,
    mut take: impl FnMut(CsvRow<'_>) -> Result<(), LabelsError>,
) -> Result<(), LabelsError> {
    let mut reader = file::table(input, COLUMNS[0], trim)?;
    let must = file::columns(&mut reader, COLUMNS)?;
    let headers = reader.headers()?;
    let may = ["annotator", "event_time", "uri"].map(|name| file::optional(headers, name));
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record)? {
        let cell = |column: usize| record.get(column).unwrap_or_default();
        let [image_id, category, state] = must.map(|column| unguarded(cell(column)));
        let [annotator, event_time, uri] =
            may.map(|column| column.map_or("", |column| unguarded(cell(column))));
        let number = record.position().map_or(0, csv::Position::line);
        if image_id.is_empty() || category.is_empty() {
            return Err(line(number, "`image_id` and `label` must not be empty"));
        }
        let statement = Statement::named(state).ok_or_else(|| {
            let states = "`present`, `absent`, `retract`, `unknown`";
            line(number, format!("state {state:?} is none of {states}"))
        })?;
        take(CsvRow {
            line: number,
            image_id,
            category,
            statement,
            annotator,
            event_time,
            uri,
        })?;
    }
    Ok(())
}

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Imported, LabelsError> {
    let mut imported = Imported::default();
    // Rows of one image, annotator and time become one event; a repeated category begins another,
    // so that order counts.
    let mut open: HashMap<(String, String, Option<DateTime<Utc>>), usize> = HashMap::new();
    rows(input, Trim::All, |row| {
        let event_time = time(&row)?;
        let who = match row.annotator {
            "" => options.annotator.as_str(),
            who => who,
        };
        let events = &mut imported.events;
        let key = (row.image_id.to_owned(), who.to_owned(), event_time);
        let index = match open.get(&key) {
            Some(&index) if !mentions(&events[index], row.category) => index,
            _ => {
                events.push(LabelEvent {
                    annotator: who.into(),
                    event_time,
                    ..LabelEvent::about(row.image_id, row.uri)
                });
                open.insert(key, events.len() - 1);
                events.len() - 1
            }
        };
        let event = &mut events[index];
        match row.statement {
            Statement::Known(LabelState::Present) => event.present.push(row.category.into()),
            Statement::Known(LabelState::Absent) => event.absent.push(row.category.into()),
            Statement::Retracted => event.retract.push(row.category.into()),
            Statement::Unknown => imported.leave_out("rows that say `unknown`"),
        }
        Ok(())
    })?;
    imported
        .events
        .retain(|e| !(e.present.is_empty() && e.absent.is_empty() && e.retract.is_empty()));
    Ok(imported)
}

fn mentions(event: &LabelEvent, category: &str) -> bool {
    let mut lists = [&event.present, &event.absent, &event.retract].into_iter();
    lists.any(|list| list.iter().any(|name| name == category))
}

fn time(row: &CsvRow<'_>) -> Result<Option<DateTime<Utc>>, LabelsError> {
    let text = row.event_time;
    if text.is_empty() {
        return Ok(None);
    }
    let time = text.parse().map_err(|e: chrono::ParseError| {
        line(
            row.line,
            format!("`event_time` {text:?} is not RFC 3339: {e}"),
        )
    })?;
    match not_ahead(time, Utc::now()) {
        Ok(()) => Ok(Some(time)),
        Err(ahead) => Err(line(row.line, format!("`event_time` {ahead}"))),
    }
}

fn name(state: LabelState) -> &'static str {
    match state {
        LabelState::Present => "present",
        LabelState::Absent => "absent",
    }
}

pub(super) fn write(table: &LabelTable, output: &mut impl Write) -> Result<(), LabelsError> {
    let mut writer = csv::Writer::from_writer(output);
    let [id, label, state] = COLUMNS;
    writer.write_record([id, label, state, "annotator", "event_time", "uri"])?;
    for (id, image) in table.images() {
        for (category, state, label) in image.known() {
            let time = label.stamp.time.to_rfc3339();
            let uri = image.uri();
            let [id, category, who, uri] = [id, category, label.annotator, &uri].map(guarded);
            writer.write_record([&*id, &*category, name(state), &*who, &time, &*uri])?;
        }
    }
    writer.flush()?;
    Ok(())
}

/// Writes entries (image, category, state) without who said so and when.
///
/// # Errors
/// If the output cannot be written.
pub fn write_states<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a str, LabelState)>,
    output: impl Write,
) -> Result<(), LabelsError> {
    let mut writer = csv::Writer::from_writer(output);
    writer.write_record(COLUMNS)?;
    for (image, category, state) in entries {
        writer.write_record([&*guarded(image), &*guarded(category), name(state)])?;
    }
    writer.flush()?;
    Ok(())
}

/// Reads back what [`write_states`] has written, every name as it was.
///
/// # Errors
/// If the input cannot be read or is something else.
pub fn read_states(input: impl Read) -> Result<LabelTable, LabelsError> {
    let mut gathering = Gathering::default();
    rows(input, Trim::None, |row| {
        let state = match row.statement {
            Statement::Known(state) => Some(state),
            Statement::Retracted | Statement::Unknown => None,
        };
        let said = Said {
            image_id: row.image_id,
            uri: "",
            annotator: "",
            stamp: Stamp {
                offset: row.line as i64,
                ..Stamp::default()
            },
        };
        gathering.take(&said, [(row.category, state)]);
        Ok(())
    })?;
    Ok(gathering.finish())
}
