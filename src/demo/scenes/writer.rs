//! Scenes as files: JPEGs in a folder or a tar, and what is in them beside.

use super::{EncodeError, SIZES, Scene, Style, categories};
use rayon::prelude::*;
use serde::Serialize;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::{fs, io};
use tagstream_core::events::BoundingBox;
use tagstream_core::storage::atomic::AtomicFile;

/// Scenes drawn before they are written; bounds the memory.
const CHUNK: u64 = 512;

/// Where the pictures go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// `images/<image_id>.jpg`
    Folder,
    /// `images.tar` with `<image_id>.jpg`
    Tar,
}

/// What to write.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// A directory; made if it is not there, and then without scenes.
    pub out: PathBuf,
    /// How many scenes: the first `count` of the seed.
    pub count: u64,
    /// Seed of the scenes.
    pub seed: u64,
    /// How they look.
    pub style: Style,
    /// Their height and width in pixels; within [`SIZES`].
    pub size: u32,
    /// Threads that draw.
    pub threads: usize,
    /// Where the pictures go.
    pub container: Container,
}

/// Why scenes were not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There are scenes already.
    #[error("{0} exists: scenes are not mixed with others; remove it or choose another directory")]
    Exists(PathBuf),
    /// A size that is not drawn.
    #[error(
        "scenes are drawn with {}..={} pixels a side, not {size}",
        SIZES.start(),
        SIZES.end(),
        size = .0
    )]
    Size(u32),
    /// The file system said no.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The threads could not be started.
    #[error("cannot start the drawing threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A picture could not be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// A line of `scenes.jsonl`.
#[derive(Serialize)]
struct SceneLine<'a> {
    image_id: &'a str,
    style: Style,
    caption: &'a str,
    objects: &'a [super::Object],
}

/// Draws scenes and writes them with their labels; calls `progress` with the number written so far.
///
/// Beside the pictures: `categories.txt` (a name a line), `labels.csv` (`image_id,label,state`: a
/// row for every image and category, `present` or `absent`), `boxes.csv`
/// (`image_id,label,x,y,w,h,visible`: a row an object) and `scenes.jsonl` (a line a scene with its
/// caption and objects). Each of these appears only when it is complete, and `scenes.jsonl` last.
///
/// # Errors
///
/// [`WriteError`] says which file could not be written, or what does not fit.
pub fn write(options: &WriteOptions, mut progress: impl FnMut(u64)) -> Result<(), WriteError> {
    if !SIZES.contains(&options.size) {
        return Err(WriteError::Size(options.size));
    }
    // Before anything is made: a refusal leaves the folder as it was.
    for name in [
        "images",
        "images.tar",
        "categories.txt",
        "labels.csv",
        "boxes.csv",
        "scenes.jsonl",
    ] {
        let path = options.out.join(name);
        if path.exists() {
            return Err(WriteError::Exists(path));
        }
    }
    fs::create_dir_all(&options.out).map_err(|source| io_error(&options.out, source))?;
    let mut images = Images::create(options)?;
    let mut labels = Sidecar::create(&options.out, "labels.csv")?;
    let mut boxes = Sidecar::create(&options.out, "boxes.csv")?;
    let mut lines = Sidecar::create(&options.out, "scenes.jsonl")?;
    labels.line("image_id,label,state")?;
    boxes.line("image_id,label,x,y,w,h,visible")?;

    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()?;
    for first in (0..options.count).step_by(CHUNK as usize) {
        let last = (first + CHUNK).min(options.count);
        let drawn = pool.install(|| {
            (first..last)
                .into_par_iter()
                .map(|index| {
                    let scene = Scene::draw(options.seed, index, options.style, options.size);
                    scene.jpeg().map(|jpeg| (scene, jpeg))
                })
                .collect::<Result<Vec<_>, _>>()
        })?;
        for (scene, jpeg) in &drawn {
            images.add(&scene.image_id, jpeg)?;
            describe(scene, &mut labels, &mut boxes, &mut lines)?;
        }
        progress(last);
    }

    images.finish()?;
    let mut names = Sidecar::create(&options.out, "categories.txt")?;
    for name in categories() {
        names.line(name)?;
    }
    names.finish()?;
    labels.finish()?;
    boxes.finish()?;
    lines.finish()
}

fn describe(
    scene: &Scene,
    labels: &mut Sidecar,
    boxes: &mut Sidecar,
    lines: &mut Sidecar,
) -> Result<(), WriteError> {
    let id = &scene.image_id;
    for name in categories() {
        let state = if scene.has(name) { "present" } else { "absent" };
        labels.line(&format!("{id},{name},{state}"))?;
    }
    for object in &scene.objects {
        let BoundingBox { x, y, w, h } = object.bounding_box;
        boxes.line(&format!(
            "{id},{},{x},{y},{w},{h},{:.3}",
            object.category, object.visible
        ))?;
    }
    let line = SceneLine {
        image_id: id,
        style: scene.style,
        caption: &scene.caption,
        objects: &scene.objects,
    };
    let line = serde_json::to_string(&line).map_err(|error| io_error(&lines.path, error.into()))?;
    lines.line(&line)
}

fn io_error(path: &Path, source: io::Error) -> WriteError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::AlreadyExists => WriteError::Exists(path),
        _ => WriteError::Io { path, source },
    }
}

/// A file that gets its name when it is complete.
struct Sidecar {
    path: PathBuf,
    file: BufWriter<AtomicFile>,
}

impl Sidecar {
    fn create(folder: &Path, name: &str) -> Result<Sidecar, WriteError> {
        let path = folder.join(name);
        let file = AtomicFile::create(&path).map_err(|source| io_error(&path, source))?;
        Ok(Sidecar {
            path,
            file: BufWriter::new(file),
        })
    }

    fn line(&mut self, line: &str) -> Result<(), WriteError> {
        writeln!(self.file, "{line}").map_err(|source| io_error(&self.path, source))
    }

    fn finish(self) -> Result<(), WriteError> {
        let written = self.file.into_inner().map_err(io::Error::from);
        written
            .and_then(AtomicFile::commit)
            .map_err(|source| io_error(&self.path, source))
    }
}

enum Images {
    Folder(PathBuf),
    Tar(Box<tar::Builder<Sidecar>>),
}

impl Images {
    fn create(options: &WriteOptions) -> Result<Images, WriteError> {
        match options.container {
            Container::Folder => {
                let folder = options.out.join("images");
                fs::create_dir(&folder).map_err(|source| io_error(&folder, source))?;
                Ok(Images::Folder(folder))
            }
            Container::Tar => {
                let file = Sidecar::create(&options.out, "images.tar")?;
                Ok(Images::Tar(Box::new(tar::Builder::new(file))))
            }
        }
    }

    fn add(&mut self, image_id: &str, jpeg: &[u8]) -> Result<(), WriteError> {
        let name = format!("{image_id}.jpg");
        match self {
            Images::Folder(folder) => {
                let path = folder.join(name);
                fs::write(&path, jpeg).map_err(|source| io_error(&path, source))
            }
            Images::Tar(builder) => {
                let mut header = tar::Header::new_gnu();
                header.set_size(jpeg.len() as u64);
                header.set_mode(0o644);
                let added = builder.append_data(&mut header, &name, jpeg);
                added.map_err(|source| io_error(&builder.get_ref().path, source))
            }
        }
    }

    fn finish(self) -> Result<(), WriteError> {
        match self {
            Images::Folder(_) => Ok(()),
            Images::Tar(builder) => {
                let path = builder.get_ref().path.clone();
                builder
                    .into_inner()
                    .map_err(|source| io_error(&path, source))?
                    .finish()
            }
        }
    }
}

impl Write for Sidecar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn options(out: &Path, threads: usize, container: Container) -> WriteOptions {
        WriteOptions {
            out: out.to_owned(),
            count: 20,
            seed: 3,
            style: Style::Plain,
            size: 64,
            threads,
            container,
        }
    }

    fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let inner = self::files(&path);
                files.extend(
                    inner
                        .into_iter()
                        .map(|(p, b)| (Path::new(path.file_name().unwrap()).join(p), b)),
                );
            } else {
                files.insert(path.file_name().unwrap().into(), fs::read(&path).unwrap());
            }
        }
        files
    }

    #[test]
    fn the_files_do_not_depend_on_the_number_of_threads() {
        let (one, four) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&options(one.path(), 1, Container::Folder), |_| ()).unwrap();
        write(&options(four.path(), 4, Container::Folder), |_| ()).unwrap();
        let files = files(one.path());
        assert_eq!(files, self::files(four.path()));
        assert_eq!(files.len(), 20 + 4, "{:?}", files.keys());
    }

    #[test]
    fn labels_are_complete_and_agree_with_the_boxes() {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = 0;
        write(&options(folder.path(), 2, Container::Tar), |written| {
            seen = written
        })
        .unwrap();
        assert_eq!(seen, 20);
        let read = |name: &str| {
            let rows = csv::Reader::from_path(folder.path().join(name))
                .unwrap()
                .into_records();
            rows.map(|row| row.unwrap()).collect::<Vec<_>>()
        };
        let labels = read("labels.csv");
        assert_eq!(labels.len(), 20 * categories().len());
        let mut present: Vec<_> = labels.iter().filter(|row| &row[2] == "present").collect();
        assert_eq!(
            labels.iter().filter(|row| &row[2] == "absent").count(),
            labels.len() - present.len()
        );
        let boxes = read("boxes.csv");
        let mut boxed: Vec<_> = boxes
            .iter()
            .map(|row| (row[0].to_owned(), row[1].to_owned()))
            .collect();
        boxed.sort();
        boxed.dedup();
        present.sort_by_key(|row| (row[0].to_owned(), row[1].to_owned()));
        let present: Vec<_> = present
            .iter()
            .map(|row| (row[0].to_owned(), row[1].to_owned()))
            .collect();
        assert_eq!(present, boxed);
        let mut archive =
            tar::Archive::new(fs::File::open(folder.path().join("images.tar")).unwrap());
        assert_eq!(archive.entries().unwrap().count(), 20);
    }

    #[test]
    fn scenes_are_not_mixed_with_others() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), 1, Container::Folder);
        write(&options, |_| ()).unwrap();
        let before = files(folder.path());
        let other = WriteOptions {
            container: Container::Tar,
            ..options.clone()
        };
        let error = write(&other, |_| ()).unwrap_err();
        assert!(matches!(error, WriteError::Exists(_)), "{error}");
        assert_eq!(files(folder.path()), before);
        let error = write(&WriteOptions { size: 8, ..options }, |_| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "scenes are drawn with 64..=1024 pixels a side, not 8"
        );
    }
}
