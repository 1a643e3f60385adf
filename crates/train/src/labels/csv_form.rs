//! Plain CSV: `image_id,label,state`, and optionally `annotator`, `event_time` (RFC 3339) and
//! `uri`, in any order and in whatever capitals; or a table with a column a category.

use super::cells::{guarded, unguarded};
use super::error::{LabelsError, line};
use super::file;
use super::table::{Gathering, LabelTable, Said, Stamp};
use super::{Drafts, ImportOptions, Picture, times, uri};
use chrono::{DateTime, Utc};
use csv::Trim;
use std::collections::HashMap;
use std::io::{Read, Write};
use tagstream_core::events::{LabelEvent, LabelState, not_ahead};
use tagstream_core::image_id::PicturePlace;

/// The columns that must be there.
const COLUMNS: [&str; 3] = ["image_id", "label", "state"];

/// Columns that hold the picture's name where none is called `image_id`: names of files.
const FILE_COLUMNS: [&str; 4] = ["filename", "file_name", "file name", "imageid"];
/// Columns that are no category, whatever else a table has.
const OWN: [&str; 3] = ["annotator", "event_time", "uri"];
/// What may stand in a column of states.
const STATES: &str = "`present`, `1`, `true`, `absent`, `0`, `false`, `retract`, `unknown`";

/// What a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statement {
    /// `present` or `absent`.
    Known(LabelState),
    /// `retract`: what was said before is taken back.
    Retracted,
    Unknown,
}

impl Statement {
    /// In whatever capitals; spreadsheets write `TRUE`.
    fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "present" | "1" | "1.0" | "true" => Self::Known(LabelState::Present),
            "absent" | "0" | "0.0" | "false" => Self::Known(LabelState::Absent),
            "retract" => Self::Retracted,
            "unknown" => Self::Unknown,
            _ => return None,
        })
    }
}

/// A row, checked but for its optional columns, which are empty where they are missing. Of a table
/// with a column a category, each cell is one.
pub(super) struct CsvRow<'a> {
    pub(super) line: u64,
    pub(super) image_id: &'a str,
    pub(super) category: &'a str,
    pub(super) statement: Statement,
    annotator: &'a str,
    event_time: &'a str,
    uri: &'a str,
}

/// What stands where in a table.
#[derive(Debug)]
struct Columns {
    id: usize,
    /// The picture's name is a file's.
    is_file: bool,
    labels: Labels,
    may: [Option<usize>; 3],
}

#[derive(Debug)]
enum Labels {
    /// A label a row, and its state; without such a column every row is a presence.
    Rows(usize, Option<usize>),
    /// A column a category, by name and place.
    OneHot(Vec<(String, usize)>),
}

impl Columns {
    fn of(headers: &csv::StringRecord, options: &ImportOptions) -> Result<Self, LabelsError> {
        let missing = |column| LabelsError::NoColumn {
            column,
            found: file::shown(headers),
        };
        let told = |name: &Option<String>, option: &str| match name {
            None => Ok(None),
            Some(name) => file::optional(headers, name).map(Some).ok_or_else(|| {
                let found = file::shown(headers);
                line(
                    1,
                    format!("there is no column `{name}` ({option}); found: {found}"),
                )
            }),
        };
        let usual = file::optional(headers, COLUMNS[0]);
        let named = told(&options.id_column, "--id-column")?;
        let files = || {
            FILE_COLUMNS
                .iter()
                .find_map(|name| file::optional(headers, name))
        };
        let id = named
            .or(usual)
            .or_else(files)
            .ok_or_else(|| missing(COLUMNS[0]))?;
        let label = told(&options.label_column, "--label-column")?;
        let state = file::optional(headers, COLUMNS[2]);
        let may = OWN.map(|name| file::optional(headers, name));
        let labels = match (label, file::optional(headers, COLUMNS[1]), state) {
            (Some(label), _, state) => Labels::Rows(label, state),
            (None, Some(label), Some(state)) => Labels::Rows(label, Some(state)),
            (None, Some(_), None) => return Err(missing(COLUMNS[2])),
            (None, None, Some(_)) => return Err(missing(COLUMNS[1])),
            (None, None, None) => {
                let free = |at: &usize| *at != id && !may.contains(&Some(*at));
                one_hot(headers, (0..headers.len()).filter(free))?
            }
        };
        if let Labels::Rows(label, state) = &labels {
            let used = may.iter().flatten().chain(state).chain([&id, label]);
            refuse_twins(headers, used.copied())?;
        }
        Ok(Columns {
            id,
            is_file: Some(id) != usual,
            labels,
            may,
        })
    }
}

/// Refuses a column that is there once more: nobody can say which one counts.
fn refuse_twins(
    headers: &csv::StringRecord,
    used: impl Iterator<Item = usize>,
) -> Result<(), LabelsError> {
    for at in used {
        let name = headers[at].trim();
        if headers.iter().filter(|other| other.trim() == name).count() > 1 {
            let found = file::shown(headers);
            let reason = format!("the column `{name}` is there more than once; found: {found}");
            return Err(line(1, reason));
        }
    }
    Ok(())
}

impl Labels {
    /// What a row says of which categories.
    fn said<'a>(
        &'a self,
        cell: impl Fn(usize) -> &'a str,
        number: u64,
        options: &'a ImportOptions,
    ) -> Result<Vec<(&'a str, Statement)>, LabelsError> {
        match self {
            Labels::Rows(label, state) => {
                let statement = match state.map(&cell) {
                    None => Statement::Known(LabelState::Present),
                    Some(state) => statement(state, number, COLUMNS[2])?,
                };
                let labels = split(cell(*label), options.label_separator.as_deref());
                if labels.contains(&"") {
                    return Err(line(number, "`image_id` and `label` must not be empty"));
                }
                Ok(labels.into_iter().map(|label| (label, statement)).collect())
            }
            Labels::OneHot(categories) => {
                let said = categories.iter().map(|(category, at)| {
                    let statement = match cell(*at) {
                        "" => Statement::Unknown,
                        state => statement(state, number, category)?,
                    };
                    Ok((category.as_str(), statement))
                });
                said.collect()
            }
        }
    }
}

/// The columns of a table with a category each.
fn one_hot(
    headers: &csv::StringRecord,
    columns: impl Iterator<Item = usize>,
) -> Result<Labels, LabelsError> {
    let mut categories: Vec<(String, usize)> = Vec::new();
    for at in columns {
        let name = unguarded(headers[at].trim());
        if name.is_empty() {
            // The number of the row, as many tools write it.
            if at == 0 {
                continue;
            }
            return Err(line(1, format!("column {} has no name", at + 1)));
        }
        if categories.iter().any(|(other, _)| other == name) {
            return Err(line(1, format!("there are two columns `{name}`")));
        }
        categories.push((name.to_owned(), at));
    }
    match categories.is_empty() {
        true => Err(LabelsError::NoColumn {
            column: COLUMNS[1],
            found: file::shown(headers),
        }),
        false => Ok(Labels::OneHot(categories)),
    }
}

/// What a table turned out to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// The picture's name is a file's.
    pub(super) is_file: bool,
    /// What was taken for what, where the usual columns are not there.
    pub(super) note: Option<String>,
}

/// Hands every row to `take`, in the file's order. This is the one reader of plain label tables.
pub(super) fn rows(
    input: impl Read,
    trim: Trim,
    options: &ImportOptions,
    mut take: impl FnMut(CsvRow<'_>) -> Result<(), LabelsError>,
) -> Result<Shape, LabelsError> {
    let mut names = vec![COLUMNS[0]];
    names.extend(options.id_column.as_deref());
    names.extend(options.label_column.as_deref());
    names.extend(FILE_COLUMNS);
    let mut reader = file::table(input, &names, trim)?;
    let columns = Columns::of(reader.headers()?, options)?;
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record)? {
        let cell = |column: usize| unguarded(record.get(column).unwrap_or_default());
        let [annotator, event_time, uri] = columns.may.map(|column| column.map_or("", cell));
        let number = record.position().map_or(0, csv::Position::line);
        let row = CsvRow {
            line: number,
            image_id: cell(columns.id),
            category: "",
            statement: Statement::Unknown,
            annotator,
            event_time,
            uri,
        };
        if row.image_id.is_empty() {
            return Err(line(number, "the picture's name is empty"));
        }
        for (category, statement) in columns.labels.said(cell, number, options)? {
            take(CsvRow {
                category,
                statement,
                ..row
            })?;
        }
    }
    Ok(Shape {
        is_file: columns.is_file,
        note: match columns.labels {
            Labels::Rows(_, Some(_)) => None,
            Labels::Rows(_, None) => Some("no column `state`: every row is a presence".into()),
            Labels::OneHot(categories) => {
                let names = categories.iter().take(8).map(|(name, _)| name.as_str());
                let names: Vec<&str> = names.collect();
                let (count, names) = (categories.len(), names.join(", "));
                Some(format!(
                    "read as a table with a column a category ({count}: {names})"
                ))
            }
        },
    })
}

/// The labels of a cell.
fn split<'a>(cell: &'a str, separator: Option<&'a str>) -> Vec<&'a str> {
    match separator {
        Some(separator) if !separator.is_empty() => {
            let parts = cell.split(separator).map(str::trim);
            parts.filter(|label| !label.is_empty()).collect()
        }
        _ => vec![cell],
    }
}

fn statement(state: &str, number: u64, column: &str) -> Result<Statement, LabelsError> {
    Statement::named(state).ok_or_else(|| {
        line(
            number,
            format!("column `{column}`: state {state:?} is none of {STATES}"),
        )
    })
}

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Drafts, LabelsError> {
    let mut drafts = Drafts::default();
    let mut events: Vec<LabelEvent> = Vec::new();
    // Rows of one image, annotator and time become one event; a repeated category begins another,
    // so that order counts.
    let mut open: HashMap<(String, String, Option<DateTime<Utc>>), usize> = HashMap::new();
    let shape = rows(input, Trim::All, options, |row| {
        if row.statement == Statement::Unknown {
            drafts.leave_out("labels that are said to be unknown");
            return Ok(());
        }
        let event_time = time(&row, &mut drafts)?;
        let who = match row.annotator {
            "" => options.annotator.as_str(),
            who => who,
        };
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
        let list = match row.statement {
            Statement::Known(LabelState::Present) => &mut event.present,
            Statement::Known(LabelState::Absent) => &mut event.absent,
            Statement::Retracted | Statement::Unknown => &mut event.retract,
        };
        list.push(row.category.into());
        Ok(())
    })?;
    drafts.notes.extend(shape.note);
    // A column of ids is taken as it is, unless a rule is asked for.
    let by_rule = shape.is_file || options.id.is_some();
    for mut event in events {
        let name = std::mem::take(&mut event.image_id);
        let picture = match by_rule {
            true => {
                if event.uri.is_empty() {
                    event.uri = uri(&options.uri_prefix, &name);
                }
                Picture::At(PicturePlace::of(&name))
            }
            false => Picture::Id(name),
        };
        drafts.say(picture, event);
    }
    Ok(drafts)
}

fn mentions(event: &LabelEvent, category: &str) -> bool {
    let mut lists = [&event.present, &event.absent, &event.retract].into_iter();
    lists.any(|list| list.iter().any(|name| name == category))
}

fn time(row: &CsvRow<'_>, drafts: &mut Drafts) -> Result<Option<DateTime<Utc>>, LabelsError> {
    if row.event_time.is_empty() {
        return Ok(None);
    }
    let wrong = |reason| line(row.line, format!("`event_time` {reason}"));
    let said = times::parse(row.event_time).map_err(wrong)?;
    if !said.zoned {
        drafts.zoneless += 1;
    }
    match not_ahead(said.time, Utc::now()) {
        Ok(()) => Ok(Some(said.time)),
        Err(ahead) => Err(wrong(ahead.to_string())),
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
            let address = image.address();
            let texts = [id, category, label.annotator, &*address];
            let [id, category, who, uri] = texts.map(guarded);
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
    let options = ImportOptions::default();
    rows(input, Trim::None, &options, |row| {
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
