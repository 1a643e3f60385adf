//! What a picture is called: the one function from where a picture is to its `image_id`, for
//! producing references, importing labels and public data sets alike.
//!
//! A picture's labels meet its predictions by this name alone, so the same picture has to get the
//! same name from a folder, from a list of addresses and from the file of an annotation tool; and
//! two pictures never share one silently.
//!
//! | rule | `video_a/frame_0001.jpg` below the root | `https://host/1001/a.jpg?w=40` |
//! |---|---|---|
//! | `path` | `video_a/frame_0001` | `1001/a` |
//! | `stem` | `frame_0001` | `a` |
//! | `uri` | the whole address | the whole address |
//! | `sha256` | SHA-256 of the whole address | the same |
//!
//! The root of an address is its host or bucket, unless one is named. An extension is dropped only
//! if it is one of a picture.

use crate::digest::sha256;
use crate::redact::{redact_place, trimmed};
use percent_encoding::percent_decode_str;
use std::collections::{HashMap, HashSet};

/// Extensions of pictures, whether or not this build can decode them.
pub const PICTURE_EXTENSIONS: [&str; 22] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif",
    "heic", "heif", "jxl", "jp2", "ppm", "pgm", "tga", "dng", "cr2", "nef",
];
/// Digits of a digest that tell pictures of one path apart.
const SHORT: usize = 8;
/// Digits of a digest that stand for a whole address.
const LONG: usize = 16;

/// How a picture's name is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdRule {
    /// The path below the root, folders kept.
    #[default]
    Path,
    /// The whole address, as written.
    Uri,
    /// The file's name alone, as 0.1 named pictures of lists and imports.
    Stem,
    /// The SHA-256 of the whole address.
    Sha256,
}

impl IdRule {
    /// Every rule with its name.
    pub const ALL: [(&'static str, IdRule); 4] = [
        ("path", IdRule::Path),
        ("uri", IdRule::Uri),
        ("stem", IdRule::Stem),
        ("sha256", IdRule::Sha256),
    ];

    /// The rule of that name.
    pub fn named(name: &str) -> Option<IdRule> {
        let found = IdRule::ALL.iter().find(|(n, _)| *n == name);
        found.map(|(_, rule)| *rule)
    }
}

/// Where a picture is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PicturePlace {
    /// What folders and name are taken of: a path below the root, or an address.
    pub path: String,
    /// What tells this picture from every other: its whole address, or the path as it was written.
    pub whole: String,
}

impl PicturePlace {
    /// The place that `written`, a path or an address, says.
    pub fn of(written: &str) -> Self {
        PicturePlace {
            path: written.to_owned(),
            whole: written.to_owned(),
        }
    }
}

/// Two pictures that would have one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "two pictures have the same id `{id}`: {first} and {second}{}. Name them by --id path (keeps \
     folders) or --id uri (the whole address)",
    more(.others)
)]
pub struct SameId {
    /// The name.
    pub id: String,
    /// One picture, as it may be shown.
    pub first: String,
    /// Another.
    pub second: String,
    /// Further names that several pictures share.
    pub others: usize,
}

fn more(others: &usize) -> String {
    match others {
        0 => String::new(),
        n => format!(" ({n} more ids are shared)"),
    }
}

/// The names of pictures that were named together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageIds {
    /// A name each, in the order of the places.
    pub ids: Vec<String>,
    /// What to tell of pictures that would have shared a name and keep more of their place.
    pub note: Option<String>,
}

/// How pictures are named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageNaming {
    /// How names are made of paths and addresses.
    pub rule: IdRule,
    /// What stands before the path in addresses and paths and is no part of a name; may be empty.
    pub root: String,
}

/// How much of its place a name of the rule `path` keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    Path,
    Extension,
    Digest,
}

impl ImageNaming {
    /// The name of one picture, whatever others are called. Pictures that come together are named
    /// by [`ImageNaming::ids`], which sees to it that none shares its name with another.
    pub fn id(&self, place: &PicturePlace) -> String {
        self.keeping(place, Kept::Path)
    }

    /// The names of pictures. Where two places have the same path, both names keep the extension,
    /// and where that is not enough a digest of the whole address. The same place named twice is
    /// one picture.
    ///
    /// # Errors
    /// [`SameId`] if two pictures share a name that the rule cannot tell apart.
    pub fn ids(&self, places: &[PicturePlace]) -> Result<ImageIds, SameId> {
        let mut of: HashMap<&str, usize> = HashMap::new();
        let mut distinct = Vec::new();
        for (at, place) in places.iter().enumerate() {
            of.entry(place.whole.as_str()).or_insert_with(|| {
                distinct.push(at);
                distinct.len() - 1
            });
        }
        let mut kept = vec![Kept::Path; distinct.len()];
        let mut names: Vec<String> = distinct.iter().map(|&at| self.id(&places[at])).collect();
        loop {
            let shared = shared(&names);
            if shared.is_empty() {
                break;
            }
            let can = |&at: &usize| self.rule == IdRule::Path && kept[at] < Kept::Digest;
            let longer: Vec<usize> = shared.iter().flatten().copied().filter(can).collect();
            if longer.is_empty() {
                return Err(same(&names, &shared, |at| &places[distinct[at]]));
            }
            for at in longer {
                kept[at] = match kept[at] {
                    Kept::Path => Kept::Extension,
                    _ => Kept::Digest,
                };
                names[at] = self.keeping(&places[distinct[at]], kept[at]);
            }
        }
        let longer: Vec<usize> = (0..kept.len())
            .filter(|&at| kept[at] > Kept::Path)
            .collect();
        let note = longer.first().map(|&first| {
            format!(
                "{} pictures have the same path as another but for the extension or what follows \
                 it: their ids keep more of it, such as `{}`",
                longer.len(),
                names[first]
            )
        });
        let name = |place: &PicturePlace| names[of[place.whole.as_str()]].clone();
        Ok(ImageIds {
            ids: places.iter().map(name).collect(),
            note,
        })
    }

    fn keeping(&self, place: &PicturePlace, kept: Kept) -> String {
        let whole = trimmed(&place.whole);
        if is_data(&place.path) || is_data(whole) {
            return format!("data-{}", &sha256(whole)[..LONG]);
        }
        let by_digest = || format!("uri-{}", &sha256(whole)[..LONG]);
        let name = match self.rule {
            IdRule::Uri => return whole.to_owned(),
            IdRule::Sha256 => return sha256(whole),
            IdRule::Stem => stem(trimmed(&place.path)).filter(|name| !name.is_empty()),
            IdRule::Path => self.path(trimmed(&place.path)),
        };
        let Some(name) = name else {
            return by_digest();
        };
        match kept {
            _ if self.rule == IdRule::Stem => name,
            Kept::Path => match without_extension(&name) {
                "" => by_digest(),
                bare => bare.to_owned(),
            },
            Kept::Extension => name,
            Kept::Digest => {
                let digest = sha256(whole);
                format!("{}-{}", without_extension(&name), &digest[..SHORT])
            }
        }
    }

    /// Folders and name below the root; `None` if there are none, or if a password may stand there:
    /// a name is shown everywhere.
    fn path(&self, written: &str) -> Option<String> {
        let place = Parts::of(written);
        let root = Parts::of(trimmed(&self.root));
        let same_store = root.store.is_empty() || root.store == place.store;
        let below = match same_store && !self.root.is_empty() {
            true => place.folders.strip_prefix(root.folders.as_slice()),
            false => None,
        };
        let below = below.filter(|below| !below.is_empty());
        let name = below.unwrap_or(&place.folders).join("/");
        let suspect = place.is_address && name.contains(['@', ';', '&']);
        (!name.is_empty() && !suspect).then_some(name)
    }
}

/// A place taken apart.
struct Parts {
    /// Scheme and host or bucket; empty of a path, and of a file's address.
    store: String,
    /// Folders and name, without `.` and `..`.
    folders: Vec<String>,
    is_address: bool,
}

impl Parts {
    fn of(written: &str) -> Self {
        let Some((scheme, rest)) = address(written) else {
            let path = written.replace('\\', "/");
            // The drive of another system is no folder.
            let path = match path.split_once(":/") {
                Some((drive, rest)) if drive.len() == 1 => rest,
                _ => path.as_str(),
            };
            return Parts {
                store: String::new(),
                folders: folders(path),
                is_address: false,
            };
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = percent_decode_str(path).decode_utf8_lossy();
        let scheme = scheme.to_ascii_lowercase();
        Parts {
            store: match scheme.as_str() {
                "file" => String::new(),
                _ => format!("{scheme}://{host}"),
            },
            folders: folders(&path),
            is_address: scheme != "file",
        }
    }
}

fn folders(path: &str) -> Vec<String> {
    let mut folders: Vec<String> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(folders.pop()),
            _ => folders.push(part.to_owned()),
        }
    }
    folders
}

/// The scheme of an address and what follows it; `None` of a path.
fn address(written: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = written.split_once("://")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let letter = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    (letter && scheme.chars().all(plain)).then_some((scheme, rest))
}

/// Whether this is an address, and no path.
pub fn is_address(written: &str) -> bool {
    let written = trimmed(written);
    is_data(written) || address(written).is_some()
}

fn is_data(written: &str) -> bool {
    let start = trimmed(written).as_bytes().get(..5);
    start.is_some_and(|start| start.eq_ignore_ascii_case(b"data:"))
}

/// The file's name without what follows its last point.
fn stem(written: &str) -> Option<String> {
    let path = written.split(['?', '#']).next().unwrap_or(written);
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    // What stands where a name should may be a password or a signature.
    let suspect = is_address(written) && stem.contains(['@', ':', ';', '&', '%']);
    (!suspect).then(|| stem.to_owned())
}

/// A name without the extension of a picture.
pub fn without_extension(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((bare, extension)) if is_extension(extension) && !bare.ends_with('/') => bare,
        _ => name,
    }
}

/// Whether files of pictures end so.
pub fn is_extension(extension: &str) -> bool {
    PICTURE_EXTENSIONS
        .iter()
        .any(|known| known.eq_ignore_ascii_case(extension))
}

/// The places of `names` that several have, by name.
fn shared(names: &[String]) -> Vec<Vec<usize>> {
    let mut at: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, name) in names.iter().enumerate() {
        at.entry(name).or_default().push(place);
    }
    let mut shared: Vec<Vec<usize>> = at.into_values().filter(|all| all.len() > 1).collect();
    shared.sort();
    shared
}

fn same<'a>(
    names: &[String],
    shared: &[Vec<usize>],
    place: impl Fn(usize) -> &'a PicturePlace,
) -> SameId {
    let group = &shared[0];
    let ids: HashSet<&str> = shared.iter().map(|all| names[all[0]].as_str()).collect();
    SameId {
        id: names[group[0]].clone(),
        first: redact_place(&place(group[0]).whole),
        second: redact_place(&place(group[1]).whole),
        others: ids.len() - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(rule: &str, root: &str) -> ImageNaming {
        ImageNaming {
            rule: IdRule::named(rule).unwrap(),
            root: root.into(),
        }
    }

    fn ids(rule: &str, written: &[&str]) -> Vec<String> {
        let places: Vec<PicturePlace> = written.iter().map(|w| PicturePlace::of(w)).collect();
        naming(rule, "").ids(&places).unwrap().ids
    }

    #[test]
    fn one_picture_has_one_name_wherever_it_is_written() {
        for (written, root, id) in [
            ("video_a/frame_0001.jpg", "", "video_a/frame_0001"),
            ("video_a\\frame_0001.JPG", "", "video_a/frame_0001"),
            (
                "./video_a/../video_a/frame_0001.jpg",
                "",
                "video_a/frame_0001",
            ),
            ("s3://b/video_a/frame_0001.jpg", "", "video_a/frame_0001"),
            (
                "s3://b/photos/video_a/frame_0001.jpg",
                "s3://b/photos/",
                "video_a/frame_0001",
            ),
            (
                "/data/video_a/frame_0001.jpg",
                "/data",
                "video_a/frame_0001",
            ),
            (
                "file:///data/video_a/frame_0001.jpg",
                "/data/",
                "video_a/frame_0001",
            ),
            (
                "C:\\data\\video_a\\frame_0001.jpg",
                "C:\\data",
                "video_a/frame_0001",
            ),
            (
                "https://host/video_a/frame%5F0001.jpg?sig=x#y",
                "",
                "video_a/frame_0001",
            ),
            (" s3://b/a.jpg\n", "", "a"),
            // Not below the root: nothing is cut off.
            ("s3://c/photos/a.jpg", "s3://b/photos/", "photos/a"),
            ("/database/a.jpg", "/data", "database/a"),
            // A point is no extension.
            ("2024.01.02", "", "2024.01.02"),
            ("dotted.name/plain", "", "dotted.name/plain"),
            ("a/.jpg", "", "a/.jpg"),
        ] {
            assert_eq!(
                naming("path", root).id(&PicturePlace::of(written)),
                id,
                "{written}"
            );
        }
    }

    #[test]
    fn no_password_becomes_a_name() {
        for written in [
            "https://user:hush/now@host/a.jpg",
            "s3://key:hu/sh@b/a.jpg",
            "https://host/a;token=hush",
            "https://host/",
        ] {
            let id = naming("path", "").id(&PicturePlace::of(written));
            assert!(id.starts_with("uri-") && !id.contains("hush"), "{id}");
        }
        let data = PicturePlace::of("data:image/png;base64,iVBORw0KGgo=");
        for (rule, _) in IdRule::ALL {
            let id = naming(rule, "").id(&data);
            assert!(id.starts_with("data-") && id.len() == 21, "{id}");
        }
    }

    #[test]
    fn two_pictures_stay_two() {
        assert_eq!(
            ids("path", &["a.jpg", "a.png", "b.jpg"]),
            ["a.jpg", "a.png", "b"]
        );
        // A name that a longer one would take is longer, too.
        let taken = ids("path", &["a.jpg", "a.png", "a.jpg.jpg"]);
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 3, "{taken:?}");
        let queries = ids("path", &["https://h/photo?id=7", "https://h/photo?id=8"]);
        assert!(queries[0] != queries[1] && queries[0].starts_with("photo-"));
        // One picture that is named twice is one.
        assert_eq!(ids("path", &["a.jpg", "a.jpg"]), ["a", "a"]);
        assert_eq!(ids("uri", &["s3://b/x/1.jpg"]), ["s3://b/x/1.jpg"]);
        assert_eq!(ids("sha256", &["abc"])[0], sha256("abc"));
        let places = [PicturePlace::of("a.jpg"), PicturePlace::of("a.png")];
        let note = naming("path", "").ids(&places).unwrap().note.unwrap();
        assert!(
            note.starts_with("2 pictures") && note.contains("`a.jpg`"),
            "{note}"
        );
    }

    #[test]
    fn a_rule_that_cannot_tell_two_apart_is_refused() {
        let places = [
            "https://h/1001/original.jpg",
            "https://h/1002/original.jpg",
            "x/a",
            "y/a",
        ];
        let error = naming("stem", "")
            .ids(&places.map(PicturePlace::of))
            .unwrap_err();
        assert_eq!((error.id.as_str(), error.others), ("original", 1));
        let said = error.to_string();
        assert!(
            said.contains("the same id `original`") && said.contains("/1002/"),
            "{said}"
        );
        assert!(
            said.contains("--id path") && said.contains("1 more"),
            "{said}"
        );
    }
}
