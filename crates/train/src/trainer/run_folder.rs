//! The folder of a training run: its settings, its checkpoint, its loss curves as a table and as a
//! chart.

use crate::chart::{LineChart, Series};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};
use tagstream_core::storage::atomic;

/// Mean losses of every epoch: epoch from 1, names and values.
pub type Curves = [(usize, Vec<(&'static str, f64)>)];

/// A run folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the run folder {path}: {source}")]
pub struct RunFolderError {
    /// The file or folder.
    pub path: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

/// A folder with `settings.json`, `checkpoint.safetensors` (while the run is under way),
/// `curves.csv` and `curves.svg`.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(path: PathBuf) -> Result<Self, RunFolderError> {
        fs::create_dir_all(&path).map_err(|source| RunFolderError {
            path: path.clone(),
            source,
        })?;
        Ok(Self { path })
    }

    /// Where the run keeps its state.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.safetensors")
    }

    /// Writes `settings.json`.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn write_settings(&self, settings: &serde_json::Value) -> Result<(), RunFolderError> {
        self.write("settings.json", &format!("{settings:#}\n"))
    }

    /// Writes `curves.csv` and `curves.svg`. A run that went on from a checkpoint adds its epochs
    /// to those of the table.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn write_curves(&self, curves: &Curves) -> Result<(), RunFolderError> {
        let Some((first, losses)) = curves.first() else {
            return Ok(());
        };
        let names: Vec<&str> = losses.iter().map(|(name, _)| *name).collect();
        let header = format!("epoch,{}", names.join(","));
        let mut lines = vec![header.clone()];
        // Epochs of an earlier part of the run, if they have the same columns.
        let earlier = fs::read_to_string(self.path.join("curves.csv")).unwrap_or_default();
        if *first > 1 && earlier.lines().next() == Some(&header) {
            let before = |line: &&str| {
                line.split(',')
                    .next()
                    .and_then(|epoch| epoch.parse().ok())
                    .is_some_and(|epoch: usize| epoch < *first)
            };
            lines.extend(earlier.lines().skip(1).filter(before).map(str::to_owned));
        }
        for (epoch, losses) in curves {
            let mut line = epoch.to_string();
            for (_, value) in losses {
                let _ = write!(line, ",{value}");
            }
            lines.push(line);
        }
        self.write("curves.csv", &(lines.join("\n") + "\n"))?;
        self.write("curves.svg", &picture(&lines))
    }

    /// Removes the checkpoint: the run is over.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn finish(&self) -> Result<(), RunFolderError> {
        match fs::remove_file(self.checkpoint()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RunFolderError {
                path: self.checkpoint(),
                source,
            }),
            _ => Ok(()),
        }
    }

    fn write(&self, name: &str, content: &str) -> Result<(), RunFolderError> {
        let path = self.path.join(name);
        atomic::write_file(&path, content).map_err(|source| RunFolderError { path, source })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The table as a line chart: one line a column, loss over epochs, on one axis that starts at 0 (or
/// below).
fn picture(lines: &[String]) -> String {
    let (Some(header), rows) = (lines.first(), lines.get(1..).unwrap_or_default()) else {
        return String::new();
    };
    let names = header.split(',').enumerate().skip(1);
    let point = |row: &String, column: usize| {
        let epoch = row.split(',').next()?.parse().ok()?;
        let value: f64 = row.split(',').nth(column)?.parse().ok()?;
        value.is_finite().then_some((epoch, value))
    };
    let series: Vec<Series> = names
        .map(|(column, name)| Series {
            name: name.to_owned(),
            points: rows.iter().filter_map(|row| point(row, column)).collect(),
        })
        .collect();
    let values = || series.iter().flat_map(|s| s.points.iter().map(|p| p.1));
    let chart = LineChart {
        label: "Training losses",
        step: "epoch",
        series: &series,
        range: (
            values().fold(0.0, f64::min),
            values().fold(f64::MIN_POSITIVE, f64::max),
        ),
        value: |value| format!("{value:.3}"),
    };
    chart.as_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(epoch: usize) -> (usize, Vec<(&'static str, f64)>) {
        (
            epoch,
            vec![("supervised", 1.0 / epoch as f64), ("distillation", 0.5)],
        )
    }

    #[test]
    fn a_resumed_run_adds_its_epochs() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(dir.path().join("run")).unwrap();
        folder
            .write_curves(&[losses(1), losses(2), losses(3)])
            .unwrap();
        folder.write_curves(&[losses(3), losses(4)]).unwrap();
        let table = fs::read_to_string(folder.path().join("curves.csv")).unwrap();
        let epochs: Vec<&str> = table
            .lines()
            .map(|line| line.split(',').next().unwrap())
            .collect();
        assert_eq!(epochs, ["epoch", "1", "2", "3", "4"]);
        assert_eq!(table.lines().nth(2), Some("2,0.5,0.5"));

        folder.write_curves(&[losses(1)]).unwrap();
        let table = fs::read_to_string(folder.path().join("curves.csv")).unwrap();
        assert_eq!(table.lines().count(), 2, "a new run starts a new table");
    }

    #[test]
    fn the_chart_has_a_line_for_each_loss() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(dir.path().to_path_buf()).unwrap();
        folder.write_curves(&[losses(1), losses(2)]).unwrap();
        let svg = fs::read_to_string(folder.path().join("curves.svg")).unwrap();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(
            svg.contains(">distillation<") && svg.contains("points='48.0,12.0 708.0,112.0'"),
            "{svg}"
        );
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn the_checkpoint_goes_when_the_run_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(dir.path().to_path_buf()).unwrap();
        folder.finish().unwrap();
        fs::write(folder.checkpoint(), "state").unwrap();
        folder.finish().unwrap();
        assert!(!folder.checkpoint().exists());
    }
}
