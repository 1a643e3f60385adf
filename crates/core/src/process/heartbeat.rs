//! Heartbeats: every loop of the process says that it moved, so that "alive" means more than "the
//! process exists".

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The heartbeats of one process. Clones share them.
#[derive(Debug, Clone)]
pub struct Heartbeats {
    start: Instant,
    loops: Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>,
}

/// One loop's heartbeat; dropping it says that the loop has ended as it should.
#[derive(Debug)]
pub struct Heartbeat {
    name: String,
    last_ms: Arc<AtomicU64>,
    of: Heartbeats,
}

impl Default for Heartbeats {
    fn default() -> Self {
        Heartbeats {
            start: Instant::now(),
            loops: Arc::default(),
        }
    }
}

impl Heartbeats {
    /// Registers a loop, which has just moved.
    pub fn register(&self, name: &str) -> Heartbeat {
        let last_ms = Arc::new(AtomicU64::new(0));
        self.loops
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .insert(name.to_owned(), Arc::clone(&last_ms));
        let heartbeat = Heartbeat {
            name: name.to_owned(),
            last_ms,
            of: self.clone(),
        };
        heartbeat.beat();
        heartbeat
    }

    /// How long ago each loop moved, as of `now`.
    pub fn ages(&self, now: Instant) -> BTreeMap<String, Duration> {
        let now = now.saturating_duration_since(self.start);
        self.loops
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .iter()
            .map(|(name, last)| {
                let last = Duration::from_millis(last.load(Ordering::Relaxed));
                (name.clone(), now.saturating_sub(last))
            })
            .collect()
    }
}

impl Heartbeat {
    /// The loop has moved.
    pub fn beat(&self) {
        self.beat_at(Instant::now());
    }

    fn beat_at(&self, now: Instant) {
        let since = now.saturating_duration_since(self.of.start);
        self.last_ms
            .store(since.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        let mut loops = self.of.loops.lock().unwrap_or_else(|e| e.into_inner());
        // A loop registered again under the same name stays.
        if loops
            .get(&self.name)
            .is_some_and(|last| Arc::ptr_eq(last, &self.last_ms))
        {
            loops.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_ages_until_it_beats_and_goes_when_dropped() {
        let beats = Heartbeats::default();
        let source = beats.register("source");
        let sink = beats.register("sink");
        let later = beats.start + Duration::from_secs(90);
        source.beat_at(later - Duration::from_secs(1));
        let ages = beats.ages(later);
        assert_eq!(ages["source"].as_secs(), 1);
        assert!(ages["sink"] > Duration::from_secs(80));
        let again = beats.register("sink");
        drop(sink);
        assert!(beats.ages(later).contains_key("sink"));
        drop(again);
        assert_eq!(
            beats.ages(later).into_keys().collect::<Vec<_>>(),
            ["source"]
        );
    }
}
