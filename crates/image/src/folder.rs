//! The pictures of a folder: told by their first bytes, as they are when they are decoded, never by
//! their names. What is left out is counted.

use crate::decode::{DecodeError, FIRST_BYTES, refusal_by_first_bytes};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a folder cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the folder {path}: {source}")]
pub struct FolderError {
    /// The folder.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The pictures below a folder, and what else lies there.
#[derive(Debug, Default)]
pub struct FolderPictures {
    /// The pictures' paths, which begin with the folder's, in alphabetical order.
    pub files: Vec<PathBuf>,
    /// What was left out.
    pub left_out: PassedOver,
}

/// Files that are no pictures that are read here, counted by what they look like.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PassedOver {
    kinds: BTreeMap<String, usize>,
    /// The first file that could not be read, and why.
    unreadable: Option<(PathBuf, String)>,
}

impl PassedOver {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.kinds.values().sum()
    }

    /// Counts a file that begins with these bytes, unless it is a picture. Returns whether it is.
    pub fn is_picture(&mut self, first_bytes: &[u8]) -> bool {
        let kind = match refusal_by_first_bytes(first_bytes) {
            None => return true,
            Some(DecodeError::Empty) => "empty".to_owned(),
            Some(DecodeError::UnknownFormat { looks_like }) => {
                match looks_like.strip_prefix("it looks like ") {
                    Some(name) => name.to_owned(),
                    None => "of no kind known here".to_owned(),
                }
            }
            Some(other) => other.to_string(),
        };
        *self.kinds.entry(kind).or_default() += 1;
        false
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        *self.kinds.entry("unreadable".to_owned()).or_default() += 1;
        self.unreadable
            .get_or_insert_with(|| (path.to_owned(), error.to_string()));
    }
}

impl std::fmt::Display for PassedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.count();
        write!(f, "{count} left out, being no pictures that are read here")?;
        for (index, (kind, count)) in self.kinds.iter().enumerate() {
            let before = if index == 0 { ": " } else { ", " };
            write!(f, "{before}{count} {kind}")?;
        }
        if let Some((path, error)) = &self.unreadable {
            write!(f, " ({}: {error})", path.display())?;
        }
        Ok(())
    }
}

/// The bytes of a file by which its format is told.
pub const HEAD: usize = FIRST_BYTES;

/// Lists the pictures below `folder`, subfolders and links included; a folder that links lead to
/// more than once is listed once.
///
/// # Errors
/// If a folder cannot be read; a file that cannot be is counted as left out.
///
/// # Examples
/// ```
/// let folder = tempfile::tempdir()?;
/// let picture = image::RgbImage::new(4, 4);
/// picture.save_with_format(folder.path().join("no-extension"), image::ImageFormat::Png)?;
/// std::fs::write(folder.path().join("notes.jpg"), "no picture at all")?;
///
/// let found = tagstream_image::folder::pictures_below(folder.path())?;
/// assert_eq!(found.files, [folder.path().join("no-extension")]);
/// assert_eq!(
///     found.left_out.to_string(),
///     "1 left out, being no pictures that are read here: 1 of no kind known here"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pictures_below(folder: &Path) -> Result<FolderPictures, FolderError> {
    let mut found = FolderPictures::default();
    let mut seen = HashSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |source| FolderError {
            path: folder.clone(),
            source,
        };
        let itself = fs::metadata(&folder).map_err(failed)?;
        if !seen.insert((itself.dev(), itself.ino())) {
            continue;
        }
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match fs::metadata(&path) {
                Ok(meta) if meta.is_dir() => folders.push(path),
                // Pipes and devices would have to be waited for.
                Ok(meta) if meta.is_file() => match head(&path) {
                    Ok(head) if found.left_out.is_picture(&head) => found.files.push(path),
                    Ok(_) => {}
                    Err(error) => found.left_out.unreadable(&path, &error),
                },
                Ok(_) => {}
                Err(error) => found.left_out.unreadable(&path, &error),
            }
        }
    }
    found.files.sort();
    Ok(found)
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    File::open(path)?.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_told_by_their_bytes_and_the_rest_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        let picture = image::RgbImage::new(3, 3);
        for (name, format) in [
            ("b.JPG", image::ImageFormat::Jpeg),
            ("a", image::ImageFormat::Png),
            ("sub/c.txt", image::ImageFormat::WebP),
        ] {
            picture.save_with_format(at(name), format).unwrap();
        }
        fs::write(at("page.jpg"), "<!doctype html><html>").unwrap();
        fs::write(at("scan.jp2"), b"\0\0\0\x0cjP  \r\n\x87\n").unwrap();
        fs::write(at("empty.png"), "").unwrap();
        fs::write(at("notes.txt"), "notes").unwrap();
        // A link back to where it lies, and one that leads nowhere.
        std::os::unix::fs::symlink(folder.path(), at("sub/again")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("gone.jpg")).unwrap();

        let found = pictures_below(folder.path()).unwrap();
        assert_eq!(found.files, [at("a"), at("b.JPG"), at("sub/c.txt")]);
        assert_eq!(found.left_out.count(), 5);
        let told = found.left_out.to_string();
        for part in [
            "5 left out",
            "1 HTML",
            "1 JPEG 2000",
            "1 empty",
            "1 unreadable",
            "gone.jpg",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(pictures_below(&at("missing")).is_err());
    }
}
