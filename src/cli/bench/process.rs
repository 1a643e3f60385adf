//! What a running process and its children use, as Linux tells it: time by thread name, memory,
//! bytes through system calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, thread};

/// How often memory is looked at. The system goes through every page for the answer, on the cores
/// that are measured.
const SAMPLE: Duration = Duration::from_secs(1);

/// Use so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage {
    /// Seconds of processor time by thread name, numbers taken off.
    pub seconds: BTreeMap<String, f64>,
    /// Bytes read through system calls.
    pub read_bytes: u64,
    /// Bytes written through system calls.
    pub written_bytes: u64,
}

impl Usage {
    /// Of `pid` and its children.
    pub(super) fn of(pid: u32) -> Self {
        let mut usage = Usage::default();
        for pid in family(pid) {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            for task in tasks.into_iter().flatten().flatten() {
                let read = |name: &str| fs::read_to_string(task.path().join(name));
                // A thread may end while it is looked at.
                if let (Ok(name), Ok(times)) = (read("comm"), read("schedstat")) {
                    let on_cpu = times.split_whitespace().next();
                    let nanoseconds: f64 = on_cpu.and_then(|n| n.parse().ok()).unwrap_or(0.0);
                    *usage.seconds.entry(group(name.trim())).or_default() += nanoseconds / 1e9;
                }
            }
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            usage.read_bytes += field(&io, "rchar:");
            usage.written_bytes += field(&io, "wchar:");
        }
        usage
    }

    /// What was used since `earlier`.
    pub(super) fn since(&self, earlier: &Usage) -> Usage {
        let before = |name: &str| earlier.seconds.get(name).copied().unwrap_or(0.0);
        let seconds = self.seconds.iter();
        Usage {
            seconds: seconds
                .map(|(name, s)| (name.clone(), (s - before(name)).max(0.0)))
                .filter(|(_, s)| *s > 0.0)
                .collect(),
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }
}

/// `decode-3` is one of the `decode` threads.
fn group(name: &str) -> String {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    stem.trim_end_matches(['-', '/', ':']).to_owned()
}

fn field(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// `pid` and all that descend from it.
pub(super) fn family(pid: u32) -> BTreeSet<u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // The name in brackets may hold anything; the parent is the second word after it.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if let Some(parent) = parent {
            parents.insert(child, parent);
        }
    }
    let mut members = BTreeSet::from([pid]);
    loop {
        let before = members.len();
        for (child, parent) in &parents {
            if members.contains(parent) {
                members.insert(*child);
            }
        }
        if members.len() == before {
            return members;
        }
    }
}

/// Watches how much memory a process and its children take; pages that several of them share count
/// once.
pub(super) struct MemoryWatch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl MemoryWatch {
    /// Starts watching.
    pub(super) fn start(pid: u32) -> Self {
        let (stop, peak) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&peak));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let kib: u64 = family(pid)
                    .into_iter()
                    .map(|pid| {
                        let path = format!("/proc/{pid}/smaps_rollup");
                        field(&fs::read_to_string(path).unwrap_or_default(), "Pss:")
                    })
                    .sum();
                highest.fetch_max(kib * 1024, Ordering::Relaxed);
                thread::sleep(SAMPLE);
            }
        });
        MemoryWatch {
            stop,
            peak,
            thread: Some(thread),
        }
    }

    /// The most so far, bytes.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A watcher that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_grouped_by_name() {
        let names = ["decode-12", "rdk:broker1", "tokio-rt-worker", "infer-queue"];
        assert_eq!(
            names.map(group),
            ["decode", "rdk:broker", "tokio-rt-worker", "infer-queue"]
        );
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let before = Usage::of(std::process::id());
        let watch = MemoryWatch::start(std::process::id());
        let mut sum = 0u64;
        let used = || {
            let used = Usage::of(std::process::id()).since(&before);
            used.seconds.values().sum::<f64>()
        };
        while used() < 0.02 || watch.peak_bytes() == 0 {
            sum = sum.wrapping_add((0..100_000u64).map(std::hint::black_box).sum());
        }
        assert!(sum > 0 && watch.peak_bytes() > 1 << 20);
    }
}
