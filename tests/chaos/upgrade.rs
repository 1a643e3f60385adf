//! A rolling upgrade: every process of a group of an older build is replaced by one of this build,
//! one after the other, while messages come. Then the way back.

use crate::checker::Verdict;
use crate::exits::Allowed;
use crate::traffic::Producer;
use crate::world::{Launcher, Stage};
use crate::{Arena, PATIENCE, world};
use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Messages of a burst; the next one follows at once.
const BURST: usize = 16;

impl Arena {
    /// Replaces the stages of the build at `old` by those of this build, these by old ones in the
    /// next round, and so on; ends at the first finding.
    pub(super) async fn upgrade(&mut self, old: &Path) -> Result<Verdict> {
        let new = self.launcher.binary.clone();
        let versions = [version(old)?, version(&new)?];
        let mut verdict = Verdict::default();
        let mut dice = StdRng::seed_from_u64(self.options.seed);
        self.allowed = Allowed::default();
        self.launcher.binary = old.to_owned();
        self.replenish()?;
        self.produce(self.options.messages, &mut dice).await?;
        self.drain(&mut verdict).await?;
        for round in 1..=self.options.rounds {
            let from_old = round % 2 == 1;
            let to: PathBuf = if from_old {
                new.clone()
            } else {
                old.to_owned()
            };
            let started = Instant::now();
            let begun = chrono::Utc::now().timestamp_millis();
            self.launcher.binary = to;
            self.replace_all(&mut dice).await?;
            let ended = chrono::Utc::now().timestamp_millis();
            self.drain(&mut verdict).await?;
            self.look(&mut verdict)?;
            let gap = self.predictions.longest_gap(begun, ended);
            let (rows, files) = self.checker.size();
            let (_, told_again) = self.predictions.size();
            let way = if from_old { "old to new" } else { "new to old" };
            eprintln!(
                "{way}: {} processes in {:.1} s, longest gap between predictions {gap} ms, {rows} \
                 rows, {files} files, {told_again} predictions told again: {verdict}",
                self.options.stages,
                started.elapsed().as_secs_f64(),
            );
            self.log(&serde_json::json!({
                "upgrade": way, "old": versions[0], "new": versions[1],
                "stages": self.options.stages, "longest_gap_ms": gap,
                "messages": self.producer.produced.len(), "rows": rows, "files": files,
                "told_again": told_again, "lost": verdict.lost, "doubled": verdict.doubled,
                "misordered": verdict.misordered, "unexpected": verdict.unexpected,
            }))?;
            if !verdict.is_clean() {
                break;
            }
        }
        Ok(verdict)
    }

    async fn replace_all(&mut self, dice: &mut StdRng) -> Result<()> {
        let done = AtomicBool::new(false);
        let load = load(&mut self.producer, self.options.partitions, dice, &done);
        let replace = async {
            let outcome = replace(&mut self.stages, &mut self.launcher, self.allowed).await;
            done.store(true, Ordering::Relaxed);
            outcome
        };
        let (sent, objections) = tokio::join!(load, replace);
        sent?;
        self.objections.extend(objections?);
        Ok(())
    }
}

/// What a build says of itself.
fn version(binary: &Path) -> Result<String> {
    let said = Command::new(binary).arg("--version").output()?;
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}

/// Sends until `done`, and one burst more.
async fn load(
    producer: &mut Producer,
    partitions: i32,
    dice: &mut StdRng,
    done: &AtomicBool,
) -> Result<()> {
    loop {
        let last = done.load(Ordering::Relaxed);
        let places: Vec<i32> = (0..BURST)
            .map(|_| dice.random_range(0..partitions))
            .collect();
        producer.send(&places).await?;
        if last {
            return Ok(());
        }
    }
}

/// Tells one process after the other to end, and starts the next build in its place when it has.
/// Returns what was wrong with how they ended.
async fn replace(
    stages: &mut Vec<Stage>,
    launcher: &mut Launcher,
    allowed: Allowed,
) -> Result<Vec<String>> {
    let mut objections = Vec::new();
    for _ in 0..stages.len() {
        let mut leaving = stages.remove(0);
        leaving.signal("TERM")?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = leaving.ended()? {
                break status;
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "{} does not end",
                leaving.name
            );
            world::pause().await;
        };
        objections.extend(allowed.objection(&leaving, status));
        let coming = launcher.launch()?;
        ready(&coming).await?;
        stages.push(coming);
    }
    Ok(objections)
}

/// Waits until a process has partitions of its own, as an orchestrator waits for readiness.
async fn ready(stage: &Stage) -> Result<()> {
    let started = Instant::now();
    loop {
        let log = std::fs::read_to_string(&stage.log).context("a stage's log")?;
        if log.contains("partition assigned") {
            return Ok(());
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "{} was given no partition: {log}",
            stage.name
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
