//! What Label Studio's webhooks tell: annotations as they are now, or which of them are gone.
//! An annotation is read by the reader of exports, as the one annotation of its task.

use super::super::error::{LabelsError, record};
use super::super::json::{self, Object};
use super::super::{ImportOptions, settled, times};
use super::controls::Answer;
use super::{place, read_tasks};
use chrono::{DateTime, Utc};
use serde_json::Value;
use tagstream_core::events::LabelEvent;

/// What a request of a webhook tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// Annotations as they are now, whether new or changed.
    Annotated(Vec<AnnotationNotice>),
    /// Keys of annotations that are gone.
    Deleted(Vec<String>),
    /// An action that says nothing of labels.
    Other(String),
}

/// An annotation as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct AnnotationNotice {
    /// Which one: unlike that of any other, also of other projects and servers.
    pub key: String,
    /// When it was made or changed last.
    pub time: DateTime<Utc>,
    /// What it says, as an import would; `None` if that is nothing (cancelled, a ground truth,
    /// without an answer).
    pub event: Option<LabelEvent>,
}

/// Reads the body of a webhook's request.
///
/// # Errors
/// [`LabelsError`] names the task or the key that is wrong.
pub fn notice(body: &[u8], options: &ImportOptions) -> Result<Notice, LabelsError> {
    let form = "Label Studio webhook";
    let body: Value =
        serde_json::from_slice(body).map_err(|source| LabelsError::Json { form, source })?;
    let body = json::object(&body, "the notice", "the body")?;
    let action = json::get(body, "action").and_then(Value::as_str);
    let action = action.ok_or_else(|| missing("action"))?;
    match action {
        "ANNOTATION_CREATED"
        | "ANNOTATIONS_CREATED"
        | "ANNOTATION_UPDATED"
        | "ANNOTATIONS_UPDATED" => annotated(body, options).map(Notice::Annotated),
        "ANNOTATION_DELETED" | "ANNOTATIONS_DELETED" => {
            let project = project(body)?;
            let gone = several(body, &["annotations", "annotation"])?;
            let keys = gone.into_iter().map(|one| key(project, one));
            keys.collect::<Result<_, _>>().map(Notice::Deleted)
        }
        other => Ok(Notice::Other(other.to_owned())),
    }
}

fn missing(key: &str) -> LabelsError {
    let reason = format!(
        "it has no `{key}`: the webhook must send its payload (`send_payload`), as Label Studio \
         1.x does"
    );
    record("the notice", reason)
}

fn project(body: &Object) -> Result<&Object, LabelsError> {
    let project = json::get(body, "project").ok_or_else(|| missing("project"))?;
    json::object(project, "the notice", "project")
}

/// The object, or the objects, under the first of `keys` that is there.
fn several<'a>(body: &'a Object, keys: &[&'static str]) -> Result<Vec<&'a Object>, LabelsError> {
    let found = keys
        .iter()
        .find_map(|key| Some((*key, json::get(body, key)?)));
    let (key, value) = found.ok_or_else(|| missing(keys[0]))?;
    let list = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let objects = list.iter().map(|one| json::object(one, "the notice", key));
    objects.collect()
}

/// What an annotation is remembered by: numbers begin anew on every server, the moment a project
/// was made does not repeat.
fn key(project: &Object, annotation: &Object) -> Result<String, LabelsError> {
    let part = |of: &Object, what: &str, key: &str| {
        let said = json::get(of, key).and_then(json::text);
        let said = said.filter(|said| !said.is_empty());
        said.ok_or_else(|| record(what, format!("it has no `{key}`")))
    };
    let (id, made) = (
        part(project, "`project`", "id")?,
        part(project, "`project`", "created_at")?,
    );
    let annotation = part(annotation, "the annotation", "id")?;
    Ok(format!("{id} {made} {annotation}"))
}

fn annotated(body: &Object, options: &ImportOptions) -> Result<Vec<AnnotationNotice>, LabelsError> {
    let project = project(body)?;
    let annotations = several(body, &["annotation", "annotations"])?;
    let tasks = several(body, &["task", "tasks"])?;
    let asked = asked(project);
    let read = annotations.iter().enumerate().map(|(at, annotation)| {
        let id = json::get(annotation, "task").and_then(json::text);
        let same = |task: &&&Object| {
            let own = json::get(task, "id").and_then(json::text);
            own.is_some() && own == id
        };
        let alone = tasks.first().filter(|_| tasks.len() == 1);
        let task = tasks.iter().find(same).or(alone);
        let task = task.ok_or_else(|| {
            let reason = "its task is not among those that the notice has";
            record(format!("annotation number {}", at + 1), reason)
        })?;
        one(task, annotation, &asked, options).and_then(|(time, event)| {
            let key = key(project, annotation)?;
            Ok(AnnotationNotice { key, time, event })
        })
    });
    read.collect()
}

/// Reads one annotation of a task as the reader of exports does.
fn one(
    task: &Object,
    annotation: &Object,
    asked: &[Answer],
    options: &ImportOptions,
) -> Result<(DateTime<Utc>, Option<LabelEvent>), LabelsError> {
    let mut whole = Object::new();
    for key in ["id", "data"] {
        whole.extend(task.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    let annotations = vec![Value::Object(annotation.clone())];
    whole.insert("annotations".into(), annotations.into());
    let place = place(&whole, 1);
    let drafts = read_tasks(&[Value::Object(whole)], asked, options)?;
    let mut time = None;
    for key in ["updated_at", "created_at"] {
        let said = times::of_value(annotation.get(key));
        let said = said.map_err(|reason| record(place.as_str(), format!("`{key}`: {reason}")))?;
        time = time.or(said.map(|said| said.time));
    }
    let event = settled(drafts, options)?.events.pop();
    let time = time.unwrap_or_else(Utc::now);
    let event = event.map(|event| LabelEvent {
        event_time: Some(time),
        ..event
    });
    Ok((time, event))
}

/// What the project's controls offer. An export shows by all its answers which controls are
/// answered by yes and no; a notice has one.
fn asked(project: &Object) -> Vec<Answer> {
    let parsed = project
        .get("parsed_label_config")
        .and_then(Value::as_object);
    let controls = parsed.into_iter().flatten();
    let controls = controls.filter_map(|(name, control)| {
        let control = control.as_object()?;
        // The ways through a taxonomy are not told.
        let kind = control.get("type").and_then(Value::as_str)?;
        let labels = control.get("labels").and_then(Value::as_array);
        let labels = labels.filter(|_| kind != "Taxonomy")?.iter();
        let labels = labels
            .filter_map(json::text)
            .filter(|label| !label.is_empty());
        Some(Answer {
            control: name.clone(),
            choices: labels.map(|label| vec![label]).collect(),
        })
    });
    controls
        .filter(|answer| !answer.choices.is_empty())
        .collect()
}
