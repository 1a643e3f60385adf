//! The demonstration: an embedded broker in this process, and everything else by the commands that
//! a user would type.
//!
//! A [`Story`] owns the output folder, the broker and the running stage; its chapters are in order
//! in `cli/demo.rs`. The truth about the scenes stays in this process: what the stage and the
//! retraining job see are pictures and the labels sent to them.

mod follow;
mod labels;
mod references;

pub use follow::Followed;
pub use labels::partial_labels;
pub use references::{BrokenReference, write_broken_pictures};

use super::broker::{BrokerError, EmbeddedBroker};
use super::scoreboard::ScoreError;
use crate::labelling::store::TableError;
use crate::stage::source::Refusal;
use rdkafka::error::KafkaError;
use rustix::process::{Pid, Signal};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Topics of the demonstration.
pub mod topic {
    /// Image references.
    pub const IMAGES: &str = "images";
    /// Label events.
    pub const LABELS: &str = "labels";
    /// Tags.
    pub const PREDICTIONS: &str = "predictions";
    /// What yielded no row.
    pub const DEAD_LETTERS: &str = "dead-letters";
}

/// Partitions of the images topic.
pub const PARTITIONS: i32 = 4;

/// The file that says that a folder was made by a demonstration and may be replaced by the next.
const MARKER: &str = ".tagstream-demo";

/// Why a demonstration stopped.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The output folder holds something else.
    #[error("{0} exists and was not made by `tagstream demo`: name another folder with --out")]
    NotOurs(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The embedded broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The broker's answer to a producer or consumer.
    #[error("the embedded broker: {0}")]
    Kafka(#[from] KafkaError),
    /// librdkafka makes no client.
    #[error("the embedded broker: {0}")]
    Refused(#[from] Refusal),
    /// A command failed.
    #[error("`{command}` ended with {status}; its output is above{}", or_in(.log))]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Where its output went; empty if it was shown.
        log: String,
    },
    /// A process beside ended while it was needed.
    #[error("`tagstream {command}` ended with {status}; its log is {log}")]
    Ended {
        /// The command.
        command: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
    },
    /// The results cannot be read.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// The label table cannot be read.
    #[error("the label table: {0}")]
    Table(#[from] TableError),
}

fn or_in(log: &str) -> String {
    match log {
        "" => String::new(),
        log => format!(", or in {log}"),
    }
}

/// An [`io::Error`] with the file it is about.
pub fn io_error(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> DemoError {
    let path = path.into();
    move |source| DemoError::Io { path, source }
}

/// A demonstration under way.
pub struct Story {
    program: PathBuf,
    out: PathBuf,
    broker: EmbeddedBroker,
}

impl Story {
    /// Empties the output folder and starts the broker. `program` is the tagstream binary.
    ///
    /// # Errors
    /// [`DemoError::NotOurs`] if the folder holds anything else than an earlier demonstration.
    pub fn begin(program: PathBuf, out: &Path) -> Result<Story, DemoError> {
        if out.exists() {
            let empty = std::fs::read_dir(out)
                .map_err(io_error(out))?
                .next()
                .is_none();
            if !empty && !out.join(MARKER).exists() {
                return Err(DemoError::NotOurs(out.into()));
            }
            std::fs::remove_dir_all(out).map_err(io_error(out))?;
        }
        std::fs::create_dir_all(out).map_err(io_error(out))?;
        File::create(out.join(MARKER)).map_err(io_error(out))?;
        let out = out.canonicalize().map_err(io_error(out))?;
        let broker = EmbeddedBroker::start()?;
        broker.create_topic(topic::IMAGES, PARTITIONS)?;
        broker.create_topic(topic::PREDICTIONS, PARTITIONS)?;
        broker.create_topic(topic::LABELS, 1)?;
        broker.create_topic(topic::DEAD_LETTERS, 1)?;
        Ok(Story {
            program,
            out,
            broker,
        })
    }

    /// The output folder, absolute.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// `host:port` of the embedded broker.
    pub fn brokers(&self) -> &str {
        self.broker.bootstrap_servers()
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> (Command, String) {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null());
        // Settings of the user's own installation are not meant for the demonstration.
        let foreign = |name: &OsStr| {
            let name = name.to_string_lossy();
            name.starts_with("TAGSTREAM_") && (name.contains("__") || name == "TAGSTREAM_REGISTRY")
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| foreign(name)) {
            command.env_remove(name);
        }
        let words = arguments.iter().map(|a| a.as_ref().to_string_lossy());
        let line = std::iter::once("tagstream".into())
            .chain(words)
            .collect::<Vec<_>>()
            .join(" ");
        (
            command,
            line.replace(&format!("{}/", self.out.display()), ""),
        )
    }

    /// Runs one command to its end, showing it first; its output goes to `<out>/<log>`. Returns its
    /// exit code.
    ///
    /// # Errors
    /// [`DemoError::Command`] unless the exit code is one of `allowed`.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        log: &str,
        arguments: &[S],
        allowed: &[i32],
    ) -> Result<i32, DemoError> {
        let (mut command, line) = self.command(arguments);
        eprintln!("  $ {line}");
        let (path, file) = self.log(log)?;
        let second = file.try_clone().map_err(io_error(&path))?;
        let status = command
            .stdout(file)
            .stderr(second)
            .status()
            .map_err(io_error(&self.program))?;
        ended(line, status, &path, allowed)
    }

    /// As [`Story::run`], but what the command says is seen at once: progress bars and all.
    ///
    /// # Errors
    /// [`DemoError::Command`] unless the exit code is one of `allowed`.
    pub fn run_in_sight<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        allowed: &[i32],
    ) -> Result<i32, DemoError> {
        let (mut command, line) = self.command(arguments);
        eprintln!("  $ {line}");
        let status = command
            .stdout(Stdio::null())
            .status()
            .map_err(io_error(&self.program))?;
        ended(line, status, Path::new(""), allowed)
    }

    /// As [`Story::run`], but gives what the command printed; the rest goes to the log.
    ///
    /// # Errors
    /// [`DemoError::Command`] unless it ends well.
    pub fn ask<S: AsRef<OsStr>>(&self, log: &str, arguments: &[S]) -> Result<String, DemoError> {
        let (mut command, line) = self.command(arguments);
        eprintln!("  $ {line}");
        let (path, file) = self.log(log)?;
        let output = command.stderr(file).output();
        let output = output.map_err(io_error(&self.program))?;
        ended(line, output.status, &path, &[0])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn log(&self, name: &str) -> Result<(PathBuf, File), DemoError> {
        let path = self.out.join(name);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(io_error(&path))?;
        Ok((path, file))
    }

    /// The tagstream binary.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts the stage beside; its log is `<out>/stage.log`.
    ///
    /// # Errors
    /// [`DemoError::Io`].
    pub fn start_stage(&self, config: &Path) -> Result<Running, DemoError> {
        self.start("run", config, "stage.log")
    }

    /// Starts a command that runs for ever; its log is `<out>/<log>`.
    ///
    /// # Errors
    /// [`DemoError::Io`].
    pub fn start(
        &self,
        name: &'static str,
        config: &Path,
        log: &str,
    ) -> Result<Running, DemoError> {
        let arguments = [OsStr::new(name), OsStr::new("--config"), config.as_os_str()];
        let (mut command, line) = self.command(&arguments);
        eprintln!("  $ {line} &");
        let log = self.out.join(log);
        let file = File::create(&log).map_err(io_error(&log))?;
        let second = file.try_clone().map_err(io_error(&log))?;
        let child = command
            .stdout(file)
            .stderr(second)
            .spawn()
            .map_err(io_error(&self.program))?;
        Ok(Running { name, child, log })
    }
}

/// The exit code if it is one of `allowed`; else the error, after the last lines of the log.
fn ended(
    command: String,
    status: ExitStatus,
    log: &Path,
    allowed: &[i32],
) -> Result<i32, DemoError> {
    match status.code() {
        Some(code) if allowed.contains(&code) => Ok(code),
        _ => {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(12).collect();
            for line in tail.iter().rev() {
                eprintln!("    {line}");
            }
            Err(DemoError::Command {
                command,
                status,
                log: log.display().to_string(),
            })
        }
    }
}

/// A process beside the demonstration; killed if it is dropped.
pub struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Makes sure that it still runs.
    ///
    /// # Errors
    /// [`DemoError::Ended`].
    pub fn check(&mut self) -> Result<(), DemoError> {
        match self.child.try_wait().map_err(io_error(&self.log))? {
            None => Ok(()),
            Some(status) => Err(self.ended(status)),
        }
    }

    fn ended(&self, status: ExitStatus) -> DemoError {
        DemoError::Ended {
            command: self.name,
            status,
            log: self.log.clone(),
        }
    }

    /// Ends it as an operator would: SIGTERM, and it finishes what it has begun.
    ///
    /// # Errors
    /// [`DemoError::Ended`] unless it ends with exit code 0.
    pub fn finish(mut self) -> Result<(), DemoError> {
        // Not by kill(1), which small systems do not have.
        let told = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        told.map_err(|errno| io_error(&self.log)(errno.into()))?;
        let status = self.child.wait().map_err(io_error(&self.log))?;
        match status.success() {
            true => Ok(()),
            false => Err(self.ended(status)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Does nothing to a process that has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
