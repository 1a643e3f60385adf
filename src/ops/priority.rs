//! What may wait for what.

/// Niceness of work that nobody waits for.
#[cfg(target_os = "linux")]
const NICENESS: libc::c_int = 5;

/// From now on this thread, and those that it starts, give way to the process's other threads. Cannot be taken back, so it is
/// for threads that end with their work.
pub fn lower() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes numbers only. 0 is the calling thread on Linux. A refusal leaves the priority as it is, which is right, only
    // less kind to the others.
    unsafe {
        let now = libc::getpriority(libc::PRIO_PROCESS, 0);
        libc::setpriority(libc::PRIO_PROCESS, 0, now + NICENESS);
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::thread;

    fn niceness() -> i32 {
        // SAFETY: takes numbers only.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[test]
    fn a_lowered_thread_and_its_children_give_way_and_others_do_not() {
        let before = niceness();
        let lowered = thread::spawn(|| {
            lower();
            (niceness(), thread::spawn(niceness).join().unwrap())
        });
        let expected = (before + NICENESS).min(19);
        assert_eq!(lowered.join().unwrap(), (expected, expected));
        assert_eq!(niceness(), before);
    }
}
