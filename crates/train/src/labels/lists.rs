//! The lists beside label files: categories, splits, and Open Images' class descriptions.

use super::error::{LabelFileError, LabelsError, line};
use super::file;
use csv::Trim;
use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, Read};
use std::path::Path;

/// Reads a category file: one name a line; empty lines and lines starting with `#` do not count.
///
/// # Errors
/// If the file cannot be read, is empty, or names a category twice.
pub fn read_categories(path: &Path) -> Result<Vec<String>, LabelFileError> {
    read(path, categories)
}

/// Reads the image ids of one split of a file with the columns `image_id` and `split`, in the
/// file's order.
///
/// # Errors
/// If the file cannot be read or has no such split.
pub fn read_split(path: &Path, split: &str) -> Result<Vec<String>, LabelFileError> {
    read(path, |input| split_ids(input, split))
}

/// Reads Open Images' class descriptions: machine name and display name, without a header.
///
/// # Errors
/// If the file cannot be read or is not CSV.
pub fn read_class_names(path: &Path) -> Result<BTreeMap<String, String>, LabelFileError> {
    read(path, class_names)
}

type Input = Box<dyn Read>;

fn read<T>(
    path: &Path,
    parse: impl FnOnce(Input) -> Result<T, LabelsError>,
) -> Result<T, LabelFileError> {
    let input = file::open(path).map_err(LabelsError::from);
    input.and_then(parse).map_err(|error| error.at(path))
}

fn categories(input: Input) -> Result<Vec<String>, LabelsError> {
    let mut names: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for (text, number) in file::unicode(input)?.lines().zip(1..) {
        let text = text?;
        let name = text.trim();
        if name.is_empty() || name.starts_with('#') {
            continue;
        }
        if !seen.insert(name.to_owned()) {
            return Err(line(number, format!("category {name:?} is there twice")));
        }
        names.push(name.to_owned());
    }
    if names.is_empty() {
        return Err(LabelsError::Empty("names no category".to_owned()));
    }
    Ok(names)
}

fn split_ids(input: Input, split: &str) -> Result<Vec<String>, LabelsError> {
    const COLUMNS: [&str; 2] = ["image_id", "split"];
    let mut reader = file::table(input, &COLUMNS, Trim::All)?;
    let columns = file::columns(&mut reader, COLUMNS)?;
    let mut ids = Vec::new();
    for record in reader.records() {
        let record = record?;
        let [id, name] = columns.map(|column| record.get(column).unwrap_or_default());
        if name == split {
            ids.push(id.to_owned());
        }
    }
    if ids.is_empty() {
        let reason = format!("has no image in the split {split:?}");
        return Err(LabelsError::Empty(reason));
    }
    Ok(ids)
}

fn class_names(input: Input) -> Result<BTreeMap<String, String>, LabelsError> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(file::unicode(input)?);
    let mut names = BTreeMap::new();
    for row in reader.records() {
        let row = row?;
        if let (Some(id), Some(name)) = (row.get(0), row.get(1)) {
            names.insert(id.to_owned(), name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn categories_are_lines() {
        let (_dir, path) = file("categories.txt", "# a comment\nsky\n\n  red car \n");
        assert_eq!(read_categories(&path).unwrap(), names(&["sky", "red car"]));
        let (_dir, path) = file("categories.txt", "sky\nsea\nsky\n");
        assert!(
            read_categories(&path)
                .unwrap_err()
                .to_string()
                .contains("line 3")
        );
        let (_dir, path) = file("categories.txt", "\n");
        assert!(matches!(
            read_categories(&path).unwrap_err().error,
            LabelsError::Empty(_)
        ));
    }

    #[test]
    fn splits_keep_the_file_s_order() {
        let (_dir, path) = file("splits.csv", "image_id,split\n9,train\n3,dev\n1,train\n");
        assert_eq!(read_split(&path, "train").unwrap(), names(&["9", "1"]));
        assert!(matches!(
            read_split(&path, "test").unwrap_err().error,
            LabelsError::Empty(_)
        ));
    }
}
