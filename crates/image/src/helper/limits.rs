//! What a helper gives up before it reads a byte of a picture.

use super::HelperSettings;
use super::system_calls;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// What a decoder may take beside the picture: the program itself, tables, rows, metadata.
const OVERHEAD_BYTES: u64 = 16 << 20;
/// At least this much is there for a picture, however large the program and small the cap.
const LEAST_BYTES: u64 = 8 << 20;
/// What may be left behind by pictures before a new helper is better than this one.
const WORN_BYTES: u64 = 6 << 20;
/// Most free memory that stays for the next picture, because clearing new pages is a fifth to a
/// third of what a picture of a megapixel costs; of small caps an eighth. A picture that may need
/// most of the cap gets it back first ([`super::make_room`]).
const KEPT_BYTES: u64 = 8 << 20;
/// Open files: input and output as one socket, nothing, errors, and the file that says how much
/// memory is taken.
const FILES: u64 = 4;

/// The limits of this process.
pub(super) struct Cage {
    /// `/proc/self/statm`.
    memory: File,
    /// Addresses, and memory behind them, before the first picture.
    at_start: [u64; 2],
    /// Free memory that may stay.
    kept: u64,
}

impl Cage {
    /// Gives up everything but memory.
    ///
    /// # Errors
    /// Which limit this system refuses.
    pub(super) fn enter(settings: &HelperSettings) -> Result<Self, String> {
        die_with(settings.parent)?;
        outlive_requests_to_end();
        let kept = KEPT_BYTES.min(settings.limits.max_alloc_bytes / 8);
        keep_allocator_small(kept);
        close_inherited();
        let path = "/proc/self/statm";
        let memory = File::open(path).map_err(|e| format!("{path}: {e}"))?;
        if memory.as_raw_fd() as u64 >= FILES {
            return Err(format!("{path} is open as file {}", memory.as_raw_fd()));
        }
        // Neither a dump of its memory, nor another process that looks into it.
        control(libc::PR_SET_DUMPABLE, 0, "dumps of memory")?;
        limit(libc::RLIMIT_CORE as _, 0, "the size of a core dump")?;
        limit(libc::RLIMIT_FSIZE as _, 0, "the size of a file")?;
        limit(libc::RLIMIT_NOFILE as _, FILES, "the number of open files")?;
        system_calls::restrict()?;
        Ok(Cage {
            memory,
            at_start: [0; 2],
            kept,
        })
    }

    /// Caps memory, so that all of this process, the pages of the program that it has touched
    /// included, stays within what one picture may take and [`OVERHEAD_BYTES`].
    ///
    /// # Errors
    /// As [`Cage::enter`].
    pub(super) fn close(&mut self, settings: &HelperSettings) -> Result<(), String> {
        give_back_memory();
        let [size, resident] = self.taken().map_err(|e| format!("its own memory: {e}"))?;
        self.at_start = [size, resident];
        let cap = settings
            .limits
            .max_alloc_bytes
            .saturating_add(OVERHEAD_BYTES);
        let left = cap.saturating_sub(resident).max(LEAST_BYTES);
        limit(libc::RLIMIT_AS as _, size.saturating_add(left), "memory")
    }

    /// The socket to the process that asks.
    pub(super) fn door(&self) -> File {
        // SAFETY: standard input was opened for this process, which uses it nowhere else.
        unsafe { File::from_raw_fd(0) }
    }

    /// Allows the processor time of one more picture. The process that asks ends this one earlier,
    /// by the clock on the wall; this holds if that process is stopped.
    ///
    /// # Errors
    /// As [`Cage::enter`].
    pub(super) fn allow_time(&self, settings: &HelperSettings) -> Result<(), String> {
        let now = processor_time().map_err(|e| format!("its own processor time: {e}"))?;
        let most = (now + settings.timeout).as_secs() + 2;
        soft_limit(libc::RLIMIT_CPU as _, most, "processor time")
    }

    /// Whether so much was left behind by pictures that a new process is better.
    pub(super) fn is_worn(&self) -> bool {
        let grown_beyond = |most: u64| match self.taken() {
            Ok(taken) => taken
                .iter()
                .zip(self.at_start)
                .any(|(&now, then)| now > then + most),
            Err(_) => true,
        };
        if !grown_beyond(self.kept) {
            return false;
        }
        give_back_memory();
        grown_beyond(WORN_BYTES)
    }

    /// Bytes of addresses, and of memory behind them.
    fn taken(&self) -> io::Result<[u64; 2]> {
        let mut text = [0; 128];
        let length = self.memory.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(&text[..length]).map_err(io::Error::other)?;
        let mut pages = text.split(' ').map(|word| word.parse::<u64>().ok());
        let (Some(Some(size)), Some(Some(resident))) = (pages.next(), pages.next()) else {
            return Err(io::Error::other(format!("`{text}` instead of numbers")));
        };
        // SAFETY: takes a number only.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
        Ok([size * page, resident * page])
    }
}

/// Ends this process with `parent`, also when that is killed.
fn die_with(parent: u32) -> Result<(), String> {
    control(
        libc::PR_SET_PDEATHSIG,
        libc::SIGKILL as _,
        "its end with its parent",
    )?;
    // It may have ended before this was set.
    if std::os::unix::process::parent_id() != parent {
        return Err("whoever started it is gone".into());
    }
    Ok(())
}

/// A service manager or a terminal asks every process of a service to end. This one is needed until
/// the stage has drained, and ends with it.
fn outlive_requests_to_end() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: sets no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// The largest blocks come from the kernel and go back to it, so that what a picture took is not
/// missing to the next one, and one that is freed leaves no hole. A few megabytes of smaller ones
/// stay.
fn keep_allocator_small(kept: u64) {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain numbers to the C library's allocator, before any other thread runs.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, kept as libc::c_int);
        libc::mallopt(libc::M_TRIM_THRESHOLD, kept as libc::c_int);
    }
}

pub(super) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers; it only touches free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Closes what another library of the parent has opened without saying that it is not to be passed
/// on: its connections are no business of a decoder's.
fn close_inherited() {
    // SAFETY: nothing in this process has opened a file yet, so none is closed under its owner.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
    }
}

fn control(what: libc::c_int, value: libc::c_ulong, name: &str) -> Result<(), String> {
    // SAFETY: the calls made here take numbers only.
    match unsafe { libc::prctl(what, value, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(refusal(name)),
    }
}

/// What of limits the C library's function takes differs between C libraries.
type Resource = libc::__rlimit_resource_t;

/// A limit that this process cannot raise again.
fn limit(resource: Resource, most: u64, name: &str) -> Result<(), String> {
    set(resource, most, most, name)
}

/// A limit that this process moves.
fn soft_limit(resource: Resource, most: u64, name: &str) -> Result<(), String> {
    set(resource, most, libc::RLIM_INFINITY, name)
}

fn set(resource: Resource, soft: u64, hard: u64, name: &str) -> Result<(), String> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: reads into a structure that lives.
    if unsafe { libc::getrlimit(resource, &mut now) } != 0 {
        return Err(refusal(name));
    }
    let hard = hard.min(now.rlim_max);
    let wanted = libc::rlimit {
        rlim_cur: soft.min(hard),
        rlim_max: hard,
    };
    // SAFETY: reads from a structure that lives.
    match unsafe { libc::setrlimit(resource, &wanted) } {
        0 => Ok(()),
        _ => Err(refusal(name)),
    }
}

fn refusal(name: &str) -> String {
    let error = io::Error::last_os_error();
    format!("the system lets no limit be set on {name}: {error}")
}

/// What this process has computed since it began.
fn processor_time() -> io::Result<Duration> {
    // SAFETY: the structure is plain numbers, all zeros are a value of it, and the call only writes
    // into it.
    let (refused, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_SELF, &mut usage), usage)
    };
    if refused != 0 {
        return Err(io::Error::last_os_error());
    }
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
    };
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}
