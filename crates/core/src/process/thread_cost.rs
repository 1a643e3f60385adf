//! What work costs the thread that does it.

use std::time::Duration;

/// What a thread has cost since it began. The difference of two tells work from waiting for a core,
/// which the clock on the wall does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadCost {
    /// Processor time.
    pub processor: Duration,
    /// Pages that the system had to give it: memory touched for the first time.
    pub page_faults: u64,
}

impl ThreadCost {
    /// Of this thread, until now; `None` where the system does not say.
    pub fn now() -> Option<Self> {
        #[cfg(target_os = "linux")]
        {
            // SAFETY: the structure is plain numbers, all zeros are a value of it, and the call
            // only writes into it.
            let (refused, usage) = unsafe {
                let mut usage: libc::rusage = std::mem::zeroed();
                (libc::getrusage(libc::RUSAGE_THREAD, &mut usage), usage)
            };
            let time = |t: libc::timeval| {
                Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
            };
            (refused == 0).then(|| ThreadCost {
                processor: time(usage.ru_utime) + time(usage.ru_stime),
                page_faults: usage.ru_minflt as u64,
            })
        }
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// What was added since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        ThreadCost {
            processor: self.processor.saturating_sub(earlier.processor),
            page_faults: self.page_faults.saturating_sub(earlier.page_faults),
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::thread;

    fn now() -> ThreadCost {
        ThreadCost::now().unwrap()
    }

    /// Pages that are touched for the first time are counted, to the thread that touches them.
    #[test]
    fn touched_pages_are_the_threads_own() {
        let before = now();
        let touching = thread::spawn(|| {
            let before = now();
            // Larger than anything that the allocator keeps, so the pages are new.
            let pages = black_box(vec![1u8; 64 << 20]);
            let cost = now().since(before);
            drop(pages);
            cost
        });
        let other = touching.join().unwrap();
        // Pages are 2 MiB at most.
        assert!(other.page_faults >= 16, "{other:?}");
        let own = now().since(before);
        assert!(own.page_faults < other.page_faults, "{own:?} {other:?}");
    }

    #[test]
    fn waiting_costs_no_processor_time_and_work_does() {
        let before = now();
        let (work, result) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let before = now();
            while now().since(before).processor < Duration::from_millis(30) {}
            work.send(now().since(before).processor).unwrap();
        });
        let other: Duration = result.recv().unwrap();
        let own = now().since(before).processor;
        assert!(
            other >= Duration::from_millis(30) && own < other,
            "{own:?} {other:?}"
        );
    }
}
