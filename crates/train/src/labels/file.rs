//! Opening label files: compression, encodings and delimiters, for every form alike.

use super::error::LabelsError;
use csv::{ReaderBuilder, Trim};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Error, ErrorKind, Read, Result};
use std::path::Path;

/// The most of a table's first line that is searched for its delimiter, bytes.
const LONGEST_HEADER: u64 = 1 << 16;
/// What may stand between the fields of a table: the usual one first.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// How zip archives begin, as which tools hand out their exports.
const ZIP: &[u8] = b"PK\x03\x04";
/// A line that spreadsheets put before a table to say what stands between its fields.
const SEPARATOR: &[u8] = b"sep=";

/// Opens a label file; one whose name ends in `.gz` is decompressed.
///
/// # Errors
/// If it cannot be opened, or is an archive.
pub fn open(path: &Path) -> Result<Box<dyn Read>> {
    let mut file = BufReader::new(File::open(path)?);
    if file.fill_buf()?.starts_with(ZIP) {
        let reason = "it is a zip archive: unpack it, and name the file or folder inside";
        return Err(Error::new(ErrorKind::InvalidData, reason));
    }
    if path.extension().is_some_and(|extension| extension == "gz") {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(file)));
    }
    Ok(Box::new(file))
}

/// The text as UTF-8 without a byte-order mark: spreadsheets write one, or UTF-16.
pub(super) fn unicode<'a>(input: impl Read + 'a) -> Result<Box<dyn BufRead + 'a>> {
    let mut input = BufReader::new(input);
    let mut start = Vec::new();
    input.by_ref().take(4).read_to_end(&mut start)?;
    match start[..] {
        [0xef, 0xbb, 0xbf, ..] => Ok(Box::new(Cursor::new(start.split_off(3)).chain(input))),
        [0xff, 0xfe, 0, 0] | [0, 0, 0xfe, 0xff] => {
            let reason = "it is UTF-32: save it as UTF-8 or UTF-16";
            Err(Error::new(ErrorKind::InvalidData, reason))
        }
        [0xff, 0xfe, ..] => utf16(&start[2..], input, u16::from_le_bytes),
        [0xfe, 0xff, ..] => utf16(&start[2..], input, u16::from_be_bytes),
        // No text holds the byte 0: what does is UTF-16 without a mark.
        [1..=0x7f, 0, ..] => utf16(&start, input, u16::from_le_bytes),
        [0, 1..=0x7f, ..] => utf16(&start, input, u16::from_be_bytes),
        _ => Ok(Box::new(Cursor::new(start).chain(input))),
    }
}

fn utf16<'a>(
    start: &[u8],
    mut rest: impl Read,
    unit: impl Fn([u8; 2]) -> u16,
) -> Result<Box<dyn BufRead + 'a>> {
    let mut bytes = start.to_vec();
    rest.read_to_end(&mut bytes)?;
    let broken = |what| {
        let reason = format!("it begins as UTF-16 and {what}: save it as UTF-8");
        Error::new(ErrorKind::InvalidData, reason)
    };
    let (units, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return Err(broken("ends within a character"));
    }
    let units: Vec<u16> = units.iter().map(|pair| unit(*pair)).collect();
    let text = String::from_utf16(&units).map_err(|_| broken("is not UTF-16 throughout"))?;
    Ok(Box::new(Cursor::new(text)))
}

/// A table with a header. Its delimiter is the one that makes one of `names` a field of the first
/// line, else the one that makes most fields of it.
pub(super) fn table<'a>(
    input: impl Read + 'a,
    names: &[&str],
    trim: Trim,
) -> Result<csv::Reader<Box<dyn Read + 'a>>> {
    let mut text = unicode(input)?;
    let mut header = first_line(&mut text)?;
    let mut told = None;
    if let [start @ .., delimiter] = header.trim_ascii_end()
        && start.eq_ignore_ascii_case(SEPARATOR)
        && DELIMITERS.contains(delimiter)
    {
        told = Some(*delimiter);
        header = first_line(&mut text)?;
    } else if header.trim_ascii().eq_ignore_ascii_case(SEPARATOR) {
        // A tab was trimmed.
        told = Some(b'\t');
        header = first_line(&mut text)?;
    }
    if header.trim_ascii().is_empty() {
        let reason = "it is empty, or its first line is: a table with a header is read";
        return Err(Error::new(ErrorKind::InvalidData, reason));
    }
    let named = |delimiter: &u8| {
        let fields = header.split(|byte| byte == delimiter).map(bare);
        let is = |field: &[u8]| {
            names
                .iter()
                .any(|n| field.eq_ignore_ascii_case(n.as_bytes()))
        };
        fields.into_iter().any(is)
    };
    let count = |delimiter: &u8| header.iter().filter(|byte| *byte == delimiter).count();
    let most = || {
        // Of equals the first, which is the usual one.
        let most = DELIMITERS.into_iter().rev().max_by_key(count);
        most.unwrap_or(DELIMITERS[0])
    };
    let delimiter = told.or_else(|| DELIMITERS.into_iter().find(named));
    let delimiter = delimiter.unwrap_or_else(most);
    let whole: Box<dyn Read> = Box::new(Cursor::new(header).chain(text));
    Ok(ReaderBuilder::new()
        .trim(trim)
        .delimiter(delimiter)
        .from_reader(whole))
}

fn first_line(text: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    text.take(LONGEST_HEADER).read_until(b'\n', &mut line)?;
    Ok(line)
}

/// A field without blanks and quotes around it.
fn bare(field: &[u8]) -> &[u8] {
    let field = field.trim_ascii();
    let inside = field
        .strip_prefix(b"\"")
        .and_then(|f| f.strip_suffix(b"\""));
    inside.unwrap_or(field)
}

/// Where the columns `names` are.
pub(super) fn columns<const K: usize>(
    reader: &mut csv::Reader<impl Read>,
    names: [&'static str; K],
) -> std::result::Result<[usize; K], LabelsError> {
    let headers = reader.headers()?;
    let mut found = [0; K];
    for (place, column) in found.iter_mut().zip(names) {
        *place = optional(headers, column).ok_or_else(|| LabelsError::NoColumn {
            column,
            found: shown(headers),
        })?;
    }
    Ok(found)
}

/// Where a column is that may be missing: as it is written, else in other capitals.
pub(super) fn optional(headers: &csv::StringRecord, column: &str) -> Option<usize> {
    let as_written = headers.iter().position(|name| name.trim() == column);
    let otherwise = || {
        let mut names = headers.iter();
        names.position(|name| name.trim().eq_ignore_ascii_case(column))
    };
    as_written.or_else(otherwise)
}

/// The first columns: of a file in another form the first line may be all of it.
pub(super) fn shown(headers: &csv::StringRecord) -> String {
    let names: Vec<String> = headers.iter().take(8).map(|h| beginning(h, 24)).collect();
    let more = if headers.len() > 8 { ", ..." } else { "" };
    names.join(", ") + more
}

/// At most `most` characters of `text`.
fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "image_id,label,state\nä,\"big, dog\",present\n";

    fn read(bytes: &[u8]) -> Vec<Vec<String>> {
        let mut reader = table(bytes, &["image_id"], Trim::All).unwrap();
        let mut rows = vec![reader.headers().unwrap().clone()];
        rows.extend(reader.records().map(|row| row.unwrap()));
        let own = |row: &csv::StringRecord| row.iter().map(str::to_owned).collect();
        rows.iter().map(own).collect()
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let marked = format!("\u{feff}{text}");
        marked.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn a_table_is_the_same_in_every_encoding() {
        let plain = read(TABLE.as_bytes());
        assert_eq!(plain[1], ["ä", "big, dog", "present"]);
        assert_eq!(read(format!("\u{feff}{TABLE}").as_bytes()), plain);
        assert_eq!(read(&utf16(TABLE, u16::to_le_bytes)), plain);
        assert_eq!(read(&utf16(TABLE, u16::to_be_bytes)), plain);
        // Without the mark, which is two bytes.
        assert_eq!(read(&utf16(TABLE, u16::to_le_bytes)[2..]), plain);
        assert_eq!(read(&utf16(TABLE, u16::to_be_bytes)[2..]), plain);
    }

    #[test]
    fn fields_may_be_set_apart_otherwise() {
        let plain = read(TABLE.as_bytes());
        let with = |to: &str| TABLE.replace("big, dog", "big. dog").replace(',', to);
        for other in [";", "\t"] {
            let found = read(with(other).as_bytes());
            assert_eq!(found[0], plain[0]);
            assert_eq!(found[1], ["ä", "big. dog", "present"]);
        }
        // The column's name may be quoted, and may stand anywhere.
        assert_eq!(
            read(b"x;\"image_id\"\n1;2\n"),
            [["x", "image_id"], ["1", "2"]]
        );
        // Nothing but their number tells what is between the fields.
        assert_eq!(read(b"a;b,c;d\n"), [["a", "b,c", "d"]]);
        assert_eq!(read(b"a\n"), [["a"]]);
        // Spreadsheets may tell.
        assert_eq!(read(b"sep=;\na,b;c\n"), [["a,b", "c"]]);
        assert_eq!(read(b"sep=\t\r\na,b\tc\n"), [["a,b", "c"]]);
    }

    #[test]
    fn half_a_character_is_named() {
        let mut bytes = utf16(TABLE, u16::to_le_bytes);
        bytes.pop();
        let error = table(&bytes[..], &["image_id"], Trim::All).err().unwrap();
        assert!(error.to_string().contains("UTF-16"), "{error}");
        let lone = [0xff, 0xfe, 0x00, 0xd8];
        let error = table(&lone[..], &["image_id"], Trim::All).err().unwrap();
        assert!(error.to_string().contains("UTF-16"), "{error}");
    }

    #[test]
    fn what_is_no_text_of_these_is_named() {
        let wide = [0xff, 0xfe, 0, 0, b'a', 0, 0, 0];
        let error = table(&wide[..], &["image_id"], Trim::All).err().unwrap();
        assert!(error.to_string().contains("UTF-32"), "{error}");
        for empty in ["", "\n", "sep=;\n", "\u{feff}"] {
            let error = table(empty.as_bytes(), &["image_id"], Trim::All);
            let error = error.err().unwrap().to_string();
            assert!(error.contains("it is empty"), "{empty:?}: {error}");
        }
    }

    #[test]
    fn an_archive_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("export.xml");
        std::fs::write(&path, b"PK\x03\x04rest").unwrap();
        let error = open(&path).err().unwrap().to_string();
        assert!(error.contains("zip archive"), "{error}");
    }

    #[test]
    fn short_inputs_are_whole() {
        let text = |bytes: &[u8]| std::io::read_to_string(unicode(bytes).unwrap()).unwrap();
        assert_eq!(text(b""), "");
        assert_eq!(text(b"a"), "a");
        assert_eq!(text(b"\xef\xbb\xbf"), "");
        assert_eq!(text(b"\xff\xfe"), "");
    }
}
