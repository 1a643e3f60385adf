//! The newest rows of the predictions table.
//!
//! Files never change and their names grow, so what is new in a folder is listed behind the last
//! name that was seen. A whole listing finds new folders, and is made seldom.

use crate::labelling::store::{TableError, data_files, read_columns};
use crate::serve::rows::{COLUMNS, TaggedPicture, pictures};
use object_store::path::Path as ObjectPath;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};
use tagstream_core::storage::store::TableStore;
use tokio::sync::watch;

/// Pictures that are shown.
pub(crate) const SHOWN: usize = 24;
/// The whole table is listed again after so many times what listing it took, within these bounds:
/// a small one is looked at often, a large one costs a fiftieth of the time.
const LISTING_SHARE: u32 = 50;
const LISTING_LEAST: Duration = Duration::from_secs(2);
const LISTING_MOST: Duration = Duration::from_secs(300);
/// Files that are read at most after one look: the newest of each of so many folders.
const FILES_A_LOOK: usize = 8;

/// Looks every `interval` for new rows, for as long as anybody may want to see them.
pub(crate) async fn watch_newest(
    store: TableStore,
    table: String,
    interval: Duration,
    newest: watch::Sender<Newest>,
) {
    let mut seen = Seen::default();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !newest.is_closed() {
        ticks.tick().await;
        let found = seen.look(&store, &table).await;
        newest.send_if_modified(|all| all.take(found));
    }
}

/// The newest pictures, or why there are none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Newest {
    /// Newest first.
    pub pictures: Vec<TaggedPicture>,
    /// What went wrong at the last look.
    pub trouble: Option<String>,
}

impl Newest {
    /// Whether anything is another than before.
    fn take(&mut self, found: Result<Vec<TaggedPicture>, TableError>) -> bool {
        match found {
            Ok(more) => {
                let changed = self.trouble.take().is_some() || !more.is_empty();
                self.pictures.extend(more);
                self.pictures.sort_by(|a, b| {
                    let times = b.processed_time.cmp(&a.processed_time);
                    times.then_with(|| a.image_id.cmp(&b.image_id))
                });
                let mut shown = HashSet::new();
                self.pictures
                    .retain(|picture| shown.insert(picture.image_id.clone()));
                self.pictures.truncate(SHOWN);
                changed
            }
            Err(error) => {
                let trouble = Some(error.to_string());
                let changed = self.trouble != trouble;
                self.trouble = trouble;
                changed
            }
        }
    }

    /// Tags of a picture on average.
    pub(crate) fn tags_a_picture(&self) -> Option<f64> {
        let tags: usize = self.pictures.iter().map(|picture| picture.tags.len()).sum();
        (!self.pictures.is_empty()).then(|| tags as f64 / self.pictures.len() as f64)
    }

    /// From a picture's own time to its row: the median, seconds.
    pub(crate) fn age_at_tagging(&self) -> Option<f64> {
        let ages = self
            .pictures
            .iter()
            .map(|p| p.processed_time - p.event_time);
        let mut ages: Vec<f64> = ages
            .map(|age| age.num_milliseconds() as f64 / 1e3)
            .collect();
        ages.sort_by(f64::total_cmp);
        ages.get(ages.len() / 2).copied()
    }
}

/// The last file that was seen in each folder.
#[derive(Debug, Default)]
struct Seen {
    folders: BTreeMap<ObjectPath, ObjectPath>,
    /// When the whole table is to be listed again.
    next_listing: Option<Instant>,
}

impl Seen {
    async fn look(
        &mut self,
        store: &TableStore,
        table: &str,
    ) -> Result<Vec<TaggedPicture>, TableError> {
        let mut newer: BTreeMap<ObjectPath, ObjectPath> = BTreeMap::new();
        let began = Instant::now();
        if self.next_listing.is_none_or(|next| next <= began) {
            for file in data_files(store, table).await? {
                newer.insert(folder_of(&file.location), file.location);
            }
            let pause = began.elapsed() * LISTING_SHARE;
            self.next_listing = Some(Instant::now() + pause.clamp(LISTING_LEAST, LISTING_MOST));
            newer.retain(|folder, file| self.folders.get(folder) != Some(file));
        } else {
            for (folder, last) in &self.folders {
                let more = store.list(folder, Some(last)).await?;
                if let Some(file) = more.into_iter().rfind(is_data) {
                    newer.insert(folder.clone(), file);
                }
            }
        }
        let mut found = Vec::new();
        for (at, (folder, file)) in newer.into_iter().enumerate() {
            if at < FILES_A_LOOK {
                found.extend(last_rows(store, &file).await?);
            }
            self.folders.insert(folder, file);
        }
        Ok(found)
    }
}

fn is_data(path: &ObjectPath) -> bool {
    let name = path.filename().unwrap_or_default();
    !name.starts_with(['_', '.']) && (name.ends_with(".parquet") || name.ends_with(".arrow"))
}

fn folder_of(file: &ObjectPath) -> ObjectPath {
    let parts: Vec<_> = file.parts().collect();
    ObjectPath::from_iter(parts[..parts.len().saturating_sub(1)].iter().cloned())
}

/// The last rows of a file.
async fn last_rows(
    store: &TableStore,
    file: &ObjectPath,
) -> Result<Vec<TaggedPicture>, TableError> {
    let mut rows = Vec::new();
    read_columns(store, file, &COLUMNS, |batch, footer| {
        // Of a batch only its end can be among the newest.
        let first = batch.num_rows().saturating_sub(SHOWN);
        let end = batch.slice(first, batch.num_rows() - first);
        rows.extend(pictures(&end, footer)?);
        if rows.len() > SHOWN {
            rows.drain(..rows.len() - SHOWN);
        }
        Ok(())
    })
    .await?;
    Ok(rows)
}
