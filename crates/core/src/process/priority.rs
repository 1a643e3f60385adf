//! What may wait for what.

/// Niceness of work that nobody waits for.
#[cfg(target_os = "linux")]
const NICENESS: libc::c_int = 5;

/// From now on this thread, and those that it starts, give way to the process's other threads.
/// Cannot be taken back, so it is for threads that end with their work.
pub fn lower() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes numbers only. 0 is the calling thread on Linux. A refusal leaves the priority
    // as it is, which is right, only less kind to the others.
    unsafe {
        let now = libc::getpriority(libc::PRIO_PROCESS, 0);
        libc::setpriority(libc::PRIO_PROCESS, 0, now + NICENESS);
    }
}

/// From now on this thread, and those that it starts, are scheduled for throughput (`SCHED_BATCH`):
/// when one of them has something to do again, it waits until the thread that has the core is
/// through with its share, instead of taking the core at once. A picture makes a dozen threads wake
/// for a moment each, and decoding is interrupted by them a quarter as often.
pub fn throughput() {
    #[cfg(target_os = "linux")]
    schedule(libc::SCHED_BATCH);
}

/// Takes [`throughput`] back for this thread and those that it starts: for threads that only feed a
/// device, which must not wait for a core.
pub fn prompt() {
    #[cfg(target_os = "linux")]
    schedule(libc::SCHED_OTHER);
}

#[cfg(target_os = "linux")]
fn schedule(policy: libc::c_int) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: reads the parameters, which outlive the call. 0 is the calling thread. A sandbox may
    // refuse; then scheduling stays as it is, which is right, only slower.
    unsafe {
        libc::sched_setscheduler(0, policy, &parameters);
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

    fn policy() -> i32 {
        // SAFETY: takes a number only.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn throughput_is_passed_on_and_can_be_taken_back() {
        let before = policy();
        let policies = thread::spawn(|| {
            throughput();
            let child = thread::spawn(|| {
                let inherited = policy();
                prompt();
                (inherited, policy())
            });
            (policy(), child.join().unwrap())
        });
        let expected = (libc::SCHED_BATCH, (libc::SCHED_BATCH, libc::SCHED_OTHER));
        assert_eq!(policies.join().unwrap(), expected);
        assert_eq!(policy(), before);
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
