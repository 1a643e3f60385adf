//! One helper: started, asked, ended, and what it died of.

use super::Space;
use super::settings::DecoderSettings;
use crate::decode::{DecodeLimits, ImageInfo};
use crate::helper::HelperSettings;
use crate::wire::{self, Answer, Task};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a helper may take until its limits are set, on a machine that is busy.
const START: Duration = Duration::from_secs(30);
/// How long a process that has closed its socket may take to end.
const END: Duration = Duration::from_secs(2);
/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(1);
/// Longest part of what it said that is repeated.
const WORDS: usize = 200;
/// What the standard library says when it is refused memory, before it aborts, and what C++'s does.
const NO_MEMORY: [&str; 2] = ["memory allocation of", "std::bad_alloc"];

/// A process that decodes one picture at a time.
#[derive(Debug)]
pub(super) struct Helper {
    process: Child,
    socket: UnixStream,
    errors: Option<ChildStderr>,
}

/// Why a helper gave no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It had ended before, in peace.
    Retired,
    /// The picture took too long.
    Time,
    /// Its time was up, but it had run for this long only: the machine did not let it.
    Starved(Duration),
    /// It was refused memory.
    Memory,
    /// Somebody killed it, who was not this process.
    Killed(String),
    Died(String),
}

impl Helper {
    /// Starts one and waits until its limits are set.
    pub(super) fn start(settings: &DecoderSettings) -> Result<Self, String> {
        let program = settings.executable()?;
        let told = |e: io::Error| {
            format!(
                "the decoding helper `{}` cannot be started: {e}",
                program.display()
            )
        };
        let (socket, theirs) = UnixStream::pair().map_err(told)?;
        let arguments = HelperSettings {
            limits: settings.limits,
            timeout: settings.timeout,
            parent: std::process::id(),
        }
        .arguments();
        let mut command = Command::new(&program);
        // What the environment holds is none of its business, secrets of stores above all.
        command.env_clear();
        if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", path);
        }
        let mut process = command
            .arg0("tagstream")
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(told)?;
        // The command holds the other end of the socket, which would then never end.
        drop(command);
        let mut helper = Helper {
            errors: process.stderr.take(),
            process,
            socket,
        };
        helper.greeted().map_err(|e| {
            let what = match helper.cause_of_death() {
                Some((status, words)) => died(status, &words),
                None => e.to_string(),
            };
            helper.kill();
            told(io::Error::other(what))
        })?;
        Ok(helper)
    }

    fn greeted(&mut self) -> io::Result<()> {
        let mut greeting = [0; wire::GREETING.len()];
        let deadline = Instant::now() + START;
        Timed::new(&self.socket, deadline).read_exact(&mut greeting)?;
        if greeting != wire::GREETING {
            return Err(io::Error::other(
                "it is another version of the program, or another program",
            ));
        }
        Ok(())
    }

    /// The process's id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Has a picture decoded. After a loss there is no use for this helper.
    pub(super) fn ask(
        &mut self,
        bytes: &[u8],
        task: &Task,
        settings: &DecoderSettings,
        space: &mut Space<'_>,
    ) -> Result<Answer, Loss> {
        let ran = self.processor_time();
        let deadline = Instant::now() + settings.timeout;
        match self.exchange(bytes, task, &settings.limits, deadline, space) {
            Ok(answer) => Ok(answer),
            Err(error) if is_timeout(&error) => {
                let running = ran.zip(self.processor_time()).map(|(a, b)| b - a);
                // The clock on the wall says nothing about the picture if the process was stopped,
                // or stood in a queue most of the time.
                match running {
                    Some(running) if 2 * running < settings.timeout => Err(Loss::Starved(running)),
                    _ => Err(Loss::Time),
                }
            }
            Err(error) => Err(self.loss(&error)),
        }
    }

    fn exchange(
        &mut self,
        bytes: &[u8],
        task: &Task,
        limits: &DecodeLimits,
        deadline: Instant,
        space: &mut Space<'_>,
    ) -> io::Result<Answer> {
        let mut socket = Timed::new(&self.socket, deadline);
        socket.write_all(&wire::request(task, bytes.len())?)?;
        socket.write_all(bytes)?;
        let (answer, length) = wire::read_answer(&mut socket, limits)?;
        if let Ok(ImageInfo { size, .. }) = answer {
            let room = space.room(size, length);
            let room = room.ok_or_else(|| io::Error::other("not the pixels asked for"))?;
            socket.read_exact(room)?;
        }
        Ok(answer)
    }

    /// What became of a helper with which the exchange ended by `error`.
    fn loss(&mut self, error: &io::Error) -> Loss {
        match self.cause_of_death() {
            Some((status, _)) if status.success() => Loss::Retired,
            Some((_, words)) if NO_MEMORY.iter().any(|no| words.contains(no)) => Loss::Memory,
            Some((status, words)) => match status.signal() {
                Some(libc::SIGXCPU) => Loss::Time,
                // Its own limits do not kill in this way.
                Some(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP) => {
                    Loss::Killed(died(status, &words))
                }
                _ => Loss::Died(died(status, &words)),
            },
            None => Loss::Died(format!("it answered nonsense ({error})")),
        }
    }

    /// How it ended, and its last words; `None` if it has not.
    fn cause_of_death(&mut self) -> Option<(ExitStatus, String)> {
        let end = Instant::now() + END;
        let status = loop {
            match self.process.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < end => std::thread::sleep(LOOK),
                _ => return None,
            }
        };
        let mut words = Vec::new();
        if let Some(errors) = self.errors.take() {
            // It has no children, so nobody else keeps this open.
            let _ = errors.take(4 * WORDS as u64).read_to_end(&mut words);
        }
        let words = String::from_utf8_lossy(&words);
        let words = words.trim().replace(char::is_control, " ");
        Some((status, words[..words.floor_char_boundary(WORDS)].to_owned()))
    }

    /// What it has computed so far, where the system says so.
    #[cfg(not(target_os = "linux"))]
    fn processor_time(&self) -> Option<Duration> {
        None
    }

    /// What it has computed so far.
    #[cfg(target_os = "linux")]
    fn processor_time(&self) -> Option<Duration> {
        let mut clock = 0;
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: both write into variables that live.
        let told = unsafe {
            libc::clock_getcpuclockid(self.process.id() as libc::pid_t, &mut clock) == 0
                && libc::clock_gettime(clock, &mut time) == 0
        };
        told.then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Kills it, and says whether it is gone.
    pub(super) fn kill(&mut self) -> bool {
        // Fails only if it is gone.
        let _ = self.process.kill();
        let end = Instant::now() + END;
        while !self.is_gone() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }

    /// Whether it has ended.
    pub(super) fn is_gone(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// An end and last words, as one text.
fn died(status: ExitStatus, words: &str) -> String {
    let name = match status.signal() {
        Some(libc::SIGSEGV) => " (SIGSEGV)",
        Some(libc::SIGABRT) => " (SIGABRT)",
        Some(libc::SIGBUS) => " (SIGBUS)",
        Some(libc::SIGILL) => " (SIGILL)",
        Some(libc::SIGTERM) => " (SIGTERM)",
        Some(libc::SIGFPE) => " (SIGFPE)",
        Some(libc::SIGKILL) => " (SIGKILL)",
        _ => "",
    };
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}{name}"),
        (None, code) => format!("exit code {}", code.unwrap_or_default()),
    };
    match words {
        "" => how,
        words => format!("{how}: {words}"),
    }
}

/// A socket with which everything has to be over at a deadline.
struct Timed<'a> {
    socket: &'a UnixStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    fn new(socket: &'a UnixStream, deadline: Instant) -> Self {
        Timed { socket, deadline }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(into)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
