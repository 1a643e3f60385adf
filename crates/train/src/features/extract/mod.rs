//! Reading, decoding and encoding the images that the cache does not have.

mod plan;

use super::cache::{FeatureCache, FeatureKey};
use super::encoder::{BATCH, Encoder};
use super::worker::{Encoded, Work};
use super::{Dense, FeatureError, FeatureStore, ImageBytes, ImageError};
use half::f16;
use plan::{Place, Plan};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::sync_channel;
use tagstream_image::decoders::Decoders;
use tagstream_model::session::{EncoderSession, EncoderShape};

/// How far an extraction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtractionProgress {
    /// Images done, those from the cache included.
    pub done: usize,
    /// Images asked for.
    pub total: usize,
    /// Images that came from the cache.
    pub cached: usize,
}

/// An image that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its index in the list of ids.
    pub row: usize,
    /// `image_id` of the label table.
    pub id: String,
    /// Why.
    pub error: ImageError,
}

/// How features are extracted.
pub struct Extraction<'a> {
    /// The cache's folder; none: everything is computed.
    pub cache: Option<PathBuf>,
    /// Most bytes below that folder.
    pub cache_limit: u64,
    /// Most bytes of dense features held in memory; above it they are read from the cache batch by
    /// batch.
    pub memory_limit: u64,
    /// Mirror every image left to right.
    pub mirror: bool,
    /// Leave missing and broken images out instead of failing.
    pub skip_bad: bool,
    /// All rows, in the order in which they are worth their place. Asked where not all have room in
    /// memory or in the cache: the last are then left out. Without it that is an error.
    pub ranking: Option<&'a (dyn Fn() -> Vec<usize> + Sync)>,
    /// What decodes the images.
    pub decoders: Decoders,
    /// Called after every batch.
    pub progress: &'a (dyn Fn(ExtractionProgress) + Sync),
}

impl Default for Extraction<'_> {
    fn default() -> Self {
        Self {
            cache: super::default_cache(),
            cache_limit: 20 << 30,
            memory_limit: 4 << 30,
            mirror: false,
            skip_bad: false,
            ranking: None,
            decoders: Decoders::default(),
            progress: &|_| (),
        }
    }
}

/// Features, and the images that have none.
#[derive(Debug)]
pub struct Extracted {
    /// The features of all other images, in the order asked for.
    pub features: FeatureStore,
    /// Missing and broken images (only with [`Extraction::skip_bad`]), in their order.
    pub skipped: Vec<Skipped>,
    /// Rows for which there was no room (only with [`Extraction::ranking`]), in their order.
    pub without_room: Vec<usize>,
}

impl Extracted {
    /// Every row that has no features, ascending.
    pub fn left_out(&self) -> Vec<usize> {
        let skipped = self.skipped.iter().map(|skipped| skipped.row);
        let mut rows: Vec<usize> = skipped.chain(self.without_room.iter().copied()).collect();
        rows.sort_unstable();
        rows
    }
}

impl Extraction<'_> {
    /// The features of `ids`, in their order, and which of them were left out. What has no room is
    /// known before anything is encoded.
    ///
    /// # Errors
    /// [`FeatureError`]; [`FeatureError::Images`] names the first images that are missing or
    /// broken.
    pub fn extract(
        &self,
        encoder: &Encoder,
        images: &dyn ImageBytes,
        ids: &[String],
    ) -> Result<Extracted, FeatureError> {
        let session = encoder.session()?;
        let shape = session.shape();
        let mut cache = self.open_cache(encoder, shape)?;
        let mut failed = Vec::new();
        let mut found = Vec::with_capacity(ids.len());
        let keys: Vec<_> = ids
            .par_iter()
            .map(|id| Ok(self.key(images.identity(id)?.key)))
            .collect();
        for (row, key) in keys.into_iter().enumerate() {
            match key {
                Ok(key) => found.push((row, key)),
                Err(error) => failed.push((row, error)),
            }
        }
        let plan = self.plan(found, cache.as_ref(), shape)?;
        if plan.rows.is_empty() && !plan.without_room.is_empty() {
            let record = 2 * shape.locations * shape.dim + 4 * shape.dim;
            return Err(self.no_room(plan.without_room.len() as u64, 0, record));
        }
        let mut gathered = Gathered::new(&plan, shape);
        if let Some(cache) = &cache {
            let read = gathered.read(&plan, cache);
            read.map_err(|source| self.cache_error(source))?;
        }
        let missing = plan.missing(cache.as_ref());
        let taken = plan.rows.len() + failed.len();
        let progress = ExtractionProgress {
            done: taken - missing.len(),
            total: taken,
            cached: plan.rows.len() - missing.len(),
        };
        (self.progress)(progress);
        let chosen: Vec<String> = plan.rows.iter().map(|(row, _)| ids[*row].clone()).collect();
        let work = Work {
            encoder,
            decoders: &self.decoders,
            mirror: self.mirror,
            images,
            ids: &chosen,
            missing: &missing,
            next: AtomicUsize::new(0),
        };
        let into = (cache.as_mut(), &plan);
        let bad = self.encode(&work, session, into, &mut gathered, progress)?;
        let mut keep = vec![true; plan.rows.len()];
        for (place, error) in bad {
            keep[place] = false;
            failed.push((plan.rows[place].0, error));
        }
        let skipped = self.accepted(failed, ids)?;
        let features = gathered
            .into_store(&keep, shape, cache, &plan)
            .map_err(|source| self.cache_error(source))?;
        Ok(Extracted {
            features,
            skipped,
            without_room: plan.without_room,
        })
    }

    /// Encodes what the cache does not have, on several threads. Returns the images that cannot be
    /// encoded.
    fn encode(
        &self,
        work: &Work<'_>,
        session: EncoderSession,
        (mut cache, plan): (Option<&mut FeatureCache>, &Plan),
        gathered: &mut Gathered,
        mut progress: ExtractionProgress,
    ) -> Result<Vec<(usize, ImageError)>, FeatureError> {
        let workers = work.encoder.workers;
        let mut failed = Vec::new();
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(2 * workers);
            let mut first = Some(session);
            for _ in 0..workers.min(work.missing.len().div_ceil(BATCH)) {
                let (sender, first) = (sender.clone(), first.take());
                scope.spawn(move || work.encode_batches(first, &sender));
            }
            drop(sender);
            for encoded in receiver {
                let encoded: Encoded = encoded?;
                progress.done += encoded.rows.len() + encoded.failed.len();
                let kept = self.keep(&encoded, cache.as_deref_mut(), gathered, work.ids)?;
                if let (false, Place::Disk, Some(cache)) = (kept, plan.place, &cache) {
                    // Another process has filled it meanwhile.
                    let (all, fit) = (plan.rows.len() as u64, progress.done as u64);
                    return Err(self.no_room(all, fit, cache.record_bytes()));
                }
                failed.extend(encoded.failed);
                (self.progress)(progress);
            }
            Ok(failed)
        })
    }

    /// The images to leave out, in their order.
    fn accepted(
        &self,
        mut failed: Vec<(usize, ImageError)>,
        ids: &[String],
    ) -> Result<Vec<Skipped>, FeatureError> {
        failed.sort_by_key(|(row, _)| *row);
        let count = failed.len();
        let mut skipped = failed.into_iter().map(|(row, error)| Skipped {
            row,
            id: ids[row].clone(),
            error,
        });
        if count > 0 && (!self.skip_bad || count == ids.len()) {
            let first = skipped.by_ref().take(3);
            return Err(FeatureError::Images {
                count,
                total: ids.len(),
                first: first.map(|skipped| (skipped.id, skipped.error)).collect(),
            });
        }
        Ok(skipped.collect())
    }

    fn cache_error(&self, source: io::Error) -> FeatureError {
        FeatureError::Cache {
            path: self.cache.clone().unwrap_or_default(),
            source,
        }
    }

    fn open_cache(
        &self,
        encoder: &Encoder,
        shape: EncoderShape,
    ) -> Result<Option<FeatureCache>, FeatureError> {
        let Some(root) = &self.cache else {
            return Ok(None);
        };
        let identity = format!(
            "{} {}",
            encoder.hash(),
            tagstream_model::bundle::preprocessing_hash(&encoder.preprocessing)
        );
        let cache = FeatureCache::open(
            root,
            &identity,
            shape.locations * shape.dim,
            shape.dim,
            self.cache_limit,
        );
        Ok(Some(cache.map_err(|source| self.cache_error(source))?))
    }

    /// A mirrored image is another image.
    fn key(&self, image: FeatureKey) -> FeatureKey {
        if self.mirror {
            Sha256::digest([&image[..], b"mirror"].concat()).into()
        } else {
            image
        }
    }

    /// Keeps what was encoded; `false` if the cache has no room for it.
    fn keep(
        &self,
        encoded: &Encoded,
        cache: Option<&mut FeatureCache>,
        gathered: &mut Gathered,
        ids: &[String],
    ) -> Result<bool, FeatureError> {
        let (size, dim) = (gathered.size, gathered.dim);
        let dense_of = |index: usize| &encoded.dense[index * size..(index + 1) * size];
        let global_of = |index: usize| &encoded.global[index * dim..(index + 1) * dim];
        for (index, (row, _)) in encoded.rows.iter().enumerate() {
            let finite = dense_of(index).iter().all(|value| value.is_finite());
            if !finite || !global_of(index).iter().all(|value| value.is_finite()) {
                return Err(FeatureError::NotFinite {
                    id: ids[*row].clone(),
                });
            }
            if !gathered.dense.is_empty() {
                gathered.dense[row * size..(row + 1) * size].copy_from_slice(dense_of(index));
            }
            gathered.global[row * dim..(row + 1) * dim].copy_from_slice(global_of(index));
        }
        if let Some(cache) = cache {
            let records: Vec<_> = encoded
                .rows
                .iter()
                .enumerate()
                .map(|(at, (_, key))| (*key, dense_of(at), global_of(at)))
                .collect();
            let appended = cache.append(&records);
            return appended.map_err(|source| self.cache_error(source));
        }
        Ok(true)
    }
}

/// Features as they come in, of the rows that the plan takes.
struct Gathered {
    /// Empty if dense features stay on disk.
    dense: Vec<f16>,
    global: Vec<f32>,
    size: usize,
    dim: usize,
}

impl Gathered {
    fn new(plan: &Plan, shape: EncoderShape) -> Self {
        let (images, size) = (plan.rows.len(), shape.locations * shape.dim);
        let in_memory = if plan.place == Place::Memory {
            images
        } else {
            0
        };
        Self {
            dense: vec![f16::ZERO; size * in_memory],
            global: vec![0.0; shape.dim * images],
            size,
            dim: shape.dim,
        }
    }

    /// Reads what the cache has.
    fn read(&mut self, plan: &Plan, cache: &FeatureCache) -> io::Result<()> {
        let (size, in_memory) = (self.size, plan.place == Place::Memory);
        let one = |key: &FeatureKey, dense: &mut [f16], global: &mut [f32]| {
            let Some(slot) = cache.slot(key) else {
                return Ok(());
            };
            let mut record = Vec::new();
            cache.read(&slot, &mut record)?;
            if in_memory {
                cache.parse(&record, dense, global);
            } else {
                cache.parse(&record, &mut vec![f16::ZERO; size], global);
            }
            Ok(())
        };
        let globals = self.global.par_chunks_mut(self.dim.max(1));
        let rows = plan.rows.par_iter().zip(globals);
        if in_memory {
            let denses = self.dense.par_chunks_mut(size.max(1));
            rows.zip(denses)
                .try_for_each(|(((_, key), global), dense)| one(key, dense, global))
        } else {
            rows.try_for_each(|((_, key), global)| one(key, &mut [], global))
        }
    }

    fn into_store(
        self,
        keep: &[bool],
        shape: EncoderShape,
        cache: Option<FeatureCache>,
        plan: &Plan,
    ) -> io::Result<FeatureStore> {
        let rows: Vec<usize> = (0..keep.len()).filter(|&row| keep[row]).collect();
        let all = rows.len() == keep.len();
        let global = match all {
            true => self.global,
            false => chosen(&self.global, &rows, self.dim),
        };
        let dense = match (plan.place, cache) {
            (Place::Disk, Some(cache)) => {
                let slots = rows.iter().map(|&row| cache.slot(&plan.rows[row].1));
                let slots = slots.collect::<Option<Vec<_>>>();
                let gone = || io::Error::other("features that were kept are not there");
                Dense::Disk {
                    slots: slots.ok_or_else(gone)?,
                    cache,
                }
            }
            _ if all => Dense::Memory(self.dense),
            _ => Dense::Memory(chosen(&self.dense, &rows, self.size)),
        };
        Ok(FeatureStore {
            images: rows.len(),
            locations: shape.locations,
            dim: shape.dim,
            dense,
            global,
        })
    }
}

/// Some rows of a matrix of that width.
fn chosen<T: Copy>(values: &[T], rows: &[usize], width: usize) -> Vec<T> {
    let rows = rows
        .iter()
        .flat_map(|row| &values[row * width..(row + 1) * width]);
    rows.copied().collect()
}

#[cfg(test)]
mod tests;
