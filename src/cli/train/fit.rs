//! Training as `tagstream train` does it, and calibration by what was left out.

use super::super::dataset::{LabelledFeatures, bar};
use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use ndarray::Axis;
use std::time::Duration;
use tagstream_core::error::usage;
use tagstream_model::text::ClipTextEncoder;
use tagstream_train::eval::calibration::temperature;
use tagstream_train::eval::tags::{TagsConfig, thresholds};
use tagstream_train::groups::Groups;
use tagstream_train::trainer;
use tagstream_train::trainer::left_out::{LeftOut, left_out};
use tagstream_train::trainer::run_folder::RunFolder;
use tagstream_train::trainer::{TrainOptions, Trained, TrainingProgress};
use tagstream_train::trm::config::MethodConfig;
use tagstream_train::trm::features::FeatureSource;
use tagstream_train::trm::model::Model;
use tagstream_train::trm::prompts::{PromptTokens, Prompts};

/// How probabilities and thresholds come about.
#[derive(Debug, Args)]
pub(in crate::cli) struct CalibrationArgs {
    /// Thresholds for this share of tags right instead of the best F1.
    #[arg(long, value_name = "SHARE")]
    pub precision: Option<f64>,
    /// Thresholds for this many tags a picture instead of the best F1.
    #[arg(long, value_name = "NUMBER", conflicts_with = "precision")]
    pub tags_per_image: Option<f64>,
    /// No tag below this probability.
    #[arg(long, value_name = "SHARE", default_value_t = TagsConfig::default().floor)]
    pub tag_floor: f64,
    /// Calibration trains this many further heads, each without a part of the images.
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    pub folds: usize,
    /// Leave temperature 1 and thresholds 0.5.
    #[arg(long)]
    pub no_calibration: bool,
}

impl CalibrationArgs {
    /// What thresholds are for.
    fn tags(&self) -> TagsConfig {
        TagsConfig {
            precision: self.precision.unwrap_or_default(),
            per_image: self.tags_per_image.unwrap_or_default(),
            floor: self.tag_floor,
            ..TagsConfig::default()
        }
    }

    /// Refuses what cannot be.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Some(flaw) = self.tags().flaws().first() {
            return Err(usage(format!("{} {}", flaw.key, flaw.reason)).into());
        }
        if !(2..=20).contains(&self.folds) {
            return Err(usage("--folds is a number from 2 to 20").into());
        }
        Ok(())
    }
}

/// What a training run needs beside its data.
pub(super) struct Fit<'a> {
    pub(super) config: &'a MethodConfig,
    pub(super) text: &'a ClipTextEncoder,
    pub(super) prompts: &'a [String],
    pub(super) seed: u64,
}

impl Fit<'_> {
    pub(super) fn train(
        &self,
        features: &dyn FeatureSource,
        labels: &[i8],
        groups: &Groups,
        folder: Option<&RunFolder>,
        what: &'static str,
    ) -> anyhow::Result<Trained> {
        let template = &self.config.prompts.template;
        let tokens = PromptTokens::new(&self.text.tokenizer, template, self.prompts)?;
        let prompts = Prompts::new(&tokens, &self.text.tower)?;
        let model = Model::new(self.config.clone(), prompts, &self.text.tower)?;
        let bar = bar(0, "{prefix} {bar:30} step {pos}/{len} {msg}").with_prefix(what);
        let per_epoch = features.len().div_ceil(self.config.optimizer.batch);
        let mut epoch = EpochMeans::default();
        let mut progress = |progress: &TrainingProgress| {
            show(&bar, progress);
            epoch.add(progress);
            if progress.step.0.is_multiple_of(per_epoch) {
                // Written as they come, so that a run that is killed has them; a failure shows at
                // the end of the run.
                let curve = epoch.take(progress.epoch.0 + 1);
                let _ = folder.map(|folder| folder.write_curves(&[curve]));
            }
        };
        let options = TrainOptions {
            seed: self.seed,
            checkpoint: folder.map(RunFolder::checkpoint),
            groups: Some(groups.clone()),
            progress: Some(&mut progress),
            ..TrainOptions::default()
        };
        let trained =
            trainer::train(&model, &self.text.tower, features, labels, options).context(what);
        bar.finish_and_clear();
        trained
    }

    /// Temperature and thresholds from heads that are trained in the same way without a part of the
    /// images each, and score that: the final head has seen all known labels, so that its own
    /// scores on them are too good to calibrate by. Where all is closed form, the folds that left
    /// each image out have said it already.
    pub(super) fn calibrate(
        &self,
        data: &LabelledFeatures,
        groups: &Groups,
        whole: &Trained,
        args: &CalibrationArgs,
    ) -> anyhow::Result<(f32, Vec<f32>)> {
        let labels = data.labels.states();
        let (logits, known) = match &whole.left_out {
            Some(logits) => (logits.clone(), labels.to_owned()),
            None => {
                let left = self.left_out(data, groups, args.folds)?;
                let rows = left.rows();
                let logits = left.logits.select(Axis(0), &rows);
                (logits, labels.select(Axis(0), &rows))
            }
        };
        if !known.iter().any(|y| *y > 0) || !known.iter().any(|y| *y < 0) {
            eprintln!("too few known labels to calibrate: temperature 1, thresholds 0.5");
            return Ok((1.0, vec![0.5; self.prompts.len()]));
        }
        let flat: Vec<f32> = logits.iter().copied().collect();
        let states: Vec<i8> = known.iter().copied().collect();
        let found = temperature(&flat, &states);
        let tags = args.tags();
        let chosen = thresholds(logits.view(), known.view(), found, &tags);
        Ok((found, chosen))
    }

    /// What heads say that have not seen a part of the groups each.
    fn left_out(
        &self,
        data: &LabelledFeatures,
        groups: &Groups,
        folds: usize,
    ) -> anyhow::Result<LeftOut> {
        let parts = groups.folds(folds);
        let labels = data.labels.states();
        left_out(&parts, labels, &data.features, |fold, others, known| {
            let rows: Vec<usize> = (0..parts.len()).filter(|row| parts[*row] != fold).collect();
            let groups = groups.select(&rows);
            let trained = self.train(others, known, &groups, None, "calibrating")?;
            Ok(Some(trained.head))
        })
    }
}

/// Means of an epoch's losses, step by step.
#[derive(Default)]
struct EpochMeans {
    sums: Vec<(&'static str, f64)>,
    steps: usize,
}

impl EpochMeans {
    fn add(&mut self, progress: &TrainingProgress) {
        self.steps += 1;
        for (name, value) in &progress.losses {
            match self.sums.iter_mut().find(|(other, _)| other == name) {
                Some((_, sum)) => *sum += value,
                None => self.sums.push((name, *value)),
            }
        }
    }

    fn take(&mut self, epoch: usize) -> (usize, Vec<(&'static str, f64)>) {
        let steps = std::mem::take(&mut self.steps).max(1) as f64;
        let sums = std::mem::take(&mut self.sums);
        (
            epoch,
            sums.into_iter()
                .map(|(name, sum)| (name, sum / steps))
                .collect(),
        )
    }
}

fn show(bar: &ProgressBar, progress: &TrainingProgress) {
    bar.set_length(progress.step.1 as u64);
    bar.set_position(progress.step.0 as u64);
    let total: f64 = progress.losses.iter().map(|(_, value)| value).sum();
    let left = Duration::from_secs(progress.left.as_secs());
    bar.set_message(format!(
        "epoch {}/{} loss {total:.4}, {} left",
        progress.epoch.0 + 1,
        progress.epoch.1,
        indicatif::HumanDuration(left)
    ));
}
