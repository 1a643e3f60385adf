//! Images by id: `<image_id>.<ext>` in a folder or in a tar file.

use super::features::{ImageBytes, ImageError};
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tagstream_image::folder::{FolderError, HEAD, PassedOver, pictures_below};

/// Why a folder or tar could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageSourceError {
    /// A file or folder cannot be read.
    #[error("cannot read images from {path}: {source}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The tar is compressed: members could not be read at random.
    #[error("{path} is a compressed tar; unpack it (gzip -d, or tar -xf into a folder)")]
    Compressed {
        /// The file.
        path: PathBuf,
    },
    /// There is no image in it.
    #[error("{path} holds no image ({left_out})")]
    Empty {
        /// The file or folder.
        path: PathBuf,
        /// What it holds instead.
        left_out: PassedOver,
    },
    /// A folder cannot be listed.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// Where the bytes of an image are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stored {
    File(PathBuf),
    Member { offset: u64, length: u64 },
}

/// The images of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    One(Stored),
    /// Two files have this name in different folders: only their paths tell them apart.
    Several,
}

/// A folder (with its subfolders) or an uncompressed tar of images, which are told by their first
/// bytes.
///
/// The image of an id is the file whose path below the folder, without extension, is the id; or
/// whose bare name, without extension, is the id, if only one file has it. An id may also carry the
/// extension.
#[derive(Debug)]
pub struct ImageSource {
    path: PathBuf,
    tar: Option<File>,
    images: HashMap<String, Found>,
    files: usize,
    left_out: PassedOver,
}

impl ImageSource {
    /// Lists the images of a folder or tar.
    ///
    /// # Errors
    /// If it cannot be read or holds no image.
    pub fn open(path: &Path) -> Result<Self, ImageSourceError> {
        let unreadable = |source| ImageSourceError::Unreadable {
            path: path.to_path_buf(),
            source,
        };
        let mut source = Self {
            path: path.to_path_buf(),
            tar: None,
            images: HashMap::new(),
            files: 0,
            left_out: PassedOver::default(),
        };
        if path.is_dir() {
            source.list_folder(path)?;
        } else {
            let mut file = File::open(path).map_err(unreadable)?;
            let mut magic = [0; 6];
            let read = file.read(&mut magic).map_err(unreadable)?;
            if [&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"]
                .iter()
                .any(|m| magic[..read].starts_with(m))
            {
                return Err(ImageSourceError::Compressed {
                    path: path.to_path_buf(),
                });
            }
            source
                .list_tar(File::open(path).map_err(unreadable)?)
                .map_err(unreadable)?;
            source.tar = Some(file);
        }
        if source.files == 0 {
            return Err(ImageSourceError::Empty {
                path: path.to_path_buf(),
                left_out: source.left_out,
            });
        }
        Ok(source)
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.files
    }

    /// Never: a source without images is an error.
    pub fn is_empty(&self) -> bool {
        self.files == 0
    }

    /// What lies beside the images and is none.
    pub fn left_out(&self) -> &PassedOver {
        &self.left_out
    }

    /// Whether `id` leads to exactly one image.
    pub fn contains(&self, id: &str) -> bool {
        matches!(self.images.get(id), Some(Found::One(_)))
    }

    fn list_folder(&mut self, folder: &Path) -> Result<(), ImageSourceError> {
        let found = pictures_below(folder)?;
        self.left_out = found.left_out;
        for path in found.files {
            // An id is text: a name that is not can never be asked for.
            if let Some(relative) = path.strip_prefix(folder).ok().and_then(Path::to_str) {
                self.add(relative, &Stored::File(path.clone()));
            }
        }
        Ok(())
    }

    fn list_tar(&mut self, file: File) -> std::io::Result<()> {
        let members = file.try_clone()?;
        for entry in tar::Archive::new(file).entries_with_seek()? {
            let entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let (offset, length) = (entry.raw_file_position(), entry.size());
            let mut head = vec![0; length.min(HEAD as u64) as usize];
            members.read_exact_at(&mut head, offset)?;
            if let Some(name) = entry.path()?.to_str()
                && self.left_out.is_picture(&head)
            {
                let name = name.trim_start_matches("./");
                self.add(name, &Stored::Member { offset, length });
            }
        }
        Ok(())
    }

    fn add(&mut self, relative: &str, stored: &Stored) {
        let stem = match relative.rsplit_once('.') {
            // A point in a folder's name is none before an extension.
            Some((stem, extension)) if !extension.contains('/') => stem,
            _ => relative,
        };
        self.files += 1;
        let bare = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let mut names = vec![
            stem.to_owned(),
            relative.to_owned(),
            bare(stem),
            bare(relative),
        ];
        names.sort();
        names.dedup();
        for name in names {
            self.images
                .entry(name)
                .and_modify(|found| *found = Found::Several)
                .or_insert_with(|| Found::One(stored.clone()));
        }
    }

    fn locate(&self, id: &str) -> Result<&Stored, ImageError> {
        match self.images.get(id) {
            Some(Found::One(stored)) => Ok(stored),
            Some(Found::Several) => Err(ImageError::Ambiguous {
                container: self.path.display().to_string(),
            }),
            None => Err(ImageError::NotFound {
                container: self.path.display().to_string(),
            }),
        }
    }
}

impl ImageBytes for ImageSource {
    fn read(&self, id: &str) -> Result<Bytes, ImageError> {
        let unreadable = |error: std::io::Error| ImageError::Unreadable {
            reason: error.to_string(),
        };
        match (self.locate(id)?, &self.tar) {
            (Stored::File(path), _) => Ok(std::fs::read(path).map_err(unreadable)?.into()),
            (Stored::Member { offset, length }, Some(tar)) => {
                let mut bytes = vec![0; *length as usize];
                tar.read_exact_at(&mut bytes, *offset).map_err(unreadable)?;
                Ok(bytes.into())
            }
            (Stored::Member { .. }, None) => unreachable!("members are listed from the tar only"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a PNG begins with.
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("a/001.first/one.JPG", "one"),
            ("b/two.png", "two"),
            ("b/twin.png", "b"),
            ("a/twin.png", "a"),
            ("dotted.name.jpeg", "dotted"),
            ("labels.csv", ""),
            ("named.jpg", ""),
            ("a/001.first/bare", "bare"),
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let bytes = match content {
                "" => b"no image".to_vec(),
                name => [PNG, name.as_bytes()].concat(),
            };
            std::fs::write(path, bytes).unwrap();
        }
        dir
    }

    fn check(source: &ImageSource) {
        assert_eq!(source.len(), 6);
        assert_eq!(source.left_out().count(), 2);
        let read = |id: &str| {
            let bytes = source.read(id).unwrap();
            String::from_utf8(bytes.strip_prefix(PNG).unwrap().to_vec()).unwrap()
        };
        assert_eq!(read("a/001.first/bare"), "bare");
        assert_eq!(read("one"), "one");
        assert_eq!(read("one.JPG"), "one");
        assert_eq!(read("a/001.first/one"), "one");
        assert_eq!(read("two"), "two");
        assert_eq!(read("dotted.name"), "dotted");
        assert_eq!(read("a/twin"), "a");
        assert!(matches!(
            source.read("twin"),
            Err(ImageError::Ambiguous { .. })
        ));
        assert!(matches!(
            source.read("labels"),
            Err(ImageError::NotFound { .. })
        ));
        assert!(source.contains("two") && !source.contains("twin") && !source.contains("three"));
    }

    #[test]
    fn images_of_a_folder_are_found_by_id() {
        check(&ImageSource::open(folder().path()).unwrap());
    }

    #[test]
    fn images_of_a_tar_are_found_by_id() {
        let dir = folder();
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut tar = tar::Builder::new(path.reopen().unwrap());
        tar.append_dir_all(".", dir.path()).unwrap();
        tar.finish().unwrap();
        check(&ImageSource::open(path.path()).unwrap());
    }

    #[test]
    fn what_cannot_hold_images_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            ImageSource::open(dir.path()),
            Err(ImageSourceError::Empty { .. })
        ));
        let gone = dir.path().join("gone");
        assert!(matches!(
            ImageSource::open(&gone),
            Err(ImageSourceError::Unreadable { .. })
        ));
        let gz = dir.path().join("images.tar.gz");
        std::fs::write(&gz, b"\x1f\x8b\x08rest of it").unwrap();
        assert!(matches!(
            ImageSource::open(&gz),
            Err(ImageSourceError::Compressed { .. })
        ));
    }
}
