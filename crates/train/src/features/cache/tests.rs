//! The cache against files, other writers, crashes and limits.

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
    let _ = cache.append(&borrowed).unwrap();
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
    let segment = segments::list(&cache.folder).unwrap().remove(0);
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
    let segment = segments::list(&cache.folder).unwrap().remove(0);
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

/// A cache of `count` segments of one record each.
fn many_segments(root: &Path, count: u8) -> FeatureCache {
    let folder = open(root, "e", 1 << 20).folder;
    for n in 0..count {
        let (dense, global) = record(n);
        let mut data: Vec<u8> = dense.iter().flat_map(|value| value.to_le_bytes()).collect();
        data.extend(global.iter().flat_map(|value| value.to_le_bytes()));
        let keys = folder.join(format!("{n:08}.keys"));
        fs::write(keys.with_extension("data"), data).unwrap();
        fs::write(keys, key(n)).unwrap();
    }
    open(root, "e", 1 << 20)
}

/// A terabyte of features is 4,000 segments; a process may have 1,024 files open, in places 256.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_of_many_segments_keeps_few_of_them_open() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().canonicalize().unwrap();
    let cache = many_segments(&place, 200);
    let most = segments::OPEN + 1;
    assert!(open_below(&place) <= most, "{}", open_below(&place));
    for n in (0..200).chain((0..200).rev()) {
        assert_eq!(read(&cache, n), Some(record(n)));
        assert!(open_below(&place) <= most, "{}", open_below(&place));
    }
}

/// What is not held open would be gone for good.
#[test]
fn segments_that_a_reader_has_closed_are_not_removed_under_it() {
    let root = tempfile::tempdir().unwrap();
    let cache = many_segments(root.path(), 60);
    let mut other = open(root.path(), "other", 100);
    append(&mut other, &[1]);
    assert_eq!(other.len(), 0, "there is no room");
    for n in 0..60 {
        assert_eq!(read(&cache, n), Some(record(n)));
    }
    drop(cache);
    append(&mut other, &[1]);
    assert_eq!(read(&other, 1), Some(record(1)));
    assert!(open(root.path(), "e", 1 << 20).len() < 60);
}

#[test]
fn what_has_room_is_known_before_it_is_made() {
    let root = tempfile::tempdir().unwrap();
    let size = (2 * 6 + 4 * 3 + 32) as u64;
    let mut old = open(root.path(), "old", 10 * size);
    append(&mut old, &[1, 2, 3, 4]);
    let mut cache = open(root.path(), "new", 5 * size);
    assert_eq!(cache.room().unwrap(), 5, "what another encoder left can go");
    append(&mut cache, &[1, 2]);
    assert_eq!(cache.room().unwrap(), 3);
    append(&mut cache, &[3, 4, 5]);
    assert_eq!((cache.len(), cache.room().unwrap()), (5, 0));
}
