//! The world that chaos happens in: a real Kafka, a real S3 server behind the fault proxy, and
//! stage processes.

use crate::proxy::Proxy;
use anyhow::{Context, Result, ensure};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

pub const IMAGES: &str = "images";
pub const PREDICTIONS: &str = "predictions";
pub const DEAD_LETTERS: &str = "dead-letters";
pub const GROUP: &str = "chaos";
/// How long a command is left hanging.
const HANG: Duration = Duration::from_secs(5);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name)
}

/// Between two looks at something that cannot tell when it is ready, and between messages.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Runs one of the server scripts and returns what it printed.
pub fn run_script(name: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(script(name))
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("scripts/{name}"))?;
    ensure!(
        output.status.success(),
        "scripts/{name} {} failed: {}",
        args.join(" "),
        output.status
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_string())
}

/// The real servers, stopped when dropped.
pub struct Servers {
    pub brokers: usize,
    pub bootstrap: String,
    pub s3_endpoint: String,
    pub bucket: String,
}

impl Servers {
    pub fn start(brokers: usize) -> Result<Servers> {
        let bootstrap = run_script("kafka.sh", &["start", "--brokers", &brokers.to_string()])?;
        let settings = run_script("s3.sh", &["start"])?;
        let setting = |key: &str| {
            settings
                .lines()
                .find_map(|l| l.strip_prefix(&format!("export TAGSTREAM_TEST_S3_{key}=")))
                .map(String::from)
                .with_context(|| format!("s3.sh printed no {key}"))
        };
        Ok(Servers {
            brokers,
            bootstrap,
            s3_endpoint: setting("ENDPOINT")?,
            bucket: setting("BUCKET")?,
        })
    }

    /// The checker's own way to the bucket, past the proxy.
    pub fn store(&self) -> Result<AmazonS3> {
        Ok(AmazonS3Builder::new()
            .with_endpoint(&self.s3_endpoint)
            .with_allow_http(true)
            .with_bucket_name(&self.bucket)
            .with_region("us-east-1")
            .with_access_key_id("tagstream")
            .with_secret_access_key("tagstream-secret")
            .build()?)
    }

    /// Creates a topic on the broker through its own tool.
    pub fn create_topic(&self, name: &str, partitions: usize, config: &[&str]) -> Result<()> {
        let partitions = partitions.to_string();
        let replicas = self.brokers.to_string();
        let mut arguments = vec!["tool", "TopicCommand", "--create", "--topic", name];
        arguments.extend([
            "--partitions",
            &partitions,
            "--replication-factor",
            &replicas,
        ]);
        for setting in config {
            arguments.extend(["--config", setting]);
        }
        run_script("kafka.sh", &arguments)?;
        Ok(())
    }

    /// Gives the images topic more partitions while everybody works.
    pub fn add_partitions(&self, partitions: i32) -> Result<()> {
        let partitions = partitions.to_string();
        let mut arguments = vec!["tool", "TopicCommand", "--alter", "--topic", IMAGES];
        arguments.extend(["--partitions", &partitions]);
        run_script("kafka.sh", &arguments)?;
        Ok(())
    }
}

impl Servers {
    /// Gives every partition of the images topic another order of replicas, and makes the first of
    /// them the leader.
    pub fn move_leaders(&self, partitions: i32, dice: &mut StdRng) -> Result<()> {
        let mut nodes: Vec<usize> = (1..=self.brokers).collect();
        let moves: Vec<_> = (0..partitions)
            .map(|partition| {
                nodes.shuffle(dice);
                serde_json::json!({"topic": IMAGES, "partition": partition, "replicas": nodes})
            })
            .collect();
        let plan = serde_json::json!({"version": 1, "partitions": moves});
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), plan.to_string())?;
        let path = file.path().to_str().context("a path in UTF-8")?;
        let (reassign, elect) = (
            "reassign.ReassignPartitionsCommand",
            "LeaderElectionCommand",
        );
        run_script(
            "kafka.sh",
            &[
                "tool",
                reassign,
                "--execute",
                "--reassignment-json-file",
                path,
            ],
        )?;
        run_script(
            "kafka.sh",
            &[
                "tool",
                elect,
                "--election-type",
                "preferred",
                "--all-topic-partitions",
            ],
        )?;
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (name, command) in [("kafka.sh", "stop"), ("s3.sh", "stop")] {
            if let Err(error) = run_script(name, &[command]) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// One stage process.
pub struct Stage {
    pub name: String,
    pub log: PathBuf,
    child: Child,
    stopped: bool,
    told: bool,
    killed: bool,
}

impl Stage {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The exit status if the process has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub fn signal(&mut self, signal: &str) -> Result<()> {
        let status = Command::new("kill")
            .args([format!("-{signal}"), self.pid().to_string()])
            .stderr(Stdio::null())
            .status()?;
        self.stopped = signal == "STOP" && status.success();
        self.told |= signal == "TERM";
        Ok(())
    }

    /// Whether it was asked to end.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// Whether we killed it.
    pub fn is_killed(&self) -> bool {
        self.killed
    }

    /// Whether it was stopped, by us or by itself.
    pub fn is_stopped(&self) -> bool {
        // The state is the field after the name in parentheses.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let state = stat
            .ok()
            .and_then(|s| Some(s.rsplit_once(") ")?.1.starts_with('T')));
        self.stopped || state == Some(true)
    }

    /// Lets a stopped process go on.
    pub fn wake(&mut self) -> Result<()> {
        if self.is_stopped() {
            self.signal("CONT")?;
        }
        Ok(())
    }

    pub fn kill(&mut self) -> Result<()> {
        self.killed = true;
        self.child.kill().ok();
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.kill().ok();
    }
}

/// How stage processes are started.
pub struct Launcher {
    pub binary: PathBuf,
    pub folder: PathBuf,
    pub bootstrap: String,
    pub proxy: Proxy,
    pub bucket: String,
    pub prefix: String,
    pub model: PathBuf,
    /// `TAGSTREAM_FAILPOINTS` of every process, also the operator's.
    pub failpoints: Option<String>,
    /// More of its environment.
    pub environment: Vec<(&'static str, String)>,
    next: usize,
}

impl Launcher {
    pub fn new(
        binary: PathBuf,
        folder: PathBuf,
        bootstrap: String,
        proxy: Proxy,
        bucket: String,
        prefix: String,
        model: PathBuf,
    ) -> Launcher {
        Launcher {
            binary,
            folder,
            bootstrap,
            proxy,
            bucket,
            prefix,
            model,
            failpoints: None,
            environment: Vec::new(),
            next: 0,
        }
    }

    fn config(&self) -> String {
        format!(
            r#"
[kafka]
brokers = "{bootstrap}"
group_id = "{GROUP}"
session_timeout_ms = 2500
message_timeout_ms = 30000

[kafka.properties]
"heartbeat.interval.ms" = "400"
"reconnect.backoff.max.ms" = "500"
"topic.metadata.refresh.interval.ms" = "2000"

[source]
images_topic = "{IMAGES}"

[fetch]
allow_schemes = ["data", "http"]
allow_hosts = ["127.0.0.1"]
allow_networks = ["127.0.0.1/32"]
timeout_ms = 4000

[model]
path = "{model}"
workers = 1
max_batch = 8
max_delay_ms = 5
watch_interval_ms = 0

[output]
url = "s3://{bucket}/{prefix}"
table = "predictions"
max_file_age_ms = 600
predictions_topic = "{PREDICTIONS}"
dead_letter_topic = "{DEAD_LETTERS}"

[http]
bind = ""

[log]
format = "text"
filter = "info"

[object_store.s3]
endpoint = "{endpoint}"
access_key_id = "tagstream"
secret_access_key = "tagstream-secret"
region = "us-east-1"
allow_http = "true"
timeout = "4s"

[shutdown]
drain_timeout_ms = 5000
"#,
            bootstrap = self.bootstrap,
            model = self.model.display(),
            bucket = self.bucket,
            prefix = self.prefix,
            endpoint = self.proxy.endpoint,
        )
    }

    /// Starts one more process; its log is `<name>.log` in the run's folder.
    pub fn launch(&mut self) -> Result<Stage> {
        self.launch_with("stage", &[])
    }

    /// Writes the stage's configuration; commands find the object store's settings in it too.
    pub fn write_config(&self) -> Result<PathBuf> {
        let config = self.folder.join("stage.toml");
        // Another process may be reading it.
        let aside = self.folder.join("stage.toml.new");
        std::fs::write(&aside, self.config())?;
        std::fs::rename(&aside, &config)?;
        Ok(config)
    }

    /// A configuration of the retraining job: a lease that is soon over, and no labels.
    pub fn retrain_config(&self, registry: &str) -> Result<PathBuf> {
        let config = self.config();
        let store = config
            .split("[object_store.s3]")
            .nth(1)
            .and_then(|rest| rest.split("[shutdown]").next())
            .context("the stage's configuration has an object store")?;
        let text = format!(
            "[registry]\nurl = \"{registry}\"\n[labels]\nurl = \"s3://{}/{}\"\n[lease]\n\
             time_to_live_s = 2\nwait_s = 60\n[object_store.s3]{store}",
            self.bucket, self.prefix
        );
        let path = self.folder.join("retrain.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Runs a command to its end, or, if it is to hang, until it has had time to; then kills it.
    pub fn command(
        &self,
        mut command: Command,
        name: &str,
        hangs: Option<bool>,
    ) -> Result<ExitStatus> {
        let log = File::create(self.folder.join(format!("{name}.log")))?;
        command
            .env("TAGSTREAM_CACHE", self.folder.join("cache"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command.spawn()?;
        if hangs == Some(true) {
            // Not a synchronisation: what hangs never says so, and whenever it is killed the
            // outcome must be right.
            std::thread::sleep(HANG);
            child.kill().ok();
        }
        Ok(child.wait()?)
    }

    /// Runs a process with more arguments to its end; returns how it ended, and its log.
    pub fn once(&mut self, kind: &str, arguments: &[String]) -> Result<(ExitStatus, String)> {
        let mut stage = self.launch_with(kind, arguments)?;
        let status = stage.child.wait()?;
        Ok((status, std::fs::read_to_string(&stage.log)?))
    }

    /// Starts one more process, with a failpoint beside those that all have.
    pub fn launch_armed(
        &mut self,
        failpoint: &str,
        kind: &str,
        arguments: &[String],
    ) -> Result<Stage> {
        let all = self.failpoints.clone();
        let armed = all.iter().map(String::as_str).chain([failpoint]);
        self.failpoints = Some(armed.collect::<Vec<_>>().join(","));
        let stage = self.launch_with(kind, arguments);
        self.failpoints = all;
        stage
    }

    /// Starts one more process with more arguments; its log is named after its kind.
    pub fn launch_with(&mut self, kind: &str, arguments: &[String]) -> Result<Stage> {
        self.next += 1;
        let name = format!("{kind}-{}", self.next);
        let config = self.write_config()?;
        let log = File::create(self.folder.join(format!("{name}.log")))?;
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--config"])
            .arg(&config)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.env("TAGSTREAM_CACHE", self.folder.join("cache"));
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        if let Some(failpoints) = &self.failpoints {
            command.env("TAGSTREAM_FAILPOINTS", failpoints);
        }
        let child = command.spawn().context("the tagstream binary")?;
        Ok(Stage {
            log: self.folder.join(format!("{name}.log")),
            name,
            child,
            stopped: false,
            told: false,
            killed: false,
        })
    }
}
