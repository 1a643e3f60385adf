//! Dense and global features of images, by the bundle's own encoder, for training and evaluation.
//!
//! Features are held in half precision (a relative error of at most 2^-11, below what the encoder's
//! own precision is worth) and come from the cache where they can. Images that are not in it are
//! read, decoded and encoded by several workers.

mod cache;
mod encoder;
mod extract;
mod subset;
mod worker;

pub use cache::{FeatureCache, FeatureKey};
pub use encoder::Encoder;
pub use extract::{Extracted, Extraction, ExtractionProgress, Skipped};
pub use subset::Subset;

use crate::trm::features::{FeatureFailure, FeatureSource};
use bytes::Bytes;
use candle_core::{Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// A source of image bytes by id: a folder, a tar, or the images behind URIs.
pub trait ImageBytes: Sync {
    /// The encoded image.
    ///
    /// # Errors
    /// [`ImageError`].
    fn read(&self, id: &str) -> Result<Bytes, ImageError>;

    /// What identifies the image in the cache. The default is its content, which has to be read for
    /// it; a source that knows a name whose content never changes can say so without reading.
    ///
    /// # Errors
    /// [`ImageError`].
    fn identity(&self, id: &str) -> Result<Identity, ImageError> {
        let bytes = self.read(id)?;
        Ok(Identity {
            key: Sha256::digest(&bytes).into(),
            bytes: Some(bytes),
        })
    }
}

/// What identifies an image, and its bytes if they had to be read for that.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What they were made of: picture, encoder and preprocessing.
    pub key: FeatureKey,
    /// The image, if it was read.
    pub bytes: Option<Bytes>,
}

/// Why one image has no features.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No file of that name.
    #[error("not found in {container}")]
    NotFound {
        /// The folder or tar.
        container: String,
    },
    /// Several files of that name.
    #[error("several files of that name in {container}; give its path below it as the id")]
    Ambiguous {
        /// The folder or tar.
        container: String,
    },
    /// Its bytes cannot be read.
    #[error("cannot be read: {reason}")]
    Unreadable {
        /// Why.
        reason: String,
    },
    /// The bytes are no picture that can be decoded.
    #[error("cannot be decoded: {reason}")]
    Undecodable {
        /// Why.
        reason: String,
    },
}

/// Why there are no features.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// ONNX Runtime or the encoder.
    #[error(transparent)]
    Session(#[from] tagstream_model::session::SessionError),
    /// The library is missing.
    #[error(transparent)]
    Runtime(#[from] tagstream_model::runtime::RuntimeError),
    /// Nothing but plain JPEGs could be decoded.
    #[error(transparent)]
    Decoders(#[from] tagstream_image::decode::DecodeError),
    /// The encoder's input has another size than the preprocessing makes.
    #[error(
        "the encoder takes {encoder}, the preprocessing makes {preprocessing} (height x width)"
    )]
    InputSize {
        /// What the graph declares.
        encoder: String,
        /// What the manifest says.
        preprocessing: String,
    },
    /// Images are missing or broken.
    #[error("{count} of {total} images have no features: {}", listed(first))]
    Images {
        /// How many.
        count: usize,
        /// Of how many.
        total: usize,
        /// The first few and why.
        first: Vec<(String, ImageError)>,
    },
    /// The encoder made a number that half precision cannot hold.
    #[error("the encoder's features of {id} are not finite in half precision")]
    NotFinite {
        /// The image.
        id: String,
    },
    /// Neither memory nor the cache has room for them.
    #[error(
        "the features of {images} images take {needed_mib} MiB, and {fit} of them have room: \
         {memory_mib} MiB of memory are granted, and {cache_mib} MiB to the cache. Grant either \
         more (--feature-memory-gib, --cache-limit-gib; in retrain.toml features.memory_mib, \
         features.cache_limit_gib), or take fewer images"
    )]
    Room {
        /// Images asked for.
        images: u64,
        /// How many of them would fit.
        fit: u64,
        /// What all would take.
        needed_mib: u64,
        /// The memory granted.
        memory_mib: u64,
        /// The cache's limit.
        cache_mib: u64,
    },
    /// The cache's disk.
    #[error("the feature cache {path}: {source} ({})", remedy(.source))]
    Cache {
        /// Its folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A tensor operation failed.
    #[error("features: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// What helps when the cache fails; removing it costs hours of encoding, and is not said where it
/// would not help.
fn remedy(error: &std::io::Error) -> &'static str {
    match (error.raw_os_error(), error.kind()) {
        (Some(libc::EMFILE | libc::ENFILE), _) => "raise the limit of open files: `ulimit -n`",
        (_, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
            "make room, or set TAGSTREAM_CACHE to another place"
        }
        (_, std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem) => {
            "allow writing there, or set TAGSTREAM_CACHE to another place"
        }
        _ => "remove it, or set TAGSTREAM_CACHE to another place",
    }
}

fn listed(images: &[(String, ImageError)]) -> String {
    let lines = images.iter().map(|(id, error)| format!("{id} {error}"));
    lines.collect::<Vec<_>>().join("; ")
}

/// Dense `[n, N, D]` and global `[n, D]` features of `n` images, in the order asked for, neither of
/// them normalised.
#[derive(Debug)]
pub struct FeatureStore {
    images: usize,
    locations: usize,
    dim: usize,
    dense: Dense,
    global: Vec<f32>,
}

#[derive(Debug)]
enum Dense {
    Memory(Vec<f16>),
    /// More than the memory granted: read from the cache when a batch asks for them.
    Disk {
        cache: FeatureCache,
        slots: Vec<cache::Slot>,
    },
}

impl FeatureStore {
    /// A store of features that are in memory already.
    ///
    /// # Panics
    /// If the lengths do not fit `images`, `locations` and `dim`.
    pub fn from_memory(
        images: usize,
        locations: usize,
        dim: usize,
        dense: Vec<f16>,
        global: Vec<f32>,
    ) -> Self {
        assert_eq!(dense.len(), images * locations * dim, "dense features");
        assert_eq!(global.len(), images * dim, "global features");
        Self {
            images,
            locations,
            dim,
            dense: Dense::Memory(dense),
            global,
        }
    }

    /// n: number of images.
    pub fn len(&self) -> usize {
        self.images
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.images == 0
    }

    /// N: locations of the dense map.
    pub fn locations(&self) -> usize {
        self.locations
    }

    /// D: width of the joint space.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Global features, `[n, D]`, row-major.
    pub fn global(&self) -> &[f32] {
        &self.global
    }

    /// Dense features of the images `rows`, `[rows, N, D]` row-major, in single precision.
    ///
    /// # Errors
    /// If the cache cannot be read.
    ///
    /// # Panics
    /// If a row lies outside the store.
    pub fn dense(&self, rows: &[usize]) -> Result<Vec<f32>, FeatureError> {
        let size = self.locations * self.dim;
        let mut out = vec![0.0; rows.len() * size];
        let pairs = out.par_chunks_mut(size.max(1)).zip(rows);
        match &self.dense {
            Dense::Memory(dense) => {
                pairs.for_each(|(out, &row)| {
                    dense[row * size..(row + 1) * size].convert_to_f32_slice(out)
                });
            }
            Dense::Disk { cache, slots } => pairs.try_for_each(|(out, &row)| {
                let mut record = Vec::new();
                cache
                    .read(&slots[row], &mut record)
                    .map_err(|source| FeatureError::Cache {
                        path: cache.folder().into(),
                        source,
                    })?;
                let (mut dense, mut global) = (vec![f16::ZERO; size], vec![0.0; self.dim]);
                cache.parse(&record, &mut dense, &mut global);
                dense.convert_to_f32_slice(out);
                Ok::<(), FeatureError>(())
            })?,
        }
        Ok(out)
    }

    /// The features of the images `rows` as tensors: dense `[rows, N, D]` and global `[rows, D]`,
    /// f32.
    ///
    /// # Errors
    /// If the cache cannot be read.
    ///
    /// # Panics
    /// If a row lies outside the store.
    pub fn batch(&self, rows: &[usize]) -> Result<(Tensor, Tensor), FeatureError> {
        let dense = Tensor::from_vec(
            self.dense(rows)?,
            (rows.len(), self.locations, self.dim),
            &Device::Cpu,
        )?;
        let global: Vec<f32> = rows
            .iter()
            .flat_map(|row| &self.global[row * self.dim..(row + 1) * self.dim])
            .copied()
            .collect();
        Ok((
            dense,
            Tensor::from_vec(global, (rows.len(), self.dim), &Device::Cpu)?,
        ))
    }
}

impl FeatureSource for FeatureStore {
    fn len(&self) -> usize {
        self.images
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn global(&self) -> &[f32] {
        &self.global
    }

    fn dense(&self, rows: &[usize]) -> Result<Vec<f32>, FeatureFailure> {
        Ok(FeatureStore::dense(self, rows)?)
    }
}

/// Where features are kept by default: `TAGSTREAM_CACHE`, else `~/.cache/tagstream`,
/// below it `features`.
pub fn default_cache() -> Option<PathBuf> {
    tagstream_model::runtime::cache_folder().map(|folder| folder.join("features"))
}
