//! What is measured from broker to Parquet: the stage, or another program that does the same work.
//! Either is a process of its own, warm and idle when the clock starts.

use super::cluster::{Cluster, Counter, References};
use super::gpu::DeviceMemory;
use super::pictures::Pictures;
use super::process::{MemoryWatch, Usage, family};
use super::table::{Latency, Row, Table, latency, milliseconds, sorted, steady_rate};
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tagstream_core::config::Provider;
use tagstream_core::events::ImageReference;

/// The process may take this long to get ready, and to end.
const PATIENCE: Duration = Duration::from_secs(180);
/// Files end at this age, so that they are written while the stage works and not all at its end.
const FILE_AGE_MS: u64 = 4_000;

/// What is measured.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// `tagstream run`.
    Stage,
    /// Another program.
    Peer(PathBuf),
}

impl Subject {
    /// For people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Subject::Stage => "stage",
            Subject::Peer(_) => "peer",
        }
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Images that count.
    pub images: usize,
    /// Images sent before, so that everything is warm.
    pub warm: usize,
    /// Images a second; all at once without.
    pub rate: Option<f64>,
}

impl Load {
    /// All at once.
    pub(super) fn flood(images: usize, warm: usize) -> Self {
        Load {
            images,
            warm,
            rate: None,
        }
    }

    /// Evenly, `rate` a second.
    pub(super) fn paced(images: usize, warm: usize, rate: f64) -> Self {
        Load {
            rate: Some(rate),
            ..Load::flood(images, warm)
        }
    }
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    /// Images that count.
    pub images: usize,
    /// From the start of the process to its first finished row; references waited for it.
    pub startup_seconds: f64,
    /// From the first reference sent to the last file committed.
    pub seconds: f64,
    /// From the first reference sent to the first finished row.
    pub first_row_seconds: f64,
    /// From the first reference sent to the last finished row; what is left is files and commits.
    pub last_row_seconds: f64,
    /// Of one measurement, from the first picture to the last answer.
    pub images_per_second: f64,
    /// Rate of the rows between the first and the last tenth: without filling and emptying the
    /// line.
    pub steady_images_per_second: f64,
    /// Of the rows that count.
    pub latency: Latency,
    /// Processor seconds by kind of thread, while the images were worked on.
    pub cpu_seconds: std::collections::BTreeMap<String, f64>,
    /// Most memory of the process and its children, shared pages once.
    pub peak_memory_bytes: u64,
    /// Memory of the process and its children on GPUs when the last row was finished; absent
    /// without a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory_bytes: Option<u64>,
    /// Bytes through system calls, read.
    pub read_bytes: u64,
    /// Bytes through system calls, written.
    pub written_bytes: u64,
    /// Parquet files, those of the warm-up too.
    pub files: usize,
    /// Their bytes.
    pub file_bytes: u64,
}

/// Where a subject runs.
pub(super) struct World<'a> {
    pub cluster: &'a Cluster,
    pub pictures: &'a Pictures,
    pub bundle: &'a Path,
    pub scratch: &'a Path,
    pub partitions: i32,
    pub provider: Provider,
    /// Whether that is a GPU.
    pub on_gpu: bool,
    /// Where TensorRT's engines are.
    pub engines: Option<PathBuf>,
}

/// Number of the next run: topics and folders are fresh in each.
static NEXT: AtomicU32 = AtomicU32::new(0);

struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it ended with {status}:\n{}", tail(&self.log)),
        }
    }

    /// Asks it to end, and waits.
    fn finish(mut self) -> anyhow::Result<()> {
        // SAFETY: a signal to a child that has not been waited for, so that its number is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let begun = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("it ended with {status}:\n{}", tail(&self.log)),
                None => ensure!(begun.elapsed() < PATIENCE, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(10));
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

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// A run's topics, and how to write and count.
struct Topics {
    images: String,
    predictions: Counter,
    dead_letters: Counter,
    references: References,
    sent: usize,
}

impl World<'_> {
    /// Runs `subject` under `load`.
    pub(super) fn run(&self, subject: &Subject, load: &Load) -> anyhow::Result<Outcome> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("bench-{}-{number}", std::process::id());
        self.run_named(&id, subject, load)
            .with_context(|| format!("measuring the {}", subject.name()))
    }

    fn run_named(&self, id: &str, subject: &Subject, load: &Load) -> anyhow::Result<Outcome> {
        let folder = self.scratch.join(id);
        fs::create_dir_all(&folder)?;
        let mut topics = self.topics(id)?;
        let on_gpus = match self.on_gpu {
            true => DeviceMemory::before(),
            false => None,
        };
        let begun = SystemTime::now();
        let mut running = self.start(id, &folder, subject)?;
        let memory = MemoryWatch::start(running.child.id());

        self.send(&mut topics, load.warm, None)?;
        self.wait(&topics, &mut running)?;
        let before = Usage::of(running.child.id());
        let started = SystemTime::now();
        self.send(&mut topics, load.images, load.rate)?;
        self.wait(&topics, &mut running)?;
        let used = Usage::of(running.child.id()).since(&before);
        let device_memory_bytes = on_gpus.and_then(|gpus| gpus.of(&family(running.child.id())));
        running.finish()?;

        let peak_memory_bytes = memory.peak_bytes();
        drop(memory);
        let table = Table::read(&folder)?;
        ensure!(
            table.rows.len() == load.warm + load.images,
            "{} rows were written for {} messages",
            table.rows.len(),
            load.warm + load.images
        );
        let all = table.rows.iter().map(|row| row.processed_ms);
        let first_ms = all.reduce(f64::min).unwrap_or(0.0);
        let rows: Vec<Row> = table
            .rows
            .into_iter()
            .filter(|row| row.number >= load.warm)
            .collect();
        let since_start = |at_ms: f64| (at_ms - milliseconds(started)) / 1e3;
        let seconds = since_start(table.last_commit_ms);
        let times = sorted(rows.iter().map(|row| row.processed_ms));
        Ok(Outcome {
            images: load.images,
            startup_seconds: (first_ms - milliseconds(begun)) / 1e3,
            seconds,
            first_row_seconds: times.first().map_or(0.0, |&at| since_start(at)),
            last_row_seconds: times.last().map_or(0.0, |&at| since_start(at)),
            images_per_second: load.images as f64 / seconds,
            steady_images_per_second: steady_rate(&rows),
            latency: latency(&rows),
            cpu_seconds: used.seconds,
            peak_memory_bytes,
            device_memory_bytes,
            read_bytes: used.read_bytes,
            written_bytes: used.written_bytes,
            files: table.files,
            file_bytes: table.bytes,
        })
    }

    fn topics(&self, id: &str) -> anyhow::Result<Topics> {
        let names = ["images", "predictions", "dead"].map(|kind| format!("{id}-{kind}"));
        for name in &names {
            self.cluster.create(name, self.partitions)?;
        }
        let [images, predictions, dead_letters] = names;
        Ok(Topics {
            predictions: self.cluster.counter(&predictions, self.partitions)?,
            dead_letters: self.cluster.counter(&dead_letters, self.partitions)?,
            references: self.cluster.producer()?,
            images,
            sent: 0,
        })
    }

    fn start(&self, id: &str, folder: &Path, subject: &Subject) -> anyhow::Result<Running> {
        let log = folder.join("log");
        let output = File::create(&log)?;
        let mut command = match subject {
            Subject::Stage => {
                let config = folder.join("stage.toml");
                fs::write(&config, self.stage_config(id, folder)?)?;
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("run").arg("--config").arg(config);
                command
            }
            Subject::Peer(program) => {
                let mut command = Command::new(program);
                let text = |path: &Path| path.display().to_string();
                let arguments = [
                    ("--brokers", self.cluster.bootstrap().to_owned()),
                    ("--topic", format!("{id}-images")),
                    ("--group", id.to_owned()),
                    ("--model", text(self.bundle)),
                    ("--predictions-topic", format!("{id}-predictions")),
                    ("--out", text(folder)),
                ];
                for (name, value) in arguments {
                    command.arg(name).arg(value);
                }
                command
            }
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("starting it")?;
        Ok(Running { child, log })
    }

    fn stage_config(&self, id: &str, folder: &Path) -> anyhow::Result<String> {
        let quoted = |value: &str| toml::Value::String(value.to_owned()).to_string();
        let path = |path: &Path| quoted(&path.display().to_string());
        let provider = toml::Value::try_from(self.provider)?;
        Ok([
            "[kafka]".to_owned(),
            format!("brokers = {}", quoted(self.cluster.bootstrap())),
            format!("group_id = {}", quoted(id)),
            // The embedded broker answers a fetch of nothing when this has passed, and not, as
            // Kafka does, when something comes.
            "properties = { \"fetch.wait.max.ms\" = \"20\" }".to_owned(),
            "[source]".to_owned(),
            format!("images_topic = {}", quoted(&format!("{id}-images"))),
            "[fetch]".to_owned(),
            "allow_schemes = [\"file\"]".to_owned(),
            format!("allow_path_prefixes = [{}]", path(&self.pictures.folder)),
            "[model]".to_owned(),
            format!("path = {}", path(self.bundle)),
            format!("provider = {provider}"),
            self.engines.as_deref().map_or_else(String::new, |folder| {
                format!("engine_cache = {}", path(folder))
            }),
            "[output]".to_owned(),
            format!("url = {}", path(folder)),
            format!("max_file_age_ms = {FILE_AGE_MS}"),
            format!(
                "predictions_topic = {}",
                quoted(&format!("{id}-predictions"))
            ),
            format!("dead_letter_topic = {}", quoted(&format!("{id}-dead"))),
            "[http]".to_owned(),
            "bind = \"\"".to_owned(),
            "[shutdown]".to_owned(),
            "drain_timeout_ms = 120000".to_owned(),
        ]
        .join("\n"))
    }

    /// Sends references to the pictures, again and again; messages are numbered through the whole
    /// run.
    fn send(&self, topics: &mut Topics, count: usize, rate: Option<f64>) -> anyhow::Result<()> {
        let begun = Instant::now();
        for i in 0..count {
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(i as f64 / rate);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            let number = topics.sent;
            let picture = &self.pictures.all[number % self.pictures.all.len()];
            let image_id = format!("bench-{number}");
            let reference = ImageReference {
                image_id: image_id.clone(),
                uri: picture.uri.clone(),
                event_time: None,
                attributes: Default::default(),
            };
            let partition = (number % self.partitions as usize) as i32;
            let value = serde_json::to_string(&reference)?;
            topics
                .references
                .send(&topics.images, partition, &image_id, &value)?;
            topics.sent += 1;
        }
        topics.references.flush()
    }

    /// Waits until every message sent has its prediction.
    fn wait(&self, topics: &Topics, running: &mut Running) -> anyhow::Result<()> {
        let mut looks = 0;
        topics.predictions.wait_for(topics.sent, || {
            running.check()?;
            looks += 1;
            // Only now and then: this costs the broker a question for every partition.
            if looks % 20 == 0 {
                let dead = topics.dead_letters.count()?;
                ensure!(dead == 0, "{dead} pictures became dead letters");
            }
            Ok(())
        })
    }
}
