//! Public multi-label data sets in the folder layouts in which they are distributed, as label
//! tables with splits.
//!
//! Only annotation files are read; images stay where they are and are found by their ids. All data
//! sets are fully labelled in the sense of the partial-label literature: what is not annotated as
//! present counts as absent.
//!
//! | layout | read below the folder | image id | splits |
//! |---|---|---|---|
//! | `coco14` | `annotations/instances_{train,val}2014.json` | file name | train, val |
//! | `coco17` | `annotations/instances_{train,val}2017.json` | file name | train, val |
//! | `voc07` | `ImageSets/Main/<class>_{trainval,test}.txt` (1) | 000005 | trainval, test |
//! | `voc12` | `ImageSets/Main/<class>_{train,val}.txt` (1) | 2008_000008 | train, val |
//! | `vg200` | `{train,test}_list_500.txt`, (2), `categories.txt` | file name | train, test |
//! | `nus-wide` | `Concepts81.txt`, `ImageList/<Part>Imagelist.txt`, (3) | path | train, test |
//! | `cub` | `images.txt`, `train_test_split.txt`, (4) | path | train, test |
//!
//! File names and paths lose their extension as ids, as everywhere (`tagstream_core::image_id`).
//! A split of which no file is there is left out, and named.
//!
//! - (1) also below `VOCdevkit/VOC2007` or `VOC2007`; of 2012 accordingly
//! - (2) `vg_category_200_labels_index.json`
//! - (3) `Groundtruth/TrainTestLabels/Labels_<concept>_<Part>.txt`, the parts being `Train` and
//!   `Test`
//! - (4) `attributes/image_attribute_labels.txt`, `attributes/attributes.txt` or
//!   `../attributes.txt`
//!
//! VOC: an image in which a class is only there as difficult objects (0 in the lists) counts as
//! absent. `categories.txt` of VG-200, one name a line in the order of the indices, is not part of
//! the distributed files: prompts need names.

use super::coco;
use super::error::{LabelFileError, LabelsError, line, record};
use super::file;
use super::lists::read_categories;
use super::matrix::LabelMatrix;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tagstream_core::image_id::{ImageNaming, PicturePlace};

/// The layout of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatasetLayout {
    /// MS-COCO 2014, 80 categories.
    Coco14,
    /// MS-COCO 2017: the same images and categories, split otherwise.
    Coco17,
    /// PASCAL VOC 2007.
    Voc07,
    /// PASCAL VOC 2012.
    Voc12,
    /// Visual Genome, 200 categories.
    Vg200,
    /// NUS-WIDE, 81 concepts.
    NusWide,
    /// CUB-200-2011, 312 attributes.
    Cub,
}

impl DatasetLayout {
    /// Every layout with its name.
    pub const ALL: [(&'static str, DatasetLayout); 7] = [
        ("coco14", DatasetLayout::Coco14),
        ("coco17", DatasetLayout::Coco17),
        ("voc07", DatasetLayout::Voc07),
        ("voc12", DatasetLayout::Voc12),
        ("vg200", DatasetLayout::Vg200),
        ("nus-wide", DatasetLayout::NusWide),
        ("cub", DatasetLayout::Cub),
    ];

    /// The layout of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, layout)| *layout)
    }
}

/// A data set: all images of all splits with all labels, and which image is in which split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSet {
    /// What is known of each image, in the order of the images.
    pub labels: LabelMatrix,
    /// The split of every image of `labels`.
    pub splits: Vec<&'static str>,
    /// Splits of which no file is there.
    pub missing: Vec<&'static str>,
}

impl DataSet {
    /// The images of one split; `None` if it has none.
    pub fn only(&self, split: &str) -> Option<Self> {
        let rows = 0..self.splits.len();
        let rows: Vec<usize> = rows.filter(|&row| self.splits[row] == split).collect();
        (!rows.is_empty()).then(|| DataSet {
            labels: self.labels.chosen(&rows),
            splits: rows.iter().map(|&row| self.splits[row]).collect(),
            missing: Vec::new(),
        })
    }

    /// Writes `labels.csv`, `categories.txt` and `splits.csv` into `folder`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), LabelFileError> {
        fs::create_dir_all(folder).map_err(|error| LabelsError::from(error).at(folder))?;
        self.labels.write(&folder.join("labels.csv"))?;
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| LabelsError::from(error).at(&path))
        };
        let categories = self.labels.categories().join("\n");
        write("categories.txt", categories + "\n")?;
        let rows = self.labels.images().iter().zip(&self.splits);
        let rows = rows.map(|(image, split)| format!("{image},{split}\n"));
        let rows: String = rows.collect();
        write("splits.csv", format!("image_id,split\n{rows}"))
    }
}

/// Reads the data set of that layout in `folder`.
///
/// # Errors
/// Names the file that is missing or the line that is not as it should be.
pub fn read(layout: DatasetLayout, folder: &Path) -> Result<DataSet, LabelFileError> {
    match layout {
        DatasetLayout::Coco14 => coco(folder, 2014),
        DatasetLayout::Coco17 => coco(folder, 2017),
        DatasetLayout::Voc07 => voc(folder, "VOC2007", ["trainval", "test"]),
        DatasetLayout::Voc12 => voc(folder, "VOC2012", ["train", "val"]),
        DatasetLayout::Vg200 => visual_genome(folder),
        DatasetLayout::NusWide => nus_wide(folder),
        DatasetLayout::Cub => cub(folder),
    }
}

/// Collects images; everything starts as absent.
struct Builder {
    categories: Vec<String>,
    images: Vec<String>,
    rows: HashMap<String, usize>,
    splits: Vec<&'static str>,
    /// Image and category.
    present: Vec<(usize, usize)>,
    missing: Vec<&'static str>,
}

impl Builder {
    fn new(categories: Vec<String>) -> Self {
        Self {
            missing: Vec::new(),
            categories,
            images: Vec::new(),
            rows: HashMap::new(),
            splits: Vec::new(),
            present: Vec::new(),
        }
    }

    fn image(&mut self, id: String, split: &'static str) -> usize {
        if let Some(&row) = self.rows.get(&id) {
            return row;
        }
        let row = self.images.len();
        self.rows.insert(id.clone(), row);
        self.images.push(id);
        self.splits.push(split);
        row
    }

    /// The splits that are there, by `is_there`; all if none is, so that reading names what is
    /// missing.
    fn splits(
        &mut self,
        splits: [&'static str; 2],
        is_there: impl Fn(&str) -> bool,
    ) -> Vec<&'static str> {
        let (there, missing): (Vec<_>, Vec<_>) = splits.iter().partition(|split| is_there(split));
        if there.is_empty() {
            return splits.to_vec();
        }
        self.missing = missing;
        there
    }

    fn present(&mut self, row: usize, category: usize) {
        self.present.push((row, category));
    }

    fn finish(self, folder: &Path) -> Result<DataSet, LabelFileError> {
        if self.images.is_empty() || self.categories.is_empty() {
            let reason = "has no image or no category".to_owned();
            return Err(LabelsError::Empty(reason).at(folder));
        }
        let columns = self.categories.len();
        let mut labels = LabelMatrix::filled(self.images, self.categories, -1);
        let states = labels.flat_mut();
        for (row, category) in self.present {
            states[row * columns + category] = 1;
        }
        Ok(DataSet {
            labels,
            splits: self.splits,
            missing: self.missing,
        })
    }
}

fn text(path: &Path) -> Result<String, LabelFileError> {
    fs::read_to_string(path).map_err(|error| LabelsError::from(error).at(path))
}

/// The lines that say something, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let lines = (1..).zip(text.lines());
    lines.filter(|(_, line)| !line.trim().is_empty())
}

/// The error of a line, counted from 1.
fn malformed(path: &Path, number: u64, reason: &str) -> LabelFileError {
    line(number, reason).at(path)
}

/// The name of a picture, as `produce` names it.
fn id_of(name: &str) -> String {
    ImageNaming::default().id(&PicturePlace::of(name))
}

fn coco(folder: &Path, year: u16) -> Result<DataSet, LabelFileError> {
    let mut builder = Builder::new(Vec::new());
    let path = |split: &str| folder.join(format!("annotations/instances_{split}{year}.json"));
    let splits = builder.splits(["train", "val"], |split| path(split).is_file());
    let mut found = Vec::new();
    for split in splits {
        let path = path(split);
        let input = file::open(&path).map_err(LabelsError::from);
        let file = input.and_then(coco::instances);
        let file = file.map_err(|error| error.at(&path))?;
        if found.is_empty() {
            builder.categories = file.categories;
        } else if builder.categories != file.categories {
            let reason = "not those of the train split".to_owned();
            return Err(record("categories", reason).at(&path));
        }
        // All images, also those without any object.
        for labels in file.images {
            let place = labels.image.path().map(PicturePlace::of).ok_or_else(|| {
                let reason = "it has neither `file_name` nor `coco_url`";
                record(labels.place.as_str(), reason).at(&path)
            })?;
            found.push((place, split, labels.has));
        }
    }
    let places: Vec<PicturePlace> = found.iter().map(|(place, ..)| place.clone()).collect();
    let named = ImageNaming::default().ids(&places);
    let named = named.map_err(|error| LabelsError::from(error).at(folder))?;
    let columns: HashMap<String, usize> = builder.categories.iter().cloned().zip(0..).collect();
    for (id, (_, split, has)) in named.ids.into_iter().zip(found) {
        let row = builder.image(id, split);
        for category in has {
            builder.present(row, columns[&category]);
        }
    }
    builder.finish(folder)
}

fn voc(folder: &Path, year: &str, splits: [&'static str; 2]) -> Result<DataSet, LabelFileError> {
    let roots = [
        folder.to_path_buf(),
        folder.join(year),
        folder.join("VOCdevkit").join(year),
    ];
    let lists = roots
        .iter()
        .map(|root| root.join("ImageSets/Main"))
        .find(|lists| lists.is_dir());
    let lists = lists.unwrap_or_else(|| folder.join("ImageSets/Main"));
    let entries = fs::read_dir(&lists);
    let entries = entries.map_err(|error| LabelsError::from(error).at(&lists))?;
    let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let files: Vec<String> = files.collect();
    let classes = |split: &str| {
        let suffix = format!("_{split}.txt");
        let names = files.iter().filter_map(|file| file.strip_suffix(&suffix));
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names
    };
    let mut builder = Builder::new(Vec::new());
    let splits = builder.splits(splits, |split| !classes(split).is_empty());
    let names = classes(splits[0]);
    builder.categories.clone_from(&names);
    for split in splits {
        for (category, name) in names.iter().enumerate() {
            let path = lists.join(format!("{name}_{split}.txt"));
            for (line, content) in lines(&text(&path)?) {
                let mut fields = content.split_whitespace();
                let (Some(image), Some(state @ ("1" | "0" | "-1")), None) =
                    (fields.next(), fields.next(), fields.next())
                else {
                    return Err(malformed(&path, line, "expected an image and 1, 0 or -1"));
                };
                let row = builder.image(image.to_owned(), split);
                if state == "1" {
                    builder.present(row, category);
                }
            }
        }
    }
    builder.finish(&lists)
}

fn visual_genome(folder: &Path) -> Result<DataSet, LabelFileError> {
    let names = read_categories(&folder.join("categories.txt"))?;
    let path = folder.join("vg_category_200_labels_index.json");
    let labels: HashMap<String, Vec<usize>> =
        serde_json::from_str(&text(&path)?).map_err(|source| {
            let form = "VG-200";
            LabelsError::Json { form, source }.at(&path)
        })?;
    let mut builder = Builder::new(names);
    let list = |split: &str| folder.join(format!("{split}_list_500.txt"));
    for split in builder.splits(["train", "test"], |split| list(split).is_file()) {
        let list = list(split);
        for (line, content) in lines(&text(&list)?) {
            let file = content.trim();
            let present = labels
                .get(file)
                .ok_or_else(|| malformed(&list, line, "the label file does not know this image"))?;
            let row = builder.image(id_of(file), split);
            for &category in present {
                if category >= builder.categories.len() {
                    let reason = format!("label {category} lies beyond categories.txt");
                    return Err(record(file, reason).at(&path));
                }
                builder.present(row, category);
            }
        }
    }
    builder.finish(folder)
}

fn nus_wide(folder: &Path) -> Result<DataSet, LabelFileError> {
    let names = read_categories(&folder.join("Concepts81.txt"))?;
    let mut builder = Builder::new(names.clone());
    let part = |split: &str| if split == "train" { "Train" } else { "Test" };
    let list = |split: &str| folder.join(format!("ImageList/{}Imagelist.txt", part(split)));
    for split in builder.splits(["train", "test"], |split| list(split).is_file()) {
        let (part, list) = (part(split), list(split));
        let images = text(&list)?;
        let rows: Vec<usize> = lines(&images)
            .map(|(_, line)| builder.image(id_of(line), split))
            .collect();
        for (category, name) in names.iter().enumerate() {
            let path = folder.join(format!(
                "Groundtruth/TrainTestLabels/Labels_{name}_{part}.txt"
            ));
            let states = text(&path)?;
            let states: Vec<&str> = states.split_whitespace().collect();
            if states.len() != rows.len() {
                let reason = "it has not as many lines as the image list";
                return Err(malformed(&path, states.len() as u64 + 1, reason));
            }
            for (line, (&row, state)) in (1..).zip(rows.iter().zip(states)) {
                match state {
                    "1" => builder.present(row, category),
                    "0" => {}
                    _ => return Err(malformed(&path, line, "expected 0 or 1")),
                }
            }
        }
    }
    builder.finish(folder)
}

/// A line's number and its fields.
type Fields = (u64, Vec<String>);

/// The fields of every line, of which there must be `count`.
fn fields(path: &Path, count: usize) -> Result<Vec<Fields>, LabelFileError> {
    let content = text(path)?;
    let mut all = Vec::new();
    for (number, content) in lines(&content) {
        let fields: Vec<String> = content.split_whitespace().map(str::to_owned).collect();
        if fields.len() < count {
            return Err(malformed(path, number, "the line is too short"));
        }
        all.push((number, fields));
    }
    Ok(all)
}

fn cub(folder: &Path) -> Result<DataSet, LabelFileError> {
    let beside: [PathBuf; 2] = [
        folder.join("attributes/attributes.txt"),
        folder.join("../attributes.txt"),
    ];
    let path = beside
        .iter()
        .find(|path| path.is_file())
        .unwrap_or(&beside[0]);
    // "12 has_bill_shape::curved" reads "bill shape curved" in a prompt; the name stays as it is.
    let names: Vec<String> = fields(path, 2)?
        .into_iter()
        .map(|(_, mut fields)| fields.swap_remove(1))
        .collect();
    let split_file = folder.join("train_test_split.txt");
    let train: HashMap<String, bool> = fields(&split_file, 2)?
        .into_iter()
        .map(|(_, fields)| (fields[0].clone(), fields[1] == "1"))
        .collect();
    let images_file = folder.join("images.txt");
    let mut builder = Builder::new(names);
    let mut rows = HashMap::new();
    for (line, fields) in fields(&images_file, 2)? {
        let is_train = train
            .get(&fields[0])
            .ok_or_else(|| malformed(&images_file, line, "the image has no split"))?;
        let row = builder.image(id_of(&fields[1]), if *is_train { "train" } else { "test" });
        rows.insert(fields[0].clone(), row);
    }
    // image, attribute, is present, certainty, time; a few lines of the distributed file have more
    // fields.
    let labels_file = folder.join("attributes/image_attribute_labels.txt");
    for (line, fields) in fields(&labels_file, 3)? {
        let attribute = fields[1]
            .parse::<usize>()
            .ok()
            .filter(|a| (1..=builder.categories.len()).contains(a));
        match (rows.get(&fields[0]), attribute, fields[2].as_str()) {
            (Some(&row), Some(attribute), "1") => builder.present(row, attribute - 1),
            (Some(_), Some(_), "0") => {}
            _ => {
                let reason = "an image, attribute or state that cannot be";
                return Err(malformed(&labels_file, line, reason));
            }
        }
    }
    builder.finish(folder)
}

#[cfg(test)]
mod tests;
