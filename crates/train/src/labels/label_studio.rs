//! Label Studio's JSON export: a list of tasks with annotations.
//!
//! A checked choice, and the label of a region, is a presence. What is unchecked is unknown, unless
//! `exhaustive` says otherwise or the project has a control of its own for absences. Cancelled
//! annotations are skipped, ground truth is for evaluation only, predictions are no labels.

use super::error::{LabelsError, record};
use super::{ImportOptions, Imported, LabelTable, events_form, file, stem};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use tagstream_core::events::LabelEvent;

/// The control of absences where none is named: what [`write()`] calls it.
const ABSENT: &str = "absent";

#[derive(Debug, Deserialize)]
struct Task {
    #[serde(default)]
    id: Value,
    data: Value,
    #[serde(default)]
    annotations: Vec<Annotation>,
    #[serde(default)]
    predictions: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Annotation {
    #[serde(default)]
    result: Vec<Value>,
    #[serde(default)]
    was_cancelled: bool,
    #[serde(default)]
    ground_truth: bool,
    #[serde(default)]
    completed_by: Value,
    #[serde(default)]
    created_at: Option<DateTime<Utc>>,
    #[serde(default)]
    updated_at: Option<DateTime<Utc>>,
}

impl Annotation {
    /// The annotator's address, else their number.
    fn annotator(&self) -> String {
        match &self.completed_by {
            Value::String(name) => name.clone(),
            Value::Number(number) => number.to_string(),
            Value::Object(user) => match (user.get("email"), user.get("id")) {
                (Some(Value::String(email)), _) => email.clone(),
                (_, Some(id)) => id.to_string(),
                _ => String::new(),
            },
            _ => String::new(),
        }
    }
}

/// Choices and labels of one result, whatever the control: `value.choices`,
/// `value.rectanglelabels`, ...
fn names(result: &Value) -> impl Iterator<Item = &str> {
    let value = result.get("value").and_then(Value::as_object);
    value
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key == "choices" || key.ends_with("labels"))
        .filter_map(|(_, list)| list.as_array())
        .flatten()
        .filter_map(Value::as_str)
}

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Imported, LabelsError> {
    let tasks: Vec<Task> =
        serde_json::from_reader(file::unicode(input)?).map_err(|source| LabelsError::Json {
            form: "Label Studio",
            source,
        })?;
    let mut imported = Imported::default();
    let everything: BTreeSet<&str> = tasks
        .iter()
        .flat_map(|t| &t.annotations)
        .filter(|a| !a.was_cancelled && !a.ground_truth)
        .flat_map(|a| &a.result)
        .flat_map(names)
        .collect();
    for task in &tasks {
        for _ in &task.predictions {
            imported.leave_out("predictions (they are no labels)");
        }
        let text = |key: &str| task.data.get(key).and_then(Value::as_str);
        let uri = text("image").or_else(|| text("uri")).unwrap_or("");
        let image_id = text("image_id").unwrap_or_else(|| stem(uri));
        if image_id.is_empty() {
            let reason = "its `data` has neither `image_id` nor `image`";
            return Err(record(format!("task {}", task.id), reason));
        }
        let uri = match options.uri_prefix.as_str() {
            "" => uri.to_owned(),
            prefix => format!("{prefix}{}", uri.trim_start_matches('/')),
        };
        for annotation in &task.annotations {
            let said = said(annotation, &everything, options, &mut imported);
            let said = said.map_err(|reason| record(format!("task {}", task.id), reason))?;
            let Some((present, absent)) = said else {
                continue;
            };
            let annotator = match annotation.annotator() {
                who if who.is_empty() => options.annotator.clone(),
                who => who,
            };
            imported.events.push(LabelEvent {
                present,
                absent,
                annotator,
                event_time: annotation.updated_at.or(annotation.created_at),
                ..LabelEvent::about(image_id, uri.clone())
            });
        }
    }
    Ok(imported)
}

/// Presences and absences.
type Said = (Vec<String>, Vec<String>);

/// Presences and absences of an annotation, unless it says nothing that counts.
fn said(
    annotation: &Annotation,
    everything: &BTreeSet<&str>,
    options: &ImportOptions,
    imported: &mut Imported,
) -> Result<Option<Said>, String> {
    if annotation.was_cancelled {
        imported.leave_out("cancelled annotations");
        return Ok(None);
    }
    if annotation.ground_truth {
        imported.leave_out("ground-truth annotations (for evaluation only)");
        return Ok(None);
    }
    let control = options.absent_control.as_deref().unwrap_or(ABSENT);
    let is_absence = |result: &Value| result["from_name"].as_str() == Some(control);
    let of = |absence: bool| -> BTreeSet<&str> {
        let results = annotation.result.iter();
        let results = results.filter(|result| is_absence(result) == absence);
        results.flat_map(names).collect()
    };
    let (present, mut absent) = (of(false), of(true));
    if let Some(both) = present.intersection(&absent).next() {
        return Err(format!("{both:?} is both present and absent"));
    }
    if options.exhaustive {
        absent = everything.difference(&present).copied().collect();
    }
    if present.is_empty() && absent.is_empty() {
        imported.leave_out("annotations without any label");
        return Ok(None);
    }
    let own = |names: BTreeSet<&str>| names.into_iter().map(Into::into).collect();
    Ok(Some((own(present), own(absent))))
}

/// Tasks with two controls on the image: `present` and `absent`.
pub(super) fn write(table: &LabelTable, output: &mut impl Write) -> Result<(), LabelsError> {
    let mut tasks: Vec<Value> = Vec::new();
    for event in events_form::events_of(table) {
        let choices = |control: &str, names: &[String]| {
            let value = json!({"choices": names});
            json!({"type": "choices", "from_name": control, "to_name": "image", "value": value})
        };
        let mut result = Vec::new();
        if !event.present.is_empty() {
            result.push(choices("present", &event.present));
        }
        if !event.absent.is_empty() {
            result.push(choices(ABSENT, &event.absent));
        }
        let annotation = json!({
            "result": result,
            "was_cancelled": false,
            "ground_truth": false,
            "completed_by": event.annotator,
            "created_at": event.event_time,
        });
        let same = tasks
            .last_mut()
            .filter(|task| task["data"]["image_id"] == event.image_id.as_str());
        match same.and_then(|task| task["annotations"].as_array_mut()) {
            Some(annotations) => annotations.push(annotation),
            None => tasks.push(json!({
                "id": tasks.len() + 1,
                "data": {"image": event.uri, "image_id": event.image_id},
                "annotations": [annotation],
            })),
        }
    }
    serde_json::to_writer_pretty(output, &tasks).map_err(std::io::Error::from)?;
    Ok(())
}
