//! The arenas of the C library's allocator, from which everything here takes its memory.

/// Arenas that threads share.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 4;

/// Bounds the number of arenas; for the beginning of a process that promises a bound on its memory.
/// Each arena keeps what its threads once needed; with one for every thread (the default is eight
/// for every core) a stage under load holds several times what it uses, and no budget of ours would
/// bound it. `MALLOC_ARENA_MAX` can say otherwise.
pub fn bound() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // SAFETY: takes two numbers and is safe to call at any time. A refusal (0) leaves the
        // default, which is right, only larger.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    }
}

/// Gives back to the system what lies in the allocator's free lists, as after a large file was read
/// and turned into something else.
pub fn release() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointers; it only touches free memory, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
