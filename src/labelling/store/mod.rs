//! The label store read back: all files of the label table into one [`LabelTable`], addresses
//! joined from predictions.
//!
//! Every file that exists is committed and holds each event once, so a listing is all that is
//! needed. Files are read one at a time.

mod known;

pub use known::{KnownPictures, UnknownPicture, known_pictures};

use crate::stage::label_rows::LabelRow;
use crate::stage::sink::predictions::PredictionRow;
use crate::stage::sink::table::TableRow;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_schema::ArrowError;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::path::Path as ObjectPath;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{HashMap, HashSet};
use std::io::Cursor;
use tagstream_core::events::{LabelEvent, not_ahead};
use tagstream_core::storage::store::{StoreError, TableStore};
use tagstream_train::labels::{LabelTable, Stamp};

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file is damaged or has other columns.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

const VANISHED: &str = "it vanished while the table was read: `tagstream table expire` took it, or \
                        something else deleted it; run this again";

/// All data files of `table`, in order of their names.
///
/// # Errors
/// [`TableError::Store`].
pub async fn data_files(store: &TableStore, table: &str) -> Result<Vec<ObjectPath>, TableError> {
    let mut files = store.list(&store.root().clone().join(table), None).await?;
    files.retain(|path| {
        let name = path.filename().unwrap_or("");
        !name.starts_with(['_', '.']) && (name.ends_with(".parquet") || name.ends_with(".arrow"))
    });
    Ok(files)
}

/// Hands every batch of rows of `file` to `take`, with the columns named and the entries of the
/// footer.
///
/// # Errors
/// [`TableError`] names the file.
pub async fn read_columns(
    store: &TableStore,
    file: &ObjectPath,
    columns: &[&str],
    mut take: impl FnMut(&RecordBatch, &Footer) -> Result<(), String>,
) -> Result<(), TableError> {
    let bad = |reason: String| TableError::File {
        path: file.to_string(),
        reason,
    };
    let bytes = store.read(file).await?;
    let bytes = bytes.ok_or_else(|| bad(VANISHED.into()))?;
    let (batches, footer) = if file.as_ref().ends_with(".arrow") {
        arrow_batches(bytes, columns)
    } else {
        parquet_batches(bytes, columns)
    }
    .map_err(&bad)?;
    refuse_newer(&footer).map_err(&bad)?;
    for batch in batches {
        let batch = batch.map_err(|e| bad(e.to_string()))?;
        take(&batch, &footer).map_err(&bad)?;
    }
    Ok(())
}

/// The newest schema version that this build reads of either table.
const KNOWN_SCHEMA: u32 = if LabelRow::SCHEMA_VERSION > PredictionRow::SCHEMA_VERSION {
    LabelRow::SCHEMA_VERSION
} else {
    PredictionRow::SCHEMA_VERSION
};

/// A newer build may mean something else by a column of the same name.
fn refuse_newer(footer: &Footer) -> Result<(), String> {
    let version = footer.get("tagstream.schema_version");
    let version = version.and_then(|version| version.parse::<u64>().ok());
    match version.filter(|version| *version > u64::from(KNOWN_SCHEMA)) {
        Some(newer) => Err(format!(
            "it has schema version {newer}; this tagstream reads {KNOWN_SCHEMA}: use a newer one"
        )),
        None => Ok(()),
    }
}

/// The entries of a file's footer.
pub type Footer = HashMap<String, String>;

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

fn parquet_batches(bytes: Bytes, columns: &[&str]) -> Result<(Batches, Footer), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| e.to_string())?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    // A column that is a list or a struct is named by its root.
    let roots = builder.schema().fields().iter().enumerate();
    let wanted = roots
        .filter(|(_, field)| columns.contains(&field.name().as_str()))
        .map(|(index, _)| index);
    let mut whole = ProjectionMask::roots(builder.parquet_schema(), wanted);
    whole.union(&mask);
    let entries = builder.metadata().file_metadata().key_value_metadata();
    let footer = entries
        .into_iter()
        .flatten()
        .filter_map(|e| Some((e.key.clone(), e.value.clone()?)))
        .collect();
    let reader = builder
        .with_projection(whole)
        .build()
        .map_err(|e| e.to_string())?;
    Ok((Box::new(reader), footer))
}

fn arrow_batches(bytes: Bytes, columns: &[&str]) -> Result<(Batches, Footer), String> {
    use arrow_ipc::reader::FileReader;
    let read = |projection| {
        FileReader::try_new(Cursor::new(bytes.clone()), projection).map_err(|e| e.to_string())
    };
    let schema = read(None)?.schema();
    let wanted = schema.fields().iter().enumerate();
    let wanted = wanted
        .filter(|(_, field)| columns.contains(&field.name().as_str()))
        .map(|(index, _)| index)
        .collect();
    let reader = read(Some(wanted))?;
    let footer = reader.custom_metadata().clone();
    Ok((Box::new(reader), footer))
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array, String> {
    let column = batch.column_by_name(name);
    column
        .map(|c| c.as_ref())
        .ok_or_else(|| format!("it has no column `{name}`"))
}

/// The strings of a column.
pub(super) fn strings<'a>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a arrow_array::StringArray, String> {
    let column = column(batch, name)?.as_string_opt::<i32>();
    column.ok_or_else(|| format!("its column `{name}` holds no strings"))
}

fn list(batch: &RecordBatch, name: &str, row: usize) -> Result<Vec<String>, String> {
    let wrong = || format!("its column `{name}` holds no lists of strings");
    let lists = column(batch, name)?
        .as_list_opt::<i32>()
        .ok_or_else(wrong)?;
    let values = lists.value(row);
    let values = values.as_string_opt::<i32>().ok_or_else(wrong)?;
    Ok(values.iter().flatten().map(Into::into).collect())
}

const COLUMNS: [&str; 11] = [
    "image_id",
    "uri",
    "event_time",
    "processed_time",
    "topic",
    "partition",
    "offset",
    "present",
    "absent",
    "retract",
    "annotator",
];

fn apply(table: &mut LabelTable, batch: &RecordBatch) -> Result<(), String> {
    let wrong = |name: &str| format!("its column `{name}` has another type");
    let times = column(batch, "event_time")?.as_primitive_opt::<TimestampMicrosecondType>();
    let times = times.ok_or_else(|| wrong("event_time"))?;
    let processed = column(batch, "processed_time")?.as_primitive_opt::<TimestampMicrosecondType>();
    let processed = processed.ok_or_else(|| wrong("processed_time"))?;
    let now = Utc::now();
    let partitions = column(batch, "partition")?.as_primitive_opt::<Int32Type>();
    let partitions = partitions.ok_or_else(|| wrong("partition"))?;
    let offsets = column(batch, "offset")?.as_primitive_opt::<Int64Type>();
    let offsets = offsets.ok_or_else(|| wrong("offset"))?;
    let (ids, uris) = (strings(batch, "image_id")?, strings(batch, "uri")?);
    let (topics, annotators) = (strings(batch, "topic")?, strings(batch, "annotator")?);
    for row in 0..batch.num_rows() {
        let time = DateTime::from_timestamp_micros(times.value(row))
            .ok_or_else(|| format!("row {row} has an impossible `event_time`"))?;
        // Older builds let labels of any future year into the table, where they would win for
        // ever. They count as said when they came.
        let time = match not_ahead(time, now) {
            Ok(()) => time,
            Err(_) => DateTime::from_timestamp_micros(processed.value(row))
                .unwrap_or(now)
                .min(time),
        };
        let event = LabelEvent {
            image_id: ids.value(row).into(),
            uri: uris.value(row).into(),
            present: list(batch, "present", row)?,
            absent: list(batch, "absent", row)?,
            retract: list(batch, "retract", row)?,
            annotator: annotators.value(row).into(),
            event_time: Some(time),
        };
        let stamp = Stamp {
            time,
            topic: topics.value(row).into(),
            partition: partitions.value(row),
            offset: offsets.value(row),
        };
        table.apply(&event, &stamp);
    }
    Ok(())
}

/// The state of all labels in the label table `table`.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn read_labels(store: &TableStore, table: &str) -> Result<LabelTable, TableError> {
    let mut labels = LabelTable::default();
    for file in data_files(store, table).await? {
        read_columns(store, &file, &COLUMNS, |batch, _| apply(&mut labels, batch)).await?;
    }
    Ok(labels)
}

/// Tells where each labelled image was when it was tagged, as the predictions table knows: from
/// there it could be fetched once, while label events often tell addresses of an annotation tool.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn join_uris(
    labels: &mut LabelTable,
    store: &TableStore,
    predictions: &str,
) -> Result<(), TableError> {
    let mut missing: HashSet<String> = labels.images().map(|(id, _)| id.to_owned()).collect();
    // The newest files first: where an image was seen twice, the later address is more likely to be
    // good.
    for file in data_files(store, predictions).await?.into_iter().rev() {
        if missing.is_empty() {
            break;
        }
        read_columns(store, &file, &["image_id", "uri"], |batch, _| {
            let (ids, uris) = (strings(batch, "image_id")?, strings(batch, "uri")?);
            for (id, uri) in ids.iter().zip(uris).filter_map(|(i, u)| i.zip(u)) {
                if missing.remove(id) {
                    labels.tagged_at(id, uri);
                }
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What the predictions table says of the attribute `name`, by image; the newest row counts.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn read_attribute(
    store: &TableStore,
    predictions: &str,
    name: &str,
) -> Result<HashMap<String, String>, TableError> {
    let mut found = HashMap::new();
    // Newest files last.
    for file in data_files(store, predictions).await? {
        read_columns(store, &file, &["image_id", "attributes"], |batch, _| {
            let ids = strings(batch, "image_id")?;
            let wrong = || "its column `attributes` holds no maps of strings".to_owned();
            let maps = column(batch, "attributes")?
                .as_map_opt()
                .ok_or_else(wrong)?;
            for row in (0..batch.num_rows()).filter(|row| maps.is_valid(*row)) {
                let entries = maps.value(row);
                let text = |at| entries.column(at).as_string_opt::<i32>().ok_or_else(wrong);
                let (keys, values) = (text(0)?, text(1)?);
                let value = keys.iter().zip(values).find(|(key, _)| *key == Some(name));
                if let Some((_, Some(value))) = value {
                    found.insert(ids.value(row).to_owned(), value.to_owned());
                }
            }
            Ok(())
        })
        .await?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
