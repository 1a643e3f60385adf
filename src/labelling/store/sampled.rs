//! Pictures of the predictions table, drawn evenly.

use super::{Footer, TableError, data_files, read_files, strings};
use arrow_array::RecordBatch;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use tagstream_core::storage::store::TableStore;

/// At most `most` pictures of the table `predictions` with their addresses, by name. Each has the
/// same chance, and later rows change little of what was drawn before: those with the smallest
/// hashes of their names are taken. Of a picture that was tagged several times the last row's
/// address counts.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn sampled_pictures(
    store: &TableStore,
    predictions: &str,
    most: usize,
) -> Result<BTreeMap<String, String>, TableError> {
    let files = data_files(store, predictions).await?;
    let mut drawn: BTreeMap<([u8; 32], String), String> = BTreeMap::new();
    let take = |_: usize, batch: &RecordBatch, _: &Footer| {
        let (ids, uris) = (strings(batch, "image_id")?, strings(batch, "uri")?);
        for (id, uri) in ids.iter().zip(uris).filter_map(|(id, uri)| id.zip(uri)) {
            if uri.is_empty() {
                continue;
            }
            let place = Sha256::digest(id).into();
            let beyond = drawn.last_key_value();
            if drawn.len() >= most && beyond.is_none_or(|((last, _), _)| *last < place) {
                continue;
            }
            drawn.insert((place, id.to_owned()), uri.to_owned());
            if drawn.len() > most {
                drawn.pop_last();
            }
        }
        Ok(ControlFlow::Continue(()))
    };
    let columns = ["image_id", "uri"];
    read_files(store, files.into_iter().enumerate(), &columns, take).await?;
    Ok(drawn.into_iter().map(|((_, id), uri)| (id, uri)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{prediction, predictions_file};
    use super::*;
    use object_store::path::Path;

    #[tokio::test]
    async fn pictures_are_drawn_once_each_and_the_same_ones_again() {
        let store = TableStore::in_memory();
        let put = async |file: usize, names: std::ops::Range<usize>| {
            let names: Vec<String> = names.map(|n| format!("picture-{n}")).collect();
            let rows: Vec<_> = names
                .iter()
                .map(|name| prediction(name, &format!("file:///{file}/{name}")))
                .collect();
            let path = Path::from(format!("predictions/images/0/{file}-00.parquet"));
            let bytes = predictions_file(&rows);
            store.put_if_absent(&path, bytes.into()).await.unwrap();
        };
        let draw = async |most| sampled_pictures(&store, "predictions", most).await.unwrap();
        assert!(draw(10).await.is_empty());
        put(0, 0..50).await;
        let some = draw(10).await;
        assert_eq!(some.len(), 10);
        assert!(draw(0).await.is_empty());
        assert_eq!(draw(100).await.len(), 50);
        // The same pictures again, at other addresses, and one that is new.
        put(1, 0..51).await;
        let again = draw(10).await;
        let stayed = again.keys().filter(|id| some.contains_key(*id)).count();
        assert!(again.len() == 10 && stayed >= 9, "{again:?}");
        assert!(
            again.values().all(|uri| uri.starts_with("file:///1/")),
            "{again:?}"
        );
    }
}
