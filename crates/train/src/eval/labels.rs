//! Label tables: which image has which category, lacks it, or is not known to do either.
//!
//! The file is CSV with a header and the columns `image_id`, `label` (the category) and `state`:
//! `present`, `absent` or `unknown`. What is not mentioned is unknown. Of repeated lines the last
//! wins. A name ending in `.gz` is decompressed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use tagstream_core::storage::atomic::AtomicFile;

/// Why labels could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("{path} line {line}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A column is missing.
    #[error("{path} has no column {column}; expected a header with {expected}")]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// All columns.
        expected: &'static str,
    },
    /// Nothing is left to work with.
    #[error("{path} {what}")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// The file cannot be written.
    #[error("cannot write {path}: {reason}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Labels of images, `[images, categories]`: +1 present, -1 absent, 0 unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelTable {
    /// Image ids, in the order in which the file first names them.
    pub images: Vec<String>,
    /// Category names.
    pub categories: Vec<String>,
    /// Row-major states.
    pub states: Vec<i8>,
    /// Lines about categories that were not asked for.
    pub ignored: usize,
}

impl LabelTable {
    /// Reads a label file. With `categories` the table has exactly those, in that order, and lines
    /// about others are counted in `ignored`; without, it has the categories of the file in the
    /// order of their first mention.
    ///
    /// # Errors
    /// If the file cannot be read or a line has no known state.
    pub fn read(path: &Path, categories: Option<&[String]>) -> Result<Self, LabelsError> {
        const EXPECTED: &str = "image_id,label,state";
        let mut table = Self {
            categories: categories.map(<[String]>::to_vec).unwrap_or_default(),
            ..Self::default()
        };
        let mut category_index: HashMap<String, usize> = table
            .categories
            .iter()
            .enumerate()
            .map(|(index, name)| (name.clone(), index))
            .collect();
        let mut image_index: HashMap<String, usize> = HashMap::new();
        let mut entries = Vec::new();
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_reader(open(path)?);
        let columns = columns(&mut reader, path, ["image_id", "label", "state"], EXPECTED)?;
        for record in reader.records() {
            let record = record.map_err(|error| malformed(path, &error))?;
            let line = record.position().map_or(0, csv::Position::line);
            let field = |column: usize| record.get(columns[column]).unwrap_or_default();
            let state = match field(2) {
                "present" => 1,
                "absent" => -1,
                "unknown" => 0,
                other => {
                    return Err(LabelsError::Malformed {
                        path: path.to_path_buf(),
                        line,
                        reason: format!("state {other:?} is none of present, absent, unknown"),
                    });
                }
            };
            let (image, label) = (field(0), field(1));
            if image.is_empty() || label.is_empty() {
                return Err(LabelsError::Malformed {
                    path: path.to_path_buf(),
                    line,
                    reason: "image_id or label is empty".to_owned(),
                });
            }
            // Images of which only ignored categories are known are images too: all their labels
            // are unknown.
            let images = image_index.len();
            let image = *image_index.entry(image.to_owned()).or_insert_with(|| {
                table.images.push(image.to_owned());
                images
            });
            let category = match category_index.get(label) {
                Some(&category) => category,
                None if categories.is_some() => {
                    table.ignored += 1;
                    continue;
                }
                None => {
                    let next = table.categories.len();
                    category_index.insert(label.to_owned(), next);
                    table.categories.push(label.to_owned());
                    next
                }
            };
            entries.push((image, category, state));
        }
        if table.images.is_empty() {
            return Err(LabelsError::Empty {
                path: path.to_path_buf(),
                what: "has no label".to_owned(),
            });
        }
        table.states = vec![0; table.images.len() * table.categories.len()];
        for (image, category, state) in entries {
            table.states[image * table.categories.len() + category] = state;
        }
        Ok(table)
    }

    /// Keeps the images `ids`, in that order; ids without labels get unknown ones.
    pub fn select(&self, ids: &[String]) -> Self {
        let c = self.categories.len();
        let rows: HashMap<&str, usize> = self
            .images
            .iter()
            .enumerate()
            .map(|(row, id)| (id.as_str(), row))
            .collect();
        let states = ids.iter().flat_map(|id| match rows.get(id.as_str()) {
            Some(row) => self.states[row * c..(row + 1) * c].to_vec(),
            None => vec![0; c],
        });
        Self {
            images: ids.to_vec(),
            categories: self.categories.clone(),
            states: states.collect(),
            ignored: self.ignored,
        }
    }

    /// Drops the images at `rows` (ascending).
    pub fn without(&self, rows: &[usize]) -> Self {
        let c = self.categories.len();
        let kept: Vec<usize> = (0..self.images.len())
            .filter(|row| rows.binary_search(row).is_err())
            .collect();
        Self {
            images: kept.iter().map(|&row| self.images[row].clone()).collect(),
            categories: self.categories.clone(),
            states: kept
                .iter()
                .flat_map(|row| &self.states[row * c..(row + 1) * c])
                .copied()
                .collect(),
            ignored: self.ignored,
        }
    }

    /// Entries that are known.
    pub fn known(&self) -> usize {
        self.states.iter().filter(|state| **state != 0).count()
    }

    /// Writes every known entry as a line.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LabelsError> {
        let unwritable = |reason: String| LabelsError::Unwritable {
            path: path.to_path_buf(),
            reason,
        };
        let file = AtomicFile::create(path).map_err(|error| unwritable(error.to_string()))?;
        let mut writer = csv::Writer::from_writer(file);
        self.write_lines(&mut writer)
            .map_err(|error| unwritable(error.to_string()))?;
        let file = writer
            .into_inner()
            .map_err(|error| unwritable(error.to_string()))?;
        file.commit().map_err(|error| unwritable(error.to_string()))
    }

    fn write_lines(&self, writer: &mut csv::Writer<impl Write>) -> csv::Result<()> {
        writer.write_record(["image_id", "label", "state"])?;
        for (image, row) in self
            .images
            .iter()
            .zip(self.states.chunks(self.categories.len().max(1)))
        {
            for (category, state) in self
                .categories
                .iter()
                .zip(row)
                .filter(|(_, state)| **state != 0)
            {
                writer.write_record([
                    image.as_str(),
                    category,
                    if *state > 0 { "present" } else { "absent" },
                ])?;
            }
        }
        Ok(())
    }
}

/// Reads a category file: one name a line; empty lines and lines starting with `#` do not count.
///
/// # Errors
/// If the file cannot be read, is empty, or names a category twice.
pub fn read_categories(path: &Path) -> Result<Vec<String>, LabelsError> {
    let mut text = String::new();
    open(path)?
        .read_to_string(&mut text)
        .map_err(|source| LabelsError::Unreadable {
            path: path.to_path_buf(),
            source,
        })?;
    let mut names: Vec<String> = Vec::new();
    let lines = text
        .trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .enumerate();
    for (index, name) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        if names.iter().any(|other| other == name) {
            return Err(LabelsError::Malformed {
                path: path.to_path_buf(),
                line: index as u64 + 1,
                reason: format!("category {name:?} is there twice"),
            });
        }
        names.push(name.to_owned());
    }
    if names.is_empty() {
        return Err(LabelsError::Empty {
            path: path.to_path_buf(),
            what: "names no category".to_owned(),
        });
    }
    Ok(names)
}

/// Reads the image ids of one split of a file with the columns `image_id` and `split`, in the
/// file's order.
///
/// # Errors
/// If the file cannot be read or has no such split.
pub fn read_split(path: &Path, split: &str) -> Result<Vec<String>, LabelsError> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(open(path)?);
    let columns = columns(&mut reader, path, ["image_id", "split"], "image_id,split")?;
    let mut ids = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| malformed(path, &error))?;
        if record.get(columns[1]) == Some(split) {
            ids.push(record.get(columns[0]).unwrap_or_default().to_owned());
        }
    }
    if ids.is_empty() {
        return Err(LabelsError::Empty {
            path: path.to_path_buf(),
            what: format!("has no image in the split {split:?}"),
        });
    }
    Ok(ids)
}

fn open(path: &Path) -> Result<Box<dyn Read>, LabelsError> {
    let file = File::open(path).map_err(|source| LabelsError::Unreadable {
        path: path.to_path_buf(),
        source,
    })?;
    let file = BufReader::new(file);
    if path.extension().is_some_and(|extension| extension == "gz") {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(file)));
    }
    Ok(Box::new(file))
}

fn columns<const K: usize>(
    reader: &mut csv::Reader<Box<dyn Read>>,
    path: &Path,
    names: [&'static str; K],
    expected: &'static str,
) -> Result<[usize; K], LabelsError> {
    let header = reader.headers().map_err(|error| malformed(path, &error))?;
    let mut found = [0; K];
    for (slot, column) in found.iter_mut().zip(names) {
        let at = header
            .iter()
            .position(|field| field.trim_start_matches('\u{feff}') == column);
        *slot = at.ok_or_else(|| LabelsError::NoColumn {
            path: path.to_path_buf(),
            column,
            expected,
        })?;
    }
    Ok(found)
}

fn malformed(path: &Path, error: &csv::Error) -> LabelsError {
    LabelsError::Malformed {
        path: path.to_path_buf(),
        line: error.position().map_or(0, csv::Position::line),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const CSV: &str = "image_id,label,state\nb,sky,present\na,sea,absent\nb,sea,unknown\nc,fog,present\na,sea,present\n";

    #[test]
    fn the_last_line_wins_and_the_rest_is_unknown() {
        let (_dir, path) = file("labels.csv", CSV);
        let table = LabelTable::read(&path, None).unwrap();
        assert_eq!(table.images, names(&["b", "a", "c"]));
        assert_eq!(table.categories, names(&["sky", "sea", "fog"]));
        assert_eq!(table.states, [1, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(table.known(), 3);
    }

    #[test]
    fn given_categories_fix_the_columns_and_others_are_counted() {
        let (_dir, path) = file("labels.csv", CSV);
        let table = LabelTable::read(&path, Some(&names(&["sea", "moon"]))).unwrap();
        assert_eq!(table.states, [0, 0, 1, 0, 0, 0]);
        assert_eq!((table.images.len(), table.ignored), (3, 2));
    }

    #[test]
    fn columns_may_stand_in_any_order_and_the_file_may_be_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.csv.gz");
        let mut gz = flate2::write::GzEncoder::new(
            File::create(&path).unwrap(),
            flate2::Compression::fast(),
        );
        gz.write_all("\u{feff}state, label ,image_id\r\nabsent,sky,7\r\n".as_bytes())
            .unwrap();
        gz.finish().unwrap();
        let table = LabelTable::read(&path, None).unwrap();
        assert_eq!((table.images, table.states), (names(&["7"]), vec![-1]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let (_dir, path) = file("labels.csv", "image_id,label,state\na,sky,yes\n");
        let error = LabelTable::read(&path, None).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("yes"), "{error}");
        let (_dir, path) = file("labels.csv", "image,label,state\n");
        assert!(matches!(
            LabelTable::read(&path, None),
            Err(LabelsError::NoColumn {
                column: "image_id",
                ..
            })
        ));
        let (_dir, path) = file("labels.csv", "image_id,label,state\n");
        assert!(matches!(
            LabelTable::read(&path, None),
            Err(LabelsError::Empty { .. })
        ));
        let (_dir, path) = file("labels.csv", "image_id,label,state\na,,present\n");
        assert!(matches!(
            LabelTable::read(&path, None),
            Err(LabelsError::Malformed { .. })
        ));
        assert!(matches!(
            LabelTable::read(Path::new("gone.csv"), None),
            Err(LabelsError::Unreadable { .. })
        ));
    }

    #[test]
    fn selection_follows_the_ids() {
        let (_dir, path) = file("labels.csv", CSV);
        let table = LabelTable::read(&path, None).unwrap();
        let chosen = table.select(&names(&["c", "new", "b"]));
        assert_eq!(chosen.states, [0, 0, 1, 0, 0, 0, 1, 0, 0]);
        let rest = chosen.without(&[1]);
        assert_eq!(
            (rest.images, rest.states),
            (names(&["c", "b"]), vec![0, 0, 1, 1, 0, 0])
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (dir, path) = file("labels.csv", CSV);
        let table = LabelTable::read(&path, None).unwrap();
        let copy = dir.path().join("copy.csv");
        table.write(&copy).unwrap();
        assert_eq!(
            LabelTable::read(&copy, Some(&table.categories)).unwrap(),
            table
        );
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
            read_categories(&path),
            Err(LabelsError::Empty { .. })
        ));
    }

    #[test]
    fn splits_keep_the_file_s_order() {
        let (_dir, path) = file("splits.csv", "image_id,split\n9,train\n3,dev\n1,train\n");
        assert_eq!(read_split(&path, "train").unwrap(), names(&["9", "1"]));
        assert!(matches!(
            read_split(&path, "test"),
            Err(LabelsError::Empty { .. })
        ));
    }
}
