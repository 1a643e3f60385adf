//! Pascal VOC's annotations: an XML file a picture, with `filename` and the `name` of every
//! `object`. An object that is marked difficult may be there or not, to whoever looks.

use super::error::{LabelFileError, LabelsError, line};
use super::objects::{Objects, Pictures, below, files, text};
use super::{Drafts, ImportOptions, Picture, uri, xml};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tagstream_core::image_id::PicturePlace;

/// The folder that annotations stand in beside the pictures: no part of their path.
pub(super) const ANNOTATIONS: &str = "Annotations";

/// Whether a file is called as Pascal VOC's annotations are.
pub(super) fn is_annotation(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("xml"))
}

/// The annotations that `path` is, or that lie below it.
///
/// # Errors
/// If a folder cannot be read, or has none.
pub(super) fn annotation_files(path: &Path) -> Result<Vec<PathBuf>, LabelFileError> {
    let found = match path.is_dir() {
        true => files(path, is_annotation)?,
        false => vec![path.to_path_buf()],
    };
    if found.is_empty() {
        let reason = "has no .xml file, which Pascal VOC's annotations are".to_owned();
        return Err(LabelsError::Empty(reason).at(path));
    }
    Ok(found)
}

/// Reads a file, or all below a folder.
pub(super) fn read(path: &Path, options: &ImportOptions) -> Result<Drafts, LabelFileError> {
    let mut pictures = Pictures::default();
    let found = annotation_files(path)?;
    for file in &found {
        let mut folders = below(path, file);
        folders.pop();
        folders.retain(|folder| folder != ANNOTATIONS);
        let stem = file
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        let read = annotation(&text(file)?, &folders, stem, options, &mut pictures);
        let added = read.and_then(|objects| pictures.add(objects, file.display().to_string()));
        added.map_err(|error| error.at(file))?;
    }
    Ok(pictures.into_drafts(options))
}

/// Reads one annotation by itself.
pub(super) fn read_one(text: &str, options: &ImportOptions) -> Result<Drafts, LabelsError> {
    let mut pictures = Pictures::default();
    let objects = annotation(text, &[], None, options, &mut pictures)?;
    pictures.add(objects, "the file".to_owned())?;
    Ok(pictures.into_drafts(options))
}

/// What one file says. `folders` are those of the file, whose name is `stem`.
fn annotation(
    text: &str,
    folders: &[String],
    stem: Option<String>,
    options: &ImportOptions,
    pictures: &mut Pictures,
) -> Result<Objects, LabelsError> {
    let root = xml::document(text, "annotation", &[], "Pascal VOC's annotation")?;
    let (mut present, mut unsure) = (BTreeSet::new(), BTreeSet::new());
    for object in root.all("object") {
        // Not the names of its parts, which stand one deeper.
        let name = object.text_of("name").ok_or_else(|| {
            line(
                object.line,
                "`<object>` has no `<name>`, which is read as the label",
            )
        })?;
        if object
            .text_of("difficult")
            .is_some_and(|d| d == "1" || d == "true")
        {
            pictures
                .drafts
                .leave_out("objects that are marked difficult");
            unsure.insert(name.to_owned());
        } else {
            present.insert(name.to_owned());
        }
    }
    pictures.categories.extend(unsure.iter().cloned());
    let named = root.text_of("filename").map(|name| name.replace('\\', "/"));
    let name = named.or(stem).ok_or_else(|| {
        line(
            root.line,
            "it has no `<filename>`, which is read as the picture",
        )
    })?;
    let path = match name.contains('/') || folders.is_empty() {
        true => name,
        false => format!("{}/{name}", folders.join("/")),
    };
    Ok(Objects {
        uri: uri(&options.uri_prefix, &path),
        picture: Picture::At(PicturePlace::of(&path)),
        present,
        unsure,
    })
}
