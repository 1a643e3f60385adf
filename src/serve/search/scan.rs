//! A search: the rows that an index holds nearest, and a pass over the files of the predictions
//! table that it does not cover (all of them without one), newest first, within bounds that are
//! said: one file in memory at a time, and the best rows so far.

use super::index::{IndexShelf, OpenedIndex, SearchIndexError};
use crate::labelling::store::{TableError, data_files, read_columns, read_rows};
use crate::serve::rows::{COLUMNS, PictureRows, TaggedPicture, strings, vectors};
use arrow_array::{Array, RecordBatch};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use object_store::ObjectMeta;
use object_store::path::Path as ObjectPath;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tagstream_core::storage::store::TableStore;

/// Rows that are shown.
pub(crate) const SHOWN: usize = 60;
/// A search ends after this long.
const LONGEST: Duration = Duration::from_secs(20);
/// A pass ends after so many rows.
const MOST_ROWS: usize = 1_000_000;

/// The nearest rows that an index is asked for: where a filter leaves few, those beyond the first
/// are read, too.
pub(crate) const NEAREST: usize = 2_000;
/// Of those so many are read at a time, until enough hold.
const AT_ONCE: usize = 2 * SHOWN;
/// Files that such rows are read of at a time.
const FILES_AT_ONCE: usize = 4;

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
    /// Files that there are, without those that an index answered for.
    pub all_files: usize,
    /// What an index answered for.
    pub by_index: Option<ByIndex>,
    /// Why an index that stands beside the table was not asked.
    pub trouble: Option<Arc<SearchIndexError>>,
}

/// What an index answered for.
#[derive(Debug)]
pub(crate) struct ByIndex {
    /// When it was made.
    pub made: DateTime<Utc>,
    /// Rows that it looked through.
    pub rows: usize,
    /// The nearest of them, which were read and held against the filters.
    pub read: usize,
    /// Whether those were too few to fill the page, though there are more.
    pub is_short: bool,
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
    let files = newest_files(store, table).await?;
    Ok(files.into_iter().map(|file| file.location).collect())
}

async fn newest_files(store: &TableStore, table: &str) -> Result<Vec<ObjectMeta>, TableError> {
    let mut folders: BTreeMap<String, Vec<ObjectMeta>> = BTreeMap::new();
    for file in data_files(store, table).await? {
        let path = file.location.as_ref();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
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

/// Searches the table `table`: through its index where it has one and nearness is asked for.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub(crate) async fn search(
    store: &TableStore,
    table: &str,
    wanted: &Wanted,
    shelf: &IndexShelf,
) -> Result<Found, TableError> {
    let mut files = newest_files(store, table).await?;
    let mut pass = Pass::of(wanted);
    if let Some(near) = &wanted.near {
        match shelf.look(store, table).await {
            Ok(None) => {}
            Ok(Some(index)) => {
                let live = index.live(&files);
                match pass.by_index(store, (near, &*index, &live)).await? {
                    Ok(by_index) => {
                        pass.found.by_index = Some(by_index);
                        let covered = live.iter().flatten().map(|file| file.location.clone());
                        let covered: HashSet<ObjectPath> = covered.collect();
                        files.retain(|file| !covered.contains(&file.location));
                    }
                    Err(error) => pass.found.trouble = Some(Arc::new(error)),
                }
            }
            Err(error) => pass.found.trouble = Some(error),
        }
    }
    pass.scan(store, &files).await?;
    let mut found = pass.found;
    found.pictures = pass.best.sorted();
    if let Some(by_index) = &mut found.by_index {
        by_index.is_short &= found.pictures.len() < SHOWN;
    }
    Ok(found)
}

/// A search under way.
struct Pass<'a> {
    wanted: &'a Wanted,
    columns: Vec<&'static str>,
    best: Best,
    found: Found,
    began: Instant,
}

impl<'a> Pass<'a> {
    fn of(wanted: &'a Wanted) -> Self {
        let mut columns = COLUMNS.to_vec();
        columns.extend(wanted.near.as_ref().map(|_| "embedding"));
        columns.extend(wanted.tag.as_ref().map(|_| "scores"));
        Pass {
            wanted,
            columns,
            best: Best {
                first: wanted.itself.clone(),
                ..Best::default()
            },
            found: Found::default(),
            began: Instant::now(),
        }
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() > LONGEST
    }

    /// Looks at all rows of `files`.
    async fn scan(&mut self, store: &TableStore, files: &[ObjectMeta]) -> Result<(), TableError> {
        self.found.all_files = files.len();
        for file in files {
            if self.found.rows >= MOST_ROWS || self.is_over() {
                break;
            }
            let (best, rows) = (&mut self.best, &mut self.found.rows);
            read_columns(store, &file.location, &self.columns, |batch, footer| {
                *rows += batch.num_rows();
                take(best, batch, footer, self.wanted)
            })
            .await?;
            self.found.files += 1;
        }
        Ok(())
    }

    /// Reads the rows that an index holds nearest, as many as it takes until enough of them hold,
    /// and orders them by what stands in the table.
    async fn by_index(
        &mut self,
        store: &TableStore,
        (near, index, live): (&[f32], &OpenedIndex, &[Option<&ObjectMeta>]),
    ) -> Result<Result<ByIndex, SearchIndexError>, TableError> {
        let nearest = match index.nearest(near, NEAREST, live) {
            Ok(nearest) => nearest,
            Err(error) => return Ok(Err(error)),
        };
        let mut by_index = ByIndex {
            made: index.made(),
            rows: index.rows(near.len(), live),
            read: 0,
            is_short: false,
        };
        for rows in nearest.chunks(AT_ONCE) {
            if self.best.rows.len() >= SHOWN || self.is_over() {
                break;
            }
            self.read(store, rows, live).await?;
            by_index.read += rows.len();
        }
        by_index.is_short = by_index.read < by_index.rows;
        Ok(Ok(by_index))
    }

    /// Offers single rows: places of files, and the row's.
    async fn read(
        &mut self,
        store: &TableStore,
        rows: &[(usize, u32)],
        live: &[Option<&ObjectMeta>],
    ) -> Result<(), TableError> {
        let mut by_file: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (file, row) in rows {
            by_file.entry(*file).or_default().push(*row);
        }
        let columns = &self.columns;
        let files = by_file.into_iter().filter_map(|(file, mut rows)| {
            rows.sort_unstable();
            Some((live.get(file).copied().flatten()?, rows))
        });
        let mut read = futures::stream::iter(files)
            .map(|(file, rows)| async move {
                let read = read_rows(store, file, columns, &rows).await?;
                Ok::<_, TableError>((file, read))
            })
            .buffered(FILES_AT_ONCE);
        while let Some(read) = read.next().await {
            // What went between listing and reading is gone for this search as for the next.
            let (file, Some((batches, footer))) = read? else {
                continue;
            };
            for batch in &batches {
                take(&mut self.best, batch, &footer, self.wanted).map_err(|reason| {
                    TableError::File {
                        path: file.location.to_string(),
                        reason,
                    }
                })?;
            }
        }
        Ok(())
    }
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
/// As [`search`].
pub(crate) async fn vector_of(
    store: &TableStore,
    table: &str,
    image_id: &str,
) -> Result<Option<Vec<f32>>, TableError> {
    let began = Instant::now();
    for file in newest_files(store, table).await? {
        if began.elapsed() > LONGEST {
            break;
        }
        // Of most files nothing but names is read.
        let (mut found, mut rows) = (None, 0);
        read_columns(store, &file.location, &["image_id"], |batch, _| {
            let ids = strings(batch, "image_id")?;
            let own = (0..ids.len()).rfind(|row| ids.value(*row) == image_id);
            found = own.map(|row| rows + row).or(found);
            rows += ids.len();
            Ok(())
        })
        .await?;
        let Some(row) = found.and_then(|row| u32::try_from(row).ok()) else {
            continue;
        };
        let Some((batches, _)) = read_rows(store, &file, &["embedding"], &[row]).await? else {
            continue;
        };
        let vector = batches.first().map(|batch| vectors(batch, "embedding"));
        let vector = vector.transpose().map_err(|reason| TableError::File {
            path: file.location.to_string(),
            reason,
        })?;
        if let Some((vector, _)) = vector {
            return Ok(Some(vector.to_vec()));
        }
    }
    Ok(None)
}
