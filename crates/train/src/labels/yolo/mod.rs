//! YOLO's text files, a line an object: `class x y width height`, polygons and rotated boxes alike.
//! A folder holds them, with the classes' names in `data.yaml` (Ultralytics), `obj.names` (darknet,
//! CVAT) or `classes.txt` (Label Studio).

mod names;

use self::names::Names;
use super::error::{LabelFileError, LabelsError, line};
use super::label_studio::without_upload_prefix;
use super::objects::{Objects, Pictures, below, files, text};
use super::{Drafts, ImportOptions, Picture, uri};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tagstream_core::image_id::{PicturePlace, is_extension};

/// The folder of labels, and the one of pictures beside it.
const LABELS: &str = "labels";
const IMAGES: &str = "images";
/// Text files that are no labels, wherever they lie.
const OTHERS: [&str; 8] = [
    "classes.txt",
    "train.txt",
    "val.txt",
    "valid.txt",
    "test.txt",
    "requirements.txt",
    "README.txt",
    "LICENSE.txt",
];
/// Numbers of the smallest object, behind its class.
const FEWEST: usize = 4;
/// What Label Studio says of itself, in `notes.json`.
const LABEL_STUDIO: &str = "Label Studio";

/// Reads the labels below a folder; `path` may also be its `data.yaml`.
pub(super) fn read(path: &Path, options: &ImportOptions) -> Result<Drafts, LabelFileError> {
    let root = match path.is_file() {
        true => path.parent().unwrap_or(Path::new(".")),
        false => path,
    };
    let names = names::of_folder(root, path)?;
    let is_text = |path: &Path| {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("txt"))
    };
    let mut found = files(root, is_text)?;
    let in_labels = |file: &PathBuf| below(root, file).iter().any(|part| is_labels(part));
    if found.iter().any(in_labels) {
        found.retain(in_labels);
    }
    found.retain(|file| {
        let name = file.file_name().map(|name| name.to_string_lossy());
        !name.is_some_and(|name| OTHERS.iter().any(|other| name.eq_ignore_ascii_case(other)))
    });
    if found.is_empty() {
        let reason = "has no text file of labels: YOLO's is one beside or for each picture";
        return Err(LabelsError::Empty(reason.into()).at(root));
    }
    let uploaded = is_uploaded(root)?;
    let mut pictures = Pictures::default();
    pictures.categories.extend(names.iter().cloned());
    for file in &found {
        let present = objects(&text(file)?, &names).map_err(|error| error.at(file))?;
        let (path, exists) = picture(root, file);
        let name = match uploaded {
            true => without_upload_prefix(&path).to_owned(),
            false => path.clone(),
        };
        let objects = Objects {
            // Without the picture nobody knows its extension.
            uri: match exists {
                true => uri(&options.uri_prefix, &name),
                false => String::new(),
            },
            picture: Picture::At(PicturePlace {
                path: name,
                whole: path,
            }),
            present,
            unsure: BTreeSet::new(),
        };
        let added = pictures.add(objects, file.display().to_string());
        added.map_err(|error| error.at(file))?;
    }
    Ok(pictures.into_drafts(options))
}

/// Whether a folder holds labels alone: `labels`, and darknet's `obj_train_data`.
fn is_labels(part: &str) -> bool {
    part == LABELS || (part.starts_with("obj_") && part.ends_with("_data"))
}

/// The categories of a file.
fn objects(text: &str, names: &Names) -> Result<BTreeSet<String>, LabelsError> {
    let mut present = BTreeSet::new();
    for (content, number) in text.lines().zip(1..) {
        let mut fields = content.split_whitespace();
        let Some(class) = fields.next() else {
            continue;
        };
        let wrong = |reason: String| {
            line(
                number,
                format!("{reason}; `class x y width height` is read"),
            )
        };
        // Some tools write the class as 3.0.
        let class = class.strip_suffix(".0").unwrap_or(class);
        let class: usize = class
            .parse()
            .map_err(|_| wrong("the class is no number".into()))?;
        let mut count = 0;
        for field in fields {
            let number: Result<f64, _> = field.parse();
            number.map_err(|_| wrong(format!("{field:?} is no number")))?;
            count += 1;
        }
        if count < FEWEST {
            return Err(wrong(format!("{count} numbers follow the class")));
        }
        let name = names.get(class).ok_or_else(|| {
            let known = names.len();
            wrong(format!(
                "class {class} has no name among the {known} of {}",
                names.source
            ))
        })?;
        present.insert(name.to_owned());
    }
    Ok(present)
}

/// The path of the picture that a file of labels is about, and whether it is there: with its
/// extension then.
fn picture(root: &Path, file: &Path) -> (String, bool) {
    let stem = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    let stem = stem.unwrap_or_default();
    let mut folders = below(root, file);
    folders.pop();
    let beside: Vec<&str> = folders
        .iter()
        .map(|part| if part == LABELS { IMAGES } else { part })
        .collect();
    let beside = root.join(beside.join("/"));
    let extension = std::fs::read_dir(&beside)
        .into_iter()
        .flatten()
        .flatten()
        .find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (bare, extension) = name.rsplit_once('.')?;
            (bare == stem && is_extension(extension)).then(|| extension.to_owned())
        });
    folders.retain(|part| !is_labels(part));
    folders.push(stem);
    let path = folders.join("/");
    match extension {
        Some(extension) => (format!("{path}.{extension}"), true),
        None => (path, false),
    }
}

/// Whether names begin as Label Studio's uploads do.
fn is_uploaded(root: &Path) -> Result<bool, LabelFileError> {
    let notes = root.join("notes.json");
    if !notes.is_file() {
        return Ok(false);
    }
    let notes: Option<serde_json::Value> = serde_json::from_str(&text(&notes)?).ok();
    Ok(notes.is_some_and(|notes| notes["info"]["contributor"] == LABEL_STUDIO))
}
