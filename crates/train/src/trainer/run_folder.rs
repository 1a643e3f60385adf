//! The folder of a training run: its settings, its checkpoint, its loss curves as a table and as a
//! chart.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

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
        self.write("curves.svg", &chart(&lines))
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
        let (path, aside): (PathBuf, PathBuf) = (
            self.path.join(name),
            self.path.join(format!("{name}.partial")),
        );
        let written = fs::write(&aside, content).and_then(|()| fs::rename(&aside, &path));
        written.map_err(|source| RunFolderError { path, source })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Colours that can be told apart with any colour vision (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

/// The table as a line chart: one line a column, loss over epochs, on one axis that starts at 0 (or
/// below).
fn chart(lines: &[String]) -> String {
    let rows: Vec<Vec<f64>> = lines.iter().skip(1).map(|line| numbers(line)).collect();
    let names: Vec<&str> = lines
        .first()
        .map(|line| line.split(',').skip(1).collect())
        .unwrap_or_default();
    let axes = Axes::of(&rows);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 340\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"760\" height=\"340\" fill=\"white\"/>\n",
    );
    axes.draw(&mut svg);
    for (column, name) in names.iter().enumerate() {
        let colour = COLOURS[column % COLOURS.len()];
        let points = rows.iter().filter_map(|row| {
            let value = row.get(column + 1).filter(|value| value.is_finite())?;
            Some(axes.point(*row.first()?, *value))
        });
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"592\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            points.collect::<Vec<_>>().join(" "),
            36 + 18 * column
        );
    }
    svg + "</svg>\n"
}

fn numbers(line: &str) -> Vec<f64> {
    let fields = line.split(',');
    fields
        .map(|field| field.parse().unwrap_or(f64::NAN))
        .collect()
}

/// What the chart's axes span.
struct Axes {
    epochs: f64,
    low: f64,
    high: f64,
}

impl Axes {
    fn of(rows: &[Vec<f64>]) -> Self {
        let values = || {
            let all = rows.iter().flat_map(|row| row.iter().skip(1)).copied();
            all.filter(|value| value.is_finite())
        };
        let last = rows.last().and_then(|row| row.first()).copied();
        Self {
            epochs: last.unwrap_or(1.0).max(1.0),
            low: values().fold(0.0, f64::min),
            high: values().fold(f64::MIN_POSITIVE, f64::max),
        }
    }

    fn x(&self, epoch: f64) -> f64 {
        60.0 + 520.0 * (epoch - 1.0) / (self.epochs - 1.0).max(1.0)
    }

    fn y(&self, value: f64) -> f64 {
        20.0 + 280.0 * (self.high - value) / (self.high - self.low).max(f64::MIN_POSITIVE)
    }

    fn point(&self, epoch: f64, value: f64) -> String {
        format!("{:.1},{:.1}", self.x(epoch), self.y(value))
    }

    fn draw(&self, svg: &mut String) {
        for tick in 0..=4 {
            let value = self.low + (self.high - self.low) * f64::from(tick) / 4.0;
            let y = self.y(value);
            let _ = writeln!(
                svg,
                "<line x1=\"60\" x2=\"580\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"54\" y=\"{:.1}\" text-anchor=\"end\">{value:.3}</text>",
                y + 4.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"60\" y=\"318\">1</text>\
             <text x=\"580\" y=\"318\" text-anchor=\"end\">{}</text>\
             <text x=\"320\" y=\"332\" text-anchor=\"middle\">epoch</text>",
            self.epochs
        );
    }
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
            svg.contains(">distillation<") && svg.contains("points=\"60.0,20.0 580.0,160.0\""),
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
