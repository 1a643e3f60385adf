//! The kill matrix: at each step of the stage, of a model swap, of the retraining job's lease and
//! of the registry's pointer, the process is killed, told to end, made to fail, or made to hang;
//! then it is started again. Nothing may be lost, doubled or half done.

use crate::checker::Verdict;
use crate::world::Stage;
use crate::{Arena, PATIENCE, world};
use anyhow::{Context, Result, bail, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tagstream_core::failpoint;
use tagstream_core::failpoint::{MESSAGE_STEPS, OTHER_STEPS};

const MESSAGES: usize = 48;
/// Longer than the drain may take.
const DRAIN: Duration = Duration::from_secs(10);

/// Every place, and the pass at which something happens there.
fn places() -> Vec<(String, u64)> {
    let pass = |place: &str| match place.split('.').next() {
        // Once for each image.
        Some("fetch" | "infer") => 10,
        Some("predictions" | "dead_letter" | "put") => 2,
        _ if place == "offset.commit.before" => 2,
        _ => 1,
    };
    let steps = [&MESSAGE_STEPS[..], &OTHER_STEPS].concat();
    let places = failpoint::places(&steps).into_iter();
    let with_pass = |place: String| {
        let pass = pass(&place);
        (place, pass)
    };
    places.map(with_pass).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Term,
    Error,
    Hang,
}

impl Action {
    const ALL: [Action; 4] = [Action::Kill, Action::Term, Action::Error, Action::Hang];

    fn name(self) -> &'static str {
        match self {
            Action::Kill => "kill",
            Action::Term => "term",
            Action::Error => "error",
            Action::Hang => "hang",
        }
    }
}

struct Cell {
    place: String,
    action: Action,
    pass: u64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}@{}", self.place, self.action.name(), self.pass)
    }
}

/// The whole matrix, or its diagonal of this seed: one cell of every place, and each action about
/// equally often. Place `i` has action `(i + i / 4 + seed) mod 4`, so a step's `before` and `after`
/// differ, and any four seeds in a row have the whole matrix between them.
fn cells(short: bool, seed: u64) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (i, (place, pass)) in places().into_iter().enumerate() {
        let turn = (i + i / 4 + (seed % 4) as usize) % 4;
        for (k, action) in Action::ALL.into_iter().enumerate() {
            if !short || turn == k {
                cells.push(Cell {
                    place: place.clone(),
                    action,
                    pass,
                });
            }
        }
    }
    cells
}

impl Arena {
    /// Runs the matrix; stops at the first cell that breaks something.
    pub(super) async fn matrix(&mut self, short: bool) -> Result<Verdict> {
        // Nobody is started in the place of the one that dies before the cell is over.
        self.options.stages = 0;
        let mut verdict = Verdict::default();
        let mut dice = StdRng::seed_from_u64(self.options.seed);
        let mut cells = cells(short, self.options.seed);
        if let Some(only) = &self.options.only {
            cells.retain(|cell| cell.to_string().starts_with(only));
        }
        ensure!(!cells.is_empty(), "no cell of the matrix is called so");
        let other = self.make_second_model()?;
        for cell in &cells {
            let started = Instant::now();
            let done = match cell.place.split_once('.').map(|(step, _)| step) {
                Some("swap") => self.swap(cell, &other, &mut dice, verdict).await,
                Some("pointer") => self.pointer(cell, &other).map(|()| verdict),
                Some("lease") => self.lease(cell).map(|()| verdict),
                _ => self.step(cell, &mut dice, verdict).await,
            };
            verdict = done.context(cell.to_string())?;
            let seconds = started.elapsed().as_secs_f64();
            eprintln!("{seconds:>5.1} s  {cell}: {verdict}");
            self.log(&serde_json::json!({
                "cell": cell.to_string(), "seconds": (seconds * 10.0).round() / 10.0,
                "messages": self.producer.produced.len(), "lost": verdict.lost,
                "doubled": verdict.doubled, "misordered": verdict.misordered,
                "wrong": verdict.wrong,
            }))?;
            if !verdict.is_clean() {
                return Ok(verdict);
            }
        }
        eprintln!("{} cells", cells.len());
        Ok(verdict)
    }

    /// One step of a message's way.
    async fn step(&mut self, cell: &Cell, dice: &mut StdRng, verdict: Verdict) -> Result<Verdict> {
        self.produce(MESSAGES, dice).await?;
        let mut stage = self
            .launcher
            .launch_armed(&cell.to_string(), "stage", &[])?;
        happened(&mut stage, cell).await?;
        if cell.action == Action::Hang {
            // What hangs is given up after the drain's time; if it is the line itself that hangs, a
            // second signal ends it.
            stage.signal("TERM")?;
            let told = Instant::now();
            while stage.ended()?.is_none() && told.elapsed() < DRAIN {
                world::pause().await;
            }
            stage.signal("TERM")?;
        }
        ended_as(cell, ended(&mut stage).await?)?;
        self.finish(verdict).await
    }

    /// Reads the rest with a process that nothing happens to, and checks everything.
    async fn finish(&mut self, mut verdict: Verdict) -> Result<Verdict> {
        let (_, log) = self.launcher.once("finish", &["--until-drained".into()])?;
        let drained = self.drain(&mut verdict).await;
        self.look(&mut verdict)?;
        if verdict.is_clean() {
            drained.with_context(|| log)?;
        }
        Ok(verdict)
    }

    /// A model is swapped while messages flow.
    async fn swap(
        &mut self,
        cell: &Cell,
        other: &std::path::Path,
        dice: &mut StdRng,
        verdict: Verdict,
    ) -> Result<Verdict> {
        let url = self.registry_url(cell);
        let first = self.launcher.model.clone();
        self.registry(
            &url,
            &[
                "add".into(),
                first.display().to_string(),
                "--promote".into(),
            ],
            None,
        )?;
        self.launcher.environment = vec![("TAGSTREAM_MODEL__WATCH_INTERVAL_MS", "200".into())];
        let arguments = ["--model".to_string(), url.clone()];
        let mut stage = self
            .launcher
            .launch_armed(&cell.to_string(), "swapping", &arguments)?;
        self.launcher.environment.clear();
        self.produce(MESSAGES, dice).await?;
        self.registry(
            &url,
            &[
                "add".into(),
                other.display().to_string(),
                "--promote".into(),
            ],
            None,
        )?;
        happened(&mut stage, cell).await?;
        if matches!(cell.action, Action::Error | Action::Hang) {
            // A swap that fails or hangs takes nothing with it: the stage goes on with a model that
            // it has.
            self.produce(MESSAGES, dice).await?;
            let mut between = Verdict::default();
            self.drain(&mut between).await?;
            stage.signal("TERM")?;
        }
        let status = ended(&mut stage).await?;
        if cell.action == Action::Kill {
            ensure!(
                status.signal() == Some(9),
                "{} ended with {status}",
                stage.name
            );
        } else {
            ensure!(status.success(), "{} ended with {status}", stage.name);
        }
        self.finish(verdict).await
    }

    /// The registry's pointer is moved by a command that something happens to.
    fn pointer(&mut self, cell: &Cell, other: &std::path::Path) -> Result<()> {
        let url = self.registry_url(cell);
        let model = self.launcher.model.display().to_string();
        let add = ["add".to_string(), model, "--promote".into()];
        self.registry(&url, &add, None)?;
        let other = ["add".to_string(), other.display().to_string()];
        self.registry(&url, &other, None)?;
        let promote = ["promote".to_string(), "2".into()];
        self.registry(&url, &promote, Some(cell))?;
        let serving = |arena: &mut Arena| -> Result<u64> {
            let shown = arena.registry(&url, &["show".into(), "--json".into()], None)?;
            let shown: serde_json::Value = serde_json::from_str(&shown)?;
            let version = shown["pointer"]["version"].as_u64();
            version.with_context(|| format!("no version in {shown}"))
        };
        let now = serving(self)?;
        ensure!(now == 1 || now == 2, "version {now} serves");
        if now == 1 {
            self.registry(&url, &promote, None)?;
            ensure!(serving(self)? == 2, "the promotion did not help");
        }
        self.registry(&url, &["rollback".into()], None)?;
        ensure!(serving(self)? == 1, "the rollback did not help");
        Ok(())
    }

    /// The retraining job takes its lease, and something happens to it; the next run gets the lease
    /// all the same.
    fn lease(&mut self, cell: &Cell) -> Result<()> {
        let url = self.registry_url(cell);
        let model = self.launcher.model.display().to_string();
        self.registry(&url, &["add".into(), model, "--promote".into()], None)?;
        let config = self.launcher.retrain_config(&url)?;
        let run = |failpoints: Option<&Cell>| -> Result<ExitStatus> {
            let mut command = std::process::Command::new(&self.launcher.binary);
            command.args(["retrain", "--once", "--config"]).arg(&config);
            if let Some(cell) = failpoints {
                command.env("TAGSTREAM_FAILPOINTS", cell.to_string());
            }
            self.launcher.command(
                command,
                "retrain",
                failpoints.map(|c| c.action == Action::Hang),
            )
        };
        let status = run(Some(cell))?;
        ensure!(
            !status.success(),
            "retraining without labels ended with {status}"
        );
        // 99: too few labels, found out under the lease, for which it waited until the dead one's
        // time was over.
        let status = run(None)?;
        ensure!(
            status.code() == Some(99),
            "the next run ended with {status}"
        );
        Ok(())
    }

    fn registry_url(&self, cell: &Cell) -> String {
        let name = cell.to_string().replace(['=', '@'], "-");
        format!("s3://{}/registries/{name}", self.launcher.bucket)
    }

    /// Runs `tagstream registry`; without a cell it must succeed.
    fn registry(&mut self, url: &str, arguments: &[String], cell: Option<&Cell>) -> Result<String> {
        let mut command = std::process::Command::new(&self.launcher.binary);
        let config = self.launcher.write_config()?;
        command
            .args(["registry", "--registry", url, "--config"])
            .arg(config)
            .args(arguments);
        command.env("TAGSTREAM_CACHE", self.launcher.folder.join("cache"));
        match cell {
            None => {
                let output = command.output()?;
                ensure!(
                    output.status.success(),
                    "tagstream registry {}: {}",
                    arguments.join(" "),
                    String::from_utf8_lossy(&output.stderr)
                );
                Ok(String::from_utf8(output.stdout)?)
            }
            Some(cell) => {
                command.env("TAGSTREAM_FAILPOINTS", cell.to_string());
                let hangs = cell.action == Action::Hang;
                let status = self.launcher.command(command, "pointer", Some(hangs))?;
                ensure!(!status.success(), "the command ended with {status}");
                Ok(String::new())
            }
        }
    }

    fn make_second_model(&self) -> Result<PathBuf> {
        let folder = self.launcher.folder.join("second");
        std::fs::create_dir_all(&folder)?;
        crate::make_model(&self.launcher.binary, &folder, "house\ntree\nboat\n")
    }
}

/// Waits until the failpoint was passed.
async fn happened(stage: &mut Stage, cell: &Cell) -> Result<()> {
    let started = Instant::now();
    while !std::fs::read_to_string(&stage.log)?.contains("failpoint: ") {
        if let Some(status) = stage.ended()? {
            bail!(
                "{} ended with {status} before anything happened",
                stage.name
            );
        }
        ensure!(
            started.elapsed() < PATIENCE,
            "{cell} never happened in {}",
            stage.name
        );
        world::pause().await;
    }
    Ok(())
}

async fn ended(stage: &mut Stage) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = stage.ended()? {
            return Ok(status);
        }
        ensure!(started.elapsed() < PATIENCE, "{} does not end", stage.name);
        world::pause().await;
    }
}

fn ended_as(cell: &Cell, status: ExitStatus) -> Result<()> {
    let right = match cell.action {
        Action::Kill => status.signal() == Some(9),
        Action::Term => status.success(),
        Action::Error => status.code().is_some_and(|code| code != 0),
        Action::Hang => status.code().is_some(),
    };
    ensure!(right, "it ended with {status}");
    Ok(())
}
