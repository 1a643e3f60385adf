//! Flat exports, JSON_MIN and CSV: an annotation a record, in which the task's data, the answers
//! (under the controls' names) and the export's own keys stand side by side.

use super::super::error::{LabelsError, line, record};
use super::super::json::{self, Object};
use super::super::{Drafts, ImportOptions, file};
use super::controls::{Answer, choices_of};
use super::{ABSENT, Annotated, ID_KEY, annotator, image_key, picture, time};
use csv::Trim;
use serde_json::Value;
use std::collections::BTreeSet;
use tagstream_core::image_id::is_address;

/// Keys that the export adds to data and answers.
const OWN: [&str; 8] = [
    "id",
    "annotator",
    "annotation_id",
    "created_at",
    "updated_at",
    "lead_time",
    "agreement",
    "history",
];
/// What says that this is a flat export.
const SIGN: &str = "annotation_id";

/// The rows of a table as records. Cells that hold JSON hold answers or lists.
pub(super) fn rows(text: &str) -> Result<Vec<Value>, LabelsError> {
    let mut reader = file::table(text.as_bytes(), &[SIGN], Trim::Headers)?;
    let headers = reader.headers()?.clone();
    if !headers.iter().any(|name| name == SIGN) {
        let reason = format!(
            "it is neither JSON nor a table with the column `{SIGN}`: export the project as JSON, \
             JSON_MIN or CSV"
        );
        return Err(line(1, reason));
    }
    let mut rows = Vec::new();
    for row in reader.records() {
        let mut object = Object::new();
        for (name, cell) in headers.iter().zip(&row?) {
            let value = match cell.starts_with(['{', '[']) {
                true => serde_json::from_str(cell).unwrap_or_else(|_| cell.into()),
                false if cell.is_empty() => Value::Null,
                false => cell.into(),
            };
            object.insert(name.to_owned(), value);
        }
        rows.push(Value::Object(object));
    }
    Ok(rows)
}

/// Reads flat records, each with its place.
pub(super) fn read(
    records: &[(&Object, String)],
    options: &ImportOptions,
    annotated: &mut Vec<Annotated>,
    drafts: &mut Drafts,
) -> Result<(), LabelsError> {
    let controls = controls(records, options, drafts)?;
    for (flat, place) in records {
        let holder = "the record";
        let mut besides = OWN.to_vec();
        besides.extend(controls.iter().map(String::as_str));
        let (picture, uri) = picture(flat, place, holder, &besides, options)?;
        let mut answers = Vec::new();
        for name in &controls {
            if let Some(value) = json::get(flat, name) {
                let choices = choices(value, name, place)?;
                let control = name.clone();
                answers.extend(choices.map(|choices| Answer { control, choices }));
            }
        }
        annotated.push(Annotated {
            place: place.clone(),
            picture,
            uri,
            annotator: annotator(flat.get("annotator")),
            time: time(flat, place, drafts)?,
            answers,
        });
    }
    Ok(())
}

/// What stands under a control: a word, an object with choices or labels, or a list of those.
fn choices(
    value: &Value,
    control: &str,
    place: &str,
) -> Result<Option<Vec<Vec<String>>>, LabelsError> {
    match value {
        Value::Object(value) => choices_of(value, control, place),
        Value::Array(list) => {
            let mut all = Vec::new();
            for value in list {
                all.extend(choices(value, control, place)?.unwrap_or_default());
            }
            Ok(Some(all))
        }
        one => Ok(json::text(one)
            .filter(|word| !word.trim().is_empty())
            .map(|word| vec![vec![word]])),
    }
}

/// Whether a text may be a choice: addresses and numbers are data.
fn is_word(text: &str) -> bool {
    !text.trim().is_empty() && !is_address(text) && text.trim().parse::<f64>().is_err()
}

/// Whether a value can only be an answer: data are rarely objects with choices or labels.
fn is_answer(value: &Value) -> bool {
    match value {
        Value::Object(value) => matches!(choices_of(value, "", ""), Ok(Some(_))),
        Value::Array(list) => list.iter().any(is_answer),
        _ => false,
    }
}

/// The keys that are controls: those that are told, else those that can be nothing else. A bare
/// word may be a single choice or the task's own data.
fn controls(
    records: &[(&Object, String)],
    options: &ImportOptions,
    drafts: &mut Drafts,
) -> Result<Vec<String>, LabelsError> {
    let absent = options.absent_control.as_deref().unwrap_or(ABSENT);
    if records.is_empty() || !options.controls.is_empty() {
        let mut named = options.controls.clone();
        named.push(absent.to_owned());
        return Ok(named);
    }
    let (mut sure, mut words) = (BTreeSet::new(), BTreeSet::new());
    for (flat, _) in records {
        let image = image_key(flat, &OWN, options);
        let id = options.id_column.as_deref().unwrap_or(ID_KEY);
        for (key, value) in flat.iter() {
            if OWN.contains(&key.as_str()) || Some(key.as_str()) == image || key == id {
                continue;
            }
            if key == absent {
                // Known by its name, whatever its form.
                continue;
            }
            if is_answer(value) {
                sure.insert(key.clone());
            } else if value.as_str().is_some_and(is_word) {
                words.insert(key.clone());
            }
        }
    }
    let bare: Vec<&String> = words.difference(&sure).collect();
    match (bare.as_slice(), sure.is_empty()) {
        ([], false) => {}
        ([one], true) => {
            drafts.note(format!(
                "read `{one}` as the control (--control names others)"
            ));
            sure.insert((*one).clone());
        }
        ([], true) => {
            let (first, place) = &records[0];
            let keys = json::keys(first.keys());
            let reason = format!(
                "no key holds an answer; it has {keys}: export the project as JSON, which tells \
                 answers from data"
            );
            return Err(record(place.as_str(), reason));
        }
        (several, _) => {
            let named = json::keys(several.iter().copied());
            let (_, place) = &records[0];
            let reason = format!(
                "{named} hold words that may be answers or the task's own data: name the controls \
                 with --control, or export the project as JSON"
            );
            return Err(record(place.as_str(), reason));
        }
    }
    sure.insert(absent.to_owned());
    Ok(sure.into_iter().collect())
}
