//! Who may still put.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// What is known of a chain is asked for again before a put when it is older than this. Names of
/// expired files are freed a day after they expired, so a put that began within this time finds its
/// name taken if its range expired.
const FRESH: Duration = Duration::from_secs(600);

/// Ends the right to put: killed when the partition is taken away. Clones share it.
///
/// The chain alone keeps files disjoint, whatever a late writer does; the fence only saves it the
/// attempt. It also knows when the chain was last seen: a process that was frozen for days must not
/// put under a name that was taken and has expired since.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    dead: Arc<AtomicBool>,
    seen: Arc<Seen>,
}

/// A moment by both clocks: one stands still while the machine sleeps, one can be set.
#[derive(Debug)]
struct Seen(Mutex<(Instant, SystemTime)>);

impl Default for Seen {
    fn default() -> Self {
        Seen(Mutex::new((Instant::now(), SystemTime::now())))
    }
}

impl Fence {
    /// Takes the right away.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// Whether the right was taken away.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// The chain's end was seen in the store now.
    pub fn saw_chain(&self) {
        self.set(SystemTime::now());
    }

    fn set(&self, time: SystemTime) {
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = (Instant::now(), time);
    }

    /// Whether the chain must be looked at before a put.
    pub fn is_stale(&self) -> bool {
        let seen = *self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        let by_clock = seen.1.elapsed().unwrap_or_default();
        seen.0.elapsed().max(by_clock) > FRESH
    }

    /// As after a freeze of `time`.
    #[doc(hidden)]
    pub fn freeze(&self, time: Duration) {
        self.set(SystemTime::now() - time);
    }
}
