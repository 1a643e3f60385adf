//! The stage as a process of its own, with the real engine and a tiny model: one that can be
//! killed, stopped and continued.

use crate::harness::{STUCK, World};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tagstream::serve::config::ServeConfig;
use tagstream_core::config::HttpConfig;

/// A running `tagstream run`.
pub(crate) struct Stage {
    child: Child,
    log: PathBuf,
}

/// What a `tagstream run` is told beside the world's configuration.
#[derive(Default)]
pub(crate) struct Launch<'a> {
    /// Its faults.
    pub failpoints: &'a str,
    /// Whether it goes on after it has read everything.
    pub for_ever: bool,
    /// Whether it opens an HTTP port.
    pub http: bool,
    /// Private memory that it may have, KiB (`ulimit -d`); 0: all there is.
    pub memory_kib: u64,
    /// A control group that it runs in.
    pub group: Option<&'a Path>,
    /// The registry or bundle whose model it has; none: the tiny model.
    pub model: Option<&'a Path>,
    /// Variables that it has beside this process's.
    pub environment: &'a [(&'a str, &'a str)],
}

impl World {
    /// Starts a `tagstream run` that reads to the end. `name` names its log, `failpoints` its
    /// faults.
    pub(crate) fn start(&self, name: &str, failpoints: &str) -> Stage {
        let launch = Launch {
            failpoints,
            ..Launch::default()
        };
        self.launch(name, &launch)
    }

    /// Any free port, unless the world has one of its own.
    fn bind(&self, http: bool) -> &str {
        let own = self.config.http.bind.as_str();
        match (http, own == HttpConfig::default().bind) {
            (true, true) => "127.0.0.1:0",
            (true, false) => own,
            (false, _) => "",
        }
    }

    /// Starts `tagstream run` with this world's configuration. `name` names its log.
    pub(crate) fn launch(&self, name: &str, launch: &Launch<'_>) -> Stage {
        let path = self.folder.path().join(format!("{name}.toml"));
        let mut config = self.config.clone();
        // The object store's secrets are not written into files; the environment carries them.
        config.object_store.s3.clear();
        let mut text = toml::to_string(&config).unwrap();
        for (key, value) in &config.kafka.properties {
            let dotted = if key.contains('.') { "\"" } else { "" };
            let hidden = format!("{dotted}{key}{dotted} = \"***\"");
            assert!(text.contains(&hidden), "{key} is not in\n{text}");
            text = text.replace(&hidden, &format!("\"{key}\" = {:?}", value.expose()));
        }
        let webhook = config.notify.webhook.expose();
        text = text.replace("webhook = \"***\"", &format!("webhook = {webhook:?}"));
        std::fs::write(&path, text).unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-model");
        let model = launch.model.unwrap_or(&tiny);
        let log = self.folder.path().join(format!("{name}.log"));
        let limit = match launch.memory_kib {
            0 => String::new(),
            kib => format!("ulimit -d {kib}; "),
        };
        let group = launch.group.map_or_else(String::new, |group| {
            format!("echo $$ > '{}/cgroup.procs'; ", group.display())
        });
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("{group}{limit}ulimit -c 0; exec \"$0\" \"$@\""))
            .arg(env!("CARGO_BIN_EXE_tagstream"))
            .arg("run")
            .args((!launch.for_ever).then_some("--until-drained"))
            .arg("--config")
            .arg(&path)
            .arg("--model")
            .arg(model)
            .envs(self.credentials())
            .env("TAGSTREAM_FAILPOINTS", launch.failpoints)
            .env("TAGSTREAM_MODEL__WORKERS", "1")
            .envs(launch.environment.iter().copied())
            .env("TAGSTREAM_HTTP__BIND", self.bind(launch.http))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Stage { child, log }
    }

    /// Starts `tagstream serve` with this configuration. `name` names its log.
    pub(crate) fn serve(&self, name: &str, config: &ServeConfig) -> Stage {
        self.serve_with(name, config, None)
    }

    /// As [`World::serve`], with a cache of its own if one is given.
    pub(crate) fn serve_with(
        &self,
        name: &str,
        config: &ServeConfig,
        cache: Option<&Path>,
    ) -> Stage {
        let path = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&path, toml::to_string(config).unwrap()).unwrap();
        let log = self.folder.path().join(format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_tagstream"))
            .args(["serve", "--config"])
            .arg(&path)
            .envs(cache.map(|cache| ("TAGSTREAM_CACHE", cache)))
            .envs(self.credentials())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Stage { child, log }
    }
}

impl Stage {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log has `text` at least `times` times.
    pub(crate) fn says(&mut self, text: &str, times: usize) {
        let started = Instant::now();
        while self.log().matches(text).count() < times {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < STUCK,
                "{ended:?}, and never said {text:?} {times} times:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `holds`, which is asked while it runs.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn() -> bool) {
        let started = Instant::now();
        while !holds() {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < STUCK,
                "{ended:?}, and never: {what}:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Where its HTTP port is.
    pub(crate) fn address(&mut self) -> String {
        self.address_in("health, metrics and information are served")
    }

    /// The address that stands in the line of its log that says `text`.
    pub(crate) fn address_in(&mut self, text: &str) -> String {
        self.says(text, 1);
        let log = self.log();
        let line = log.lines().find(|l| l.contains(text)).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let address = &line["address"];
        let address = if address.is_null() {
            &line["fields"]["address"]
        } else {
            address
        };
        address.as_str().unwrap().to_owned()
    }

    /// The most memory that it ever held at once, bytes, as the kernel counts it; `None` once it
    /// has ended.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10)
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal, as `kill` does.
    pub(crate) fn signal(&self, name: &str) {
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
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.wait_or_kill_after(STUCK)
            .unwrap_or_else(|| panic!("the stage is stuck:\n{}", self.log()))
    }

    /// Waits for its end, at most `limit`; then kills it and returns `None`.
    pub(crate) fn wait_or_kill_after(&mut self, limit: Duration) -> Option<ExitStatus> {
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
    pub(crate) fn finish(mut self) {
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// Waits until it has died by SIGKILL.
    pub(crate) fn dies(mut self) {
        let status = self.wait();
        assert_eq!(status.signal(), Some(9), "{status}:\n{}", self.log());
    }

    /// Waits until it has stopped itself.
    pub(crate) fn freezes(&mut self) {
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
