//! What an input may cost: a target fails not only by a panic, but also by memory and time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Counts what Rust code has allocated. What C code allocates, libFuzzer's `-malloc_limit_mb` sees.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Processor time of this thread.
fn now() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes into a structure that lives.
    let refused = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(refused, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs `work`, which may take so many bytes beyond what there is, and so long.
pub(crate) fn within(bytes: usize, time: Duration, work: impl FnOnce()) {
    let (before, started) = (LIVE.load(Ordering::Relaxed), now());
    PEAK.store(before, Ordering::Relaxed);
    work();
    let taken = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(taken <= bytes, "it took {taken} bytes, more than {bytes}");
    let spent = now() - started;
    assert!(spent <= time, "it took {spent:?}, more than {time:?}");
}

/// Time for an input of at most 64 KiB, with all the checks of an instrumented build.
pub(crate) const TIME: Duration = Duration::from_secs(5);
