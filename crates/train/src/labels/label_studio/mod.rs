//! Label Studio's exports: JSON (a list of tasks, a task, or one a line, as target storages write
//! them), JSON_MIN, CSV and TSV, and the `completions` of versions before 1.0.
//!
//! A checked choice, the leaf of a taxonomy, and the label of a region is a presence. What is
//! unchecked is unknown, unless `exhaustive` says otherwise or the project has a control of its own
//! for absences, or controls that are answered by yes and no. Cancelled annotations are skipped,
//! ground truth is for evaluation only, predictions and drafts are no labels.

mod address;
mod controls;
mod flat;
mod labelling;
mod notice;
mod predicted;
mod write;

pub(super) use address::{as_before_upload, locate, without_upload_prefix};
pub use labelling::{ImageControl, LabellingConfig};
pub use notice::{AnnotationNotice, Notice, notice};
pub use predicted::{Preannotated, predicted, write_labelling_config, write_tasks};
pub(super) use write::write;

use self::controls::{Answer, Meanings};
use super::error::{LabelsError, record};
use super::json::{self, Object};
use super::{Drafts, ImportOptions, Picture, file, times};
use chrono::{DateTime, Utc};
use serde_json::{Deserializer, Value};
use std::borrow::Cow;
use std::io::Read;
use tagstream_core::events::LabelEvent;
use tagstream_core::image_id::{is_address, is_extension};

/// The control of absences where none is named: what [`write()`] calls it.
const ABSENT: &str = "absent";
/// The control of presences in what [`write()`] makes: its choices are categories, whatever words.
const PRESENT: &str = "present";
/// Keys of `data` that hold the picture where none is named: the usual ones first.
const IMAGE_KEYS: [&str; 8] = [
    "image",
    "uri",
    "url",
    "image_url",
    "img",
    "photo",
    "picture",
    "$undefined$",
];
/// The key of `data` under which a task tells the picture's name.
const ID_KEY: &str = "image_id";

/// What one annotation says.
struct Annotated {
    /// The task, for messages.
    place: String,
    picture: Picture,
    uri: String,
    annotator: String,
    time: Option<DateTime<Utc>>,
    answers: Vec<Answer>,
}

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Drafts, LabelsError> {
    let mut text = String::new();
    file::unicode(input)?.read_to_string(&mut text)?;
    let records = match text.trim_start().starts_with(['[', '{']) {
        true => records(&text)?,
        false => flat::rows(&text)?,
    };
    read_tasks(&records, &[], options)
}

/// Reads records. `asked` are answers that the project's controls offer, where that is known.
fn read_tasks(
    records: &[Value],
    asked: &[Answer],
    options: &ImportOptions,
) -> Result<Drafts, LabelsError> {
    let mut drafts = Drafts::default();
    let mut annotated = Vec::new();
    let mut flats = Vec::new();
    for (record, number) in records.iter().zip(1..) {
        let task = json::object(record, &format!("record {number}"), "the export")?;
        match task_of(task) {
            Some(task) => read_task(&task, number, options, &mut annotated, &mut drafts)?,
            None => flats.push((task, place(task, number))),
        }
    }
    flat::read(&flats, options, &mut annotated, &mut drafts)?;
    let meanings = Meanings::of(&annotated, asked, options, &mut drafts)?;
    for said in annotated {
        let (present, absent) = meanings.said(&said, options, &mut drafts)?;
        if present.is_empty() && absent.is_empty() {
            drafts.leave_out("annotations without any label");
            continue;
        }
        let event = LabelEvent {
            present,
            absent,
            annotator: match said.annotator.as_str() {
                "" => options.annotator.clone(),
                _ => said.annotator,
            },
            event_time: said.time,
            ..LabelEvent::about("", said.uri)
        };
        drafts.say(said.picture, event);
    }
    Ok(drafts)
}

/// A list of records, records one after the other, or both.
fn records(text: &str) -> Result<Vec<Value>, LabelsError> {
    let mut records = Vec::new();
    for value in Deserializer::from_str(text).into_iter::<Value>() {
        let form = "Label Studio";
        match value.map_err(|source| LabelsError::Json { form, source })? {
            Value::Array(list) => records.extend(list),
            value => records.push(value),
        }
    }
    Ok(records)
}

/// The task that a record is; `None` of a flat record (JSON_MIN, CSV). Target storages write
/// annotations with their task inside.
fn task_of(record: &Object) -> Option<Cow<'_, Object>> {
    if json::get(record, "data").is_some_and(Value::is_object) {
        return Some(Cow::Borrowed(record));
    }
    let (Some(Value::Object(task)), true) = (record.get("task"), record.contains_key("result"))
    else {
        return None;
    };
    let mut task = task.clone();
    task.insert(
        "annotations".into(),
        vec![Value::Object(record.clone())].into(),
    );
    Some(Cow::Owned(task))
}

/// A task as messages name it.
fn place(task: &Object, number: usize) -> String {
    match json::get(task, "id").and_then(json::text) {
        Some(id) => format!("task {id}"),
        None => format!("record {number}"),
    }
}

fn read_task(
    task: &Object,
    number: usize,
    options: &ImportOptions,
    annotated: &mut Vec<Annotated>,
    drafts: &mut Drafts,
) -> Result<(), LabelsError> {
    let place = place(task, number);
    for (key, what) in [
        ("predictions", "predictions (they are no labels)"),
        ("drafts", "drafts (nobody has submitted them)"),
    ] {
        for _ in json::list(task, key, &place)? {
            drafts.leave_out(what);
        }
    }
    // Before version 1.0 annotations were called completions.
    let key = match json::get(task, "annotations") {
        None => "completions",
        Some(_) => "annotations",
    };
    let annotations = json::list(task, key, &place)?;
    let data = task.get("data").and_then(Value::as_object);
    let data = data.ok_or_else(|| record(place.as_str(), "it has no `data`"))?;
    let (picture, uri) = picture(data, &place, "`data`", &[], options)?;
    if annotations.is_empty() {
        drafts.leave_out("tasks without annotations");
    }
    for annotation in annotations {
        let annotation = json::object(annotation, &place, key)?;
        if ["was_cancelled", "skipped"]
            .iter()
            .any(|key| json::is_on(annotation, key))
        {
            drafts.leave_out("cancelled annotations");
            continue;
        }
        if ["ground_truth", "honeypot"]
            .iter()
            .any(|key| json::is_on(annotation, key))
        {
            drafts.leave_out("ground-truth annotations (for evaluation only)");
            continue;
        }
        let mut answers = Vec::new();
        for result in json::list(annotation, "result", &place)? {
            let result = json::object(result, &place, "result")?;
            match Answer::of_result(result, &place)? {
                Some(answer) => answers.push(answer),
                None => drafts.leave_out("results that name no category"),
            }
        }
        annotated.push(Annotated {
            place: place.clone(),
            picture: picture.clone(),
            uri: uri.clone(),
            annotator: annotator(annotation.get("completed_by")),
            time: time(annotation, &place, drafts)?,
            answers,
        });
    }
    Ok(())
}

/// When an annotation was made, as far as it says so.
fn time(
    annotation: &Object,
    place: &str,
    drafts: &mut Drafts,
) -> Result<Option<DateTime<Utc>>, LabelsError> {
    for key in ["updated_at", "created_at"] {
        let said = times::of_value(annotation.get(key));
        let said = said.map_err(|reason| record(place, format!("`{key}`: {reason}")))?;
        let Some(said) = said else {
            continue;
        };
        if !said.zoned {
            drafts.zoneless += 1;
        }
        return Ok(Some(said.time));
    }
    Ok(None)
}

/// The annotator's address, else their number.
fn annotator(said: Option<&Value>) -> String {
    match said {
        Some(Value::Object(user)) => {
            let told = ["email", "username", "id"]
                .iter()
                .find_map(|key| user.get(*key));
            told.and_then(json::text).unwrap_or_default()
        }
        Some(other) => json::text(other).unwrap_or_default(),
        None => String::new(),
    }
}

/// Which picture a task is about, and its address. `besides` are keys that are no data.
fn picture(
    data: &Object,
    place: &str,
    holder: &str,
    besides: &[&str],
    options: &ImportOptions,
) -> Result<(Picture, String), LabelsError> {
    let id_key = options.id_column.as_deref().unwrap_or(ID_KEY);
    let id = json::get(data, id_key).and_then(json::text);
    let id = id.filter(|id| !id.is_empty());
    if id.is_none() && options.id_column.is_some() {
        let reason = format!("{holder} has no `{id_key}`, which is to hold the picture's name");
        return Err(record(place, reason));
    }
    let key = image_key(data, besides, options);
    let located = match key.map(|key| image(data, key, place, holder)) {
        Some(Ok(image)) => Some(locate(&image, &options.uri_prefix)),
        Some(Err(error)) if id.is_none() => return Err(error),
        _ => None,
    };
    match (id, located) {
        (Some(id), located) => {
            let uri = located.map(|located| located.uri).unwrap_or_default();
            Ok((Picture::Id(id), uri))
        }
        (None, Some(located)) => Ok((Picture::At(located.place), located.uri)),
        (None, None) => {
            let wanted = match &options.image_key {
                Some(key) => format!("has no `{key}`"),
                None => "has neither `image_id` nor `image`".into(),
            };
            let found = data.keys().filter(|key| !besides.contains(&key.as_str()));
            let found = json::keys(found);
            let reason = format!("{holder} {wanted}; it has {found}: --image-key names the key");
            Err(record(place, reason))
        }
    }
}

/// The address of a task's picture, for whoever is to fetch it.
///
/// # Errors
/// [`LabelsError`] names the key, or says that the picture is on Label Studio's own disk.
pub fn image_of_task(data: &Object, options: &ImportOptions) -> Result<String, LabelsError> {
    let place = "the task";
    let key = image_key(data, &[], options).ok_or_else(|| {
        let keys = json::keys(data.keys());
        record(place, format!("`data` has no picture; it has {keys}"))
    })?;
    let located = locate(&image(data, key, place, "`data`")?, &options.uri_prefix);
    match located.uri.is_empty() {
        false => Ok(located.uri),
        true => {
            let reason = format!(
                "`{key}` of `data` is no address that others can fetch: a picture that was \
                 uploaded lies on Label Studio's own disk"
            );
            Err(record(place, reason))
        }
    }
}

/// The key that holds the picture: as told, else a usual one, else the only one that looks so.
fn image_key<'a>(
    data: &'a Object,
    besides: &[&str],
    options: &'a ImportOptions,
) -> Option<&'a str> {
    if let Some(key) = &options.image_key {
        return data.contains_key(key).then_some(key.as_str());
    }
    let mut usual = IMAGE_KEYS.iter().copied();
    if let Some(key) = usual.find(|key| json::get(data, key).is_some()) {
        return Some(key);
    }
    let looks_so = |value: &Value| {
        value.as_str().is_some_and(|text| {
            let path = text.split(['?', '#']).next().unwrap_or(text);
            let extension = path.rsplit_once('.').map(|(_, extension)| extension);
            is_address(text) || text.starts_with("/data/") || extension.is_some_and(is_extension)
        })
    };
    let pairs = data
        .iter()
        .filter(|(key, _)| !besides.contains(&key.as_str()));
    let mut found = pairs.filter(|(_, value)| looks_so(value));
    match (found.next(), found.next()) {
        (Some((key, _)), None) => Some(key),
        _ => None,
    }
}

/// The one address under `key`.
fn image(data: &Object, key: &str, place: &str, holder: &str) -> Result<String, LabelsError> {
    let value = data.get(key).unwrap_or(&Value::Null);
    let one = match value {
        Value::Array(list) if list.len() == 1 => &list[0],
        other => other,
    };
    match one {
        Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
        other => {
            let what = match other {
                Value::Array(list) => format!("a list of {}", list.len()),
                Value::String(_) => "empty".into(),
                other => json::kind(other).into(),
            };
            let reason = format!(
                "`{key}` of {holder} is {what}, and the address of one picture is read; \
                 --image-key names another key"
            );
            Err(record(place, reason))
        }
    }
}
