//! `tagstream train`: train a head on partially labelled images.

use super::dataset::{DataArgs, LabelledFeatures, bar, open_model};
use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tagstream_core::build;
use tagstream_core::digest;
use tagstream_core::error::{Exit, usage};
use tagstream_model::OpenedModel;
use tagstream_model::bundle::{Bundle, Calibration, Category};
use tagstream_model::new_head::{NewHead, Towers};
use tagstream_model::text::ClipTextEncoder;
use tagstream_train::arrays;
use tagstream_train::eval::calibration::{ThresholdTarget, temperature, thresholds};
use tagstream_train::eval::protocol::{keep_share, keep_single_positive};
use tagstream_train::features::Subset;
use tagstream_train::groups::Groups;
use tagstream_train::labels::{LabelMatrix, read_categories};
use tagstream_train::trainer;
use tagstream_train::trainer::run_folder::RunFolder;
use tagstream_train::trainer::scoring::Scorer;
use tagstream_train::trainer::{TrainOptions, Trained, TrainingProgress};
use tagstream_train::trm::config::{Method, MethodConfig};
use tagstream_train::trm::features::FeatureSource;
use tagstream_train::trm::model::Model;
use tagstream_train::trm::prompts::{PromptTokens, Prompts};

/// Arguments of `tagstream train`.
#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// Model to start from: bundle directory, folder with encoder.onnx and text tower, or
    /// registry-url[@version].
    #[arg(long)]
    pub model: String,
    #[command(flatten)]
    pub data: DataArgs,
    /// Categories: a file with one name a line.
    #[arg(long)]
    pub categories: PathBuf,
    /// Where to write the trained bundle; must not exist yet.
    #[arg(long)]
    pub out: PathBuf,
    /// zero-shot, linear-probe, dualcoop, positive-coop, trm-ml-base or trm-ml.
    #[arg(long, default_value = "trm-ml")]
    pub method: String,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Passes over the training set.
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Change a switch of the method, for example --set distillation.weight=0.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// The run's folder: settings, loss curves, checkpoint. A run that was killed goes on from it.
    /// Default: OUT.run
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Partial-label protocol: keep this share of the labels, drawn as numpy's
    /// RandomState(mask-seed).rand(images, categories).
    #[arg(long, value_name = "SHARE", conflicts_with = "single_positive")]
    pub known: Option<f64>,
    /// Partial-label protocol: keep one positive label an image and nothing else.
    #[arg(long)]
    pub single_positive: bool,
    /// Seed of the masks.
    #[arg(long, default_value_t = 0)]
    pub mask_seed: u32,
    /// Images whose ids match this regular expression the same are relatives (its first capture
    /// names the group; without one all that it matches): folds keep them together. Others are
    /// grouped by near-duplicates.
    #[arg(long, value_name = "REGEX")]
    pub group_pattern: Option<String>,
    /// Thresholds for this precision instead of the best F1.
    #[arg(long, value_name = "SHARE")]
    pub precision: Option<f64>,
    /// Leave temperature 1 and thresholds 0.5: calibration trains a second head without a fifth of
    /// the images.
    #[arg(long)]
    pub no_calibration: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(super) fn run(args: TrainArgs) -> anyhow::Result<Exit> {
    let config = settings(&args)?;
    if args
        .out
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(usage(format!(
            "{} is there already; name another --out",
            args.out.display()
        ))
        .into());
    }
    let model = open_model(&args.model)?;
    let files = model.text().ok_or_else(|| {
        usage(format!(
            "{} has no text tower to train prompts through",
            args.model
        ))
    })?;
    let names = read_categories(&args.categories).map_err(|error| usage(error.to_string()))?;
    let began = Instant::now();
    let mut data = args.data.load(&model, Some(&names))?;
    mask(&args, &config, &mut data.labels)?;
    let groups = data.groups(args.group_pattern.as_deref())?;
    let feature_time = began.elapsed();
    let text = ClipTextEncoder::open(&files)?;
    let prompts: Vec<String> = names.iter().map(|name| name.replace('_', " ")).collect();
    let fit = Fit {
        config: &config,
        text: &text,
        prompts: &prompts,
        seed: args.seed,
    };

    let folder = run_folder(&args, &config, &data)?;
    let began = Instant::now();
    let trained = fit.train(
        &data.features,
        data.labels.flat(),
        &groups,
        Some(&folder),
        "training",
    )?;
    let train_time = began.elapsed();
    folder.write_curves(&trained.curves)?;

    let began = Instant::now();
    let calibrated = if args.no_calibration {
        (1.0, vec![0.5; names.len()])
    } else {
        fit.calibrate(&data, &groups, &trained, args.precision)?
    };
    let calibration_time = began.elapsed();
    let bundle = write_bundle(
        &args,
        &model,
        &data,
        (&names, &prompts),
        &trained,
        &calibrated,
    )?;
    folder.finish()?;
    report(
        &args,
        &data,
        &bundle,
        (&trained, groups.count()),
        [feature_time, train_time, calibration_time],
    )
}

/// The method's settings with the changes asked for.
fn settings(args: &TrainArgs) -> anyhow::Result<MethodConfig> {
    let method: Method = args
        .method
        .parse()
        .map_err(|error: tagstream_train::trm::config::MethodError| usage(error.to_string()))?;
    let mut config = MethodConfig::preset(method);
    if let Some(epochs) = args.epochs {
        config.optimizer.epochs = epochs;
    }
    for change in &args.overrides {
        config
            .set(change)
            .map_err(|error| usage(error.to_string()))?;
    }
    if args
        .known
        .is_some_and(|share| !(0.0..=1.0).contains(&share))
    {
        return Err(usage("--known is a share between 0 and 1").into());
    }
    Ok(config)
}

/// The run's folder, with all that decides the result written down.
fn run_folder(
    args: &TrainArgs,
    config: &MethodConfig,
    data: &LabelledFeatures,
) -> anyhow::Result<RunFolder> {
    let folder = RunFolder::open(args.run_dir.clone().unwrap_or_else(|| beside(&args.out)))?;
    folder.write_settings(&serde_json::json!({
        "model": args.model,
        "encoder": data.encoder_hash,
        "method": args.method,
        "seed": args.seed,
        "known": args.known,
        "mask_seed": args.mask_seed,
        "single_positive": args.single_positive,
        "group_pattern": args.group_pattern,
        "labels": snapshot(&data.labels),
        "settings": config,
        "code_version": build::name(),
    }))?;
    Ok(folder)
}

fn mask(args: &TrainArgs, config: &MethodConfig, labels: &mut LabelMatrix) -> anyhow::Result<()> {
    let c = labels.categories().len();
    if let Some(share) = args.known {
        keep_share(labels.flat_mut(), c, share, args.mask_seed);
    }
    if args.single_positive {
        keep_single_positive(labels.flat_mut(), c, args.mask_seed);
    }
    if !labels.flat().contains(&1) && !config.learns_without_labels() {
        return Err(usage(format!(
            "{} says of no image that a category is present",
            args.data.labels.display()
        ))
        .into());
    }
    Ok(())
}

/// OUT.run, beside OUT.
fn beside(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".run");
    name.into()
}

/// What a training run needs beside its data.
struct Fit<'a> {
    config: &'a MethodConfig,
    text: &'a ClipTextEncoder,
    prompts: &'a [String],
    seed: u64,
}

impl Fit<'_> {
    fn train(
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

    /// Temperature and thresholds from a head that is trained in the same way without a fifth of
    /// the images, and scores those: the final head has seen all known labels, so that its own
    /// scores on them are too good to calibrate by. Where all is closed form, the folds that left
    /// each image out have said it already.
    fn calibrate(
        &self,
        data: &LabelledFeatures,
        groups: &Groups,
        whole: &Trained,
        precision: Option<f64>,
    ) -> anyhow::Result<(f32, Vec<f32>)> {
        let c = self.prompts.len();
        let n = data.labels.images().len();
        let target = precision.map_or(ThresholdTarget::BestF1, ThresholdTarget::Precision);
        if let Some(left_out) = &whole.left_out {
            let labels = data.labels.flat();
            if !labels.contains(&1) || !labels.contains(&-1) {
                return Ok(uncalibrated(c));
            }
            let logits: Vec<f32> = left_out.iter().copied().collect();
            let found = temperature(&logits, labels);
            let labels = arrays::rows(labels, c)?;
            return Ok((found, thresholds(left_out.view(), labels, found, target)));
        }
        let held: Vec<bool> = groups.folds(5).iter().map(|fold| *fold == 0).collect();
        let rows =
            |wanted: bool| -> Vec<usize> { (0..n).filter(|&row| held[row] == wanted).collect() };
        let (rest, out) = (rows(false), rows(true));
        // Of the one part what the other is not.
        let (rest_labels, out_labels) = (data.labels.without(&out), data.labels.without(&rest));
        let (rest_labels, out_labels) = (rest_labels.flat(), out_labels.flat());
        if !rest_labels.contains(&1) || !out_labels.contains(&1) || !out_labels.contains(&-1) {
            return Ok(uncalibrated(c));
        }
        let groups = groups.select(&rest);
        let subset = Subset::new(&data.features, rest);
        let trained = self.train(&subset, rest_labels, &groups, None, "calibrating")?;
        let all = Scorer::of_head(&trained.head, &data.features)?.logits(&data.features)?;
        let logits: Vec<f32> = out
            .iter()
            .flat_map(|row| &all[row * c..(row + 1) * c])
            .copied()
            .collect();
        let found = temperature(&logits, out_labels);
        let (logits, labels) = (arrays::rows(&logits, c)?, arrays::rows(out_labels, c)?);
        Ok((found, thresholds(logits, labels, found, target)))
    }
}

/// Temperature 1 and thresholds 0.5.
fn uncalibrated(categories: usize) -> (f32, Vec<f32>) {
    eprintln!("too few known labels to calibrate: temperature 1, thresholds 0.5");
    (1.0, vec![0.5; categories])
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

/// A hash of the known labels, for lineage.
fn snapshot(labels: &LabelMatrix) -> String {
    let mut hash = Sha256::new();
    let names = labels.categories().iter().chain(labels.images());
    names.for_each(|name| hash.update(format!("{name}\n")));
    let states = labels.flat().iter().map(|state| *state as u8);
    hash.update(states.collect::<Vec<_>>());
    digest::hex(hash.finalize())
}

fn write_bundle(
    args: &TrainArgs,
    model: &OpenedModel,
    data: &LabelledFeatures,
    (names, prompts): (&[String], &[String]),
    trained: &Trained,
    (temperature, thresholds): &(f32, Vec<f32>),
) -> anyhow::Result<Bundle> {
    let towers = Towers::from(model);
    let categories =
        names
            .iter()
            .zip(prompts)
            .zip(thresholds)
            .map(|((name, prompt), &threshold)| Category {
                name: name.clone(),
                prompt: prompt.clone(),
                threshold,
            });
    let mut metrics = BTreeMap::from([
        ("train_images".to_owned(), data.labels.images().len() as f64),
        ("train_known_labels".to_owned(), data.labels.known() as f64),
        ("epochs".to_owned(), trained.epochs as f64),
    ]);
    if let Some((_, losses)) = trained.curves.last() {
        metrics.insert(
            "train_loss".to_owned(),
            losses.iter().map(|(_, value)| value).sum(),
        );
    }
    let head = NewHead {
        name: &args.method,
        files: &trained.head_files(towers.positions())?,
        categories: categories.collect(),
        calibration: Calibration {
            temperature: *temperature,
        },
        metrics,
        method: args.method.clone(),
        label_snapshot: Some(snapshot(&data.labels)),
        seed: Some(args.seed),
    };
    Ok(towers.with_head(head, &args.out)?)
}

fn report(
    args: &TrainArgs,
    data: &LabelledFeatures,
    bundle: &Bundle,
    (trained, groups): (&Trained, usize),
    times: [Duration; 3],
) -> anyhow::Result<Exit> {
    let [features, training, calibration] = times.map(|time| time.as_secs_f64());
    if args.json {
        let losses = trained
            .curves
            .last()
            .map(|(_, losses)| losses.iter().copied().collect::<BTreeMap<_, _>>());
        let output = serde_json::json!({
            "out": args.out,
            "id": bundle.id(),
            "method": args.method,
            "seed": args.seed,
            "images": data.labels.images().len(),
            "skipped_images": data.skipped,
            "ignored_labels": data.labels.ignored(),
            "known_labels": data.labels.known(),
            "groups": groups,
            "shares": {
                "trained": trained.ridges.blend.network,
                "images": trained.ridges.blend.memory,
                "regions": trained.ridges.blend.regional,
            },
            "epochs": trained.epochs,
            "steps": trained.steps,
            "losses": losses,
            "temperature": bundle.manifest().calibration.temperature,
            "seconds": {"features": features, "training": training, "calibration": calibration},
        });
        println!("{output}");
    } else {
        eprintln!(
            "{}: {} from {} known labels of {} images, {} epochs, {training:.1} s \
             (features {features:.1} s, calibration {calibration:.1} s)",
            args.out.display(),
            bundle.id(),
            data.labels.known(),
            data.labels.images().len(),
            trained.epochs
        );
    }
    Ok(Exit::Success)
}
