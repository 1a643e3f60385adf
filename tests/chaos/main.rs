//! Chaos: three stage processes in one group, a real Apache Kafka, a real S3 server behind a faulty
//! proxy, and an independent checker that reads the topic and the Parquet glob.
//!
//! `make chaos ROUNDS=n SEED=s` runs it; a seed repeats a run's faults. It ends with
//! `lost=0 doubled=0 misordered=0 unexpected=0`.

// The driver's own clients have no secrets; it is a program, nobody uses its items from outside.
#![allow(clippy::disallowed_methods, unreachable_pub)]

mod checker;
mod exits;
mod faults;
mod image_host;
mod matrix;
mod operator;
mod options;
mod predictions;
mod proxy;
mod rows;
mod traffic;
mod upgrade;
mod world;

use anyhow::{Result, bail};
use checker::{Checker, Verdict};
use clap::Parser;
use exits::Allowed;
use faults::Fault;
use image_host::ImageHost;
use options::Options;
use predictions::PredictionReader;
use proxy::Proxy;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use traffic::{DEAD_LETTER_LIMIT, DeadLetterReader, Producer};
use world::{Launcher, Servers, Stage};

/// Longer than the stage's session timeout and the rebalance that follows it.
const ZOMBIE_SLEEP: Duration = Duration::from_millis(4_500);
/// S3 requests that a round with an S3 fault wants to see hit.
const ENOUGH_HITS: u64 = 6;
/// Messages of a transaction, or first ones of a new partition.
const TRANSACTION: usize = 20;
/// The images topic grows to this by [`Fault::PartitionAdded`].
const MOST_PARTITIONS: i32 = 12;
/// How long anything may take that must come in the end; the machine may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    let options = Options::parse();
    let expect_broken = options.expect_broken;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    match runtime.block_on(run(options)) {
        Ok(verdict) => {
            for note in &verdict.notes {
                eprintln!("  {note}");
            }
            println!("{verdict}");
            if verdict.is_as_expected(expect_broken) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<Verdict> {
    let scratch = tempfile::tempdir()?;
    let folder = match &options.keep {
        Some(keep) => {
            std::fs::create_dir_all(keep)?;
            keep.clone()
        }
        None => scratch.path().to_path_buf(),
    };
    let binary = options
        .binary
        .clone()
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_tagstream").into());
    let model = match &options.model {
        Some(model) => model.clone(),
        // An older build need not read what this one writes.
        None => make_model(
            options.upgrade_from.as_ref().unwrap_or(&binary),
            &folder,
            "house\ntree\ncar\nfish\n",
        )?,
    };
    let servers = Servers::start(options.brokers)?;
    let partitions = options.partitions as usize;
    servers.create_topic(world::IMAGES, partitions, &[])?;
    servers.create_topic(world::PREDICTIONS, partitions, &[])?;
    // 0.1.0 ends by a dead letter that its topic has no room for.
    let limit: &[&str] = match options.upgrade_from {
        Some(_) => &[],
        None => &[DEAD_LETTER_LIMIT],
    };
    servers.create_topic(world::DEAD_LETTERS, 1, limit)?;
    let proxy = Proxy::start(servers.s3_endpoint.clone(), options.seed).await?;
    let prefix = format!("chaos-{}", options.seed);
    let checker = Checker::new(
        Arc::new(servers.store()?),
        format!("{prefix}/predictions/{}", world::IMAGES),
        world::IMAGES.into(),
    );
    let mut launcher = Launcher::new(
        binary,
        folder,
        servers.bootstrap.clone(),
        proxy.clone(),
        servers.bucket.clone(),
        prefix,
        model,
    );
    launcher.failpoints = options.failpoints.clone();
    let images = ImageHost::start(traffic::picture()?).await?;
    let mut arena = Arena {
        images,
        producer: Producer::new(&servers.bootstrap)?,
        dead: DeadLetterReader::new(&servers.bootstrap)?,
        predictions: PredictionReader::new(&servers.bootstrap, options.partitions)?,
        allowed: Allowed::default(),
        objections: Vec::new(),
        stages: Vec::new(),
        exits: Vec::new(),
        rounds_done: 0,
        seen: BTreeMap::new(),
        hits_before: None,
        epochs: HashMap::new(),
        options,
        servers,
        proxy,
        checker,
        launcher,
    };
    if let Some(matrix) = arena.options.matrix.clone() {
        return arena.matrix(matrix == "short").await;
    }
    if let Some(old) = arena.options.upgrade_from.clone() {
        return arena.upgrade(&old).await;
    }
    let mut verdict = Verdict::default();
    for round in 1..=arena.options.rounds {
        verdict = arena.round(round, verdict).await?;
        if !verdict.is_clean() {
            break;
        }
    }
    arena.log_summary(&verdict)?;
    Ok(verdict)
}

/// A zero-shot bundle from the demo model: the checker cares about rows, not about tags.
fn make_model(binary: &Path, folder: &Path, names: &str) -> Result<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let categories = folder.join("categories.txt");
    std::fs::write(&categories, names)?;
    let out = folder.join("model");
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    let status = std::process::Command::new(binary)
        .arg("init")
        .arg("--clip")
        .arg(root.join("models/demo-clip"))
        .arg("--categories")
        .arg(&categories)
        .args(["--input-size", "96"])
        .arg("--out")
        .arg(&out)
        .status()?;
    anyhow::ensure!(status.success(), "tagstream init failed: {status}");
    Ok(out)
}

struct Arena {
    options: Options,
    servers: Servers,
    proxy: Proxy,
    images: ImageHost,
    launcher: Launcher,
    stages: Vec<Stage>,
    /// How processes ended that nobody told to end.
    exits: Vec<String>,
    rounds_done: u64,
    /// How often each kind of fault happened.
    seen: BTreeMap<String, u64>,
    /// S3 requests hit before this round's S3 faults.
    hits_before: Option<u64>,
    /// Each partition's epoch after what the operator did; 0 if it did nothing.
    epochs: HashMap<i32, u32>,
    producer: Producer,
    dead: DeadLetterReader,
    predictions: PredictionReader,
    /// How processes may end in this round.
    allowed: Allowed,
    /// How some ended that should not have.
    objections: Vec<String>,
    checker: Checker,
}

impl Arena {
    async fn round(&mut self, round: u64, mut verdict: Verdict) -> Result<Verdict> {
        let started = Instant::now();
        let mut dice = StdRng::seed_from_u64(self.options.seed.wrapping_mul(1_000_003) ^ round);
        let faults = Fault::draw(
            &mut dice,
            self.options.brokers,
            self.options.only.as_deref(),
        )?;
        self.replenish()?;
        self.allowed = Allowed::by(&faults);
        let share = self.options.messages / (faults.len() + 1);
        self.produce(share, &mut dice).await?;
        for fault in &faults {
            self.inject(*fault, &mut dice, &mut verdict).await?;
            self.produce(share, &mut dice).await?;
        }
        self.heal().await?;
        let drained = self.drain(&mut verdict).await;
        self.look(&mut verdict)?;
        let (rows, files) = self.checker.size();
        let names: Vec<String> = faults.iter().map(Fault::to_string).collect();
        eprintln!(
            "round {round:>4}  {:>5.1} s  {:<40} {rows} rows, {files} files, {} dead letters, \
             {} S3 faults: {verdict}",
            started.elapsed().as_secs_f64(),
            names.join(" + "),
            self.dead.letters.len(),
            self.proxy.hits(),
        );
        self.log_round(round, &names, started.elapsed(), &verdict)?;
        if let Err(error) = drained
            && verdict.is_clean()
        {
            bail!("round {round} ({}): {error:#}", names.join(" + "));
        }
        Ok(verdict)
    }

    /// Reads what the stages wrote to topics, and checks everything.
    fn look(&mut self, verdict: &mut Verdict) -> Result<()> {
        self.dead.catch_up()?;
        self.predictions.catch_up()?;
        self.checker
            .check(&self.producer.produced, &self.dead.letters, verdict);
        self.predictions.check(&self.checker, verdict);
        for objection in self.objections.drain(..) {
            // A protocol that is broken on purpose may end anyhow.
            if !self.options.expect_broken {
                verdict.unexpected += 1;
                verdict.note(objection);
            }
        }
        Ok(())
    }

    async fn produce(&mut self, count: usize, dice: &mut StdRng) -> Result<()> {
        let partitions = self.places(count, dice);
        self.producer.send(&partitions).await
    }

    /// A partition for each of `count` messages.
    fn places(&self, count: usize, dice: &mut StdRng) -> Vec<i32> {
        (0..count)
            .map(|_| dice.random_range(0..self.options.partitions))
            .collect()
    }

    async fn add_partition(&mut self) -> Result<()> {
        if self.options.partitions >= MOST_PARTITIONS {
            return Ok(());
        }
        let new = self.options.partitions;
        self.options.partitions += 1;
        self.servers.add_partitions(self.options.partitions)?;
        self.producer.renew()?;
        // Before the group has heard of it.
        self.producer.send(&[new; TRANSACTION]).await
    }

    async fn inject(
        &mut self,
        fault: Fault,
        dice: &mut StdRng,
        verdict: &mut Verdict,
    ) -> Result<()> {
        match fault {
            Fault::Kill => {
                if let Some(stage) = self.stages.iter_mut().choose(dice) {
                    stage.kill()?;
                    let name = stage.name.clone();
                    self.stages.retain(|s| s.name != name);
                }
                self.replenish()
            }
            Fault::Terminate | Fault::Leave => {
                if let Some(stage) = self.stages.iter_mut().choose(dice) {
                    stage.signal("TERM")?;
                }
                Ok(())
            }
            Fault::Zombie => {
                if let Some(stage) = self.stages.iter_mut().choose(dice) {
                    stage.signal("STOP")?;
                }
                Ok(())
            }
            Fault::FrozenPut => {
                let stage = self
                    .launcher
                    .launch_armed("put.before=stop@2", "stage", &[])?;
                self.stages.push(stage);
                Ok(())
            }
            Fault::Join => {
                let stage = self.launcher.launch()?;
                self.stages.push(stage);
                Ok(())
            }
            Fault::BrokerRestart => {
                let node = dice.random_range(1..=self.servers.brokers).to_string();
                world::run_script("kafka.sh", &["kill", &node])?;
                world::run_script("kafka.sh", &["restart", &node])?;
                Ok(())
            }
            Fault::BrokerFrozen => {
                let node = dice.random_range(1..=self.servers.brokers).to_string();
                world::run_script("kafka.sh", &["freeze", &node])?;
                // Not a synchronisation: sessions have to end meanwhile, a span of time.
                std::thread::sleep(ZOMBIE_SLEEP);
                world::run_script("kafka.sh", &["thaw", &node])?;
                Ok(())
            }
            Fault::PartitionAdded => self.add_partition().await,
            Fault::Transactions => {
                for commits in [true, false, true] {
                    let partitions = self.places(TRANSACTION, dice);
                    self.producer.transact(&partitions, commits).await?;
                }
                Ok(())
            }
            Fault::LeaderMove => self.servers.move_leaders(self.options.partitions, dice),
            Fault::ImageHost(fault) => {
                self.images.set(Some(fault));
                self.producer.elsewhere = Some(self.images.folder());
                let sent = self.produce(TRANSACTION, dice).await;
                self.producer.elsewhere = None;
                sent?;
                let (started, before) = (Instant::now(), self.images.hits());
                // A host that nobody asks is no fault.
                while self.images.hits() == before && started.elapsed() < ZOMBIE_SLEEP {
                    world::pause().await;
                }
                Ok(())
            }
            Fault::S3(plan) => {
                self.hits_before.get_or_insert(self.proxy.hits());
                self.proxy.set(Some(plan));
                Ok(())
            }
            Fault::TopicRecreated => self.recreate_topic(dice, verdict).await,
            Fault::RetentionOvertakes => self.overtake(dice, verdict).await,
            Fault::OffsetMoved => self.move_offsets(dice, verdict).await,
            Fault::S3Restart => {
                world::run_script("s3.sh", &["restart"])?;
                Ok(())
            }
        }
    }

    /// Ends the faults: zombies sleep until others own their partitions, then wake; the S3 server
    /// behaves again.
    async fn heal(&mut self) -> Result<()> {
        // A fault that hit nothing is none: the S3 server misbehaves until somebody has noticed, if
        // anybody asks it for anything.
        if let Some(before) = self.hits_before.take() {
            let started = Instant::now();
            while self.proxy.hits() < before + ENOUGH_HITS && started.elapsed() < ZOMBIE_SLEEP {
                world::pause().await;
            }
        }
        if self.stages.iter().any(Stage::is_stopped) {
            // Not a synchronisation: a zombie has to outlast its session, and that is a span of
            // time.
            std::thread::sleep(ZOMBIE_SLEEP);
        }
        for stage in &mut self.stages {
            stage.wake()?;
        }
        self.proxy.set(None);
        self.images.set(None);
        self.replenish()
    }

    /// Buries processes that have ended and starts others in their place.
    fn replenish(&mut self) -> Result<()> {
        let mut alive = Vec::new();
        for mut stage in self.stages.drain(..) {
            match stage.ended()? {
                None => alive.push(stage),
                Some(status) => {
                    self.objections
                        .extend(self.allowed.objection(&stage, status));
                    if !status.success() {
                        self.exits.push(format!("{}: {status}", stage.name));
                    }
                }
            }
        }
        self.stages = alive;
        while self.stages.len() < self.options.stages {
            let stage = self.launcher.launch()?;
            self.stages.push(stage);
        }
        Ok(())
    }

    /// Waits until every partition's chain has reached the last message.
    async fn drain(&mut self, verdict: &mut Verdict) -> Result<()> {
        let mut wanted = HashMap::new();
        let current = self.producer.incarnation;
        let produced = self.producer.produced.values();
        for message in produced.filter(|p| p.incarnation == current && !p.excused) {
            let epoch = self.epochs.get(&message.partition).copied().unwrap_or(0);
            let end = wanted.entry(message.partition).or_insert((epoch, 0));
            end.1 = end.1.max(message.offset + 1);
        }
        // A protocol broken on purpose is given less time to be stuck in.
        let patience = if self.options.expect_broken {
            PATIENCE / 6
        } else {
            PATIENCE
        };
        let deadline = Instant::now() + patience;
        let mut poll = tokio::time::interval(Duration::from_millis(150));
        loop {
            poll.tick().await;
            self.checker.refresh(verdict).await?;
            if !verdict.is_clean() {
                // Broken already: what would drain a broken chain?
                return Ok(());
            }
            let ends = self.checker.ends();
            let behind: Vec<_> = wanted
                .iter()
                .filter(|(p, end)| ends.get(*p).copied().unwrap_or((0, 0)) < **end)
                .collect();
            if behind.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let alive: Vec<_> = self.stages.iter().map(|s| s.name.clone()).collect();
                bail!("stuck: partitions {behind:?} are at {ends:?}; running: {alive:?}");
            }
            self.replenish()?;
        }
    }
}
