//! The label store read back: all files of the label table as one table, addresses
//! joined from predictions.
//!
//! Every file that exists is committed and holds each event once, so a listing is all that is
//! needed. What an earlier run has read and kept beside the table is not read again.

mod addresses;
mod columns;
mod embeddings;
mod events;
mod rows;
mod sampled;
mod snapshot;

pub use addresses::{join_uris, join_uris_and_remember};
pub use columns::{Footer, Taken, read_columns, read_files};
pub use embeddings::newest_embeddings;
pub use rows::{FewRows, read_rows};
pub use sampled::sampled_pictures;
pub use snapshot::{KnownFile, read_labels, read_labels_and_keep};

mod known;

pub use known::{KnownPictures, UnknownPicture, known_pictures};

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, RecordBatch};
use object_store::ObjectMeta;
use std::collections::HashMap;
use std::ops::ControlFlow;
use tagstream_core::storage::store::{StoreError, TableStore};

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

/// All data files of `table` with their sizes, in order of their names.
///
/// # Errors
/// [`TableError::Store`].
pub async fn data_files(store: &TableStore, table: &str) -> Result<Vec<ObjectMeta>, TableError> {
    let folder = store.root().clone().join(table);
    let mut files = store.list_objects(&folder).await?;
    files.retain(|file| {
        let name = file.location.filename().unwrap_or("");
        !name.starts_with(['_', '.']) && (name.ends_with(".parquet") || name.ends_with(".arrow"))
    });
    files.sort_unstable_by(|a, b| a.location.cmp(&b.location));
    Ok(files)
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

/// The vectors of a column, one behind the other, and their length.
pub(super) fn vectors(batch: &RecordBatch, name: &str) -> Result<(Vec<f32>, usize), String> {
    let wrong = || format!("its column `{name}` holds no vectors");
    let lists = batch.column_by_name(name).ok_or_else(wrong)?;
    let lists = lists.as_fixed_size_list_opt().ok_or_else(wrong)?;
    let values = lists.values().as_primitive_opt::<Float32Type>();
    let values = values.ok_or_else(wrong)?;
    let length = lists.value_length() as usize;
    let start = lists.offset() * length;
    Ok((
        values.values()[start..start + lists.len() * length].to_vec(),
        length,
    ))
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
    let files = data_files(store, predictions).await?;
    let columns = ["image_id", "attributes"];
    let take = |_: usize, batch: &RecordBatch, _: &Footer| {
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
        Ok(ControlFlow::Continue(()))
    };
    read_files(store, files.into_iter().enumerate(), &columns, take).await?;
    Ok(found)
}

#[cfg(test)]
mod tests;
