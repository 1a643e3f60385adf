//! FiftyOne's exports: `samples.json` of a `FiftyOneDataset`, and `labels.json` of its
//! classification and detection data sets. A `labels.json` is written, too: what FiftyOne has no
//! place for (absences, addresses) stands under a key of its own, which FiftyOne passes over.

use super::error::{LabelsError, record};
use super::json::{self, Object};
use super::objects::{Objects, Pictures};
use super::{Drafts, ImportOptions, LabelTable, Picture, file, uri};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use tagstream_core::events::{LabelEvent, LabelState};
use tagstream_core::image_id::PicturePlace;

/// Files of an export that are read, by their place in its folder.
pub(super) const FILES: [&str; 2] = ["samples.json", "labels.json"];
/// The field that labels stand in where none is named.
const FIELD: &str = "ground_truth";
/// Where an export keeps pictures: no part of their path.
const MEDIA: &str = "data/";
/// The key under which [`write()`] keeps what FiftyOne has no place for.
const OWN: &str = "tagstream";
/// Kinds of labels that hold a list of others, and where.
const LISTS: [(&str, &str); 4] = [
    ("Classifications", "classifications"),
    ("Detections", "detections"),
    ("Polylines", "polylines"),
    ("Keypoints", "keypoints"),
];
/// Kinds of labels that name a category.
const SINGLE: [&str; 4] = ["Classification", "Detection", "Polyline", "Keypoint"];

pub(super) fn read(input: impl Read, options: &ImportOptions) -> Result<Drafts, LabelsError> {
    let form = "FiftyOne";
    let mut text = String::new();
    file::unicode(input)?.read_to_string(&mut text)?;
    let file: Object =
        serde_json::from_str(&text).map_err(|source| LabelsError::Json { form, source })?;
    let mut pictures = Pictures::default();
    match (file.get("samples"), file.get("labels")) {
        (Some(_), _) => samples(&file, options, &mut pictures)?,
        (None, Some(Value::Object(labels))) if file.contains_key(OWN) => {
            return written(&file, labels, options);
        }
        (None, Some(Value::Object(labels))) => listed(&file, labels, options, &mut pictures)?,
        (None, _) => {
            let keys = json::keys(file.keys());
            let reason = format!(
                "it has {keys}; `samples` (samples.json) or `labels` (labels.json) is read"
            );
            return Err(record("the file", reason));
        }
    }
    Ok(pictures.into_drafts(options))
}

/// What a label says, by its class.
fn names(label: &Object, place: &str, found: &mut Vec<String>) -> Result<(), LabelsError> {
    let class = label
        .get("_cls")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if let Some((_, key)) = LISTS.iter().find(|(name, _)| *name == class) {
        for one in json::list(label, key, place)? {
            names(json::object(one, place, key)?, place, found)?;
        }
    } else if SINGLE.contains(&class) {
        found.extend(json::get(label, "label").and_then(json::text));
    }
    Ok(())
}

fn is_label(value: &Value) -> bool {
    let class = value.get("_cls").and_then(Value::as_str);
    class.is_some_and(|c| SINGLE.contains(&c) || LISTS.iter().any(|(name, _)| *name == c))
}

/// A `FiftyOneDataset`.
fn samples(
    file: &Object,
    options: &ImportOptions,
    pictures: &mut Pictures,
) -> Result<(), LabelsError> {
    let samples = json::list(file, "samples", "the file")?;
    let mut fields: BTreeMap<&str, u64> = BTreeMap::new();
    for sample in samples.iter().filter_map(Value::as_object) {
        for (field, _) in sample.iter().filter(|(_, value)| is_label(value)) {
            *fields.entry(field).or_default() += 1;
        }
    }
    let wanted: Vec<&str> = match (options.controls.as_slice(), fields.len()) {
        ([], _) if fields.contains_key(FIELD) => vec![FIELD],
        ([], 1) => fields.keys().copied().collect(),
        ([], _) => {
            let known: Vec<String> = fields.keys().map(|name| (*name).to_owned()).collect();
            let reason = format!(
                "labels stand in {}; --control names the field to read",
                json::keys(known.iter())
            );
            return Err(record("`samples`", reason));
        }
        (named, _) => named.iter().map(String::as_str).collect(),
    };
    if let Some(missing) = wanted.iter().find(|name| !fields.contains_key(*name)) {
        return Err(record(
            "`samples`",
            format!("no sample has labels in `{missing}`"),
        ));
    }
    for (sample, number) in samples.iter().zip(1..) {
        let place = format!("sample {number}");
        let sample = json::object(sample, &place, "samples")?;
        let path = sample
            .get("filepath")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if path.is_empty() {
            let reason = "it has no `filepath`, which is read as the picture";
            return Err(record(place, reason));
        }
        for other in fields.keys().filter(|field| !wanted.contains(field)) {
            if sample.get(*other).is_some_and(is_label) {
                pictures
                    .drafts
                    .leave_out("fields of labels that are not read");
            }
        }
        let mut found = Vec::new();
        for field in &wanted {
            if let Some(Value::Object(label)) = sample.get(*field) {
                names(label, &place, &mut found)?;
            }
        }
        let path = path.replace('\\', "/");
        let path = path.strip_prefix(MEDIA).unwrap_or(&path);
        pictures.add(objects(path, found, options), place)?;
    }
    Ok(())
}

fn objects(path: &str, found: Vec<String>, options: &ImportOptions) -> Objects {
    Objects {
        uri: uri(&options.uri_prefix, path),
        picture: Picture::At(PicturePlace::of(path)),
        present: found.into_iter().filter(|name| !name.is_empty()).collect(),
        unsure: BTreeSet::new(),
    }
}

/// A data set of classifications or detections: labels by the picture's name.
fn listed(
    file: &Object,
    labels: &Object,
    options: &ImportOptions,
    pictures: &mut Pictures,
) -> Result<(), LabelsError> {
    let classes: Vec<String> = json::list(file, "classes", "the file")?
        .iter()
        .filter_map(json::text)
        .collect();
    pictures.categories.extend(classes.iter().cloned());
    for (name, said) in labels {
        let place = format!("`labels`: {name:?}");
        let said = match said {
            Value::Null => &[],
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut found = Vec::new();
        for one in said {
            let label = match one {
                Value::Object(object) => object.get("label").unwrap_or(&Value::Null),
                other => other,
            };
            found.extend(class(label, &classes, &place)?);
        }
        let mut objects = objects(name, found, options);
        // Names have lost their extensions: addresses cannot be made of them.
        objects.uri.clear();
        pictures.add(objects, place)?;
    }
    Ok(())
}

/// A class by its name or number.
fn class(label: &Value, classes: &[String], place: &str) -> Result<Option<String>, LabelsError> {
    match label {
        Value::Null => Ok(None),
        Value::Number(number) => {
            let at = number.as_u64().and_then(|at| usize::try_from(at).ok());
            let name = at.and_then(|at| classes.get(at)).cloned();
            let wrong = || {
                let reason = format!(
                    "class {number} is not among the {} `classes`",
                    classes.len()
                );
                record(place, reason)
            };
            name.map(Some).ok_or_else(wrong)
        }
        other => json::text(other).map(Some).ok_or_else(|| {
            let reason = format!("its label is {}, and a class is read", json::kind(other));
            record(place, reason)
        }),
    }
}

/// What [`write()`] has written: names are ids as they are.
fn written(file: &Object, labels: &Object, options: &ImportOptions) -> Result<Drafts, LabelsError> {
    let own = json::object(&file[OWN], "the file", OWN)?;
    let empty = Object::new();
    let told = |key: &str| own.get(key).and_then(Value::as_object).unwrap_or(&empty);
    let (absent, uris) = (told("absent"), told("uris"));
    let mut drafts = Drafts::default();
    for id in labels.keys() {
        let place = format!("`labels`: {id:?}");
        let names = |of: &Object| -> Result<Vec<String>, LabelsError> {
            let list = json::list(of, id, &place)?.iter();
            let names = list.map(|name| class(name, &[], &place));
            Ok(names
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .flatten()
                .collect())
        };
        let uri = uris.get(id).and_then(Value::as_str).unwrap_or_default();
        let event = LabelEvent {
            present: names(labels)?,
            absent: names(absent)?,
            annotator: options.annotator.clone(),
            ..LabelEvent::about("", uri)
        };
        drafts.say(Picture::Id(id.clone()), event);
    }
    Ok(drafts)
}

/// Writes a `labels.json` of multi-label classifications, by the pictures' names.
pub(super) fn write(table: &LabelTable, output: &mut impl Write) -> Result<(), LabelsError> {
    let (mut labels, mut absent, mut uris) = (Object::new(), Object::new(), Object::new());
    for (id, image) in table.images() {
        let of = |wanted: LabelState| -> Vec<&str> {
            let found = image.states().filter(|(_, state)| *state == wanted);
            found.map(|(name, _)| name).collect()
        };
        labels.insert(id.to_owned(), of(LabelState::Present).into());
        absent.insert(id.to_owned(), of(LabelState::Absent).into());
        if !image.address().is_empty() {
            uris.insert(id.to_owned(), image.address().into());
        }
    }
    let classes: Vec<String> = table.counts().into_keys().collect();
    let file = json!({
        "classes": classes, "labels": labels, OWN: {"absent": absent, "uris": uris},
    });
    serde_json::to_writer(&mut *output, &file).map_err(std::io::Error::from)?;
    writeln!(output)?;
    Ok(())
}
