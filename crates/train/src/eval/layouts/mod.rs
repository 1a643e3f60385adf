//! Public multi-label data sets in the folder layouts in which they are distributed, as label
//! tables with splits.
//!
//! Only annotation files are read; images stay where they are and are found by their ids. All data
//! sets are fully labelled in the sense of the partial-label literature: what is not annotated as
//! present counts as absent.
//!
//! | layout | read below the folder | image id | splits |
//! |---|---|---|---|
//! | `coco14` | `annotations/instances_{train,val}2014.json` | file name without extension | train, val |
//! | `voc07` | `ImageSets/Main/<class>_{trainval,test}.txt` (also below `VOCdevkit/VOC2007` or `VOC2007`) | 000005 | trainval, test |
//! | `voc12` | the same with `_{train,val}`, below `VOC2012` | 2008_000008 | train, val |
//! | `vg200` | `{train,test}_list_500.txt`, `vg_category_200_labels_index.json`, `categories.txt` | file name without extension | train, test |
//! | `nus-wide` | `Concepts81.txt`, `ImageList/{Train,Test}Imagelist.txt`, `Groundtruth/TrainTestLabels/Labels_<concept>_{Train,Test}.txt` | folder/name without extension | train, test |
//! | `cub` | `images.txt`, `train_test_split.txt`, `attributes/image_attribute_labels.txt`, `attributes/attributes.txt` (or `../attributes.txt`) | folder/name without extension | train, test |
//!
//! VOC: an image in which a class is only there as difficult objects (0 in the lists) counts as
//! absent. `categories.txt` of VG-200, one name a line in the order of the indices, is not part of
//! the distributed files: prompts need names.

use super::labels::{LabelTable, LabelsError};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// A layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// MS-COCO 2014, 80 categories.
    Coco14,
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

impl Layout {
    /// Every layout with its name.
    pub const ALL: [(&'static str, Layout); 6] = [
        ("coco14", Layout::Coco14),
        ("voc07", Layout::Voc07),
        ("voc12", Layout::Voc12),
        ("vg200", Layout::Vg200),
        ("nus-wide", Layout::NusWide),
        ("cub", Layout::Cub),
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
    /// Labels.
    pub labels: LabelTable,
    /// The split of every image of `labels`.
    pub splits: Vec<&'static str>,
}

impl DataSet {
    /// Writes `labels.csv`, `categories.txt` and `splits.csv` into `folder`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), LabelsError> {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| LabelsError::Unwritable {
                path,
                reason: error.to_string(),
            })
        };
        fs::create_dir_all(folder).map_err(|error| LabelsError::Unwritable {
            path: folder.to_path_buf(),
            reason: error.to_string(),
        })?;
        self.labels.write(&folder.join("labels.csv"))?;
        write("categories.txt", self.labels.categories.join("\n") + "\n")?;
        let rows = self
            .labels
            .images
            .iter()
            .zip(&self.splits)
            .map(|(image, split)| format!("{image},{split}\n"));
        write(
            "splits.csv",
            format!("image_id,split\n{}", rows.collect::<String>()),
        )
    }
}

/// Reads the data set of that layout in `folder`.
///
/// # Errors
/// Names the file that is missing or the line that is not as it should be.
pub fn read(layout: Layout, folder: &Path) -> Result<DataSet, LabelsError> {
    match layout {
        Layout::Coco14 => coco(folder),
        Layout::Voc07 => voc(folder, "VOC2007", ["trainval", "test"]),
        Layout::Voc12 => voc(folder, "VOC2012", ["train", "val"]),
        Layout::Vg200 => visual_genome(folder),
        Layout::NusWide => nus_wide(folder),
        Layout::Cub => cub(folder),
    }
}

/// Collects images; everything starts as absent.
struct Builder {
    labels: LabelTable,
    splits: Vec<&'static str>,
    rows: HashMap<String, usize>,
}

impl Builder {
    fn new(categories: Vec<String>) -> Self {
        Self {
            labels: LabelTable {
                categories,
                ..LabelTable::default()
            },
            splits: Vec::new(),
            rows: HashMap::new(),
        }
    }

    fn image(&mut self, id: String, split: &'static str) -> usize {
        if let Some(&row) = self.rows.get(&id) {
            return row;
        }
        let row = self.labels.images.len();
        self.rows.insert(id.clone(), row);
        self.labels.images.push(id);
        self.labels
            .states
            .extend(std::iter::repeat_n(-1, self.labels.categories.len()));
        self.splits.push(split);
        row
    }

    fn present(&mut self, row: usize, category: usize) {
        self.labels.states[row * self.labels.categories.len() + category] = 1;
    }

    fn finish(self, folder: &Path) -> Result<DataSet, LabelsError> {
        if self.labels.images.is_empty() || self.labels.categories.is_empty() {
            return Err(LabelsError::Empty {
                path: folder.to_path_buf(),
                what: "has no image or no category".to_owned(),
            });
        }
        Ok(DataSet {
            labels: self.labels,
            splits: self.splits,
        })
    }
}

fn text(path: &Path) -> Result<String, LabelsError> {
    fs::read_to_string(path).map_err(|source| LabelsError::Unreadable {
        path: path.to_path_buf(),
        source,
    })
}

fn malformed(path: &Path, line: usize, reason: &str) -> LabelsError {
    LabelsError::Malformed {
        path: path.to_path_buf(),
        line: line as u64 + 1,
        reason: reason.to_owned(),
    }
}

/// A file name without its extension, with `/` between folders.
fn id_of(name: &str) -> String {
    let name = name.trim().replace('\\', "/");
    name.rsplit_once('.')
        .map_or(name.clone(), |(stem, _)| stem.to_owned())
}

#[derive(Deserialize)]
struct CocoFile {
    images: Vec<CocoImage>,
    annotations: Vec<CocoAnnotation>,
    categories: Vec<CocoCategory>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct CocoAnnotation {
    image_id: u64,
    category_id: u64,
}

#[derive(Deserialize)]
struct CocoCategory {
    id: u64,
    name: String,
}

fn coco(folder: &Path) -> Result<DataSet, LabelsError> {
    let mut builder = Builder::new(Vec::new());
    for split in ["train", "val"] {
        let path = folder.join(format!("annotations/instances_{split}2014.json"));
        let file: CocoFile = serde_json::from_str(&text(&path)?).map_err(|error| {
            malformed(&path, error.line().saturating_sub(1), &error.to_string())
        })?;
        let categories: BTreeMap<u64, String> = file
            .categories
            .into_iter()
            .map(|c| (c.id, c.name))
            .collect();
        let index: HashMap<u64, usize> = categories
            .keys()
            .enumerate()
            .map(|(index, id)| (*id, index))
            .collect();
        let names: Vec<String> = categories.into_values().collect();
        if builder.labels.images.is_empty() {
            builder.labels.categories = names;
        } else if builder.labels.categories != names {
            return Err(malformed(
                &path,
                0,
                "its categories are not those of the train split",
            ));
        }
        // All images, also those without any object.
        let rows: HashMap<u64, usize> = file
            .images
            .iter()
            .map(|image| (image.id, builder.image(id_of(&image.file_name), split)))
            .collect();
        for annotation in file.annotations {
            match (
                rows.get(&annotation.image_id),
                index.get(&annotation.category_id),
            ) {
                (Some(&row), Some(&category)) => builder.present(row, category),
                _ => {
                    return Err(malformed(
                        &path,
                        0,
                        "an annotation names an image or category that is not there",
                    ));
                }
            }
        }
    }
    builder.finish(folder)
}

fn voc(folder: &Path, year: &str, splits: [&'static str; 2]) -> Result<DataSet, LabelsError> {
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
    let entries = fs::read_dir(&lists).map_err(|source| LabelsError::Unreadable {
        path: lists.clone(),
        source,
    })?;
    let suffix = format!("_{}.txt", splits[0]);
    let names = entries.filter_map(|entry| {
        entry
            .ok()?
            .file_name()
            .to_str()?
            .strip_suffix(&suffix)
            .map(str::to_owned)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    let mut builder = Builder::new(names.clone());
    for split in splits {
        for (category, name) in names.iter().enumerate() {
            let path = lists.join(format!("{name}_{split}.txt"));
            for (line, content) in text(&path)?
                .lines()
                .enumerate()
                .filter(|(_, line)| !line.trim().is_empty())
            {
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

fn visual_genome(folder: &Path) -> Result<DataSet, LabelsError> {
    let names = super::labels::read_categories(&folder.join("categories.txt"))?;
    let path = folder.join("vg_category_200_labels_index.json");
    let labels: HashMap<String, Vec<usize>> = serde_json::from_str(&text(&path)?)
        .map_err(|error| malformed(&path, error.line().saturating_sub(1), &error.to_string()))?;
    let mut builder = Builder::new(names);
    for split in ["train", "test"] {
        let list = folder.join(format!("{split}_list_500.txt"));
        for (line, content) in text(&list)?
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let file = content.trim();
            let present = labels
                .get(file)
                .ok_or_else(|| malformed(&list, line, "the label file does not know this image"))?;
            let row = builder.image(id_of(file), split);
            for &category in present {
                if category >= builder.labels.categories.len() {
                    return Err(malformed(&path, 0, "a label lies beyond categories.txt"));
                }
                builder.present(row, category);
            }
        }
    }
    builder.finish(folder)
}

fn nus_wide(folder: &Path) -> Result<DataSet, LabelsError> {
    let names = super::labels::read_categories(&folder.join("Concepts81.txt"))?;
    let mut builder = Builder::new(names.clone());
    for (split, part) in [("train", "Train"), ("test", "Test")] {
        let list = folder.join(format!("ImageList/{part}Imagelist.txt"));
        let images = text(&list)?;
        let rows: Vec<usize> = images
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| builder.image(id_of(line), split))
            .collect();
        for (category, name) in names.iter().enumerate() {
            let path = folder.join(format!(
                "Groundtruth/TrainTestLabels/Labels_{name}_{part}.txt"
            ));
            let states = text(&path)?;
            let states: Vec<&str> = states.split_whitespace().collect();
            if states.len() != rows.len() {
                return Err(malformed(
                    &path,
                    states.len(),
                    "it has not as many lines as the image list",
                ));
            }
            for (line, (&row, state)) in rows.iter().zip(states).enumerate() {
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

fn cub(folder: &Path) -> Result<DataSet, LabelsError> {
    let beside: [PathBuf; 2] = [
        folder.join("attributes/attributes.txt"),
        folder.join("../attributes.txt"),
    ];
    let path = beside
        .iter()
        .find(|path| path.is_file())
        .unwrap_or(&beside[0]);
    let fields = |path: &Path, count: usize| -> Result<Vec<Vec<String>>, LabelsError> {
        let content = text(path)?;
        let lines = content
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(line, content)| {
                let fields: Vec<String> = content.split_whitespace().map(str::to_owned).collect();
                if fields.len() < count {
                    Err(malformed(path, line, "the line is too short"))
                } else {
                    Ok(fields)
                }
            })
            .collect()
    };
    // "12 has_bill_shape::curved" reads "bill shape curved" in a prompt; the name stays as it is.
    let names: Vec<String> = fields(path, 2)?
        .into_iter()
        .map(|mut fields| fields.swap_remove(1))
        .collect();
    let split_file = folder.join("train_test_split.txt");
    let train: HashMap<String, bool> = fields(&split_file, 2)?
        .into_iter()
        .map(|fields| (fields[0].clone(), fields[1] == "1"))
        .collect();
    let images_file = folder.join("images.txt");
    let mut builder = Builder::new(names);
    let mut rows = HashMap::new();
    for (line, fields) in fields(&images_file, 2)?.into_iter().enumerate() {
        let is_train = train
            .get(&fields[0])
            .ok_or_else(|| malformed(&images_file, line, "the image has no split"))?;
        let row = builder.image(id_of(&fields[1]), if *is_train { "train" } else { "test" });
        rows.insert(fields[0].clone(), row);
    }
    // image, attribute, is present, certainty, time; a few lines of the distributed file have more
    // fields.
    let labels_file = folder.join("attributes/image_attribute_labels.txt");
    for (line, fields) in fields(&labels_file, 3)?.into_iter().enumerate() {
        let attribute = fields[1]
            .parse::<usize>()
            .ok()
            .filter(|a| (1..=builder.labels.categories.len()).contains(a));
        match (rows.get(&fields[0]), attribute, fields[2].as_str()) {
            (Some(&row), Some(attribute), "1") => builder.present(row, attribute - 1),
            (Some(_), Some(_), "0") => {}
            _ => {
                return Err(malformed(
                    &labels_file,
                    line,
                    "an image, attribute or state that cannot be",
                ));
            }
        }
    }
    builder.finish(folder)
}

#[cfg(test)]
mod tests;
