//! Addresses of labelled images, from the predictions table.
//!
//! The table may be of millions of files, and a labelled image that it does not know would have
//! each run read all of them. So a run keeps what it looked for and where it found it, in
//!
//! ```text
//! <labels table>/_snapshot/addresses-1.bin
//! ```
//!
//! in the form of a [snapshot](super::snapshot): the files that were searched, and a table of the
//! images that were looked for, with one category, present where an address was found, absent where
//! none was. The "offset" of an entry is the place of the file that told the address. The next run
//! searches files that are new for all images, and the others only for images that nobody has
//! looked for. Where the file that told an address has changed or gone, the image counts as one of
//! those.

use super::columns::{Footer, read_files};
use super::snapshot::{Kept, KnownFile, keep, load, path};
use super::{TableError, data_files, strings};
use arrow_array::RecordBatch;
use object_store::ObjectMeta;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tagstream_core::events::LabelState;
use tagstream_core::storage::store::TableStore;
use tagstream_train::labels::{Gathering, LabelTable, Said, Stamp};

const ADDRESSES: &str = "addresses-1.bin";
/// The one category of the kept table.
const FOUND: &str = "found";

/// Tells where each labelled image was when it was tagged, as the predictions table knows: from
/// there it could be fetched once, while label events often tell addresses of an annotation tool.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn join_uris(
    labels: &mut LabelTable,
    store: &TableStore,
    (table, predictions): (&str, &str),
) -> Result<(), TableError> {
    join(labels, store, (table, predictions)).await.map(drop)
}

/// As [`join_uris`], and keeps for the next run what was looked for and found.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn join_uris_and_remember(
    labels: &mut LabelTable,
    store: &TableStore,
    (table, predictions): (&str, &str),
) -> Result<(), TableError> {
    if let Some((files, sought)) = join(labels, store, (table, predictions)).await? {
        keep(
            store,
            &place(store, table, predictions),
            &files,
            &sought,
            None,
        )
        .await;
    }
    Ok(())
}

/// Each predictions table has its own.
fn place(store: &TableStore, table: &str, predictions: &str) -> object_store::path::Path {
    path(store, table, &format!("{predictions}-{ADDRESSES}"))
}

/// Joins, and gives what was searched and what it told, if that is not kept already.
async fn join(
    labels: &mut LabelTable,
    store: &TableStore,
    (table, predictions): (&str, &str),
) -> Result<Option<(Vec<ObjectMeta>, LabelTable)>, TableError> {
    if labels.images().next().is_none() {
        return Ok(None);
    }
    let files = data_files(store, predictions).await?;
    let kept = load(store, &place(store, table, predictions)).await;
    let known = Known::of(kept.map(|(kept, _)| kept), &files);
    let search = Search::new(labels, &known);
    let (anything_new, read) = (search.fresh > 0 || known.has_new_files(), &known.searched);
    let search = Mutex::new(search);
    // The newest files first: where an image was seen twice, the later address is more likely to be
    // good.
    let newest_first = files.iter().cloned().enumerate().rev();
    let wanted = newest_first.filter(|(place, _)| {
        let search = lock(&search);
        search.fresh > 0 || (!read[*place] && search.known > 0)
    });
    let take = |place: usize, batch: &RecordBatch, _: &Footer| {
        let (ids, uris) = (strings(batch, "image_id")?, strings(batch, "uri")?);
        let mut search = lock(&search);
        for (id, uri) in ids.iter().zip(uris).filter_map(|(i, u)| i.zip(u)) {
            search.see(place, id, uri);
        }
        Ok(match search.fresh + search.known {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    };
    read_files(store, wanted, &["image_id", "uri"], take).await?;
    let search = search.into_inner().unwrap_or_else(PoisonError::into_inner);
    let sought = search.into_sought();
    for (id, image) in sought.images() {
        labels.tagged_at(id, &image.uri());
    }
    Ok(anything_new.then_some((files, sought)))
}

fn lock<'a, 'b>(search: &'a Mutex<Search<'b>>) -> MutexGuard<'a, Search<'b>> {
    search.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an earlier run has looked for.
struct Known {
    /// Of each file of today whether it was searched.
    searched: Vec<bool>,
    /// Of each file of then its place today, if it is as it was.
    places: Vec<Option<usize>>,
    sought: LabelTable,
}

impl Known {
    fn of(kept: Option<Kept>, files: &[ObjectMeta]) -> Self {
        let (then, sought) = match kept {
            Some(Kept { files, table }) => (files, table),
            None => (Vec::new(), LabelTable::default()),
        };
        let today: HashMap<&str, usize> = files
            .iter()
            .enumerate()
            .map(|(place, file)| (file.location.as_ref(), place))
            .collect();
        let mut searched = vec![false; files.len()];
        let places = then.iter().map(|file| {
            let place = *today.get(file.path())?;
            let same = KnownFile::of(&files[place]) == *file;
            searched[place] = same;
            same.then_some(place)
        });
        Known {
            places: places.collect(),
            searched,
            sought,
        }
    }

    fn has_new_files(&self) -> bool {
        self.searched.contains(&false)
    }

    /// What is known of an image: nothing, that no searched file has it, or its address and which
    /// file told it.
    fn image(&self, id: &str) -> Option<Option<(String, usize)>> {
        let image = self.sought.image(id)?;
        let (_, state, label) = image.known().next()?;
        match state {
            LabelState::Absent => Some(None),
            LabelState::Present => {
                let then = usize::try_from(label.stamp.offset).ok()?;
                let place = (*self.places.get(then)?)?;
                Some(Some((image.uri().into_owned(), place)))
            }
        }
    }
}

/// One run's search.
struct Search<'a> {
    known_before: &'a Known,
    /// Labelled images by id: whether an earlier run looked for it, and what is known.
    images: HashMap<String, Sought>,
    /// Hashes of those that are still looked for: most rows are of others.
    hashes: HashSet<u64>,
    hashing: RandomState,
    /// Images that no earlier run looked for, and that are not found yet.
    fresh: usize,
    /// Images that an earlier run looked for, and that a new file may tell of.
    known: usize,
}

struct Sought {
    fresh: bool,
    /// Not to be looked for any more.
    settled: bool,
    /// Its address, and the place of the file that told it.
    found: Option<(String, usize)>,
}

impl<'a> Search<'a> {
    fn new(labels: &LabelTable, known_before: &'a Known) -> Self {
        let mut search = Search {
            known_before,
            images: HashMap::new(),
            hashes: HashSet::new(),
            hashing: RandomState::new(),
            fresh: 0,
            known: 0,
        };
        for (id, _) in labels.images() {
            let before = known_before.image(id);
            let sought = Sought {
                fresh: before.is_none(),
                settled: false,
                found: before.flatten(),
            };
            search.fresh += usize::from(sought.fresh);
            search.known += usize::from(!sought.fresh);
            search.hashes.insert(search.hashing.hash_one(id));
            search.images.insert(id.to_owned(), sought);
        }
        search
    }

    /// A row of the file at `place`; files come newest first.
    fn see(&mut self, place: usize, id: &str, uri: &str) {
        if !self.hashes.contains(&self.hashing.hash_one(id)) {
            return;
        }
        let Some(sought) = self.images.get_mut(id).filter(|sought| !sought.settled) else {
            return;
        };
        // What a searched file says of an image that was looked for is known.
        if !sought.fresh && self.known_before.searched[place] {
            return;
        }
        sought.settled = true;
        match sought.fresh {
            true => self.fresh -= 1,
            false => self.known -= 1,
        }
        if sought
            .found
            .as_ref()
            .is_none_or(|(_, newest)| *newest < place)
        {
            sought.found = Some((uri.to_owned(), place));
        }
    }

    /// What this run has looked for, to be kept.
    fn into_sought(self) -> LabelTable {
        let mut gathering = Gathering::default();
        for (id, sought) in self.images {
            let (uri, place) = sought.found.unwrap_or_default();
            let state = match uri.is_empty() {
                true => LabelState::Absent,
                false => LabelState::Present,
            };
            let said = Said {
                image_id: &id,
                uri: &uri,
                annotator: "",
                stamp: Stamp {
                    offset: place as i64,
                    ..Stamp::default()
                },
            };
            gathering.take(&said, [(FOUND, Some(state))]);
        }
        gathering.finish()
    }
}
