//! What forms of objects have in common: pictures, each with the categories of its objects.

use super::error::{LabelFileError, LabelsError, record};
use super::{Drafts, ImportOptions, Picture};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use tagstream_core::events::LabelEvent;

/// The deepest folder that is looked into.
const DEEPEST: usize = 32;

/// The objects of one picture.
pub(super) struct Objects {
    pub(super) picture: Picture,
    pub(super) uri: String,
    /// Categories of objects.
    pub(super) present: BTreeSet<String>,
    /// Categories that may be there all the same: never absent.
    pub(super) unsure: BTreeSet<String>,
}

/// Every picture of an export.
#[derive(Default)]
pub(super) struct Pictures {
    /// What is asked about in every picture.
    pub(super) categories: BTreeSet<String>,
    pub(super) drafts: Drafts,
    all: Vec<Objects>,
    /// Where a picture was read.
    places: HashMap<Picture, String>,
}

impl Pictures {
    /// Takes a picture in; `place` says where it was read.
    ///
    /// # Errors
    /// If the export has it already: two pictures would be one.
    pub(super) fn add(&mut self, objects: Objects, place: String) -> Result<(), LabelsError> {
        let earlier = self.places.insert(objects.picture.clone(), place.clone());
        if let Some(earlier) = earlier {
            let reason = format!("it is about the same picture as {earlier}: two would become one");
            return Err(record(place, reason));
        }
        self.categories.extend(objects.present.iter().cloned());
        self.all.push(objects);
        Ok(())
    }

    /// The events; where the annotation is exhaustive, silence means absence.
    pub(super) fn into_drafts(mut self, options: &ImportOptions) -> Drafts {
        for objects in self.all {
            let silent = self.categories.iter().filter(|name| {
                options.exhaustive
                    && !objects.present.contains(*name)
                    && !objects.unsure.contains(*name)
            });
            let absent: Vec<String> = silent.cloned().collect();
            if objects.present.is_empty() && absent.is_empty() {
                self.drafts.leave_out("images without any label");
                continue;
            }
            let event = LabelEvent {
                present: objects.present.into_iter().collect(),
                absent,
                annotator: options.annotator.clone(),
                ..LabelEvent::about("", objects.uri)
            };
            self.drafts.say(objects.picture, event);
        }
        self.drafts
    }
}

/// All files below `root` that `wanted` takes, in the order of their paths. Links to folders are
/// not followed: they may lead in a circle.
pub(super) fn files(
    root: &Path,
    wanted: impl Fn(&Path) -> bool,
) -> Result<Vec<PathBuf>, LabelFileError> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let failed = |error: std::io::Error| LabelsError::from(error).at(&folder);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            if entry.file_type().map_err(failed)?.is_dir() {
                if depth < DEEPEST {
                    folders.push((path, depth + 1));
                }
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Folders and name of `path` below `root`.
pub(super) fn below(root: &Path, path: &Path) -> Vec<String> {
    let parts = path.strip_prefix(root).unwrap_or(path).iter();
    parts
        .map(|part| part.to_string_lossy().into_owned())
        .collect()
}

/// The text of a file.
pub(super) fn text(path: &Path) -> Result<String, LabelFileError> {
    let read = || -> Result<String, LabelsError> {
        let mut text = String::new();
        let mut input = super::file::unicode(super::file::open(path)?)?;
        input.read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| error.at(path))
}
