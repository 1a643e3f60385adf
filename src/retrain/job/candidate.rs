//! The candidate: trained from the champion on all labels, with a head for each part of the images
//! that has not seen it; calibrated by those, and written as a bundle into the work folder.

use super::folds::FoldRecord;
use super::{Inputs, Job, JobError, JobProgress, Prepared};
use crate::retrain::report::EpochLosses;
use ndarray::{Array2, Axis, s};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tagstream_core::storage::atomic;
use tagstream_model::bundle::{Bundle, Calibration, Category};
use tagstream_model::categories::{ThresholdSource, text_features};
use tagstream_model::head::ExportedHead;
use tagstream_model::new_head::{NewHead, Towers};
use tagstream_model::tagger::TagDecision;
use tagstream_model::text::ClipTextEncoder;
use tagstream_model::trained_on::TrainedOn;
use tagstream_train::eval::calibration::temperature;
use tagstream_train::eval::tags::{TagsConfig, guess_threshold, tagged, thresholds};
use tagstream_train::features::{FeatureStore, Subset};
use tagstream_train::groups::Groups;
use tagstream_train::labels::LabelMatrix;
use tagstream_train::trainer;
use tagstream_train::trainer::left_out::{LeftOut, left_out};
use tagstream_train::trainer::scoring::{Scorer, ScoringError};
use tagstream_train::trainer::{
    TrainError, TrainOptions, Trained, TrainingProgress, stored_weights,
};
use tagstream_train::trm::features::FeatureSource;
use tagstream_train::trm::model::Model;
use tagstream_train::trm::prompts::{PromptTokens, Prompts};
use tagstream_train::trm::weights::Weights;

/// Of the pictures without labels, the least share that is expected to have a category.
const LEAST_SHARE: f64 = 0.005;

/// Parts by which thresholds are tried on labels that did not choose them.
const THRESHOLD_PARTS: usize = 5;

/// The labelled images of a run.
pub(super) struct Labelled {
    pub(super) labels: LabelMatrix,
    pub(super) features: FeatureStore,
    pub(super) groups: Groups,
}

/// A candidate in the work folder.
pub(super) struct Candidate {
    pub(super) bundle: Bundle,
    pub(super) curves: Vec<EpochLosses>,
    /// Scores of images by heads that have not seen them.
    pub(super) left: LeftOut,
    /// The heads that judge; none where a share is held out.
    pub(super) heads: Option<FoldRecord>,
}

impl Candidate {
    /// Trains, or takes what an earlier run of the same name left.
    pub(super) fn make(
        job: &Job<'_>,
        work: &Prepared,
        images: &Labelled,
    ) -> Result<Self, JobError> {
        let place = work.folder.join("candidate");
        let log = work.folder.join("training.json");
        // Written whole by an earlier run of this name, which was killed after training.
        let there = Bundle::open(&place).ok();
        let learner = Learner::new(job, work)?;
        let (trained, curves) = if there.is_some() {
            let text = std::fs::read(&log).map_err(JobError::io(&log))?;
            let curves = serde_json::from_slice(&text).map_err(JobError::work("training.json"))?;
            (None, curves)
        } else {
            let _ = std::fs::remove_dir_all(&place);
            let trained = learner.on_all(images)?;
            let curves = epochs(&trained);
            let text = serde_json::to_vec(&curves).map_err(JobError::work("training.json"))?;
            atomic::write_file(&log, &text).map_err(JobError::io(&log))?;
            (Some(trained), curves)
        };
        let (mut left, heads) = if work.inputs.adapts() {
            // It has seen no label, so it needs no head that has not.
            let (images, categories) = images.labels.states().dim();
            (LeftOut::nothing(images, categories), None)
        } else if work.folds > 1 {
            let (left, record) = learner.on_parts(images)?;
            (left, Some(record))
        } else {
            let head = match (&there, &trained) {
                (Some(bundle), _) => bundle.head()?.0,
                (None, Some(trained)) => trained.head.clone(),
                (None, None) => unreachable!("one of both is there"),
            };
            (learner.on_held_out(images, &head)?, None)
        };
        raise_parents(&mut left, &work.inputs.categories);
        let bundle = match (there, trained) {
            (Some(bundle), _) => bundle,
            (None, Some(trained)) => learner.write_bundle(&trained, images, &left, &place)?,
            (None, None) => unreachable!("one of both is there"),
        };
        Ok(Candidate {
            bundle,
            curves,
            left,
            heads,
        })
    }
}

/// Gives categories that have the scores of their children these, as tagging does.
pub(super) fn raise_parents(left: &mut LeftOut, categories: &[Category]) {
    let decision = TagDecision::of(categories);
    for mut row in left.logits.rows_mut() {
        if let Some(row) = row.as_slice_mut() {
            decision.raise(row);
        }
    }
}

/// Thresholds of every image, `[images, C]`, for scores by heads that have not seen it; none was
/// chosen by labels of the image's own part.
pub(super) fn unbiased_thresholds(
    left: &LeftOut,
    temperature: f32,
    images: &Labelled,
    tags: &TagsConfig,
) -> Array2<f32> {
    let part = images.groups.folds(THRESHOLD_PARTS);
    let mut all = Array2::from_elem(left.logits.dim(), 0.5);
    for own in 0..THRESHOLD_PARTS {
        let others: Vec<usize> = left.rows();
        let others: Vec<usize> = others.into_iter().filter(|row| part[*row] != own).collect();
        let chosen = chosen_thresholds(left, &images.labels, &others, temperature, tags);
        let rows = all.rows_mut().into_iter().zip(&part);
        for (mut row, _) in rows.filter(|(_, part)| **part == own) {
            row.iter_mut()
                .zip(&chosen)
                .for_each(|(to, from)| *to = *from);
        }
    }
    all
}

fn chosen_thresholds(
    left: &LeftOut,
    labels: &LabelMatrix,
    rows: &[usize],
    temperature: f32,
    tags: &TagsConfig,
) -> Vec<f32> {
    let logits = left.logits.select(Axis(0), rows);
    let labels = labels.states().select(Axis(0), rows);
    // The champion may know fewer categories than there are.
    let labels = labels.slice(s![.., ..logits.ncols()]);
    thresholds(logits.view(), labels, temperature, tags)
}

/// Gives a category the threshold that labels chose, unless a person chose one, or it was guessed
/// and there is still no label to go by.
fn settle_threshold(category: &mut Category, chosen: f32, labels: impl Iterator<Item = i8>) {
    match category.tags.threshold_from {
        Some(ThresholdSource::Given) => {}
        Some(ThresholdSource::Guess) if labels.filter(|label| *label > 0).count() == 0 => {}
        _ => {
            category.threshold = chosen;
            category.tags.threshold_from = None;
        }
    }
}

/// Text features of the categories, `[C, D]`, where one prompt does not say all of them.
fn word_features(
    categories: &[Category],
    text: &ClipTextEncoder,
) -> Result<Option<Vec<f32>>, JobError> {
    if categories.iter().all(|category| category.words.is_none()) {
        return Ok(None);
    }
    let all: Vec<&Category> = categories.iter().collect();
    let features = text_features(&all, text, |_| ());
    features.map(Some).map_err(JobError::work("training"))
}

fn epochs(trained: &Trained) -> Vec<EpochLosses> {
    let curves = trained.curves.iter();
    curves
        .map(|(epoch, losses)| EpochLosses {
            epoch: *epoch,
            losses: losses.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect(),
        })
        .collect()
}

/// What trains: the method on the champion's towers.
struct Learner<'a> {
    job: &'a Job<'a>,
    work: &'a Prepared,
    model: Model,
    text: ClipTextEncoder,
}

/// Where a training begins and how it is kept.
struct Start {
    weights: Option<Weights>,
    checkpoint: Option<PathBuf>,
    minutes: f64,
}

impl<'a> Learner<'a> {
    fn new(job: &'a Job<'a>, work: &'a Prepared) -> Result<Self, JobError> {
        let mut config = job.config.method()?;
        if job.options.prototypes_only {
            config.optimizer.epochs = 0;
        }
        let failed = "training";
        let files = work.champion.text_files().ok_or_else(|| {
            JobError::Unsuitable("the champion has no text tower to train prompts through".into())
        })?;
        let text = ClipTextEncoder::open(&files).map_err(JobError::work(failed))?;
        let names = work.inputs.categories.iter().map(|c| c.prompt.clone());
        let names: Vec<String> = names.collect();
        let tokens = PromptTokens::new(&text.tokenizer, &config.prompts.template, &names)
            .map_err(JobError::work(failed))?;
        let mut prompts = Prompts::new(&tokens, &text.tower).map_err(JobError::work(failed))?;
        if let Some(features) = word_features(&work.inputs.categories, &text)? {
            let around = prompts.around(&features, &text.tower);
            prompts = around.map_err(JobError::work(failed))?;
        }
        let model = Model::new(config, prompts, &text.tower).map_err(JobError::work(failed))?;
        Ok(Learner {
            job,
            work,
            model,
            text,
        })
    }

    fn is_warm(&self) -> bool {
        self.job.config.train.warm_start || self.job.options.prototypes_only
    }

    /// The champion's own weights.
    fn champion_weights(&self) -> Result<Option<Weights>, JobError> {
        let (_, stored) = self.work.champion.head()?;
        let weights = stored_weights(&stored).map_err(JobError::work("training"))?;
        Ok(self.is_warm().then_some(weights))
    }

    /// The head that ships.
    fn on_all(&self, images: &Labelled) -> Result<Trained, JobError> {
        let rows = self.learned_from(images);
        let labels = images.labels.states().select(Axis(0), &rows);
        let labels: Vec<i8> = labels.iter().copied().collect();
        let start = Start {
            weights: self.champion_weights()?,
            checkpoint: Some(self.work.folder.join("checkpoint.safetensors")),
            minutes: self.job.config.train.max_minutes,
        };
        let groups = images.groups.select(&rows);
        self.fit(
            &Subset::new(&images.features, rows),
            &labels,
            (&groups, &start),
        )
    }

    /// The images that the head that ships learns from.
    fn learned_from(&self, images: &Labelled) -> Vec<usize> {
        let all = images.labels.images().iter().enumerate();
        let kept = all.filter(|(_, id)| self.work.folds > 1 || !self.job.is_held_out(id));
        kept.map(|(row, _)| row).collect()
    }

    /// What the images are like that the head that ships learned from.
    fn trained_on(&self, images: &Labelled) -> Option<TrainedOn> {
        let learned = Subset::new(&images.features, self.learned_from(images));
        TrainedOn::of(learned.global(), learned.dim())
    }

    /// The scores of the share that is held out, by the head that ships.
    fn on_held_out(&self, images: &Labelled, head: &ExportedHead) -> Result<LeftOut, JobError> {
        let ids = images.labels.images();
        let mut left = LeftOut::nothing(ids.len(), head.categories);
        let rows: Vec<usize> = (0..ids.len())
            .filter(|row| self.job.is_held_out(&ids[*row]))
            .collect();
        left.score(head, &images.features, &rows)
            .map_err(JobError::work("scoring"))?;
        Ok(left)
    }

    /// The heads that judge, each trained without its part, and what they say of it.
    fn on_parts(&self, images: &Labelled) -> Result<(LeftOut, FoldRecord), JobError> {
        let (folds, folder) = (self.work.folds, &self.work.folder);
        let categories = self.work.inputs.categories.iter().map(|c| c.name.clone());
        let mut record = FoldRecord::new(folds, categories.collect());
        let parts = images.groups.folds(folds);
        let states = images.labels.states();
        let scored = left_out(&parts, states, &images.features, |fold, others, labels| {
            let name = FoldRecord::head_file(fold);
            let path = folder.join(&name);
            record.heads.insert(fold, name);
            // Written whole by an earlier run of this name.
            if let Ok(Some((head, _))) = record.head(folder, fold) {
                return Ok(Some(head));
            }
            let start = Start {
                weights: self.fold_weights(fold)?,
                checkpoint: None,
                // All parts together take no longer than the head that ships.
                minutes: self.job.config.train.max_minutes / folds as f64,
            };
            let rows: Vec<usize> = (0..parts.len()).filter(|row| parts[*row] != fold).collect();
            let groups = images.groups.select(&rows);
            let trained = self.fit(others, labels, (&groups, &start))?;
            let failed = "a head that judges";
            let trainable = trained.trainable().map_err(JobError::work(failed))?;
            let content = trained.head.to_safetensors(&trainable);
            let content = content.map_err(JobError::work(failed))?;
            atomic::write_file(&path, &content).map_err(JobError::io(&path))?;
            Ok::<_, FoldError>(Some(trained.head))
        });
        let left = scored.map_err(|error| match error {
            FoldError::Job(error) => error,
            FoldError::Scoring(error) => JobError::work("scoring")(error),
        })?;
        record.write(folder)?;
        Ok((left, record))
    }

    /// What a part's head starts from: weights that have not seen the part either.
    fn fold_weights(&self, fold: usize) -> Result<Option<Weights>, JobError> {
        use super::folds::Unseen;
        let stored = match &self.work.unseen {
            _ if !self.is_warm() => return Ok(None),
            Unseen::Itself => return self.champion_weights(),
            Unseen::Folds { record, folder } if record.folds == self.work.folds => {
                record.head(folder, fold)?
            }
            Unseen::Folds { .. } | Unseen::HeldOut { .. } => None,
        };
        let weights = stored.map(|(_, stored)| stored_weights(&stored));
        weights.transpose().map_err(JobError::work("training"))
    }

    fn fit(
        &self,
        features: &dyn FeatureSource,
        labels: &[i8],
        (groups, start): (&Groups, &Start),
    ) -> Result<Trained, JobError> {
        let inputs = &self.work.inputs;
        let rows: Vec<Option<usize>> = (0..inputs.categories.len())
            .map(|row| (row < inputs.champion_categories).then_some(row))
            .collect();
        let mut on_progress = |p: &TrainingProgress| {
            let loss = p.losses.iter().map(|(_, v)| v).sum();
            (self.job.on_progress)(JobProgress::Training(p.step.0, p.step.1, loss));
        };
        let mut run = || {
            let options = TrainOptions {
                seed: self.job.config.train.seed,
                max_minutes: Some(start.minutes),
                checkpoint: start.checkpoint.clone(),
                groups: Some(groups.clone()),
                warm_start: start.weights.clone().map(|weights| (weights, rows.clone())),
                progress: Some(&mut on_progress),
            };
            trainer::train(&self.model, &self.text.tower, features, labels, options)
        };
        let trained = match (run(), &start.checkpoint) {
            // Other images could be had this time, or the file is damaged: begin again.
            (Err(TrainError::Checkpoint(error)), Some(checkpoint)) if checkpoint.exists() => {
                tracing::warn!("{error}");
                std::fs::remove_file(checkpoint).map_err(JobError::io(checkpoint))?;
                run()
            }
            (done, _) => done,
        };
        trained.map_err(JobError::work("training"))
    }

    fn write_bundle(
        &self,
        trained: &Trained,
        images: &Labelled,
        left: &LeftOut,
        place: &Path,
    ) -> Result<Bundle, JobError> {
        let job = self.job;
        let rows = left.rows();
        let logits: Vec<f32> = left.logits.select(Axis(0), &rows).iter().copied().collect();
        let known = images.labels.states().select(Axis(0), &rows);
        let known: Vec<i8> = known.iter().copied().collect();
        let temperature = temperature(&logits, &known);
        let tags = &job.config.tags;
        let thresholds = chosen_thresholds(left, &images.labels, &rows, temperature, tags);
        let inputs: &Inputs = &self.work.inputs;
        let mut categories = inputs.categories.clone();
        let known = images.labels.states();
        for (at, (category, threshold)) in categories.iter_mut().zip(thresholds).enumerate() {
            let labels = rows.iter().map(|row| known[[*row, at]]);
            settle_threshold(category, threshold, labels);
        }
        if inputs.adapts() {
            self.guess_thresholds(trained, images, &mut categories)?;
        }
        let towers = Towers::from(&self.work.champion);
        let files = trained.head_files(towers.positions());
        let method = job.config.train.method.name();
        let head = NewHead {
            name: method,
            files: &files.map_err(JobError::work("writing the candidate"))?,
            categories,
            calibration: Calibration { temperature },
            metrics: BTreeMap::from([("epochs".to_owned(), trained.epochs as f64)]),
            method: method.to_owned(),
            label_snapshot: (!inputs.adapts()).then(|| inputs.snapshot.clone()),
            seed: Some(job.config.train.seed),
            trained_on: self.trained_on(images),
        };
        Ok(towers.with_head(head, place)?)
    }
}

impl Learner<'_> {
    /// Thresholds without labels: from the scores of the pictures themselves. Where these do not
    /// say, as many pictures have a tag as have it by the champion.
    fn guess_thresholds(
        &self,
        trained: &Trained,
        images: &Labelled,
        categories: &mut [Category],
    ) -> Result<(), JobError> {
        let failed = || JobError::work("scoring");
        let rows: Vec<usize> = (0..images.labels.images().len()).collect();
        let champion = &self.work.champion;
        let odds = |mut scorer: Scorer, temperature: f32| {
            let logits = scorer.logits_of(&images.features, &rows)?;
            let width = logits.len() / rows.len().max(1);
            let odds = Array2::from_shape_vec((rows.len(), width), logits);
            let odds = odds.expect("a row of logits an image");
            Ok::<_, ScoringError>(odds / temperature)
        };
        let own = Scorer::of_head(&trained.head, &images.features).map_err(failed())?;
        let own = odds(own, 1.0).map_err(failed())?;
        let before = Scorer::of_bundle(champion, &images.features).map_err(failed())?;
        let temperature = champion.manifest().calibration.temperature;
        let before = odds(before, temperature).map_err(failed())?;
        let floor = self.job.config.tags.floor as f32;
        for (at, category) in categories.iter_mut().enumerate() {
            if category.tags.threshold_from == Some(ThresholdSource::Given) {
                continue;
            }
            let reached = |odds: &&f32| tagged(**odds, category.threshold);
            let had = match at < before.ncols() {
                true => before.column(at).iter().filter(reached).count(),
                false => 0,
            };
            let share = had as f64 / rows.len().max(1) as f64;
            let share = share.clamp(LEAST_SHARE, 1.0 - LEAST_SHARE);
            if let Some(guess) = guess_threshold(&own.column(at).to_vec(), share) {
                category.threshold = guess.threshold().max(floor);
                category.tags.threshold_from = Some(ThresholdSource::Guess);
            }
        }
        Ok(())
    }
}

/// Why there is no head for a part.
enum FoldError {
    Job(JobError),
    Scoring(ScoringError),
}

impl From<JobError> for FoldError {
    fn from(error: JobError) -> Self {
        FoldError::Job(error)
    }
}

impl From<ScoringError> for FoldError {
    fn from(error: ScoringError) -> Self {
        FoldError::Scoring(error)
    }
}
