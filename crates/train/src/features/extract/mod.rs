//! Reading, decoding and encoding the images that the cache does not have.

use super::cache::{FeatureCache, FeatureKey};
use super::encoder::{BATCH, Encoder};
use super::worker::{Encoded, Work};
use super::{Dense, FeatureError, FeatureStore, ImageBytes, ImageError};
use half::f16;
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
    /// Its id.
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
            decoders: Decoders::default(),
            progress: &|_| (),
        }
    }
}

impl Extraction<'_> {
    /// The features of `ids`, in their order, and the images that were left out (only with
    /// `skip_bad`; their rows are then not in the store).
    ///
    /// # Errors
    /// [`FeatureError`]; [`FeatureError::Images`] names the first images that are missing or
    /// broken.
    pub fn extract(
        &self,
        encoder: &Encoder,
        images: &dyn ImageBytes,
        ids: &[String],
    ) -> Result<(FeatureStore, Vec<Skipped>), FeatureError> {
        let session = encoder.session()?;
        let shape = session.shape();
        let size = shape.locations * shape.dim;
        let mut cache = self.open_cache(encoder, shape)?;
        let in_memory = (2 * size * ids.len()) as u64 <= self.memory_limit || cache.is_none();
        let mut gathered = Gathered {
            dense: vec![f16::ZERO; if in_memory { size * ids.len() } else { 0 }],
            global: vec![0.0; shape.dim * ids.len()],
            size,
            dim: shape.dim,
        };

        let mut failed = Vec::new();
        let mut keys: Vec<Option<FeatureKey>> = vec![None; ids.len()];
        let mut missing = Vec::new();
        let looked_up = self.look_up(images, ids, cache.as_ref(), &mut gathered)?;
        for (row, found) in looked_up.into_iter().enumerate() {
            match found {
                Ok((key, hit)) => {
                    keys[row] = Some(key);
                    if !hit {
                        missing.push((row, key));
                    }
                }
                Err(error) => failed.push((row, error)),
            }
        }
        let progress = ExtractionProgress {
            done: ids.len() - missing.len(),
            total: ids.len(),
            cached: ids.len() - missing.len() - failed.len(),
        };
        (self.progress)(progress);
        let work = Work {
            encoder,
            decoders: &self.decoders,
            mirror: self.mirror,
            images,
            ids,
            missing: &missing,
            next: AtomicUsize::new(0),
        };
        failed.extend(self.encode(&work, session, cache.as_mut(), &mut gathered, progress)?);

        let failed = self.accepted(failed, ids)?;
        let mut keep = vec![true; ids.len()];
        for skipped in &failed {
            keep[skipped.row] = false;
        }
        let store = gathered
            .into_store(&keep, shape, in_memory, cache, &keys)
            .map_err(|source| self.cache_error(source))?;
        Ok((store, failed))
    }

    /// Encodes what the cache does not have, on several threads. Returns the images that cannot be
    /// encoded.
    fn encode(
        &self,
        work: &Work<'_>,
        session: EncoderSession,
        mut cache: Option<&mut FeatureCache>,
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
                self.keep(&encoded, cache.as_deref_mut(), gathered, work.ids)?;
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

    /// The key of every image, and whether the cache had it; what it had is put into `gathered`.
    #[allow(clippy::type_complexity)]
    fn look_up(
        &self,
        images: &dyn ImageBytes,
        ids: &[String],
        cache: Option<&FeatureCache>,
        gathered: &mut Gathered,
    ) -> Result<Vec<Result<(FeatureKey, bool), ImageError>>, FeatureError> {
        let in_memory = !gathered.dense.is_empty();
        let (size, dim) = (gathered.size, gathered.dim);
        let one = |id: &String, dense: &mut [f16], global: &mut [f32]| -> Result<_, FeatureError> {
            let key = match images.identity(id) {
                Ok(identity) => self.key(identity.key),
                Err(error) => return Ok(Err(error)),
            };
            let Some((cache, slot)) = cache.and_then(|cache| Some((cache, cache.slot(&key)?)))
            else {
                return Ok(Ok((key, false)));
            };
            let mut record = Vec::new();
            cache
                .read(&slot, &mut record)
                .map_err(|source| self.cache_error(source))?;
            let mut unused = Vec::new();
            let dense = if in_memory {
                dense
            } else {
                unused.resize(size, f16::ZERO);
                &mut unused
            };
            cache.parse(&record, dense, global);
            Ok(Ok((key, true)))
        };
        let globals = gathered.global.par_chunks_mut(dim.max(1));
        if in_memory {
            let denses = gathered.dense.par_chunks_mut(size.max(1));
            ids.par_iter()
                .zip(denses.zip(globals))
                .map(|(id, (dense, global))| one(id, dense, global))
                .collect()
        } else {
            ids.par_iter()
                .zip(globals)
                .map(|(id, global)| one(id, &mut [], global))
                .collect()
        }
    }

    /// A mirrored image is another image.
    fn key(&self, image: FeatureKey) -> FeatureKey {
        if self.mirror {
            Sha256::digest([&image[..], b"mirror"].concat()).into()
        } else {
            image
        }
    }

    fn keep(
        &self,
        encoded: &Encoded,
        cache: Option<&mut FeatureCache>,
        gathered: &mut Gathered,
        ids: &[String],
    ) -> Result<(), FeatureError> {
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
            cache
                .append(&records)
                .map_err(|source| self.cache_error(source))?;
        }
        Ok(())
    }
}

/// Features as they come in.
struct Gathered {
    /// Empty if dense features stay on disk.
    dense: Vec<f16>,
    global: Vec<f32>,
    size: usize,
    dim: usize,
}

impl Gathered {
    fn into_store(
        self,
        keep: &[bool],
        shape: EncoderShape,
        in_memory: bool,
        cache: Option<FeatureCache>,
        keys: &[Option<FeatureKey>],
    ) -> io::Result<FeatureStore> {
        let rows: Vec<usize> = (0..keep.len()).filter(|&row| keep[row]).collect();
        let all = rows.len() == keep.len();
        let select = |values: Vec<f32>, width: usize| -> Vec<f32> {
            if all {
                values
            } else {
                rows.iter()
                    .flat_map(|row| &values[row * width..(row + 1) * width])
                    .copied()
                    .collect()
            }
        };
        let dense = match (in_memory, cache) {
            (false, Some(cache)) => {
                let slots = rows
                    .iter()
                    .map(|&row| keys[row].as_ref().and_then(|key| cache.slot(key)));
                let slots = slots.collect::<Option<Vec<_>>>().ok_or_else(|| {
                    let bytes = rows.len() * cache.record_bytes();
                    io::Error::other(format!(
                        "the features of {} images take {} MiB, more than the memory granted and \
                         more than the cache's limit",
                        rows.len(),
                        bytes >> 20
                    ))
                })?;
                Dense::Disk { cache, slots }
            }
            _ if all => Dense::Memory(self.dense),
            _ => Dense::Memory(
                rows.iter()
                    .flat_map(|row| &self.dense[row * self.size..(row + 1) * self.size])
                    .copied()
                    .collect(),
            ),
        };
        Ok(FeatureStore {
            images: rows.len(),
            locations: shape.locations,
            dim: shape.dim,
            dense,
            global: select(self.global, self.dim),
        })
    }
}

#[cfg(test)]
mod tests;
