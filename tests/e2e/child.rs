//! The stage as a process of its own, with the real engine and a tiny model: one that can be killed, stopped and continued.

use crate::harness::{STUCK, World};
use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A running `tagstream run`.
pub struct Stage {
    child: Child,
    log: PathBuf,
}

impl World {
    /// Starts `tagstream run` with this world's configuration. `name` names its log, `failpoints` its faults.
    pub fn start(&self, name: &str, failpoints: &str) -> Stage {
        let config = self.folder.path().join("stage.toml");
        std::fs::write(&config, toml::to_string(&self.config).unwrap()).unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-model");
        let log = self.folder.path().join(format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_tagstream"))
            .args(["run", "--until-drained", "--config"])
            .arg(&config)
            .arg("--model")
            .arg(model)
            .env("TAGSTREAM_FAILPOINTS", failpoints)
            .env("TAGSTREAM_MODEL__WORKERS", "1")
            .env("TAGSTREAM_HTTP__BIND", "")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Stage { child, log }
    }
}

impl Stage {
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal, as `kill` does.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_or_kill_after(STUCK)
            .unwrap_or_else(|| panic!("the stage is stuck:\n{}", self.log()))
    }

    /// Waits for its end, at most `limit`; then kills it and returns `None`.
    pub fn wait_or_kill_after(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if started.elapsed() >= limit {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs to the end, which must be a good one.
    pub fn finish(mut self) {
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// Waits until it has died by SIGKILL.
    pub fn dies(mut self) {
        let status = self.wait();
        assert_eq!(status.signal(), Some(9), "{status}:\n{}", self.log());
    }

    /// Waits until it has stopped itself.
    pub fn freezes(&mut self) {
        let stat = format!("/proc/{}/stat", self.child.id());
        let started = Instant::now();
        // The state is the field after the name in parentheses.
        while !std::fs::read_to_string(&stat)
            .is_ok_and(|s| s.rsplit(") ").next().is_some_and(|r| r.starts_with('T')))
        {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "it ended instead:\n{}",
                self.log()
            );
            assert!(
                started.elapsed() < STUCK,
                "it never stopped:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
