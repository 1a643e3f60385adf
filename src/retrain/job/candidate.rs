//! The candidate: trained from the champion, calibrated, written as a bundle into the work folder.

use super::{Inputs, Job, JobError, JobProgress};
use crate::retrain::config::CalibrationTarget;
use crate::retrain::report::EpochLosses;
use std::collections::BTreeMap;
use std::path::Path;
use tagstream_model::bundle::{Bundle, Calibration};
use tagstream_model::new_head::{NewHead, Towers};
use tagstream_model::text::ClipTextEncoder;
use tagstream_train::arrays::rows;
use tagstream_train::eval::calibration::{ThresholdTarget, temperature, thresholds};
use tagstream_train::features::FeatureStore;
use tagstream_train::labels::LabelMatrix;
use tagstream_train::trainer;
use tagstream_train::trainer::scoring::Scorer;
use tagstream_train::trainer::{TrainError, TrainOptions, TrainingProgress, stored_weights};
use tagstream_train::trm::model::Model;
use tagstream_train::trm::prompts::{PromptTokens, Prompts};

/// A candidate in the work folder.
pub(super) struct Candidate {
    pub(super) bundle: Bundle,
    pub(super) curves: Vec<EpochLosses>,
}

impl Candidate {
    /// Trains, or takes what an earlier run of the same name left.
    pub(super) fn make(
        job: &Job<'_>,
        champion: &Bundle,
        inputs: &Inputs,
        train: (&LabelMatrix, &FeatureStore),
        held_out: (&LabelMatrix, &FeatureStore),
        folder: &Path,
    ) -> Result<Self, JobError> {
        let place = folder.join("candidate");
        let log = folder.join("training.json");
        if let Ok(bundle) = Bundle::open(&place) {
            // Written whole by an earlier run of this name, which was killed after training.
            let text = std::fs::read(&log).map_err(JobError::io(&log))?;
            let curves = serde_json::from_slice(&text).map_err(JobError::work("training.json"))?;
            return Ok(Candidate { bundle, curves });
        }
        let _ = std::fs::remove_dir_all(&place);
        let trained = job.train(champion, inputs, train, folder)?;
        let curves: Vec<EpochLosses> = trained
            .curves
            .iter()
            .map(|(epoch, losses)| EpochLosses {
                epoch: *epoch,
                losses: losses.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect(),
            })
            .collect();
        let text = serde_json::to_vec(&curves).map_err(JobError::work("training.json"))?;
        std::fs::write(&log, text).map_err(JobError::io(&log))?;
        let bundle = job.write_bundle(champion, inputs, &trained, held_out, &place)?;
        Ok(Candidate { bundle, curves })
    }
}

impl Job<'_> {
    fn train(
        &self,
        champion: &Bundle,
        inputs: &Inputs,
        (labels, features): (&LabelMatrix, &FeatureStore),
        folder: &Path,
    ) -> Result<trainer::Trained, JobError> {
        let mut config = self.config.method()?;
        if self.options.prototypes_only {
            config.optimizer.epochs = 0;
        }
        let failed = "training";
        let files = champion.text_files().ok_or_else(|| {
            JobError::Unsuitable("the champion has no text tower to train prompts through".into())
        })?;
        let text = ClipTextEncoder::open(&files).map_err(JobError::work(failed))?;
        let names: Vec<String> = inputs.categories.iter().map(|c| c.prompt.clone()).collect();
        let tokens = PromptTokens::new(&text.tokenizer, &config.prompts.template, &names)
            .map_err(JobError::work(failed))?;
        let prompts = Prompts::new(&tokens, &text.tower).map_err(JobError::work(failed))?;
        let model = Model::new(config, prompts, &text.tower).map_err(JobError::work(failed))?;
        let warm = self.config.train.warm_start || self.options.prototypes_only;
        let warm_start = if warm {
            let (_, stored) = champion.head()?;
            let weights = stored_weights(&stored).map_err(JobError::work(failed))?;
            let rows = (0..inputs.categories.len())
                .map(|row| (row < inputs.champion_categories).then_some(row))
                .collect();
            Some((weights, rows))
        } else {
            None
        };
        let mut on_progress = |p: &TrainingProgress| {
            let loss = p.losses.iter().map(|(_, v)| v).sum();
            (self.on_progress)(JobProgress::Training(p.step.0, p.step.1, loss));
        };
        let checkpoint = folder.join("checkpoint.safetensors");
        let mut run = || {
            let options = TrainOptions {
                seed: self.config.train.seed,
                max_minutes: Some(self.config.train.max_minutes),
                checkpoint: Some(checkpoint.clone()),
                groups: None,
                warm_start: warm_start.clone(),
                progress: Some(&mut on_progress),
            };
            trainer::train(&model, &text.tower, features, labels.flat(), options)
        };
        let trained = match run() {
            // Other images could be had this time, or the file is damaged: begin again.
            Err(TrainError::Checkpoint(error)) if checkpoint.exists() => {
                tracing::warn!("{error}");
                std::fs::remove_file(&checkpoint).map_err(JobError::io(&checkpoint))?;
                run()
            }
            done => done,
        };
        trained.map_err(JobError::work(failed))
    }

    fn write_bundle(
        &self,
        champion: &Bundle,
        inputs: &Inputs,
        trained: &trainer::Trained,
        (held_out, features): (&LabelMatrix, &FeatureStore),
        place: &Path,
    ) -> Result<Bundle, JobError> {
        let failed = "writing the candidate";
        let c = inputs.categories.len();
        let logits = Scorer::of_head(&trained.head, features)
            .and_then(|mut scorer| scorer.logits(features))
            .map_err(JobError::work("calibration"))?;
        let temperature = temperature(&logits, held_out.flat());
        let target = match self.config.calibration.target {
            CalibrationTarget::F1 => ThresholdTarget::BestF1,
            CalibrationTarget::Precision => {
                ThresholdTarget::Precision(self.config.calibration.precision)
            }
        };
        let thresholds = thresholds(
            rows(&logits, c).map_err(JobError::work("calibration"))?,
            rows(held_out.flat(), c).map_err(JobError::work("calibration"))?,
            temperature,
            target,
        );
        let mut categories = inputs.categories.clone();
        for (category, threshold) in categories.iter_mut().zip(thresholds) {
            category.threshold = threshold;
        }
        let towers = Towers::from(champion);
        let files = trained.head_files(towers.positions());
        let method = self.config.train.method.name();
        let head = NewHead {
            name: method,
            files: &files.map_err(JobError::work(failed))?,
            categories,
            calibration: Calibration { temperature },
            metrics: BTreeMap::from([("epochs".to_owned(), trained.epochs as f64)]),
            method: method.to_owned(),
            label_snapshot: Some(inputs.snapshot.clone()),
            seed: Some(self.config.train.seed),
        };
        Ok(towers.with_head(head, place)?)
    }
}
