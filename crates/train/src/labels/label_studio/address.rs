//! Where a task's picture is: Label Studio writes the addresses of its own server, which nobody
//! else can fetch, around the name of the file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use percent_encoding::percent_decode_str;
use tagstream_core::image_id::{PicturePlace, is_address};
use tagstream_core::redact::trimmed;

/// Files that were uploaded, kept under a number of the project and with a prefix of their own.
const UPLOAD: &str = "data/upload/";
/// Files of the server's disk, named by `?d=`.
const LOCAL_FILES: &str = "data/local-files/";

/// Where a picture is, and the address that others can fetch; empty if there is none.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Located {
    pub(in super::super) place: PicturePlace,
    pub(in super::super) uri: String,
}

/// What the value of a task's image key says. `prefix` stands before what is only a path.
pub(in super::super) fn locate(value: &str, prefix: &str) -> Located {
    let value = trimmed(value);
    let path = of_server(value);
    if let Some(stored) = path.and_then(|path| parameter(path, "fileuri")) {
        let stored = decoded(&stored).unwrap_or(stored);
        return plain(&stored, prefix);
    }
    let Some(path) = path else {
        return plain(value, prefix);
    };
    let (file, whole) = match (behind(path, UPLOAD), behind(path, LOCAL_FILES)) {
        (Some(upload), _) => (uploaded(upload), value.to_owned()),
        (None, Some(_)) => match parameter(path, "d") {
            Some(file) => (file.clone(), file),
            None => return plain(value, prefix),
        },
        (None, None) => return plain(value, prefix),
    };
    Located {
        uri: super::super::uri(prefix, &file),
        place: PicturePlace { path: file, whole },
    }
}

fn plain(written: &str, prefix: &str) -> Located {
    // The scheme that Label Studio alone uses.
    let written = match written.strip_prefix("azure-blob://") {
        Some(rest) => format!("az://{rest}"),
        None => written.to_owned(),
    };
    Located {
        uri: super::super::uri(prefix, &written),
        place: PicturePlace::of(&written),
    }
}

/// Path and query at a server; `None` of an address elsewhere (a bucket, `data:`).
fn of_server(value: &str) -> Option<&str> {
    if !is_address(value) {
        return Some(value.trim_start_matches('/'));
    }
    let lower = value.get(..8).unwrap_or(value).to_ascii_lowercase();
    let rest = match lower.starts_with("http://") {
        true => value.get(7..)?,
        false if lower.starts_with("https://") => value.get(8..)?,
        false => return None,
    };
    rest.split_once('/').map(|(_, path)| path)
}

/// What follows the folders `known`, which may themselves lie below a folder.
fn behind<'a>(path: &'a str, known: &str) -> Option<&'a str> {
    let start = path.split('?').next().unwrap_or(path);
    let at = start.find(known)?;
    let whole_folder = at == 0 || start[..at].ends_with('/');
    whole_folder.then(|| &path[at + known.len()..])
}

/// The name that a file had before it was uploaded: `29/3f2a9c1b-cat01.jpg` was `cat01.jpg`.
fn uploaded(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let name = match path.split_once('/') {
        Some((project, name)) if project.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => path,
    };
    let name = percent_decode_str(name).decode_utf8_lossy().into_owned();
    without_upload_prefix(&name).to_owned()
}

/// A name without the eight digits that an upload is given.
pub(in super::super) fn without_upload_prefix(name: &str) -> &str {
    let given = |digits: &str| {
        digits.len() == 8
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    match name.split_once('-') {
        Some((digits, rest)) if given(digits) && !rest.is_empty() => rest,
        _ => name,
    }
}

/// A path whose file is called as it was before it was uploaded.
pub(in super::super) fn as_before_upload(path: &str) -> String {
    match path.rsplit_once(['/', '\\']) {
        Some((folders, name)) => format!("{folders}/{}", without_upload_prefix(name)),
        None => without_upload_prefix(path).to_owned(),
    }
}

/// A parameter of the query.
fn parameter(path: &str, name: &str) -> Option<String> {
    let (_, query) = path.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, value)| *key == name && !value.is_empty())?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// The address that a proxied one stands for.
fn decoded(text: &str) -> Option<String> {
    let plain = text
        .trim_end_matches('=')
        .replace('-', "+")
        .replace('_', "/");
    let bytes = STANDARD_NO_PAD.decode(plain).ok()?;
    String::from_utf8(bytes)
        .ok()
        .filter(|text| is_address(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_put_around_a_name_is_taken_off() {
        let s3 = "s3://bucket/photos/a b.jpg";
        let hidden = base64::engine::general_purpose::URL_SAFE.encode(s3);
        for (value, path, uri) in [
            ("/data/upload/29/3f2a9c1b-cat01.jpg", "cat01.jpg", ""),
            ("/data/upload/3f2a9c1b-cat-01.jpg", "cat-01.jpg", ""),
            (
                "http://ls:8080/data/upload/29/3f2a9c1b-cat%2001.jpg",
                "cat 01.jpg",
                "",
            ),
            ("/label-studio/data/upload/1/3f2a9c1b-a.jpg", "a.jpg", ""),
            ("/data/upload/1/no-prefix.jpg", "no-prefix.jpg", ""),
            (
                "/data/local-files/?d=pics/video_a/a%20b.jpg",
                "pics/video_a/a b.jpg",
                "",
            ),
            (
                "https://ls/data/local-files/?d=pics/a.jpg",
                "pics/a.jpg",
                "",
            ),
            (&format!("/tasks/7/presign/?fileuri={hidden}"), s3, s3),
            (
                &format!("/tasks/7/resolve/?fileuri={}", hidden.replace('=', "%3D")),
                s3,
                s3,
            ),
            (
                "/projects/2/resolve?fileuri=s3://b/a.jpg",
                "s3://b/a.jpg",
                "s3://b/a.jpg",
            ),
            ("azure-blob://c/a.jpg", "az://c/a.jpg", "az://c/a.jpg"),
            // A bucket may have such folders, too.
            (
                "s3://b/data/upload/1/3f2a9c1b-a.jpg",
                "s3://b/data/upload/1/3f2a9c1b-a.jpg",
                "s3://b/data/upload/1/3f2a9c1b-a.jpg",
            ),
            ("mydata/upload/1/a.jpg", "mydata/upload/1/a.jpg", ""),
            ("photos/a.jpg", "photos/a.jpg", ""),
        ] {
            let located = locate(value, "");
            assert_eq!(
                (located.place.path.as_str(), located.uri.as_str()),
                (path, uri),
                "{value}"
            );
        }
    }

    #[test]
    fn a_prefix_makes_addresses_of_names_alone() {
        let uri = |value: &str| locate(value, "s3://b/photos/").uri;
        assert_eq!(
            uri("/data/upload/29/3f2a9c1b-cat01.jpg"),
            "s3://b/photos/cat01.jpg"
        );
        assert_eq!(uri("/data/local-files/?d=x/a.jpg"), "s3://b/photos/x/a.jpg");
        assert_eq!(uri("s3://other/a.jpg"), "s3://other/a.jpg");
    }
}
