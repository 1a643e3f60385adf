//! Columns of a table's files: of a large file only the bytes that the columns take, of many files
//! several at once.

use super::{TableError, VANISHED};
use crate::stage::label_rows::LabelRow;
use crate::stage::sink::predictions::PredictionRow;
use crate::stage::sink::table::TableRow;
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use std::collections::{HashMap, VecDeque};
use std::io::Cursor;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use tagstream_core::storage::store::{StoreError, TableStore};
use tokio::task::JoinHandle;

/// Files of this size are read whole: two requests take longer.
pub(super) const WHOLE: u64 = 256 << 10;
/// What is read first of a larger one; its footer mostly fits.
pub(super) const TAIL: u64 = 64 << 10;
/// Bytes between two columns that are read along: a request takes longer.
const GAP: u64 = 64 << 10;
/// Files that are fetched while another is decoded, and how large they may be together.
const FILES_AHEAD: usize = 16;
const BYTES_AHEAD: u64 = 64 << 20;
/// Ranges of one file that are fetched at once.
pub(super) const RANGES: usize = 4;

/// The entries of a file's footer.
pub type Footer = HashMap<String, String>;

/// Whether to go on after a batch, or what is wrong with it.
pub type Taken = Result<ControlFlow<()>, String>;

/// Hands every batch of rows of `files` to `take`, with the file's place among them, the columns
/// named and the entries of the footer. Files come in their order, and several are fetched at once;
/// `files` is asked for the next one only when it is, so that it can see what was found.
///
/// # Errors
/// [`TableError`] names the file.
pub fn read_files<'a>(
    store: &'a TableStore,
    files: impl Iterator<Item = (usize, ObjectMeta)> + Send + 'a,
    columns: &[&str],
    mut take: impl FnMut(usize, &RecordBatch, &Footer) -> Taken + Send + 'a,
) -> BoxFuture<'a, Result<(), TableError>> {
    let columns: Arc<[String]> = columns.iter().map(|name| (*name).to_owned()).collect();
    Box::pin(async move {
        let mut files = files.peekable();
        let mut ahead = Ahead::default();
        loop {
            while let Some((place, file)) = files.next_if(|(_, file)| ahead.has_room(file.size)) {
                ahead.fetch(store, place, file, &columns);
            }
            let Some(next) = ahead.next() else {
                return Ok(());
            };
            if next.take(&columns, &mut take).await?.is_break() {
                return Ok(());
            }
        }
    })
}

/// As [`read_files`] of one file, of which no more than its name is known.
///
/// # Errors
/// [`TableError`] names the file.
pub async fn read_columns(
    store: &TableStore,
    file: &ObjectPath,
    columns: &[&str],
    mut take: impl FnMut(&RecordBatch, &Footer) -> Result<(), String> + Send,
) -> Result<(), TableError> {
    let found = store.objects().head(file).await;
    let meta = found.map_err(|error| TableError::File {
        path: file.to_string(),
        reason: match error {
            object_store::Error::NotFound { .. } => VANISHED.into(),
            error => error.to_string(),
        },
    })?;
    let take = |_: usize, batch: &RecordBatch, footer: &Footer| {
        take(batch, footer)?;
        Ok(ControlFlow::Continue(()))
    };
    read_files(store, std::iter::once((0, meta)), columns, take).await
}

/// The newest schema version that this build reads of either table.
const KNOWN_SCHEMA: u32 = if LabelRow::SCHEMA_VERSION > PredictionRow::SCHEMA_VERSION {
    LabelRow::SCHEMA_VERSION
} else {
    PredictionRow::SCHEMA_VERSION
};

/// A newer build may mean something else by a column of the same name.
pub(super) fn refuse_newer(footer: &Footer) -> Result<(), String> {
    let version = footer.get("tagstream.schema_version");
    let version = version.and_then(|version| version.parse::<u64>().ok());
    match version.filter(|version| *version > u64::from(KNOWN_SCHEMA)) {
        Some(newer) => Err(format!(
            "it has schema version {newer}; this tagstream reads {KNOWN_SCHEMA}: use a newer one"
        )),
        None => Ok(()),
    }
}

struct Fetching {
    place: usize,
    path: ObjectPath,
    size: u64,
    task: JoinHandle<Result<Fetched, TableError>>,
}

impl Fetching {
    /// Hands the batches of the file to `take`, until that breaks off.
    async fn take(
        self,
        columns: &[String],
        take: &mut (impl FnMut(usize, &RecordBatch, &Footer) -> Taken + Send),
    ) -> Result<ControlFlow<()>, TableError> {
        let bad = |reason: String| TableError::File {
            path: self.path.to_string(),
            reason,
        };
        let fetched = self.task.await.map_err(|error| bad(error.to_string()))??;
        let (batches, footer) = fetched.decode(&self.path, columns).map_err(&bad)?;
        refuse_newer(&footer).map_err(&bad)?;
        for batch in batches {
            let batch = batch.map_err(|e| bad(e.to_string()))?;
            if take(self.place, &batch, &footer).map_err(&bad)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Files that are being fetched, in order. Fetching ends with it.
#[derive(Default)]
struct Ahead {
    files: VecDeque<Fetching>,
    bytes: u64,
}

impl Ahead {
    fn has_room(&self, size: u64) -> bool {
        let room = self.files.len() < FILES_AHEAD && self.bytes + size <= BYTES_AHEAD;
        self.files.is_empty() || room
    }

    fn fetch(&mut self, store: &TableStore, place: usize, file: ObjectMeta, names: &Arc<[String]>) {
        let (store, names) = (store.clone(), Arc::clone(names));
        self.bytes += file.size;
        self.files.push_back(Fetching {
            place,
            path: file.location.clone(),
            size: file.size,
            task: tokio::spawn(async move { fetch(&store, &file, &names).await }),
        });
    }

    fn next(&mut self) -> Option<Fetching> {
        let next = self.files.pop_front()?;
        self.bytes -= next.size;
        Some(next)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.files.iter().for_each(|file| file.task.abort());
    }
}

/// What was read of a file.
pub(super) enum Fetched {
    Whole(Bytes),
    Parts(Arc<ParquetMetaData>, Parts),
}

async fn fetch(
    store: &TableStore,
    file: &ObjectMeta,
    columns: &[String],
) -> Result<Fetched, TableError> {
    let path = &file.location;
    if file.size > WHOLE
        && path.as_ref().ends_with(".parquet")
        && let Some((metadata, parts)) = fetch_parts(store, file, columns).await?
    {
        return Ok(Fetched::Parts(metadata, parts));
    }
    // Small, of the other format, damaged, or replaced between two requests.
    let bytes = store.read(path).await?;
    let gone = || TableError::File {
        path: path.to_string(),
        reason: VANISHED.into(),
    };
    bytes.map(Fetched::Whole).ok_or_else(gone)
}

/// The footer of a Parquet file and the bytes of its columns; `None` if the whole file has to tell.
async fn fetch_parts(
    store: &TableStore,
    file: &ObjectMeta,
    columns: &[String],
) -> Result<Option<(Arc<ParquetMetaData>, Parts)>, StoreError> {
    let (path, size) = (&file.location, file.size);
    let Some((mut tail, mark)) = store.read_range(path, size - TAIL..size, None).await? else {
        return Ok(None);
    };
    let Some(length) = footer_length(&tail).filter(|length| *length <= size) else {
        return Ok(None);
    };
    if length > tail.len() as u64 {
        match store
            .read_range(path, size - length..size, mark.clone())
            .await?
        {
            Some((longer, _)) => tail = longer,
            None => return Ok(None),
        }
    }
    let footer = tail.len().checked_sub(length as usize);
    let Some(footer) = footer.and_then(|begin| tail.get(begin..tail.len() - TRAILER)) else {
        return Ok(None);
    };
    let Ok(metadata) = ParquetMetaDataReader::decode_metadata(footer) else {
        return Ok(None);
    };
    let ranges = ranges(&metadata, columns);
    if ranges.iter().any(|range| range.end > size) {
        return Ok(None);
    }
    let fetched: Vec<_> = futures::stream::iter(ranges)
        .map(|range| {
            let mark = mark.clone();
            async move {
                let begin = range.start;
                let read = store.read_range(path, range, mark).await?;
                Ok::<_, StoreError>(read.map(|(bytes, _)| (begin, bytes)))
            }
        })
        .buffered(RANGES)
        .try_collect()
        .await?;
    let parts: Option<Vec<_>> = fetched.into_iter().collect();
    Ok(parts.map(|parts| (Arc::new(metadata), Parts { size, parts })))
}

/// Length and magic at a Parquet file's end.
const TRAILER: usize = 8;

/// Bytes of a Parquet footer with its trailer.
fn footer_length(tail: &[u8]) -> Option<u64> {
    let (_, trailer) = tail.split_last_chunk::<TRAILER>()?;
    let [a, b, c, d, magic @ ..] = *trailer;
    (magic == *b"PAR1").then(|| u64::from(u32::from_le_bytes([a, b, c, d])) + TRAILER as u64)
}

/// Where the columns' bytes are, ascending; what lies close together is one range.
fn ranges(metadata: &ParquetMetaData, columns: &[String]) -> Vec<Range<u64>> {
    let chunks = metadata
        .row_groups()
        .iter()
        .flat_map(|group| group.columns());
    let wanted = chunks.filter(|chunk| {
        let root = chunk.column_path().parts().first();
        root.is_some_and(|root| columns.contains(root))
    });
    let mut all: Vec<Range<u64>> = wanted
        .map(|chunk| {
            let (begin, length) = chunk.byte_range();
            begin..begin.saturating_add(length)
        })
        .collect();
    all.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in all {
        match merged
            .last_mut()
            .filter(|last| range.start <= last.end + GAP)
        {
            Some(last) => last.end = last.end.max(range.end),
            None => merged.push(range),
        }
    }
    merged
}

/// The bytes of some ranges of a file.
pub(super) struct Parts {
    size: u64,
    /// With where they begin, ascending.
    parts: Vec<(u64, Bytes)>,
}

impl Parts {
    /// What was read from `start` on.
    fn from(&self, start: u64) -> Result<Bytes, ParquetError> {
        let after = self.parts.partition_point(|(begin, _)| *begin <= start);
        let part = after.checked_sub(1).map(|at| &self.parts[at]);
        part.and_then(|(begin, bytes)| {
            let at = usize::try_from(start - begin).ok()?;
            (at <= bytes.len()).then(|| bytes.slice(at..))
        })
        .ok_or_else(|| ParquetError::EOF(format!("nothing was read from byte {start} on")))
    }
}

impl Length for Parts {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Parts {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.from(start)?;
        let short = || ParquetError::EOF(format!("{length} bytes from byte {start} on are needed"));
        (length <= bytes.len())
            .then(|| bytes.slice(..length))
            .ok_or_else(short)
    }
}

pub(super) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

impl Fetched {
    pub(super) fn decode(
        self,
        path: &ObjectPath,
        columns: &[String],
    ) -> Result<(Batches, Footer), String> {
        let error = |e: ParquetError| e.to_string();
        match self {
            Fetched::Whole(bytes) if path.as_ref().ends_with(".arrow") => {
                arrow_batches(bytes, columns)
            }
            Fetched::Whole(bytes) => {
                let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(error)?;
                parquet_batches(builder, columns)
            }
            Fetched::Parts(metadata, parts) => {
                let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new());
                let metadata = metadata.map_err(error)?;
                let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(parts, metadata);
                parquet_batches(builder, columns)
            }
        }
    }
}

fn parquet_batches<T: ChunkReader + 'static>(
    builder: ParquetRecordBatchReaderBuilder<T>,
    columns: &[String],
) -> Result<(Batches, Footer), String> {
    // A column that is a list or a struct is named by its root.
    let roots = builder.schema().fields().iter().enumerate();
    let wanted = roots
        .filter(|(_, field)| columns.contains(field.name()))
        .map(|(index, _)| index);
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let entries = builder.metadata().file_metadata().key_value_metadata();
    let footer = entries
        .into_iter()
        .flatten()
        .filter_map(|e| Some((e.key.clone(), e.value.clone()?)))
        .collect();
    let reader = builder
        .with_projection(mask)
        .build()
        .map_err(|e| e.to_string())?;
    Ok((Box::new(reader), footer))
}

fn arrow_batches(bytes: Bytes, columns: &[String]) -> Result<(Batches, Footer), String> {
    use arrow_ipc::reader::FileReader;
    let read = |projection| {
        FileReader::try_new(Cursor::new(bytes.clone()), projection).map_err(|e| e.to_string())
    };
    let schema = read(None)?.schema();
    let wanted = schema.fields().iter().enumerate();
    let wanted = wanted
        .filter(|(_, field)| columns.contains(field.name()))
        .map(|(index, _)| index)
        .collect();
    let reader = read(Some(wanted))?;
    let footer = reader.custom_metadata().clone();
    Ok((Box::new(reader), footer))
}
