//! Labels as training and evaluation take them: a matrix, a row an image and a column a category.
//!
//! The file is CSV with a header and the columns `image_id`, `label` (the category) and `state`:
//! `present` (`1`, `true`), `absent` (`0`, `false`) or `unknown`; or with a column a category. What
//! is not mentioned is unknown. Of repeated lines the last wins, whatever time it names. A name
//! that ends in `.gz` is decompressed.

use super::ImportOptions;
use super::csv_form::{Statement, rows, write_states};
use super::error::{LabelFileError, LabelsError};
use super::file;
use super::table::LabelTable;
use csv::Trim;
use ndarray::{Array2, ArrayView2, Axis};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use tagstream_core::events::LabelState;

/// Labels of images, `[images, categories]`: +1 present, -1 absent, 0 unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelMatrix {
    images: Vec<String>,
    categories: Vec<String>,
    /// A row after the other.
    states: Array2<i8>,
    ignored: usize,
}

impl LabelMatrix {
    /// A matrix in which every entry is `state`.
    pub fn filled(images: Vec<String>, categories: Vec<String>, state: i8) -> Self {
        Self {
            states: Array2::from_elem((images.len(), categories.len()), state),
            images,
            categories,
            ignored: 0,
        }
    }

    /// What `table` knows of these images and categories, in this order.
    pub fn of(table: &LabelTable, images: Vec<String>, categories: Vec<String>) -> Self {
        let mut matrix = Self::filled(images, categories, 0);
        let columns: HashMap<&str, usize> = matrix
            .categories
            .iter()
            .zip(0..)
            .map(|(name, column)| (name.as_str(), column))
            .collect();
        for (id, mut row) in matrix.images.iter().zip(matrix.states.rows_mut()) {
            let known = table.image(id).into_iter().flat_map(|image| image.states());
            for (category, state) in known {
                if let Some(&column) = columns.get(category) {
                    row[column] = sign(state);
                }
            }
        }
        matrix
    }

    /// Reads a label file. With `categories` the matrix has exactly those, in that order, and lines
    /// about others are counted in `ignored`; without, it has the categories of the file in the
    /// order of their first mention.
    ///
    /// # Errors
    /// If the file cannot be read or a line has no known state.
    pub fn read(path: &Path, categories: Option<&[String]>) -> Result<Self, LabelFileError> {
        let input = file::open(path).map_err(LabelsError::from);
        let read = input.and_then(|input| Self::parse(input, categories));
        read.map_err(|error| error.at(path))
    }

    /// As [`LabelMatrix::read`], from anything that can be read.
    ///
    /// # Errors
    /// If it cannot be read or a line has no known state.
    pub fn parse(input: impl Read, categories: Option<&[String]>) -> Result<Self, LabelsError> {
        let mut images = Names::default();
        let mut columns = Names::default();
        for name in categories.unwrap_or_default() {
            columns.at(name);
        }
        let mut ignored = 0;
        let mut entries: Vec<(usize, usize, i8)> = Vec::new();
        let options = ImportOptions::default();
        rows(input, Trim::All, &options, |row| {
            // Images of which only ignored categories are known are images too: all their labels
            // are unknown.
            let image = images.at(row.image_id);
            if categories.is_some() && !columns.index.contains_key(row.category) {
                ignored += 1;
                return Ok(());
            }
            let state = match row.statement {
                Statement::Known(state) => sign(state),
                Statement::Retracted | Statement::Unknown => 0,
            };
            entries.push((image, columns.at(row.category), state));
            Ok(())
        })?;
        if images.list.is_empty() {
            return Err(LabelsError::Empty("has no label".to_owned()));
        }
        let mut matrix = Self::filled(images.list, columns.list, 0);
        for (image, category, state) in entries {
            matrix.states[[image, category]] = state;
        }
        Ok(Self { ignored, ..matrix })
    }

    /// Image ids, in the order in which the file first names them.
    pub fn images(&self) -> &[String] {
        &self.images
    }

    /// Category names.
    pub fn categories(&self) -> &[String] {
        &self.categories
    }

    /// The states, `[images, categories]`.
    pub fn states(&self) -> ArrayView2<'_, i8> {
        self.states.view()
    }

    /// The states, a row after the other.
    pub fn flat(&self) -> &[i8] {
        self.states.as_slice().expect("rows lie one after another")
    }

    /// The states for changes, a row after the other.
    pub fn flat_mut(&mut self) -> &mut [i8] {
        let states = self.states.as_slice_mut();
        states.expect("rows lie one after another")
    }

    /// Lines about categories that were not asked for.
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// Keeps the images `ids`, in that order; ids without labels get unknown ones.
    pub fn select(&self, ids: &[String]) -> Self {
        let rows: HashMap<&str, usize> = self.images.iter().map(String::as_str).zip(0..).collect();
        let mut chosen = Self::filled(ids.to_vec(), self.categories.clone(), 0);
        for (id, mut row) in ids.iter().zip(chosen.states.rows_mut()) {
            if let Some(&from) = rows.get(id.as_str()) {
                row.assign(&self.states.row(from));
            }
        }
        Self {
            ignored: self.ignored,
            ..chosen
        }
    }

    /// Drops the images at `rows` (ascending).
    pub fn without(&self, rows: &[usize]) -> Self {
        let stays = |row: &usize| rows.binary_search(row).is_err();
        let kept: Vec<usize> = (0..self.images.len()).filter(stays).collect();
        self.chosen(&kept)
    }

    /// The images at `rows`, in that order.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn chosen(&self, rows: &[usize]) -> Self {
        Self {
            images: rows.iter().map(|&row| self.images[row].clone()).collect(),
            categories: self.categories.clone(),
            states: self.states.select(Axis(0), rows),
            ignored: self.ignored,
        }
    }

    /// Takes a presence as one of everything above it, too, where that is unknown: what is a dog is
    /// an animal. `parents` are columns, one for each column that has one.
    ///
    /// # Panics
    /// If `parents` is not as long as a row.
    pub fn raise_presences(&mut self, parents: &[Option<usize>]) {
        assert_eq!(parents.len(), self.categories.len(), "a parent a column");
        for mut row in self.states.rows_mut() {
            for column in 0..parents.len() {
                if row[column] <= 0 {
                    continue;
                }
                // Among so many categories a longer way up is a circle.
                let above = std::iter::successors(parents[column], |at| parents[*at]);
                for parent in above.take(parents.len()) {
                    if row[parent] == 0 {
                        row[parent] = 1;
                    }
                }
            }
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
    pub fn write(&self, path: &Path) -> Result<(), LabelFileError> {
        let aside = path.with_extension("csv.partial");
        let write = || -> Result<(), LabelsError> {
            write_states(self.entries(), File::create(&aside)?)?;
            Ok(std::fs::rename(&aside, path)?)
        };
        write().map_err(|error| error.at(path))
    }

    /// Every known entry: image, category, state.
    fn entries(&self) -> impl Iterator<Item = (&str, &str, LabelState)> {
        let rows = self.images.iter().zip(self.states.rows());
        rows.flat_map(|(image, row)| {
            let row = self.categories.iter().zip(row);
            row.filter_map(move |(category, &state)| {
                let state = match state {
                    0 => return None,
                    1.. => LabelState::Present,
                    _ => LabelState::Absent,
                };
                Some((image.as_str(), category.as_str(), state))
            })
        })
    }
}

fn sign(state: LabelState) -> i8 {
    match state {
        LabelState::Present => 1,
        LabelState::Absent => -1,
    }
}

/// Names in the order of their first mention.
#[derive(Default)]
struct Names {
    list: Vec<String>,
    index: HashMap<String, usize>,
}

impl Names {
    fn at(&mut self, name: &str) -> usize {
        if let Some(&index) = self.index.get(name) {
            return index;
        }
        self.list.push(name.to_owned());
        self.index.insert(name.to_owned(), self.list.len() - 1);
        self.list.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::path::PathBuf;
    use tagstream_core::events::LabelEvent;

    fn file(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const CSV: &str = "image_id,label,state\nb,sky,present\na,sea,absent\nb,sea,unknown\n\
                       c,fog,present\na,sea,present\n";

    #[test]
    fn the_last_line_wins_and_the_rest_is_unknown() {
        let (_dir, path) = file("labels.csv", CSV);
        let table = LabelMatrix::read(&path, None).unwrap();
        assert_eq!(table.images(), names(&["b", "a", "c"]));
        assert_eq!(table.categories(), names(&["sky", "sea", "fog"]));
        assert_eq!(table.flat(), [1, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(table.known(), 3);
    }

    #[test]
    fn given_categories_fix_the_columns_and_others_are_counted() {
        let (_dir, path) = file("labels.csv", CSV);
        let table = LabelMatrix::read(&path, Some(&names(&["sea", "moon"]))).unwrap();
        assert_eq!(table.flat(), [0, 0, 1, 0, 0, 0]);
        assert_eq!((table.images().len(), table.ignored()), (3, 2));
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
        let table = LabelMatrix::read(&path, None).unwrap();
        assert_eq!(
            (table.images(), table.flat()),
            (&names(&["7"])[..], &[-1][..])
        );
    }

    #[test]
    fn a_presence_is_one_of_everything_above_it() {
        let all = names(&["animal", "dog", "pug", "car"]);
        let mut matrix = LabelMatrix::filled(names(&["a", "b", "c", "d"]), all, 0);
        #[rustfmt::skip]
        matrix.flat_mut().copy_from_slice(&[
            0, 0, 1, 0,
            -1, 0, 1, 0,
            0, -1, 0, 1,
            0, 1, -1, 0,
        ]);
        matrix.raise_presences(&[None, Some(0), Some(1), None]);
        // What was said itself stays; absences and what has no parent say nothing of others.
        #[rustfmt::skip]
        assert_eq!(matrix.flat(), [
            1, 1, 1, 0,
            -1, 1, 1, 0,
            0, -1, 0, 1,
            1, 1, -1, 0,
        ]);
        // A circle ends.
        matrix.raise_presences(&[Some(1), Some(0), None, None]);
        assert_eq!(matrix.flat()[4..8], [-1, 1, 1, 0]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let (_dir, path) = file("labels.csv", "image_id,label,state\na,sky,yes\n");
        let error = LabelMatrix::read(&path, None).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("yes"), "{error}");
        let error = |content: &str| {
            let (_dir, path) = file("labels.csv", content);
            LabelMatrix::read(&path, None).unwrap_err().error
        };
        assert!(matches!(
            error("image,label,state\n"),
            LabelsError::NoColumn {
                column: "image_id",
                ..
            }
        ));
        assert!(matches!(
            error("image_id,label,state\n"),
            LabelsError::Empty(_)
        ));
        let nameless = error("image_id,label,state\na,,present\n").to_string();
        assert!(nameless.starts_with("line 2: "), "{nameless}");
        let gone = LabelMatrix::read(Path::new("gone.csv"), None).unwrap_err();
        assert!(gone.to_string().starts_with("gone.csv: "), "{gone}");
    }

    #[test]
    fn selection_follows_the_ids() {
        let (_dir, path) = file("labels.csv", CSV);
        let table = LabelMatrix::read(&path, None).unwrap();
        let chosen = table.select(&names(&["c", "new", "b"]));
        assert_eq!(chosen.flat(), [0, 0, 1, 0, 0, 0, 1, 0, 0]);
        assert_eq!(chosen.chosen(&[2, 0]).flat(), [1, 0, 0, 0, 0, 1]);
        let rest = chosen.without(&[1]);
        assert_eq!(
            (rest.images(), rest.flat()),
            (&names(&["c", "b"])[..], &[0, 0, 1, 1, 0, 0][..])
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (dir, path) = file("labels.csv", CSV);
        let table = LabelMatrix::read(&path, None).unwrap();
        let copy = dir.path().join("copy.csv");
        table.write(&copy).unwrap();
        assert_eq!(
            LabelMatrix::read(&copy, Some(table.categories())).unwrap(),
            table
        );
    }

    #[test]
    fn a_table_fills_the_images_and_categories_asked_for() {
        let event = |image: &str, present: &str, absent: &str| LabelEvent {
            present: vec![present.into()],
            absent: vec![absent.into()],
            ..LabelEvent::about(image, "")
        };
        let events = [event("a", "sky", "sea"), event("b", "sea", "fog")];
        let table = LabelTable::of_events(&events);
        let wanted = names(&["b", "new", "a"]);
        let matrix = LabelMatrix::of(&table, wanted, names(&["sea", "sky"]));
        assert_eq!(matrix.flat(), [1, 0, 0, 0, -1, 1]);
        assert_eq!(matrix.states().dim(), (3, 2));
    }
}
