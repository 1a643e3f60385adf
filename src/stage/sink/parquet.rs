//! Apache Parquet: vectors without dictionary and statistics, in an encoding that every reader
//! takes unless another is asked for, and zstd; row groups by bytes.

use super::table::TableRow;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use std::collections::BTreeMap;
use std::sync::Arc;
use tagstream_core::build;
use tagstream_core::config::VectorEncoding;

/// Row groups end at this size: large enough for scans, small enough for readers' memory.
const ROW_GROUP_BYTES: usize = 32 << 20;
/// Rows turned into columns at once.
const BATCH_ROWS: usize = 1024;
/// Length of the footer's length and magic.
const TRAILER: usize = 8;

fn properties<R: TableRow>(
    layout: &R::Layout,
    rows: usize,
    entries: &BTreeMap<String, String>,
    vectors: VectorEncoding,
) -> Result<WriterProperties, ParquetError> {
    let vectors = match vectors {
        VectorEncoding::Plain => Encoding::PLAIN,
        VectorEncoding::ByteStreamSplit => Encoding::BYTE_STREAM_SPLIT,
    };
    let key_values = entries
        .iter()
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()))
        .collect();
    let mut builder = WriterProperties::builder()
        .set_created_by(created_by(build::VERSION, build::revision()))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_key_value_metadata(Some(key_values));
    for column in R::vector_columns(layout) {
        let path = ColumnPath::from(column.split('.').map(String::from).collect::<Vec<_>>());
        builder = builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path.clone(), vectors)
            .set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    for column in R::LOOKED_UP {
        let path = ColumnPath::from(*column);
        builder = builder
            .set_column_bloom_filter_enabled(path.clone(), true)
            .set_column_bloom_filter_max_ndv(path, rows.max(1) as u64);
    }
    Ok(builder.build())
}

/// The writer's name in the form that the format asks for: readers look for a version in it, to
/// work around what was wrong with it.
fn created_by(version: &str, revision: &str) -> String {
    match revision {
        "" => format!("tagstream version {version}"),
        revision => format!("tagstream version {version} (build {revision})"),
    }
}

/// A whole file of `rows`, with `entries` in its footer and its vectors encoded as `vectors` says.
///
/// # Errors
/// A [`ParquetError`] if a row does not have its layout's shape.
pub fn encode<R: TableRow>(
    layout: &R::Layout,
    rows: &[R],
    entries: &BTreeMap<String, String>,
    vectors: VectorEncoding,
) -> Result<Vec<u8>, ParquetError> {
    let properties = properties::<R>(layout, rows.len(), entries, vectors)?;
    let mut writer = ArrowWriter::try_new(Vec::new(), R::schema(layout)?, Some(properties))?;
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
    let metadata = ParquetMetaDataReader::decode_metadata(&footer[..footer.len() - TRAILER])
        .map_err(|e| e.to_string())?;
    let schema = metadata.file_metadata().schema_descr().root_schema_ptr();
    let key_values = entries
        .iter()
        .map(|(k, v)| KeyValue::new(k.clone(), v.clone()));
    let properties = WriterProperties::builder()
        .set_created_by(created_by(build::VERSION, build::revision()))
        .set_key_value_metadata(Some(key_values.collect()))
        .build();
    let writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties));
    writer
        .and_then(SerializedFileWriter::into_inner)
        .map_err(|e| e.to_string())
}

/// How many bytes at the end of a file its footer takes, told from the file's last bytes.
pub(super) fn footer_length(tail: &[u8]) -> Result<u64, String> {
    let trailer = tail
        .last_chunk::<TRAILER>()
        .ok_or("it is shorter than a Parquet trailer")?;
    let (length, magic) = trailer.split_at(4);
    if magic != b"PAR1" {
        return Err("it does not end like a Parquet file".into());
    }
    let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
    Ok(u64::from(length) + TRAILER as u64)
}

/// The key-value pairs of a footer.
pub(super) fn footer_entries(footer: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let metadata = ParquetMetaDataReader::decode_metadata(&footer[..footer.len() - TRAILER])
        .map_err(|e| e.to_string())?;
    Ok(metadata
        .file_metadata()
        .key_value_metadata()
        .into_iter()
        .flatten()
        .filter_map(|kv| Some((kv.key.clone(), kv.value.clone()?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::sink::predictions::PredictionRow;
    use crate::stage::sink::predictions::tests::{layout, row};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use tagstream_core::config::OutputConfig;

    fn entries() -> BTreeMap<String, String> {
        [("tagstream.x".to_owned(), "y".to_owned())].into()
    }

    #[test]
    fn rows_and_entries_come_back() {
        let layout = layout(true);
        let rows: Vec<_> = (0..2000).map(|i| row(i, &layout)).collect();
        let bytes =
            bytes::Bytes::from(encode(&*layout, &rows, &entries(), VectorEncoding::Plain).unwrap());
        let length = footer_length(&bytes).unwrap() as usize;
        let read = footer_entries(&bytes[bytes.len() - length..]).unwrap();
        assert_eq!(read["tagstream.x"], "y");
        let batches: Vec<_> = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .with_batch_size(4000)
            .build()
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(batches[0], PredictionRow::batch(&layout, &rows).unwrap());
    }

    /// Spark 3.5 reads none of the encodings that are neither here nor asked for.
    #[test]
    fn vectors_are_plain_unless_asked_otherwise_and_image_ids_have_a_bloom_filter() {
        let layout = layout(true);
        let rows: Vec<_> = (0..50).map(|i| row(i, &layout)).collect();
        let vectors = PredictionRow::vector_columns(&layout);
        for (asked, wanted) in [
            (OutputConfig::default().vector_encoding, Encoding::PLAIN),
            (VectorEncoding::Plain, Encoding::PLAIN),
            (VectorEncoding::ByteStreamSplit, Encoding::BYTE_STREAM_SPLIT),
        ] {
            let bytes = bytes::Bytes::from(encode(&*layout, &rows, &entries(), asked).unwrap());
            let reader = SerializedFileReader::new(bytes).unwrap();
            let group = reader.metadata().row_group(0);
            let mut found = 0;
            for column in group.columns() {
                let path = column.column_path().string();
                let compression = column.compression();
                assert!(matches!(compression, Compression::ZSTD(_)), "{path}");
                let mut encodings: Vec<Encoding> = column.encodings().collect();
                if vectors.contains(&path) {
                    found += 1;
                    assert!(encodings.contains(&wanted), "{path}: {encodings:?}");
                    assert!(column.dictionary_page_offset().is_none(), "{path}");
                    assert!(column.statistics().is_none(), "{path}");
                    encodings.retain(|e| *e != wanted);
                }
                let usual = [Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY];
                let strange = encodings.iter().find(|e| !usual.contains(e));
                assert_eq!(strange, None, "{path}");
            }
            assert_eq!(found, 3);
            assert!(group.column(0).bloom_filter_offset().is_some());
        }
    }

    #[test]
    fn a_file_names_the_build_that_wrote_it() {
        assert_eq!(created_by("0.2.0", ""), "tagstream version 0.2.0");
        let named = created_by("0.2.0", "1a2b3c4d5e6f");
        assert_eq!(named, "tagstream version 0.2.0 (build 1a2b3c4d5e6f)");
    }

    #[test]
    fn a_file_without_rows_has_the_columns() {
        let layout = layout(false);
        let bytes = bytes::Bytes::from(
            encode::<PredictionRow>(&layout, &[], &entries(), VectorEncoding::Plain).unwrap(),
        );
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        assert_eq!(builder.schema().fields().len(), 14);
        let metadata = builder.metadata().file_metadata();
        assert_eq!(metadata.num_rows(), 0);
        let writer = created_by(build::VERSION, build::revision());
        assert_eq!(metadata.created_by(), Some(writer.as_str()));
    }

    #[test]
    fn damaged_files_are_named_as_such() {
        assert!(footer_length(b"PAR").is_err());
        assert!(footer_length(b"12345678").is_err());
        assert!(footer_entries(b"nonsense\x08\0\0\0PAR1").is_err());
    }
}
