//! What has been decoded since somebody asked last.

use std::sync::atomic::{AtomicU64, Ordering};

/// JPEGs that were decoded, by what read them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JpegsDecoded {
    /// Plain ones much larger than needed, by own code.
    pub own: u64,
    /// Other plain ones, by libjpeg-turbo in this process.
    pub libjpeg_turbo: u64,
    /// All others, in a helper process.
    pub helper: u64,
}

/// Counters that many threads add to.
#[derive(Debug, Default)]
pub(super) struct Counts {
    damaged: AtomicU64,
    own: AtomicU64,
    libjpeg_turbo: AtomicU64,
    helper: AtomicU64,
}

impl Counts {
    /// A damaged picture that was decoded all the same.
    pub(super) fn damaged(&self) {
        add(&self.damaged);
    }

    /// A JPEG that this process has decoded.
    pub(super) fn plain_jpeg(&self, by_own_reader: bool) {
        add(if by_own_reader {
            &self.own
        } else {
            &self.libjpeg_turbo
        });
    }

    /// A JPEG that a helper has decoded.
    pub(super) fn helpers_jpeg(&self) {
        add(&self.helper);
    }

    pub(super) fn take_damaged(&self) -> u64 {
        take(&self.damaged)
    }

    pub(super) fn take_jpegs(&self) -> JpegsDecoded {
        JpegsDecoded {
            own: take(&self.own),
            libjpeg_turbo: take(&self.libjpeg_turbo),
            helper: take(&self.helper),
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Most of the time there is nothing, and reading that is cheaper than writing.
fn take(counter: &AtomicU64) -> u64 {
    match counter.load(Ordering::Relaxed) {
        0 => 0,
        _ => counter.swap(0, Ordering::Relaxed),
    }
}
