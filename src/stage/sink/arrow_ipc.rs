//! Arrow IPC files: the second format of the same sink, zstd-compressed, for readers that map files
//! into memory.

use super::table::TableRow;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_ipc::{CompressionType, root_as_footer};
use arrow_schema::ArrowError;
use std::collections::BTreeMap;

/// Rows of one record batch.
const BATCH_ROWS: usize = 4096;
const MAGIC: &[u8] = b"ARROW1";
/// Length of the footer's length and magic.
const TRAILER: usize = 4 + MAGIC.len();

/// A whole file of `rows`, with `entries` in its footer.
///
/// # Errors
/// An [`ArrowError`] if a row does not have its layout's shape.
pub fn encode<R: TableRow>(
    layout: &R::Layout,
    rows: &[R],
    entries: &BTreeMap<String, String>,
) -> Result<Vec<u8>, ArrowError> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
    let mut writer =
        FileWriter::try_new_with_options(Vec::new(), R::schema(layout)?.as_ref(), options)?;
    for (key, value) in entries {
        writer.write_metadata(key, value);
    }
    for chunk in rows.chunks(BATCH_ROWS) {
        writer.write(&R::batch(layout, chunk)?)?;
    }
    writer.into_inner()
}

/// A file with the columns of the one that `footer` ends, and `entries`, without rows.
///
/// # Errors
/// What is wrong with the footer.
pub(super) fn without_rows(
    footer: &[u8],
    entries: &BTreeMap<String, String>,
) -> Result<Vec<u8>, String> {
    let aligned = footer[..footer.len() - TRAILER].to_vec();
    let footer = root_as_footer(&aligned).map_err(|e| e.to_string())?;
    let schema = footer.schema().ok_or("its footer has no columns")?;
    let schema = try_fb_to_schema(schema).map_err(|e| e.to_string())?;
    let written = || {
        let mut writer = FileWriter::try_new(Vec::new(), &schema)?;
        for (key, value) in entries {
            writer.write_metadata(key, value);
        }
        writer.into_inner()
    };
    written().map_err(|e: ArrowError| e.to_string())
}

/// How many bytes at the end of a file its footer takes, told from the file's last bytes.
pub(super) fn footer_length(tail: &[u8]) -> Result<u64, String> {
    let trailer = tail
        .last_chunk::<TRAILER>()
        .ok_or("it is shorter than an Arrow trailer")?;
    let (length, magic) = trailer.split_at(4);
    if magic != MAGIC {
        return Err("it does not end like an Arrow IPC file".into());
    }
    let length = i32::from_le_bytes(length.try_into().expect("four bytes"));
    let length = u64::try_from(length).map_err(|_| "its footer has a negative length")?;
    Ok(length + TRAILER as u64)
}

/// The key-value pairs of a footer.
pub(super) fn footer_entries(footer: &[u8]) -> Result<BTreeMap<String, String>, String> {
    // A copy: flatbuffers are only read from aligned memory.
    let aligned = footer[..footer.len() - TRAILER].to_vec();
    let footer = root_as_footer(&aligned).map_err(|e| e.to_string())?;
    Ok(footer
        .custom_metadata()
        .into_iter()
        .flatten()
        .filter_map(|kv| Some((kv.key()?.to_owned(), kv.value()?.to_owned())))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::sink::predictions::PredictionRow;
    use crate::stage::sink::predictions::tests::{layout, row};
    use arrow_ipc::reader::FileReader;

    #[test]
    fn rows_and_entries_come_back() {
        let layout = layout(true);
        let rows: Vec<_> = (0..100).map(|i| row(i, &layout)).collect();
        let entries = [("tagstream.x".to_owned(), "y".to_owned())].into();
        let bytes = encode(&*layout, &rows, &entries).unwrap();
        let length = footer_length(&bytes).unwrap() as usize;
        assert_eq!(
            footer_entries(&bytes[bytes.len() - length..]).unwrap(),
            entries
        );
        let batches: Vec<_> = FileReader::try_new(std::io::Cursor::new(bytes), None)
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(batches, [PredictionRow::batch(&layout, &rows).unwrap()]);
    }

    #[test]
    fn damaged_files_are_named_as_such() {
        assert!(footer_length(b"ARROW1").is_err());
        assert!(footer_length(b"\xff\xff\xff\xffARROW1").is_err());
        assert!(footer_entries(b"nonsense\x08\0\0\0ARROW1").is_err());
    }
}
