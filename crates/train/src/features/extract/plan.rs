//! Where features go, and which have room, settled before the first image is encoded.

use super::{Extraction, FeatureError};
use crate::features::cache::{FeatureCache, FeatureKey};
use tagstream_model::session::EncoderShape;

/// Where dense features are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Memory,
    /// In the cache, read batch by batch.
    Disk,
}

/// What an extraction takes.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) place: Place,
    /// Rows of the list of ids, ascending, with their keys.
    pub(super) rows: Vec<(usize, FeatureKey)>,
    /// Rows that have no room, ascending.
    pub(super) without_room: Vec<usize>,
}

impl Plan {
    /// Places in [`Plan::rows`] that have to be encoded.
    pub(super) fn missing(&self, cache: Option<&FeatureCache>) -> Vec<(usize, FeatureKey)> {
        let has = |key: &FeatureKey| cache.is_some_and(|cache| cache.contains(key));
        let places = self.rows.iter().enumerate();
        let missing = places.filter(|(_, (_, key))| !has(key));
        missing.map(|(place, (_, key))| (place, *key)).collect()
    }
}

/// Bytes of one image's features in memory.
struct Sizes {
    dense: u64,
    global: u64,
}

impl Extraction<'_> {
    /// Takes all of `found` (rows with their keys, ascending) where they have room; else, by the
    /// ranking, as many as have.
    pub(super) fn plan(
        &self,
        found: Vec<(usize, FeatureKey)>,
        cache: Option<&FeatureCache>,
        shape: EncoderShape,
    ) -> Result<Plan, FeatureError> {
        let sizes = Sizes {
            dense: (2 * shape.locations * shape.dim) as u64,
            global: (4 * shape.dim) as u64,
        };
        let all = |place, rows| Plan {
            place,
            rows,
            without_room: Vec::new(),
        };
        let (images, limit) = (found.len() as u64, self.memory_limit);
        let globals = match self.ranking {
            Some(_) => sizes.global,
            None => 0,
        };
        if images * (sizes.dense + globals) <= limit {
            return Ok(all(Place::Memory, found));
        }
        let Some(cache) = cache else {
            // Memory is all there is.
            return Ok(match self.ranking {
                None => all(Place::Memory, found),
                Some(ranking) => {
                    let most = limit / (sizes.dense + sizes.global).max(1);
                    thinned(found, &ranking(), Place::Memory, |_, taken| taken < most)
                }
            });
        };
        let room = cache.room().map_err(|source| self.cache_error(source))?;
        let missing = found.iter().filter(|(_, key)| !cache.contains(key)).count() as u64;
        if missing <= room && images * globals <= limit {
            return Ok(all(Place::Disk, found));
        }
        let Some(ranking) = self.ranking else {
            return Err(self.no_room(images, images - missing + room, cache.record_bytes()));
        };
        let by_memory = limit / (sizes.dense + sizes.global).max(1);
        let by_disk = (images - missing + room).min(limit / sizes.global.max(1));
        let ranking = ranking();
        if by_memory >= by_disk {
            let takes = |_: &FeatureKey, taken| taken < by_memory;
            return Ok(thinned(found, &ranking, Place::Memory, takes));
        }
        let mut left = room;
        let takes = |key: &FeatureKey, taken: u64| {
            let fits = taken < by_disk && (cache.contains(key) || left > 0);
            left -= u64::from(fits && !cache.contains(key));
            fits
        };
        Ok(thinned(found, &ranking, Place::Disk, takes))
    }

    /// What says that `fit` of so many images, with records of so many bytes, have room.
    pub(super) fn no_room(&self, images: u64, fit: u64, record_bytes: usize) -> FeatureError {
        FeatureError::Room {
            images,
            fit,
            needed_mib: (images * record_bytes as u64).div_ceil(1 << 20),
            memory_mib: self.memory_limit >> 20,
            cache_mib: self.cache_limit >> 20,
        }
    }
}

/// The rows that `takes` takes, asked in the order of the ranking with how many it has taken.
fn thinned(
    found: Vec<(usize, FeatureKey)>,
    ranking: &[usize],
    place: Place,
    mut takes: impl FnMut(&FeatureKey, u64) -> bool,
) -> Plan {
    let most = found.last().map_or(0, |(row, _)| row + 1);
    let mut keys: Vec<Option<FeatureKey>> = vec![None; most];
    for (row, key) in &found {
        keys[*row] = Some(*key);
    }
    let (mut taken, mut takes_row) = (0, vec![false; most]);
    for &row in ranking {
        if let Some(key) = keys.get_mut(row).and_then(Option::take)
            && takes(&key, taken)
        {
            taken += 1;
            takes_row[row] = true;
        }
    }
    let (rows, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|(row, _)| takes_row[*row]);
    Plan {
        place,
        rows,
        without_room: rest.into_iter().map(|(row, _)| row).collect(),
    }
}
