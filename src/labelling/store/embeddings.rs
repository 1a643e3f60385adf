//! Embeddings of the images that were tagged last.

use super::{Footer, TableError, data_files, read_files, strings, vectors};
use arrow_array::RecordBatch;
use std::cmp::Reverse;
use std::ops::ControlFlow;
use tagstream_core::storage::store::TableStore;

/// Embeddings, `[n, dim]`, of `most` or some more rows of the predictions table that `model` wrote,
/// as far as there are so many, from the newest files. Those of other models say nothing beside
/// them.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn newest_embeddings(
    store: &TableStore,
    predictions: &str,
    (model, dim): (&str, usize),
    most: usize,
) -> Result<Vec<f32>, TableError> {
    let mut files = data_files(store, predictions).await?;
    files.sort_by_key(|file| Reverse(file.last_modified));
    let mut found = Vec::new();
    let take = |_: usize, batch: &RecordBatch, _: &Footer| {
        let models = strings(batch, "model_version")?;
        let (embeddings, width) = vectors(batch, "embedding")?;
        if width == dim && dim > 0 {
            let rows = embeddings.chunks_exact(dim).enumerate();
            let own = rows.filter(|(row, _)| models.value(*row) == model);
            own.for_each(|(_, embedding)| found.extend_from_slice(embedding));
        }
        Ok(match found.len() >= most * dim {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    };
    let columns = ["model_version", "embedding"];
    read_files(store, files.into_iter().enumerate(), &columns, take).await?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{prediction, predictions_file};
    use super::*;
    use object_store::path::Path;

    #[tokio::test]
    async fn the_newest_rows_of_the_model_are_read() {
        let store = TableStore::in_memory();
        let mut said = Vec::new();
        for (at, model) in ["old", "new", "new"].into_iter().enumerate() {
            let mut rows = [prediction("a", "file:///a"), prediction("b", "file:///b")];
            for row in &mut rows {
                row.model = std::sync::Arc::new(crate::stage::sink::predictions::ModelStamp {
                    version: model.into(),
                    preprocessing_hash: "h".into(),
                });
            }
            let path = Path::from(format!("predictions/images/0/{at}-00.parquet"));
            let bytes = predictions_file(&rows);
            store.put_if_absent(&path, bytes.into()).await.unwrap();
            let both = rows.iter().flat_map(|row| row.embedding.clone());
            said.push(both.collect::<Vec<f32>>());
        }
        let dim = said[0].len() / 2;
        let read = |model, dim, most| {
            let store = &store;
            async move {
                let found = newest_embeddings(store, "predictions", (model, dim), most);
                found.await.unwrap()
            }
        };
        assert_eq!(read("old", dim, 10).await, said[0]);
        assert_eq!(read("new", dim, 10).await.len(), 4 * dim);
        assert_eq!(
            read("new", dim, 1).await,
            said[2],
            "the newest file is enough"
        );
        assert!(read("new", dim + 1, 10).await.is_empty());
        assert!(read("none", dim, 10).await.is_empty());
    }
}
