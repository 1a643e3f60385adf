//! The retraining job: labels in, a judged model out.
//!
//! ```text
//! lease ─► champion ─► snapshot of labels ─► enough new? ─► features ─► groups ─► train ───┐
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
mod folds;
mod images;
pub(super) mod inputs;
mod prepare;
mod renewing_lease;
pub(super) mod thinning;
mod trial;

pub use error::JobError;
pub use inputs::Inputs;

use super::config::RetrainConfig;
use super::judge::{Gate, Judgement};
use super::report;
use super::report::{Cost, EmbeddingDrift, ReportFiles, RunRecord};
use candidate::{Candidate, Labelled};
use prepare::Prepared;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;
use tagstream_core::storage::atomic;
use tagstream_model::bundle::Bundle;
use tagstream_model::registry::{Action, Decision, Registration, Registry, Verdict, VersionRecord};
use tagstream_model::trained_on::TrainedOn;
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
        /// What a tracking server keeps of the run.
        #[serde(skip)]
        record: Box<RunRecord>,
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
        let (work, labels) = match self.prepare(registry)? {
            ControlFlow::Continue(prepared) => prepared,
            ControlFlow::Break(reason) => return Ok(Outcome::Nothing { reason }),
        };
        let fetching = images::UriImages::new(self.config, &work.inputs, self.runtime)?;
        let (labels, features, thinned) =
            self.step("features", |job| job.features(&work, &fetching, labels))?;
        let images = self.step("groups", |job| job.group(&work, labels, features))?;
        let candidate = self.step("training", |job| Candidate::make(job, &work, &images))?;
        let trial = self.step("judging", |job| {
            trial::judge_candidate(job, &work, &candidate, &images)
        })?;
        let drift = self.step("drift", |job| job.drift(&work, &candidate))?;
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
                labels: &images.labels,
                thinned: thinned.as_ref(),
                groups: &images.groups,
                folds: work.folds,
                judged: &trial.labels,
                judgement: &trial.judgement,
                confidence: &trial.confidence,
                drift,
                examples: &trial::examples(job, &work, &candidate, &fetching, &trial.labels),
            })
            .map_err(JobError::work("report.json"))
        })?;
        let place = self.write_report(&report, &work.folder)?;
        let judgement = &trial.judgement;
        let judged = |version, place| {
            let record = report.record.clone();
            let why = why(&work.inputs, judgement);
            judged(judgement, why, &candidate.bundle, (version, place), record)
        };
        if token.is_none() {
            return Ok(judged(None, Some(place)));
        }
        let version = self.step("registering", |job| {
            job.settle(registry, (&work, &images), &candidate, judgement, token)
        })?;
        // Done: what the folder holds is in the registry now. Failing to tidy does no harm.
        let _ = std::fs::remove_dir_all(&work.folder);
        let place = (!self.config.report.folder.is_empty()).then_some(place);
        Ok(judged(Some(version.version), place))
    }

    /// How unlike what the champion tagged last is to what the candidate was trained on.
    fn drift(
        &self,
        work: &Prepared,
        candidate: &Candidate,
    ) -> Result<Option<EmbeddingDrift>, JobError> {
        let trained_on = TrainedOn::of_bundle(&candidate.bundle)?;
        let reading = inputs::embeddings(self.config, &work.champion);
        let tagged = self.runtime.block_on(reading)?;
        Ok(EmbeddingDrift::measure(trained_on.as_ref(), &tagged))
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
        (work, images): (&Prepared, &Labelled),
        candidate: &Candidate,
        judgement: &Judgement,
        token: Option<u64>,
    ) -> Result<VersionRecord, JobError> {
        let labels = work.folder.join(inputs::LABELS_FILE);
        work.inputs.write_labels(&labels)?;
        let groups = work.folder.join(folds::GROUPS_FILE);
        // Those of images that had labels once stay, too.
        let mut all: BTreeMap<String, String> = work.settled.clone().into_iter().collect();
        let ids = images.labels.images().iter().enumerate();
        all.extend(ids.map(|(row, id)| (id.clone(), images.groups.name(row).to_owned())));
        folds::write_groups(&all, &groups)?;
        let mut attachments = vec![
            (inputs::LABELS_FILE.to_string(), labels),
            (folds::GROUPS_FILE.to_string(), groups),
        ];
        if let Some(heads) = &candidate.heads {
            attachments.extend(heads.attachments(&work.folder));
        }
        for name in ["report.html", "report.json"] {
            attachments.push((name.into(), work.folder.join(name)));
        }
        let why = why(&work.inputs, judgement);
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

/// Why the candidate is what it was decided to be, in a sentence.
fn why(inputs: &Inputs, judgement: &Judgement) -> String {
    match inputs.unlabelled.len() {
        0 => judgement.summary(),
        pictures => format!(
            "adapted to {pictures} pictures without labels; nothing says yet whether its tags are \
             better, so it is offered, not promoted (`tagstream registry promote` takes it)"
        ),
    }
}

fn judged(
    judgement: &Judgement,
    why: String,
    candidate: &Bundle,
    (version, report): (Option<u64>, Option<PathBuf>),
    record: RunRecord,
) -> Outcome {
    Outcome::Judged {
        verdict: judgement.verdict,
        version,
        id: candidate.id().into(),
        why,
        failed_gates: judgement.failed_gates().cloned().collect(),
        report,
        record: Box::new(record),
    }
}

/// Largest resident size of this process so far, MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
