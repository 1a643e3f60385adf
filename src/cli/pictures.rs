//! Pictures that a command line names.

use std::path::Path;
use tagstream_core::error::usage;
use tagstream_image::folder::pictures_below;

/// Files as they are, folders as the pictures below them, addresses as they are. What lies in a
/// folder and is no picture is counted aloud.
///
/// # Errors
/// If a folder cannot be read, or holds no picture.
pub(super) fn expand(inputs: &[String]) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for input in inputs {
        let path = Path::new(input);
        if !path.is_dir() {
            all.push(input.clone());
            continue;
        }
        let found = pictures_below(path)?;
        if found.left_out.count() > 0 {
            eprintln!("{input}: {}", found.left_out);
        }
        if found.files.is_empty() {
            return Err(usage(format!("no images below {input}")).into());
        }
        all.extend(found.files.iter().map(|path| path.display().to_string()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_become_their_pictures_and_the_rest_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let picture = folder.path().join("picture");
        let pixels = image::RgbImage::new(3, 3);
        let saved = pixels.save_with_format(&picture, image::ImageFormat::Png);
        saved.unwrap();
        std::fs::write(folder.path().join("notes.jpg"), "notes").unwrap();
        let place = folder.path().display().to_string();
        let inputs = ["s3://b/a.jpg".to_owned(), place];
        let expected = ["s3://b/a.jpg".to_owned(), picture.display().to_string()];
        assert_eq!(expand(&inputs).unwrap(), expected);
        std::fs::remove_file(&picture).unwrap();
        assert!(expand(&inputs).is_err());
    }
}
