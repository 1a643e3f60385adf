//! Single rows of a file: of a large one only the footer and the pages that hold them are fetched.

use super::TableError;
use super::columns::{Batches, Fetched, Footer, RANGES, TAIL, WHOLE, refuse_newer};
use arrow_array::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path as ObjectPath;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tagstream_core::storage::store::TableStore;

/// Rows of a file, in batches, and the entries of its footer.
pub type FewRows = (Vec<RecordBatch>, Footer);

/// The rows of a file of the places `rows` (ascending, each once), in that order; `None` if the
/// file is not there any more.
///
/// # Errors
/// [`TableError`] names the file.
pub async fn read_rows(
    store: &TableStore,
    file: &ObjectMeta,
    columns: &[&str],
    rows: &[u32],
) -> Result<Option<FewRows>, TableError> {
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let bad = |reason: String| TableError::File {
        path: file.location.to_string(),
        reason,
    };
    let pages = file.size > WHOLE && file.location.as_ref().ends_with(".parquet");
    let found = if pages {
        let gone = Arc::new(AtomicBool::new(false));
        match by_pages(store, file, &columns, (rows, &gone)).await {
            Ok(found) => found,
            Err(_) if gone.load(Ordering::Relaxed) => return Ok(None),
            Err(error) => return Err(bad(error.to_string())),
        }
    } else {
        let Some(bytes) = store.read(&file.location).await? else {
            return Ok(None);
        };
        let decoded = Fetched::Whole(bytes).decode(&file.location, &columns);
        let (batches, footer) = decoded.map_err(&bad)?;
        (pick(batches, rows).map_err(&bad)?, footer)
    };
    refuse_newer(&found.1).map_err(&bad)?;
    let held: usize = found.0.iter().map(RecordBatch::num_rows).sum();
    match held == rows.len() {
        true => Ok(Some(found)),
        false => Err(bad(format!("it has {held} of {} rows", rows.len()))),
    }
}

fn pick(batches: Batches, rows: &[u32]) -> Result<Vec<RecordBatch>, String> {
    let (mut picked, mut begin, mut rest) = (Vec::new(), 0, rows);
    for batch in batches {
        let batch = batch.map_err(|error| error.to_string())?;
        let end = begin + batch.num_rows();
        let (own, after) = rest.split_at(rest.partition_point(|row| (*row as usize) < end));
        picked.extend(own.iter().map(|row| batch.slice(*row as usize - begin, 1)));
        (begin, rest) = (end, after);
    }
    Ok(picked)
}

async fn by_pages(
    store: &TableStore,
    file: &ObjectMeta,
    columns: &[String],
    (rows, gone): (&[u32], &Arc<AtomicBool>),
) -> Result<FewRows, ParquetError> {
    let reader = StoredFile {
        store: store.clone(),
        path: file.location.clone(),
        size: file.size,
        mark: None,
        gone: Arc::clone(gone),
    };
    // Files of older builds, or of others, may have no index of their pages.
    let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await?;
    let metadata = builder.metadata().file_metadata();
    let entries = metadata.key_value_metadata().into_iter().flatten();
    let footer: Footer = entries
        .filter_map(|entry| Some((entry.key.clone(), entry.value.clone()?)))
        .collect();
    let all = usize::try_from(metadata.num_rows()).unwrap_or(0);
    if let Some(beyond) = rows.iter().find(|row| **row as usize >= all) {
        let reason = format!("it has {all} rows, and row {beyond} is asked for");
        return Err(ParquetError::General(reason));
    }
    let roots = builder.schema().fields().iter().enumerate();
    let wanted = roots
        .filter(|(_, field)| columns.contains(field.name()))
        .map(|(index, _)| index);
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let single = rows.iter().map(|row| *row as usize..*row as usize + 1);
    let selection = RowSelection::from_consecutive_ranges(single, all);
    let stream = builder
        .with_projection(mask)
        .with_row_selection(selection)
        .build()?;
    Ok((stream.try_collect().await?, footer))
}

/// A file of a store, as the reader of Parquet asks for it: all of one content.
struct StoredFile {
    store: TableStore,
    path: ObjectPath,
    size: u64,
    /// The content's mark, once something was read.
    mark: Option<String>,
    /// Set when there is no such content.
    gone: Arc<AtomicBool>,
}

impl StoredFile {
    async fn read(&self, range: Range<u64>) -> Result<(Bytes, Option<String>), ParquetError> {
        let read = self
            .store
            .read_range(&self.path, range, self.mark.clone())
            .await;
        let read = read.map_err(|error| ParquetError::External(Box::new(error)))?;
        read.ok_or_else(|| {
            self.gone.store(true, Ordering::Relaxed);
            ParquetError::General("it is gone".into())
        })
    }
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let (bytes, mark) = self.read(range).await?;
            self.mark = mark;
            Ok(bytes)
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        let file = &*self;
        let read = futures::stream::iter(ranges)
            .map(move |range| async move { file.read(range).await.map(|(bytes, _)| bytes) })
            .buffered(RANGES)
            .try_collect();
        read.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let size = self.size;
        async move {
            let reader = ParquetMetaDataReader::new()
                .with_arrow_reader_options(options)
                .with_prefetch_hint(Some(TAIL as usize));
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{prediction, predictions_file};
    use super::super::{data_files, strings, vectors};
    use super::*;
    use crate::stage::sink::arrow_ipc;
    use crate::stage::sink::predictions::PredictionRow;
    use std::collections::BTreeMap;

    #[tokio::test]
    async fn rows_are_read_whatever_the_file_and_its_size() {
        let store = TableStore::in_memory();
        let rows = |count: usize| -> Vec<PredictionRow> {
            let name = |at| format!("image-{at}");
            (0..count).map(|at| prediction(&name(at), "u")).collect()
        };
        let (few, many) = (rows(40), rows(3000));
        let arrow = arrow_ipc::encode(&*few[0].layout, &few, &BTreeMap::new()).unwrap();
        for (name, bytes) in [
            ("a.parquet", predictions_file(&few)),
            ("b.arrow", arrow),
            ("c.parquet", predictions_file(&many)),
        ] {
            let path = ObjectPath::from(format!("p/images/0/{name}"));
            store.replace(&path, bytes.into()).await.unwrap();
        }
        let files = data_files(&store, "p").await.unwrap();
        assert!(files[2].size > WHOLE && files[0].size < WHOLE);
        let columns = ["image_id", "embedding"];
        for (file, rows, places) in [
            (&files[0], &few, vec![0, 1, 39]),
            (&files[1], &few, vec![7]),
            (&files[2], &many, vec![0, 1, 1500, 2047, 2048, 2999]),
        ] {
            let read = read_rows(&store, file, &columns, &places).await.unwrap();
            let (batches, _) = read.unwrap();
            let mut found = Vec::new();
            for batch in &batches {
                let (ids, (floats, length)) = (
                    strings(batch, "image_id").unwrap(),
                    vectors(batch, "embedding").unwrap(),
                );
                let floats = floats.chunks_exact(length).map(<[f32]>::to_vec);
                found.extend(ids.iter().map(|id| id.unwrap().to_owned()).zip(floats));
            }
            let wanted = places.iter().map(|place| &rows[*place as usize]);
            let wanted: Vec<_> = wanted
                .map(|row| (row.image_id.clone(), row.embedding.clone()))
                .collect();
            assert_eq!(found, wanted, "{}", file.location);
            let beyond = read_rows(&store, file, &columns, &[3000]).await;
            let error = beyond.unwrap_err().to_string();
            assert!(error.contains(file.location.as_ref()), "{error}");
            store.delete(&file.location).await.unwrap();
            let gone = read_rows(&store, file, &columns, &places).await;
            assert!(gone.unwrap().is_none());
        }
    }
}
