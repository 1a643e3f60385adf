//! A search as one pass over the predictions table, newest files first, within bounds that are
//! said: one file in memory at a time, and the best rows so far.

use crate::labelling::store::{TableError, data_files, read_columns};
use crate::serve::rows::{COLUMNS, PictureRows, TaggedPicture, vectors};
use arrow_array::RecordBatch;
use chrono::{DateTime, Utc};
use object_store::path::Path as ObjectPath;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use tagstream_core::storage::store::TableStore;

/// Rows that are shown.
pub(crate) const SHOWN: usize = 60;
/// A pass ends after this long.
const LONGEST: Duration = Duration::from_secs(20);
/// A pass ends after so many rows.
const MOST_ROWS: usize = 1_000_000;

/// What is searched for; everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wanted {
    /// A unit vector that pictures should be near to: the nearest come first.
    pub near: Option<Vec<f32>>,
    /// The image whose vector that is: it stands before others that are as near.
    pub itself: Option<String>,
    /// A category, and how probable it must be at least.
    pub tag: Option<(String, f32)>,
    /// Pictures from then on.
    pub from: Option<DateTime<Utc>>,
    /// Pictures before then.
    pub to: Option<DateTime<Utc>>,
}

/// What was found, and how much of the table was looked at.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Best first, with what they are ordered by.
    pub pictures: Vec<(f64, TaggedPicture)>,
    /// Rows that were looked at.
    pub rows: usize,
    /// Files that were looked at.
    pub files: usize,
    /// Files that there are.
    pub all_files: usize,
}

impl Found {
    /// Whether everything was looked at.
    pub(crate) fn is_whole(&self) -> bool {
        self.files == self.all_files
    }
}

/// The best rows so far: one an image.
#[derive(Default)]
struct Best {
    rows: HashMap<String, (f64, TaggedPicture)>,
    /// An image that stands before all others.
    first: Option<String>,
}

impl Best {
    /// Below this nothing needs to be offered.
    fn offer(
        &mut self,
        worth: f64,
        image_id: &str,
        row: impl FnOnce() -> Result<TaggedPicture, String>,
    ) -> Result<(), String> {
        let known = self.rows.get(image_id);
        if known.is_some_and(|(best, _)| *best >= worth) {
            return Ok(());
        }
        let full = self.rows.len() >= 2 * SHOWN;
        if full && known.is_none() {
            self.trim();
        }
        self.rows.insert(image_id.to_owned(), (worth, row()?));
        Ok(())
    }

    /// Keeps those that are shown.
    fn trim(&mut self) {
        let first = self.first.clone();
        let best = std::mem::take(self).sorted();
        self.first = first;
        let named = best.into_iter().map(|row| (row.1.image_id.clone(), row));
        self.rows = named.collect();
    }

    fn sorted(self) -> Vec<(f64, TaggedPicture)> {
        let mut all: Vec<_> = self.rows.into_values().collect();
        let is_first = |row: &(f64, TaggedPicture)| self.first.as_ref() == Some(&row.1.image_id);
        all.sort_by(|a, b| {
            let first = is_first(b).cmp(&is_first(a));
            let worth = first.then_with(|| b.0.total_cmp(&a.0));
            worth.then_with(|| a.1.image_id.cmp(&b.1.image_id))
        });
        all.truncate(SHOWN);
        all
    }
}

/// Files, the newest of every folder first.
pub(crate) async fn newest_first(
    store: &TableStore,
    table: &str,
) -> Result<Vec<ObjectPath>, TableError> {
    let mut folders: BTreeMap<String, Vec<ObjectPath>> = BTreeMap::new();
    for file in data_files(store, table).await? {
        let file = file.location;
        let folder = file
            .as_ref()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        folders.entry(folder.to_owned()).or_default().push(file);
    }
    let mut order = Vec::new();
    while !folders.is_empty() {
        folders.retain(|_, files| {
            order.extend(files.pop());
            !files.is_empty()
        });
    }
    Ok(order)
}

/// Searches the table `table`.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub(crate) async fn scan(
    store: &TableStore,
    table: &str,
    wanted: &Wanted,
) -> Result<Found, TableError> {
    let files = newest_first(store, table).await?;
    let mut columns = COLUMNS.to_vec();
    columns.extend(wanted.near.as_ref().map(|_| "embedding"));
    columns.extend(wanted.tag.as_ref().map(|_| "scores"));
    let mut found = Found {
        all_files: files.len(),
        ..Found::default()
    };
    let mut best = Best {
        first: wanted.itself.clone(),
        ..Best::default()
    };
    let began = Instant::now();
    for file in &files {
        if found.rows >= MOST_ROWS || began.elapsed() > LONGEST {
            break;
        }
        read_columns(store, file, &columns, |batch, footer| {
            found.rows += batch.num_rows();
            take(&mut best, batch, footer, wanted)
        })
        .await?;
        found.files += 1;
    }
    found.pictures = best.sorted();
    Ok(found)
}

fn take(
    best: &mut Best,
    batch: &RecordBatch,
    footer: &HashMap<String, String>,
    wanted: &Wanted,
) -> Result<(), String> {
    let rows = PictureRows::of(batch, footer)?;
    let near = match &wanted.near {
        None => None,
        Some(near) => {
            let (vectors, length) = vectors(batch, "embedding")?;
            if length != near.len() {
                // Another model's: nothing can be said of them.
                return Ok(());
            }
            Some((near, vectors))
        }
    };
    let tag = match &wanted.tag {
        None => None,
        Some((category, least)) => {
            let categories = footer.get("tagstream.categories").map(String::as_str);
            let names: Vec<String> = serde_json::from_str(categories.unwrap_or("[]"))
                .map_err(|_| "its footer names no categories".to_owned())?;
            let Some(at) = names.iter().position(|name| name == category) else {
                return Ok(());
            };
            let (scores, length) = vectors(batch, "scores")?;
            Some((at, *least, scores, length))
        }
    };
    for row in 0..rows.len() {
        let time = rows.event_time(row);
        if wanted.from.is_some_and(|from| time < from) || wanted.to.is_some_and(|to| time >= to) {
            continue;
        }
        let mut worth = rows.processed_time(row).timestamp_micros() as f64;
        if let Some((at, least, scores, length)) = tag {
            let score = scores[row * length + at];
            if score < least {
                continue;
            }
            worth = f64::from(score);
        }
        if let Some((near, vectors)) = near {
            let own = &vectors[row * near.len()..][..near.len()];
            worth = near.iter().zip(own).map(|(x, y)| f64::from(x * y)).sum();
        }
        best.offer(worth, rows.image_id(row), || rows.picture(row))?;
    }
    Ok(())
}

/// The vector of an image's newest row.
///
/// # Errors
/// As [`scan`].
pub(crate) async fn vector_of(
    store: &TableStore,
    table: &str,
    image_id: &str,
) -> Result<Option<Vec<f32>>, TableError> {
    let (mut found, began) = (None, Instant::now());
    for file in newest_first(store, table).await? {
        if began.elapsed() > LONGEST {
            break;
        }
        let columns = [&COLUMNS[..], &["embedding"]].concat();
        read_columns(store, &file, &columns, |batch, footer| {
            let rows = PictureRows::of(batch, footer)?;
            if let Some(row) = (0..rows.len()).rfind(|row| rows.image_id(*row) == image_id) {
                let (vectors, length) = vectors(batch, "embedding")?;
                found = Some(vectors[row * length..(row + 1) * length].to_vec());
            }
            Ok(())
        })
        .await?;
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}
