//! What the stage wrote, held against what was really drawn: quality by model version, read from
//! the Parquet files alone.

use super::scenes::{Scene, categories};
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_schema::ArrowError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use tagstream_train::arrays::rows;
use tagstream_train::eval::metrics::{MetricsError, report};

/// Why the files could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is no table of ours.
    #[error("{path} is no predictions file: {reason}")]
    Table {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The scores could not be measured.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// One row, as far as quality goes.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredImage {
    /// As the demonstration's messages name it.
    pub image_id: String,
    /// The model that tagged it.
    pub model_version: String,
    /// Calibrated probabilities, `[C]`.
    pub scores: Vec<f32>,
    /// The categories that reached their threshold.
    pub tags: Vec<String>,
}

/// All rows of a table.
#[derive(Debug, Default)]
pub struct Scoreboard {
    /// The rows, in file order.
    pub rows: Vec<ScoredImage>,
    /// How many files hold them.
    pub files: usize,
}

/// Quality of one model version on the rows that it wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionScore {
    /// Rows scored.
    pub images: usize,
    /// Tags written.
    pub tags: usize,
    /// Share of the tags that are right.
    pub right: f64,
    /// Share of what is there that was tagged.
    pub found: f64,
    /// Mean average precision (plain), percent.
    pub map: f64,
}

impl VersionScore {
    /// Harmonic mean of `right` and `found`.
    pub fn f1(&self) -> f64 {
        2.0 * self.right * self.found / (self.right + self.found).max(f64::MIN_POSITIVE)
    }
}

impl Scoreboard {
    /// Reads every `.parquet` file below `table`.
    ///
    /// # Errors
    /// [`ScoreError`] names the file.
    pub fn read(table: &Path) -> Result<Self, ScoreError> {
        let mut board = Scoreboard::default();
        let mut folders = vec![table.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let io = |source| ScoreError::Io {
                path: folder.clone(),
                source,
            };
            let mut entries: Vec<PathBuf> = std::fs::read_dir(&folder)
                .map_err(io)?
                .map(|entry| entry.map(|e| e.path()))
                .collect::<Result<_, _>>()
                .map_err(io)?;
            entries.sort();
            for path in entries {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "parquet") {
                    board.read_file(&path)?;
                    board.files += 1;
                }
            }
        }
        Ok(board)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ScoreError> {
        let file = File::open(path).map_err(|source| ScoreError::Io {
            path: path.into(),
            source,
        })?;
        let table = |reason: String| ScoreError::Table {
            path: path.into(),
            reason,
        };
        let parquet = |e: ParquetError| table(e.to_string());
        let arrow = |e: ArrowError| table(e.to_string());
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|b| b.build())
            .map_err(parquet)?;
        for batch in reader {
            let batch = batch.map_err(arrow)?;
            let column = |name: &str| {
                batch
                    .column_by_name(name)
                    .ok_or_else(|| table(format!("no column `{name}`")))
            };
            let text = |name: &str| {
                column(name)?
                    .as_string_opt::<i32>()
                    .ok_or_else(|| table(format!("`{name}` holds no strings")))
            };
            let (ids, versions) = (text("image_id")?, text("model_version")?);
            let scores = column("scores")?
                .as_fixed_size_list_opt()
                .ok_or_else(|| table("`scores` is no fixed-size list".into()))?;
            let tags = column("tags")?
                .as_list_opt::<i32>()
                .ok_or_else(|| table("`tags` is no list".into()))?;
            let named = || table("`tags` names no categories".into());
            for row in 0..batch.num_rows() {
                let tags = tags.value(row);
                let tags = tags
                    .as_struct_opt()
                    .and_then(|tags| tags.column_by_name("category"));
                let tags = tags
                    .and_then(|names| names.as_string_opt::<i32>())
                    .ok_or_else(named)?;
                self.rows.push(ScoredImage {
                    image_id: ids.value(row).into(),
                    model_version: versions.value(row).into(),
                    scores: scores
                        .value(row)
                        .as_primitive::<Float32Type>()
                        .values()
                        .to_vec(),
                    tags: tags.iter().flatten().map(str::to_owned).collect(),
                });
            }
        }
        Ok(())
    }

    /// Quality of each model version on the rows for which `choose` holds.
    ///
    /// # Errors
    /// [`ScoreError::Metrics`] if a row's scores do not fit the categories.
    pub fn by_version(
        &self,
        truth: &HashMap<String, HashSet<&'static str>>,
        choose: impl Fn(&ScoredImage) -> bool,
    ) -> Result<BTreeMap<String, VersionScore>, ScoreError> {
        let names: Vec<String> = categories().iter().map(|c| c.to_string()).collect();
        /// Scores, labels, images and tags of one version so far.
        type Gathered = (Vec<f32>, Vec<i8>, usize, Tally);
        let mut versions: BTreeMap<&str, Gathered> = BTreeMap::new();
        for row in self.rows.iter().filter(|r| choose(r)) {
            let Some(present) = truth.get(&row.image_id) else {
                continue;
            };
            let (scores, labels, images, tags) =
                versions.entry(row.model_version.as_str()).or_default();
            scores.extend_from_slice(&row.scores);
            labels.extend(
                categories()
                    .iter()
                    .map(|c| if present.contains(c) { 1 } else { -1 }),
            );
            *images += 1;
            tags.tags += row.tags.len();
            tags.present += present.len();
            let right = row.tags.iter().filter(|tag| present.contains(tag.as_str()));
            tags.right += right.count();
        }
        versions
            .into_iter()
            .map(|(version, (scores, labels, images, tags))| {
                let (scores, labels) = (
                    rows(&scores, names.len()).map_err(MetricsError::from)?,
                    rows(&labels, names.len()).map_err(MetricsError::from)?,
                );
                let map = report(scores, labels, &names)?.map_plain;
                let score = VersionScore {
                    images,
                    tags: tags.tags,
                    right: tags.right as f64 / tags.tags.max(1) as f64,
                    found: tags.right as f64 / tags.present.max(1) as f64,
                    map,
                };
                Ok((version.to_string(), score))
            })
            .collect()
    }
}

/// Tags against what is there.
#[derive(Debug, Default)]
struct Tally {
    tags: usize,
    right: usize,
    present: usize,
}

/// What is in each scene.
pub fn truth(scenes: &[Scene]) -> HashMap<String, HashSet<&'static str>> {
    scenes
        .iter()
        .map(|scene| {
            let present = scene.objects.iter().map(|o| o.category).collect();
            (scene.image_id.clone(), present)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::scenes::Style;

    #[test]
    fn perfect_scores_give_100_and_reversed_ones_do_not() {
        let scenes: Vec<Scene> = (0..40)
            .map(|i| Scene::draw(3, i, Style::Plain, 64))
            .collect();
        let truth = truth(&scenes);
        let row = |scene: &Scene, sign: f32, version: &str| ScoredImage {
            image_id: scene.image_id.clone(),
            model_version: version.into(),
            scores: categories()
                .iter()
                .map(|c| 0.5 + sign * if scene.has(c) { 0.4 } else { -0.4 })
                .collect(),
            tags: categories()
                .iter()
                .filter(|c| scene.has(c) == (sign > 0.0))
                .map(|c| (*c).to_owned())
                .collect(),
        };
        let board = Scoreboard {
            rows: scenes
                .iter()
                .flat_map(|s| [row(s, 1.0, "good"), row(s, -1.0, "bad")])
                .collect(),
            files: 1,
        };
        let scores = board.by_version(&truth, |_| true).unwrap();
        assert_eq!(scores["good"].images, 40);
        assert!((scores["good"].map - 100.0).abs() < 1e-9);
        assert!(scores["bad"].map < 50.0);
        assert_eq!((scores["good"].right, scores["good"].found), (1.0, 1.0));
        assert_eq!((scores["bad"].right, scores["bad"].f1()), (0.0, 0.0));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = Scoreboard::read(Path::new("no-such-table")).unwrap_err();
        assert!(error.to_string().contains("no-such-table"));
    }
}
