//! The on-disk cache of features: computed once for an image and an encoder, read at the disk's
//! speed ever after.
//!
//! ```text
//! <root>/<encoder and preprocessing, 32 hex>/<segment>.keys   32-byte keys, one a record, in order
//!                                           /<segment>.data   records of one size, in that order
//!                                           /lock             held by whoever appends
//!                                           /in-use           shared by whoever reads so many
//!                                                             segments that some are closed
//! ```
//!
//! A record is the dense features in half precision and then the global feature in single
//! precision, little-endian. Data are written and synced before their keys, so a key always leads
//! to a whole record; data without keys, left by a crash, are overwritten. Segments have a bounded
//! size; when the whole cache outgrows its limit, the segments that were used longest ago are
//! removed.

mod segments;

use half::f16;
use segments::Segments;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};
use tagstream_core::digest;

/// What identifies an image (or one view of it) in the cache.
pub type FeatureKey = [u8; 32];

/// Largest data file; a segment is what is removed at once.
const SEGMENT_BYTES: u64 = 256 << 20;

/// Bytes that a record takes beside its numbers.
const KEY_BYTES: u64 = 32;

/// A place in a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    segment: u32,
    offset: u64,
}

/// The cache of one encoder's features.
#[derive(Debug)]
pub struct FeatureCache {
    root: PathBuf,
    folder: PathBuf,
    limit: u64,
    dense: usize,
    global: usize,
    slots: HashMap<FeatureKey, Slot>,
    segments: Segments,
}

impl FeatureCache {
    /// Opens the cache below `root` for records of `dense` half and `global` single precision
    /// numbers.
    ///
    /// `identity` names what made them (encoder hash, preprocessing hash); `limit` bounds the bytes
    /// below `root`.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(
        root: &Path,
        identity: &str,
        dense: usize,
        global: usize,
        limit: u64,
    ) -> io::Result<Self> {
        let name = digest::hex(&Sha256::digest(identity)[..16]);
        let folder = root.join(name);
        fs::create_dir_all(&folder)?;
        let mut cache = Self {
            root: root.to_path_buf(),
            folder,
            limit,
            dense,
            global,
            slots: HashMap::new(),
            segments: Segments::default(),
        };
        for segment in segments::list(&cache.folder)? {
            match cache.index(&segment) {
                // Another process has made room for its own.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                indexed => indexed?,
            }
        }
        Ok(cache)
    }

    /// Length of a record in a segment; all are equal.
    pub fn record_bytes(&self) -> usize {
        2 * self.dense + 4 * self.global
    }

    /// Images in the cache.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no image is in the cache.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the image is in the cache.
    pub fn contains(&self, key: &FeatureKey) -> bool {
        self.slots.contains_key(key)
    }

    /// Where the records are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn slot(&self, key: &FeatureKey) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    fn index(&mut self, keys_file: &Path) -> io::Result<()> {
        let data = File::open(keys_file.with_extension("data"))?;
        let keys = fs::read(keys_file)?;
        let whole = (data.metadata()?.len() / self.record_bytes().max(1) as u64) as usize;
        let segment = self.segments.add(&self.folder, keys_file, data)?;
        for (record, key) in keys.chunks_exact(32).take(whole).enumerate() {
            let offset = (record * self.record_bytes()) as u64;
            let mut fixed = [0; 32];
            fixed.copy_from_slice(key);
            self.slots.insert(fixed, Slot { segment, offset });
        }
        // The modification time of the keys says when the segment was last used. Failing to set it
        // only makes the segment look older than it is.
        let _ = File::options()
            .append(true)
            .open(keys_file)
            .and_then(|file| file.set_modified(SystemTime::now()));
        Ok(())
    }

    /// How many records more the limit has room for, if what nobody uses leaves: to be known before
    /// they are made, which takes hours.
    ///
    /// # Errors
    /// If the folders cannot be read.
    pub fn room(&self) -> io::Result<u64> {
        let taken = self.usage()?.kept;
        let free = self.limit.saturating_sub(taken);
        Ok(free / (self.record_bytes() as u64 + KEY_BYTES))
    }

    /// Appends records; images that are there already are skipped. Nothing is written, and `false`
    /// is returned, if they do not fit the limit beside what is in use.
    ///
    /// # Errors
    /// If the disk refuses; the cache is then as it was.
    pub fn append(&mut self, records: &[(FeatureKey, &[f16], &[f32])]) -> io::Result<bool> {
        let fresh: Vec<_> = records
            .iter()
            .filter(|(key, _, _)| !self.slots.contains_key(key))
            .collect();
        let bytes = fresh.len() as u64 * (self.record_bytes() as u64 + KEY_BYTES);
        if fresh.is_empty() {
            return Ok(true);
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.folder.join("lock"))?;
        lock.lock()?;
        if !self.make_room(bytes)? {
            return Ok(false);
        }
        let keys_file = self.file_for_append()?;
        let mut keys = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&keys_file)?;
        let data = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(keys_file.with_extension("data"))?;
        // Keys count: a crash between data and keys leaves records without keys, which are
        // overwritten here.
        let whole_keys = keys.metadata()?.len() / 32;
        keys.set_len(whole_keys * 32)?;
        let mut block = Vec::with_capacity(fresh.len() * self.record_bytes());
        let mut names = Vec::with_capacity(fresh.len() * 32);
        for (key, dense, global) in &fresh {
            assert_eq!(
                (dense.len(), global.len()),
                (self.dense, self.global),
                "a record of another size"
            );
            block.extend(dense.iter().flat_map(|value| value.to_le_bytes()));
            block.extend(global.iter().flat_map(|value| value.to_le_bytes()));
            names.extend_from_slice(key);
        }
        let start = whole_keys * self.record_bytes() as u64;
        data.write_all_at(&block, start)?;
        data.sync_data()?;
        keys.write_all(&names)?;
        let segment = self.segments.add(&self.folder, &keys_file, data)?;
        for (index, (key, _, _)) in fresh.iter().enumerate() {
            let offset = start + (index * self.record_bytes()) as u64;
            self.slots.insert(*key, Slot { segment, offset });
        }
        Ok(true)
    }

    /// The newest segment if it has room, else the name of a new one.
    fn file_for_append(&self) -> io::Result<PathBuf> {
        let segments = segments::list(&self.folder)?;
        if let Some(last) = segments.last() {
            let length = fs::metadata(last.with_extension("data")).map_or(0, |data| data.len());
            if length < SEGMENT_BYTES {
                return Ok(last.clone());
            }
        }
        let number = segments
            .last()
            .and_then(|last| last.file_stem()?.to_str()?.parse::<u64>().ok());
        Ok(self
            .folder
            .join(format!("{:08}.keys", number.map_or(0, |number| number + 1))))
    }

    /// What lies below the root.
    fn usage(&self) -> io::Result<Usage> {
        let mut usage = Usage::default();
        for folder in fs::read_dir(&self.root)? {
            let folder = folder?.path();
            if !folder.is_dir() {
                continue;
            }
            let stays = folder == self.folder || segments::in_use(&folder);
            for segment in segments::list(&folder)? {
                let keys = fs::metadata(&segment)?;
                let size = keys.len()
                    + fs::metadata(segment.with_extension("data")).map_or(0, |data| data.len());
                if stays {
                    usage.kept += size;
                } else {
                    let used = keys.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    usage.removable.push((used, segment, size));
                }
            }
        }
        usage.removable.sort();
        Ok(usage)
    }

    /// Removes segments, longest unused first, until `bytes` more fit; `false` if they cannot fit
    /// without removing segments that are in use: those of this very cache, and what another
    /// process reads and does not hold open.
    fn make_room(&self, bytes: u64) -> io::Result<bool> {
        let Usage { kept, removable } = self.usage()?;
        let mut used = kept + removable.iter().map(|(_, _, size)| size).sum::<u64>();
        for (_, segment, size) in removable {
            if used + bytes <= self.limit {
                break;
            }
            fs::remove_file(&segment)?;
            // Whoever has it open goes on reading; the space returns when they close it.
            let _ = fs::remove_file(segment.with_extension("data"));
            used -= size;
        }
        Ok(used + bytes <= self.limit)
    }

    pub(super) fn read(&self, slot: &Slot, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.resize(self.record_bytes(), 0);
        let data = self.segments.data(slot.segment)?;
        data.read_exact_at(buffer, slot.offset)
    }

    /// Splits a record into its dense and global numbers.
    pub(super) fn parse(&self, record: &[u8], dense: &mut [f16], global: &mut [f32]) {
        let (halves, singles) = record.split_at(2 * self.dense);
        for (value, bytes) in dense.iter_mut().zip(halves.chunks_exact(2)) {
            *value = f16::from_le_bytes([bytes[0], bytes[1]]);
        }
        for (value, bytes) in global.iter_mut().zip(singles.chunks_exact(4)) {
            *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
}

/// What lies below a cache's root.
#[derive(Debug, Default)]
struct Usage {
    /// Bytes in use.
    kept: u64,
    /// The other segments: when they were used last, their key files and sizes.
    removable: Vec<(SystemTime, PathBuf, u64)>,
}

#[cfg(test)]
mod tests;
