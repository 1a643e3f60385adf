//! `tagstream train`: train a head on partially labelled images.

mod fit;

use super::dataset::{DataArgs, LabelledFeatures, open_model};
use clap::Args;
use fit::{CalibrationArgs, Fit};
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
use tagstream_model::trained_on::TrainedOn;
use tagstream_train::eval::protocol::{keep_share, keep_single_positive};
use tagstream_train::labels::{LabelMatrix, read_categories};
use tagstream_train::trainer::Trained;
use tagstream_train::trainer::run_folder::RunFolder;
use tagstream_train::trm::config::{Method, MethodConfig};

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
    /// Which labels are hidden, where a share of them is.
    #[arg(long, default_value_t = 0)]
    pub mask_seed: u32,
    /// Images whose ids match this regular expression the same are relatives (its first capture
    /// names the group; without one all that it matches): folds keep them together. Others are
    /// grouped by near-duplicates.
    #[arg(long, value_name = "REGEX")]
    pub group_pattern: Option<String>,
    #[command(flatten)]
    pub calibration: CalibrationArgs,
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
    let calibrated = if args.calibration.no_calibration {
        (1.0, vec![0.5; names.len()])
    } else {
        fit.calibrate(&data, &groups, &trained, &args.calibration)?
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
    args.calibration.check()?;
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
    let categories = names
        .iter()
        .zip(prompts)
        .zip(thresholds)
        .map(|((name, prompt), &threshold)| Category::named(name, prompt, threshold));
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
        trained_on: TrainedOn::of(data.features.global(), towers.dim()),
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
