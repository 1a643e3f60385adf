//! The images that a command line names for good: those of a folder, of a list, or below an address
//! in an object store, each with its name and its address.

use super::labels::NamingArgs;
use anyhow::Context as _;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use std::path::Path;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::error::{Exit, WithExit, usage};
use tagstream_core::events::ImageReference;
use tagstream_core::image_id::{ImageNaming, PICTURE_EXTENSIONS, PicturePlace, is_address};
use tagstream_core::redact::{redact_place, trimmed};
use tagstream_core::storage::store::TableStore;
use tagstream_image::folder::pictures_below;

/// What a key's address writes otherwise.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'\\')
    .add(b'^')
    .add(b'|')
    .add(b'[')
    .add(b']');

/// A picture's place and address.
type Found = (PicturePlace, String);

/// The images of `input`: a folder, a file with one path or address a line, or an address of an
/// object store below which pictures lie.
///
/// # Errors
/// If it cannot be read, or two images would have one name.
pub(super) async fn images(
    input: &str,
    naming: &NamingArgs,
    stores: &ObjectStoreConfig,
) -> anyhow::Result<Vec<ImageReference>> {
    let path = input.strip_prefix("file://").unwrap_or(input);
    if path.contains("://") {
        let found = in_store(path, stores).await?;
        return named(path, found, naming);
    }
    references(Path::new(path), naming)
}

/// Image references for every image below a folder, or for every line of a list.
///
/// # Errors
/// As [`images`].
pub(super) fn references(input: &Path, naming: &NamingArgs) -> anyhow::Result<Vec<ImageReference>> {
    let shown = input.display();
    let meta = std::fs::metadata(input).map_err(|e| usage(format!("{shown}: {e}")))?;
    let found = match meta.is_dir() {
        true => in_folder(input)?,
        false => in_list(input)?,
    };
    named(&shown.to_string(), found, naming)
}

fn named(
    input: &str,
    found: Vec<Found>,
    naming: &NamingArgs,
) -> anyhow::Result<Vec<ImageReference>> {
    let naming = ImageNaming {
        rule: naming.id.unwrap_or_default(),
        root: naming.root.clone(),
    };
    let (places, uris): (Vec<PicturePlace>, Vec<String>) = found.into_iter().unzip();
    let named = naming.ids(&places);
    let named = named.map_err(|error| usage(format!("{}: {error}", redact_place(input))))?;
    if let Some(note) = named.note {
        eprintln!("{note}");
    }
    let reference = |(image_id, uri)| ImageReference {
        image_id,
        uri,
        event_time: None,
        attributes: Default::default(),
    };
    Ok(named.ids.into_iter().zip(uris).map(reference).collect())
}

/// The objects below an address whose names do not say that they are something else than pictures.
async fn in_store(address: &str, stores: &ObjectStoreConfig) -> anyhow::Result<Vec<Found>> {
    let shown = redact_place(address);
    let store = TableStore::open_for_reading(address, stores);
    let store = store.map_err(|error| usage(error.to_string()))?;
    let listed = store.list_objects(store.root()).await;
    let mut listed = listed.map_err(|error| WithExit {
        exit: match error.is_transient() {
            true => Exit::Temporary,
            false => Exit::Failure,
        },
        message: format!("{shown} cannot be listed: {error}"),
    })?;
    listed.sort_by(|a, b| a.location.cmp(&b.location));
    let all = listed.len();
    listed.retain(|object| object.size > 0 && may_be_a_picture(object.location.as_ref()));
    if listed.len() < all {
        let left_out = all - listed.len();
        eprintln!("{shown}: {left_out} left out, being empty or named as no picture is");
    }
    let (scheme, rest) = address.split_once("://").unwrap_or(("s3", address));
    let bucket = rest.split('/').next().unwrap_or(rest);
    let root = store.root().as_ref();
    let found = listed.iter().map(|object| {
        let key = object.location.as_ref();
        let below = key
            .strip_prefix(root)
            .unwrap_or(key)
            .trim_start_matches('/');
        let uri = format!("{scheme}://{bucket}/{}", utf8_percent_encode(key, ENCODED));
        let place = PicturePlace {
            path: below.to_owned(),
            whole: uri.clone(),
        };
        (place, uri)
    });
    Ok(found.collect())
}

/// Whether a name says nothing against it: it has a picture's extension, or none.
fn may_be_a_picture(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    match file.rsplit_once('.') {
        Some((_, extension)) => {
            PICTURE_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str())
        }
        None => true,
    }
}

fn in_folder(input: &Path) -> anyhow::Result<Vec<Found>> {
    let root = input.canonicalize()?;
    let pictures = pictures_below(&root)?;
    if pictures.left_out.count() > 0 {
        eprintln!("{}: {}", input.display(), pictures.left_out);
    }
    let mut found = Vec::new();
    for path in &pictures.files {
        found.push(of_file(path.strip_prefix(&root).unwrap_or(path), path)?);
    }
    found.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    Ok(found)
}

fn in_list(input: &Path) -> anyhow::Result<Vec<Found>> {
    let text = std::fs::read_to_string(input).with_context(|| input.display().to_string())?;
    let text = text.trim_start_matches('\u{feff}');
    let folder = input.parent().unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for line in text.lines().map(trimmed).filter(|line| !line.is_empty()) {
        if is_address(line) {
            found.push((PicturePlace::of(line), line.to_owned()));
            continue;
        }
        let written = folder.join(line);
        let path = written.canonicalize();
        let path = path.with_context(|| redact_place(&written.to_string_lossy()))?;
        // Folders below the list's own belong to the name, as do those of an absolute path.
        found.push(of_file(
            written.strip_prefix(folder).unwrap_or(&written),
            &path,
        )?);
    }
    Ok(found)
}

/// A file's place: `name` is its path below the root.
fn of_file(name: &Path, path: &Path) -> anyhow::Result<Found> {
    let uri = url::Url::from_file_path(path)
        .map_err(|()| anyhow::anyhow!("{} cannot be written as a URI", path.display()))?;
    let place = PicturePlace {
        path: name.to_string_lossy().into_owned(),
        whole: uri.as_str().to_owned(),
    };
    Ok((place, uri.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use tagstream_core::image_id::IdRule;

    #[test]
    fn what_a_name_says_of_an_object() {
        for name in ["a/b.JPG", "a/b", "a.b/c", "x.avif"] {
            assert!(may_be_a_picture(name), "{name}");
        }
        for name in ["a/b.json", "a/_SUCCESS.crc", ".DS_Store.txt"] {
            assert!(!may_be_a_picture(name), "{name}");
        }
    }

    #[test]
    fn folders_and_lists_become_references() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        for (name, bytes) in [
            ("b.JPG", &b"\xff\xd8\xff\xe0"[..]),
            ("sub/a.png", b"\x89PNG\r\n\x1a\n"),
            ("notes.txt", b"x"),
        ] {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let naming = NamingArgs {
            id: None,
            root: String::new(),
        };
        let found = references(folder.path(), &naming).unwrap();
        let ids: Vec<&str> = found.iter().map(|r| r.image_id.as_str()).collect();
        assert_eq!(ids, ["b", "sub/a"]);
        assert!(found[0].uri.starts_with("file:///") && found[0].uri.ends_with("/b.JPG"));
        let list = folder.path().join("list");
        std::fs::write(&list, "sub/a.png\n\n https://host/x/y.png?size=2 \n").unwrap();
        let found = references(&list, &naming).unwrap();
        let ids: Vec<&str> = found.iter().map(|r| r.image_id.as_str()).collect();
        assert_eq!(ids, ["sub/a", "x/y"]);
        std::fs::write(&list, "missing.jpg\n").unwrap();
        assert!(references(&list, &naming).is_err());
        let uris =
            "https://h/1001/a.jpg\nhttps://h/1002/a.jpg\nhttps://h/p?id=7\nhttps://h/p?id=8\n";
        std::fs::write(&list, uris).unwrap();
        let found = references(&list, &naming).unwrap();
        let ids: HashSet<&str> = found.iter().map(|r| r.image_id.as_str()).collect();
        assert_eq!(ids.len(), 4, "{ids:?}");
        let stem = NamingArgs {
            id: Some(IdRule::Stem),
            ..naming
        };
        let refused = references(&list, &stem).unwrap_err().to_string();
        assert!(refused.contains("the same id `a`"), "{refused}");
    }
}
