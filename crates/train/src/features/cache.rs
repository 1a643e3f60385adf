//! The on-disk cache of features: computed once for an image and an encoder, read at the disk's
//! speed ever after.
//!
//! ```text
//! <root>/<encoder and preprocessing, 32 hex>/<segment>.keys   32-byte keys, one a record, in order
//!                                           /<segment>.data   records of one size, in that order
//!                                           /lock             held by whoever appends
//! ```
//!
//! A record is the dense features in half precision and then the global feature in single
//! precision, little-endian. Data are written and synced before their keys, so a key always leads
//! to a whole record; data without keys, left by a crash, are overwritten. Segments have a bounded
//! size; when the whole cache outgrows its limit, the segments that were used longest ago are
//! removed.

use half::f16;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, io};
use tagstream_core::digest;

/// What identifies an image (or one view of it) in the cache.
pub type FeatureKey = [u8; 32];

/// Largest data file; a segment is what is removed at once.
const SEGMENT_BYTES: u64 = 256 << 20;

/// A place in a segment.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    data: Arc<File>,
    offset: u64,
}

/// The one handle of a segment's data file, which all its slots share: a process may have only so
/// many.
#[derive(Debug)]
struct Handle {
    /// Device and inode: another process may have removed the segment and a new file taken its
    /// name.
    file: (u64, u64),
    data: Arc<File>,
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
    handles: Vec<Handle>,
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
            handles: Vec::new(),
        };
        for segment in segments(&cache.folder)? {
            cache.index(&segment)?;
        }
        Ok(cache)
    }

    /// Bytes of one record.
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

    /// The handle kept for the file that `data` is; `data` itself if there is none yet.
    fn shared(&mut self, data: File) -> io::Result<Arc<File>> {
        let metadata = data.metadata()?;
        let file = (metadata.dev(), metadata.ino());
        if let Some(kept) = self.handles.iter().find(|kept| kept.file == file) {
            return Ok(Arc::clone(&kept.data));
        }
        let data = Arc::new(data);
        let handle = Handle {
            file,
            data: Arc::clone(&data),
        };
        self.handles.push(handle);
        Ok(data)
    }

    pub(super) fn slot(&self, key: &FeatureKey) -> Option<Slot> {
        self.slots.get(key).cloned()
    }

    fn index(&mut self, segment: &Path) -> io::Result<()> {
        let data = self.shared(File::open(segment.with_extension("data"))?)?;
        let keys = fs::read(segment)?;
        let whole = (data.metadata()?.len() / self.record_bytes().max(1) as u64) as usize;
        for (record, key) in keys.chunks_exact(32).take(whole).enumerate() {
            let slot = Slot {
                data: Arc::clone(&data),
                offset: (record * self.record_bytes()) as u64,
            };
            let mut fixed = [0; 32];
            fixed.copy_from_slice(key);
            self.slots.insert(fixed, slot);
        }
        // The modification time of the keys says when the segment was last used. Failing to set it
        // only makes the segment look older than it is.
        let _ = File::options()
            .append(true)
            .open(segment)
            .and_then(|file| file.set_modified(SystemTime::now()));
        Ok(())
    }

    /// Appends records; images that are there already are skipped. Nothing is written that would
    /// not fit the limit beside what other segments in use take.
    ///
    /// # Errors
    /// If the disk refuses; the cache is then as it was.
    pub fn append(&mut self, records: &[(FeatureKey, &[f16], &[f32])]) -> io::Result<()> {
        let fresh: Vec<_> = records
            .iter()
            .filter(|(key, _, _)| !self.slots.contains_key(key))
            .collect();
        let bytes = (fresh.len() * (self.record_bytes() + 32)) as u64;
        if fresh.is_empty() {
            return Ok(());
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.folder.join("lock"))?;
        lock.lock()?;
        if !self.make_room(bytes)? {
            return Ok(());
        }
        let segment = self.segment_for_append()?;
        let mut keys = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&segment)?;
        let data = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(segment.with_extension("data"))?;
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
        let data = self.shared(data)?;
        for (index, (key, _, _)) in fresh.iter().enumerate() {
            let offset = start + (index * self.record_bytes()) as u64;
            let slot = Slot {
                data: Arc::clone(&data),
                offset,
            };
            self.slots.insert(*key, slot);
        }
        Ok(())
    }

    /// The newest segment if it has room, else the name of a new one.
    fn segment_for_append(&self) -> io::Result<PathBuf> {
        let segments = segments(&self.folder)?;
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

    /// Removes segments, longest unused first, until `bytes` more fit; `false` if they cannot fit
    /// without removing segments of this very cache, which are in use.
    fn make_room(&self, bytes: u64) -> io::Result<bool> {
        let mut used = 0;
        let mut others = Vec::new();
        for folder in fs::read_dir(&self.root)? {
            let folder = folder?.path();
            if !folder.is_dir() {
                continue;
            }
            for segment in segments(&folder)? {
                let keys = fs::metadata(&segment)?;
                let size = keys.len()
                    + fs::metadata(segment.with_extension("data")).map_or(0, |data| data.len());
                used += size;
                if folder != self.folder {
                    others.push((
                        keys.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                        segment,
                        size,
                    ));
                }
            }
        }
        others.sort();
        for (_, segment, size) in others {
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
        slot.data.read_exact_at(buffer, slot.offset)
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

/// The key files of a folder, oldest number first, that have a data file.
fn segments(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "keys")
            && path.with_extension("data").is_file()
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> FeatureKey {
        [n; 32]
    }

    fn record(n: u8) -> (Vec<f16>, Vec<f32>) {
        (
            vec![f16::from_f32(f32::from(n)); 6],
            vec![f32::from(n) + 0.25; 3],
        )
    }

    fn open(root: &Path, identity: &str, limit: u64) -> FeatureCache {
        FeatureCache::open(root, identity, 6, 3, limit).unwrap()
    }

    fn append(cache: &mut FeatureCache, numbers: &[u8]) {
        let records: Vec<_> = numbers.iter().map(|&n| (key(n), record(n))).collect();
        let borrowed: Vec<_> = records
            .iter()
            .map(|(key, (dense, global))| (*key, &dense[..], &global[..]))
            .collect();
        cache.append(&borrowed).unwrap();
    }

    fn read(cache: &FeatureCache, n: u8) -> Option<(Vec<f16>, Vec<f32>)> {
        let slot = cache.slot(&key(n))?;
        let mut bytes = Vec::new();
        cache.read(&slot, &mut bytes).unwrap();
        let (mut dense, mut global) = (vec![f16::ZERO; 6], vec![0.0; 3]);
        cache.parse(&bytes, &mut dense, &mut global);
        Some((dense, global))
    }

    #[test]
    fn what_was_written_is_read_by_the_next_process() {
        let root = tempfile::tempdir().unwrap();
        let mut cache = open(root.path(), "encoder", 1 << 20);
        append(&mut cache, &[1, 2]);
        append(&mut cache, &[2, 3]);
        let again = open(root.path(), "encoder", 1 << 20);
        assert_eq!(again.len(), 3);
        for n in 1..=3 {
            assert_eq!(read(&cache, n), Some(record(n)));
            assert_eq!(read(&again, n), Some(record(n)));
        }
        assert_eq!(read(&again, 4), None);
        assert!(open(root.path(), "another encoder", 1 << 20).is_empty());
    }

    /// Files below `root` that this process has open.
    #[cfg(target_os = "linux")]
    fn open_below(root: &Path) -> usize {
        let handles = fs::read_dir("/proc/self/fd").unwrap();
        let paths = handles.filter_map(|handle| fs::read_link(handle.ok()?.path()).ok());
        paths.filter(|path| path.starts_with(root)).count()
    }

    /// A training set of thousands of images is appended in thousands of batches, and a process may
    /// have 1,024 files open.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_segment_is_one_open_file_however_many_batches_it_came_in() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().canonicalize().unwrap();
        let mut cache = open(&place, "encoder", 1 << 20);
        for n in 0..200 {
            append(&mut cache, &[n]);
        }
        assert_eq!(open_below(&place), 1);
        let mut again = open(&place, "encoder", 1 << 20);
        append(&mut again, &[200]);
        assert_eq!(open_below(&place), 2, "one for each of two caches");
        drop(cache);
        for n in 0..=200 {
            assert_eq!(read(&again, n), Some(record(n)));
        }
        assert_eq!(open_below(&place), 1);
    }

    /// The name is the old one, the file is not.
    #[test]
    fn a_segment_removed_and_made_anew_is_another_file() {
        let root = tempfile::tempdir().unwrap();
        let mut cache = open(root.path(), "e", 1 << 20);
        append(&mut cache, &[1]);
        let segment = segments(&cache.folder).unwrap().remove(0);
        fs::remove_file(segment.with_extension("data")).unwrap();
        fs::remove_file(segment).unwrap();
        append(&mut cache, &[2]);
        for n in 1..=2 {
            assert_eq!(read(&cache, n), Some(record(n)));
        }
        assert_eq!(read(&open(root.path(), "e", 1 << 20), 2), Some(record(2)));
    }

    #[test]
    fn two_writers_take_turns() {
        let root = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (
            open(root.path(), "e", 1 << 20),
            open(root.path(), "e", 1 << 20),
        );
        append(&mut a, &[1]);
        append(&mut b, &[2]);
        append(&mut a, &[3]);
        let all = open(root.path(), "e", 1 << 20);
        for n in 1..=3 {
            assert_eq!(read(&all, n), Some(record(n)));
        }
    }

    #[test]
    fn a_crash_between_data_and_keys_loses_only_the_unfinished_records() {
        let root = tempfile::tempdir().unwrap();
        let mut cache = open(root.path(), "e", 1 << 20);
        append(&mut cache, &[1]);
        let segment = segments(&cache.folder).unwrap().remove(0);
        // Data of a record whose key was never written, and half a key.
        let mut data = OpenOptions::new()
            .append(true)
            .open(segment.with_extension("data"))
            .unwrap();
        data.write_all(&[7; 24]).unwrap();
        OpenOptions::new()
            .append(true)
            .open(&segment)
            .unwrap()
            .write_all(&[9; 13])
            .unwrap();
        let mut cache = open(root.path(), "e", 1 << 20);
        assert_eq!(cache.len(), 1);
        append(&mut cache, &[2]);
        let again = open(root.path(), "e", 1 << 20);
        assert_eq!(
            (read(&again, 1), read(&again, 2)),
            (Some(record(1)), Some(record(2)))
        );
        assert_eq!(again.len(), 2);
    }

    #[test]
    fn other_encoders_make_room_and_one_s_own_records_stay() {
        let root = tempfile::tempdir().unwrap();
        let size = (2 * 6 + 4 * 3 + 32) as u64;
        let mut old = open(root.path(), "old", 4 * size);
        append(&mut old, &[1, 2, 3]);
        let mut new = open(root.path(), "new", 4 * size);
        append(&mut new, &[1, 2]);
        assert!(open(root.path(), "old", 4 * size).is_empty());
        append(&mut new, &[3, 4]);
        append(&mut new, &[5]);
        let again = open(root.path(), "new", 4 * size);
        assert_eq!(again.len(), 4, "the fifth does not fit");
        assert_eq!(
            read(&old, 2),
            Some(record(2)),
            "an open segment can still be read"
        );
    }
}
