//! The retraining job: labels in, a judged model out.
//!
//! ```text
//! lease ─► champion ─► snapshot of labels ─► enough new? ─► features ─► train ─► calibrate ─┐
//!                                                                                           ▼
//! promote, hold or reject ◄─ register (report beside it) ◄─ report ◄─ judge ◄─────── candidate
//! ```
//!
//! A run is named by the hash of all that decides its result: snapshot, champion, settings, version
//! of the code. Its work folder holds the training's checkpoint and, once training is done, the
//! candidate; a run that was killed goes on from there. The registry is only touched at the end, by
//! [`Registry::register`] (the same run registers once) and by one [`Registry::decide`], which the
//! lease's token fences.

mod candidate;
mod error;
mod images;
pub(super) mod inputs;
mod renewing_lease;
mod trial;

pub use error::JobError;
pub use inputs::Inputs;

use super::config::RetrainConfig;
use super::judge::{Gate, Judgement};
use super::report;
use super::report::{Cost, ReportFiles};
use candidate::Candidate;
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;
use tagstream_core::redact::redact_place;
use tagstream_core::storage::atomic;
use tagstream_core::{build, digest};
use tagstream_model::bundle::Bundle;
use tagstream_model::registry::{
    Action, Cache, Decision, Pointer, Registration, Registry, RegistryError, Verdict, VersionRecord,
};
use tagstream_train::labels::LabelMatrix;
use tokio::runtime::Runtime;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing to do, and why.
    Nothing {
        /// Why.
        reason: String,
    },
    /// A candidate was judged.
    Judged {
        /// What the judge said.
        verdict: Verdict,
        /// The version that the candidate became; none in a dry run.
        version: Option<u64>,
        /// The candidate's bundle id.
        id: String,
        /// What was measured, in a sentence, as it stands in the registry's history.
        why: String,
        /// The gates that failed, with what they measured and what was asked.
        failed_gates: Vec<Gate>,
        /// Where the report was written, if a folder is configured or in a dry run.
        report: Option<PathBuf>,
    },
}

/// What the command line adds to the configuration.
#[derive(Debug, Clone, Default)]
pub struct JobOptions {
    /// Write nothing but the report.
    pub dry_run: bool,
    /// Refresh prototypes and memory without gradients.
    pub prototypes_only: bool,
    /// Who runs the job.
    pub who: String,
}

/// Progress of a running job, for a progress bar.
#[derive(Debug, Clone, PartialEq)]
pub enum JobProgress {
    /// A step has begun.
    Step(&'static str),
    /// Images of which features are there, of all.
    Features(usize, usize),
    /// Training steps made, of all; total loss.
    Training(usize, usize, f64),
}

/// One run.
pub struct Job<'a> {
    config: &'a RetrainConfig,
    options: &'a JobOptions,
    runtime: &'a Runtime,
    on_progress: &'a (dyn Fn(JobProgress) + Sync),
    cost: Cost,
}

/// The labels to learn from, and the held-out ones that the judge goes by.
type Split = (LabelMatrix, LabelMatrix);

/// What a run starts from, once it is known that there is something to do.
struct Prepared {
    /// What serves, as the registry said before anything was read.
    pointer: Pointer,
    champion: Bundle,
    inputs: Inputs,
    /// The run's name.
    run: String,
    /// Of this run, in the work folder.
    folder: PathBuf,
}

impl<'a> Job<'a> {
    /// A run with this configuration.
    pub fn new(
        config: &'a RetrainConfig,
        options: &'a JobOptions,
        runtime: &'a Runtime,
        on_progress: &'a (dyn Fn(JobProgress) + Sync),
    ) -> Self {
        Job {
            config,
            options,
            runtime,
            on_progress,
            cost: Cost::default(),
        }
    }

    /// Runs once. Must not be called from a task of `runtime`.
    ///
    /// # Errors
    /// [`JobError`]; the registry is as before.
    pub fn run(mut self) -> Result<Outcome, JobError> {
        let config = self.config;
        let opening = Registry::open(&config.registry.url, &config.object_store);
        let registry = self.runtime.block_on(opening)?;
        if self.options.dry_run {
            return self.under_lease(&registry, None);
        }
        let lease = self.take_lease(&registry)?;
        let outcome = self.under_lease(&registry, Some(lease.token));
        self.runtime.block_on(lease.release());
        outcome
    }

    /// Times a step and tells of it.
    fn step<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&Self) -> Result<T, JobError>,
    ) -> Result<T, JobError> {
        (self.on_progress)(JobProgress::Step(name));
        let began = Instant::now();
        let result = work(self);
        let seconds = began.elapsed().as_secs_f64();
        tracing::info!(step = name, seconds, "retrain");
        self.cost.seconds.push((name, seconds));
        result
    }

    /// The whole run, in the order of its steps.
    fn under_lease(
        &mut self,
        registry: &Registry,
        token: Option<u64>,
    ) -> Result<Outcome, JobError> {
        let (work, (train, held_out)) = match self.prepare(registry)? {
            ControlFlow::Continue(prepared) => prepared,
            ControlFlow::Break(reason) => return Ok(Outcome::Nothing { reason }),
        };
        let fetching = images::UriImages::new(self.config, &work.inputs, self.runtime)?;
        let (train, train_features) = self.step("features", |job| {
            job.features(&work.champion, &fetching, train)
        })?;
        let (held_out, held_out_features) = self.step("held-out features", |job| {
            job.features(&work.champion, &fetching, held_out)
        })?;
        let candidate = self.step("training", |job| {
            Candidate::make(
                job,
                &work.champion,
                &work.inputs,
                (&train, &train_features),
                (&held_out, &held_out_features),
                &work.folder,
            )
        })?;
        let judgement = self.step("judging", |job| {
            trial::judge_candidate(
                job,
                &work.champion,
                &candidate,
                &work.inputs,
                &held_out,
                &held_out_features,
            )
        })?;
        self.cost.peak_mib = peak_mib();
        let report = self.step("report", |job| {
            report::make(&report::Material {
                job: job.config,
                cost: &job.cost,
                run: &work.run,
                champion: &work.champion,
                champion_version: work.pointer.version,
                candidate: &candidate.bundle,
                curves: &candidate.curves,
                inputs: &work.inputs,
                train: &train,
                held_out: &held_out,
                judgement: &judgement.judgement,
                confidence: &judgement.confidence,
                examples: &trial::examples(job, &work.champion, &candidate, &fetching, &held_out),
            })
            .map_err(JobError::work("report.json"))
        })?;
        let place = self.write_report(&report, &work.folder)?;
        let judgement = &judgement.judgement;
        let judged = |version, report| judged(judgement, &candidate.bundle, version, report);
        if token.is_none() {
            return Ok(judged(None, Some(place)));
        }
        let version = self.step("registering", |job| {
            job.settle(registry, &work, &candidate, judgement, token)
        })?;
        // Done: what the folder holds is in the registry now. Failing to tidy does no harm.
        let _ = std::fs::remove_dir_all(&work.folder);
        let place = (!self.config.report.folder.is_empty()).then_some(place);
        Ok(judged(Some(version.version), place))
    }

    /// What the run starts from, with the labels to learn from and those to judge on, or the reason
    /// why there is nothing to do. The run's folder is made only where there is something.
    fn prepare(
        &mut self,
        registry: &Registry,
    ) -> Result<ControlFlow<String, (Prepared, Split)>, JobError> {
        let (pointer, champion) = self.step("champion", |job| job.champion(registry))?;
        let inputs = self.step("labels", |job| {
            let reading = inputs::read(job.config, &champion);
            job.runtime.block_on(reading)
        })?;
        if inputs.table.images().next().is_none() {
            let (table, url) = (&self.config.labels.table, &self.config.labels.url);
            let reason = format!("no labels in the table `{table}` at {}", redact_place(url));
            return Ok(ControlFlow::Break(reason));
        }
        let run = self.run_id(&inputs, &champion)?;
        if let Some(reason) = self.nothing_to_do(registry, &inputs, &run)? {
            return Ok(ControlFlow::Break(reason));
        }
        let (train, held_out) = inputs.split(self.config.judge.held_out_share);
        if !train.flat().contains(&1) {
            let reason = "no known presence outside the held-out part".into();
            return Ok(ControlFlow::Break(reason));
        }
        let folder = self.work_folder()?.join(&run);
        std::fs::create_dir_all(&folder).map_err(JobError::io(&folder))?;
        let prepared = Prepared {
            pointer,
            champion,
            inputs,
            run,
            folder,
        };
        Ok(ControlFlow::Continue((prepared, (train, held_out))))
    }

    /// What serves now, as a bundle on this disk.
    fn champion(&self, registry: &Registry) -> Result<(Pointer, Bundle), JobError> {
        self.runtime.block_on(async {
            let pointer = registry.pointer().await?;
            let nothing = || RegistryError::NothingPromoted {
                url: registry.url().into(),
            };
            let pointer = pointer
                .filter(|p| p.version.is_some())
                .ok_or_else(nothing)?;
            let version = registry
                .version(pointer.version.ok_or_else(nothing)?)
                .await?;
            let cache = Cache::default_location();
            let folder = registry.materialise(&version, &cache).await?;
            let bundle = Bundle::open(folder)?;
            if bundle.text_files().is_none() {
                return Err(JobError::Unsuitable(format!(
                    "version {} has no text tower (text/), which retraining needs",
                    version.version
                )));
            }
            Ok((pointer, bundle))
        })
    }

    /// Hash of all that decides the result.
    fn run_id(&self, inputs: &Inputs, champion: &Bundle) -> Result<String, JobError> {
        let c = self.config;
        let deciding = serde_json::json!({
            "snapshot": inputs.snapshot,
            "champion": champion.id(),
            "categories": inputs.categories,
            "method": c.method()?,
            "seed": c.train.seed,
            "warm_start": c.train.warm_start,
            "prototypes_only": self.options.prototypes_only,
            "calibration": c.calibration,
            "judge": c.judge,
        });
        Ok(run_hash(&deciding, build::name()))
    }

    fn nothing_to_do(
        &self,
        registry: &Registry,
        inputs: &Inputs,
        run: &str,
    ) -> Result<Option<String>, JobError> {
        self.runtime.block_on(async {
            let history = registry.history().await?;
            let settled = history.iter().find(|e| e.run.as_deref() == Some(run));
            if let Some(entry) = settled {
                return Ok(Some(format!(
                    "the same labels were judged with the same champion and settings before: \
                     version {} was {}",
                    entry.version, entry.action
                )));
            }
            let new = inputs.new_since_last_run(registry, &history).await?;
            let asked = self.config.labels.min_new_labels;
            if new < asked {
                return Ok(Some(format!(
                    "{new} new or changed labels since the last run, {asked} are asked for \
                     (labels.min_new_labels)"
                )));
            }
            Ok(None)
        })
    }

    fn work_folder(&self) -> Result<PathBuf, JobError> {
        let folder = match self.config.train.work_folder.as_str() {
            "" => tagstream_model::runtime::cache_folder()
                .unwrap_or_else(std::env::temp_dir)
                .join("retrain"),
            folder => PathBuf::from(folder),
        };
        std::fs::create_dir_all(&folder).map_err(JobError::io(&folder))?;
        Ok(folder)
    }

    /// Writes the report beside the candidate, and to the folder that is configured. Gives the
    /// page's path.
    fn write_report(
        &self,
        report: &ReportFiles,
        folder: &std::path::Path,
    ) -> Result<PathBuf, JobError> {
        let mut folders = vec![folder.to_path_buf()];
        if !self.config.report.folder.is_empty() {
            folders.push(PathBuf::from(&self.config.report.folder));
        }
        for folder in &folders {
            std::fs::create_dir_all(folder).map_err(JobError::io(folder))?;
            for (name, text) in [("report.html", &report.html), ("report.json", &report.json)] {
                let path = folder.join(name);
                atomic::write_file(&path, text).map_err(JobError::io(&path))?;
            }
        }
        Ok(folders[folders.len() - 1].join("report.html"))
    }

    /// Registers the candidate with its report and labels, and records the decision.
    fn settle(
        &self,
        registry: &Registry,
        work: &Prepared,
        candidate: &Candidate,
        judgement: &Judgement,
        token: Option<u64>,
    ) -> Result<VersionRecord, JobError> {
        let labels = work.folder.join(inputs::LABELS_FILE);
        work.inputs.write_labels(&labels)?;
        let mut attachments = vec![(inputs::LABELS_FILE.to_string(), labels)];
        for name in ["report.html", "report.json"] {
            attachments.push((name.into(), work.folder.join(name)));
        }
        let why = judgement.summary();
        let decision = Decision {
            action: match judgement.verdict {
                Verdict::Promote => Action::Promoted,
                Verdict::Hold => Action::Held,
                Verdict::Reject => Action::Rejected,
            },
            version: 0,
            who: self.options.who.clone(),
            why: why.clone(),
            verdict: Some(judgement.verdict),
            run: Some(work.run.clone()),
            generation: Some(work.pointer.generation),
            token,
        };
        self.runtime.block_on(async {
            let version = registry
                .register(&Registration {
                    bundle: candidate.bundle.root(),
                    attachments: &attachments,
                    who: &self.options.who,
                    why: &why,
                    run: Some(&work.run),
                })
                .await?;
            let decision = Decision {
                version: version.version,
                ..decision
            };
            registry.decide(decision).await?;
            Ok(version)
        })
    }
}

fn judged(
    judgement: &Judgement,
    candidate: &Bundle,
    version: Option<u64>,
    report: Option<PathBuf>,
) -> Outcome {
    Outcome::Judged {
        verdict: judgement.verdict,
        version,
        id: candidate.id().into(),
        why: judgement.summary(),
        failed_gates: judgement.failed_gates().cloned().collect(),
        report,
    }
}

/// The name of a run of `build` that `deciding` decides. Other code may come to another result:
/// after an upgrade the same labels are judged again, and no checkpoint of the old code goes on.
fn run_hash(deciding: &serde_json::Value, build: &str) -> String {
    let all = serde_json::json!({ "deciding": deciding, "build": build });
    let mut hash = digest::sha256(all.to_string());
    hash.truncate(16);
    hash
}

/// Largest resident size of this process so far, MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_revision_is_another_run() {
        let deciding = serde_json::json!({"seed": 1, "snapshot": "of labels"});
        let hash = |build| run_hash(&deciding, build);
        assert_eq!(hash("0.2.0+abc"), hash("0.2.0+abc"));
        assert_eq!(hash("0.2.0+abc").len(), 16);
        let other = ["0.2.0+abd", "0.2.0+abc-dirty", "0.2.0", "0.2.1+abc"].map(hash);
        assert!(!other.contains(&hash("0.2.0+abc")), "{other:?}");
        let seed = serde_json::json!({"seed": 2, "snapshot": "of labels"});
        assert_ne!(run_hash(&seed, "0.2.0+abc"), hash("0.2.0+abc"));
    }
}
