//! `tagstream eval`: measure a model against labels.

use super::dataset::{DataArgs, Dataset, open_model, text_features};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use tagstream_core::error::{Exit, usage};
use tagstream_model::OpenedModel;
use tagstream_model::head::{ExportedHead, ZeroShot};
use tagstream_train::arrays::rows;
use tagstream_train::eval::labels::read_categories;
use tagstream_train::eval::metrics;
use tagstream_train::eval::metrics::{Confusion, EvalReport, F1, sigmoid};
use tagstream_train::trainer::scoring::Scorer;

/// Arguments of `tagstream eval`.
///
/// Means over categories and average precisions are in percent, ece is a fraction. Unknown labels
/// are ignored. F1 is taken at probability 0.5; cf1_at_thresholds and of1_at_thresholds at the
/// bundle's own thresholds.
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// Model: bundle directory, folder with encoder.onnx and text tower (zero-shot, needs
    /// --categories), or registry-url[@version].
    #[arg(long)]
    pub model: String,
    #[command(flatten)]
    pub data: DataArgs,
    /// Measure text features alone on these categories (a file with one name a line) instead of the
    /// bundle's head.
    #[arg(long)]
    pub categories: Option<PathBuf>,
    /// The zero-shot prompt, {} being the category.
    #[arg(long, default_value = "a photo of a {}", requires = "categories")]
    pub prompt: String,
    /// Print the zero-shot quality of the dense features: which way of reading locations fits the
    /// model.
    #[arg(long, requires = "categories")]
    pub dense_modes: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output {
    model: String,
    #[serde(flatten)]
    report: EvalReport,
    temperature: f32,
    cf1_at_thresholds: f64,
    of1_at_thresholds: f64,
    skipped_images: usize,
    ignored_labels: usize,
}

/// Runs the command.
pub(super) fn run(args: EvalArgs) -> anyhow::Result<Exit> {
    let model = open_model(&args.model)?;
    let bundle = match &model {
        OpenedModel::Bundle(bundle) => Some(bundle.as_ref()),
        OpenedModel::Encoder(_) => None,
    };
    let (names, prompts) = match (&args.categories, bundle) {
        (Some(file), _) => {
            let names = read_categories(file).map_err(|error| usage(error.to_string()))?;
            let prompts = names
                .iter()
                .map(|name| args.prompt.replace("{}", &name.replace('_', " ")));
            let prompts: Vec<String> = prompts.collect();
            (names, Some(prompts))
        }
        (None, Some(bundle)) => (
            bundle
                .manifest()
                .categories
                .iter()
                .map(|category| category.name.clone())
                .collect(),
            None,
        ),
        (None, None) => {
            return Err(usage(format!(
                "{} has no head: give --categories for zero-shot",
                args.model
            ))
            .into());
        }
    };
    let data = args.data.load(&model, Some(&names))?;
    if data.labels.known() == 0 {
        return Err(usage(format!(
            "{} has no known label of the model's categories",
            args.data.labels.display()
        ))
        .into());
    }
    if args.dense_modes {
        return dense_modes(&args, &model, &data, prompts.as_deref().unwrap_or_default());
    }
    let (mut scorer, temperature, thresholds) = match (&prompts, bundle) {
        (Some(prompts), _) => {
            let (features, dim) = text_features(&model, prompts)?;
            let head = ExportedHead::zero_shot(&features, dim, ZeroShot::default());
            (
                Scorer::of_head(&head, &data.features)?,
                1.0,
                vec![0.5; names.len()],
            )
        }
        (None, Some(bundle)) => {
            let manifest = bundle.manifest();
            let thresholds = manifest
                .categories
                .iter()
                .map(|category| category.threshold)
                .collect();
            (
                Scorer::of_bundle(bundle, &data.features)?,
                manifest.calibration.temperature,
                thresholds,
            )
        }
        (None, None) => unreachable!("refused above"),
    };
    let mut logits = scorer.logits(&data.features)?;
    logits.iter_mut().for_each(|logit| *logit /= temperature);
    let logits = rows(&logits, names.len())?;
    let labels = rows(&data.labels.states, names.len())?;
    let report = metrics::report(logits, labels, &names)?;
    let confusions = logits.columns().into_iter().zip(labels.columns());
    let confusions = confusions.zip(&thresholds).zip(&report.per_category);
    // Over the categories that take part in the report's means.
    let confusions: Vec<Confusion> = confusions
        .filter(|(_, line)| line.ap_plain.is_some())
        .map(|(((logits, labels), threshold), _)| {
            at_threshold(logits.iter().zip(labels), *threshold)
        })
        .collect();
    let f1 = F1::of(&confusions);
    let output = Output {
        model: bundle.map_or_else(|| args.model.clone(), |bundle| bundle.id().to_owned()),
        report,
        temperature,
        cf1_at_thresholds: 100.0 * f1.cf1,
        of1_at_thresholds: 100.0 * f1.of1,
        skipped_images: data.skipped,
        ignored_labels: data.labels.ignored,
    };
    if args.json {
        println!("{}", serde_json::to_string(&output)?);
    } else {
        print(&output);
    }
    Ok(Exit::Success)
}

/// Decisions at a category's own threshold against its known labels.
fn at_threshold<'a>(entries: impl Iterator<Item = (&'a f32, &'a i8)>, threshold: f32) -> Confusion {
    let mut confusion = Confusion::default();
    for (&logit, &label) in entries.filter(|(_, label)| **label != 0) {
        let decided = sigmoid(f64::from(logit)) >= f64::from(threshold);
        confusion.add(decided, label > 0);
    }
    confusion
}

fn print(output: &Output) {
    let report = &output.report;
    eprintln!(
        "{:<28} {:>7} {:>7} {:>7} {:>6} {:>6} {:>8}",
        "category", "AP", "AP env", "F1", "pos", "neg", "unknown"
    );
    for row in &report.per_category {
        let percent = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
        };
        eprintln!(
            "{:<28} {:>7} {:>7} {:>7.1} {:>6} {:>6} {:>8}",
            row.category,
            percent(row.ap_plain),
            percent(row.ap_envelope),
            row.f1,
            row.positives,
            row.negatives,
            row.unknown
        );
    }
    eprintln!(
        "{}: {} images, mAP {:.2} (envelope {:.2}) over {} categories, CF1 {:.2}, OF1 {:.2}, at thresholds CF1 {:.2}, OF1 {:.2}, ECE {:.4}",
        output.model,
        report.images,
        report.map_plain,
        report.map_envelope,
        report.categories,
        report.cf1,
        report.of1,
        output.cf1_at_thresholds,
        output.of1_at_thresholds,
        report.ece
    );
    let (no_positives, no_negatives) = (
        report.categories_without_positives,
        report.categories_without_negatives,
    );
    if no_positives + no_negatives > 0 {
        eprintln!(
            "left out of the means: {no_positives} categories without known positives, {no_negatives} without known negatives"
        );
    }
}

/// Zero-shot mAP of several ways to pool locations, and of the global feature.
fn dense_modes(
    args: &EvalArgs,
    model: &OpenedModel,
    data: &Dataset,
    prompts: &[String],
) -> anyhow::Result<Exit> {
    let (text, dim) = text_features(model, prompts)?;
    let (c, n) = (prompts.len(), data.features.locations());
    let unit = |row: &[f32]| -> Vec<f32> {
        let norm = row
            .iter()
            .map(|x| x * x)
            .sum::<f32>()
            .sqrt()
            .max(f32::MIN_POSITIVE);
        row.iter().map(|x| x / norm).collect()
    };
    let cosine = |row: &[f32], category: usize| -> f32 {
        row.iter()
            .zip(&text[category * dim..(category + 1) * dim])
            .map(|(a, b)| a * b)
            .sum()
    };
    let names = [
        "global",
        "dense max",
        "dense softmax 1/20",
        "dense mean",
        "global + dense softmax 1/20",
    ];
    let mut scores = vec![Vec::with_capacity(data.features.len() * c); names.len()];
    for image in 0..data.features.len() {
        let dense: Vec<Vec<f32>> = data
            .features
            .dense(&[image])?
            .chunks_exact(dim)
            .map(unit)
            .collect();
        let global = unit(&data.features.global()[image * dim..(image + 1) * dim]);
        for category in 0..c {
            let cosines: Vec<f32> = dense.iter().map(|row| cosine(row, category)).collect();
            let weights: Vec<f32> = cosines.iter().map(|cosine| (20.0 * cosine).exp()).collect();
            let soft = cosines
                .iter()
                .zip(&weights)
                .map(|(a, b)| a * b)
                .sum::<f32>()
                / weights.iter().sum::<f32>();
            let whole = cosine(&global, category);
            let max = cosines.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mean = cosines.iter().sum::<f32>() / n as f32;
            for (list, score) in scores
                .iter_mut()
                .zip([whole, max, soft, mean, whole + soft])
            {
                list.push(score);
            }
        }
    }
    let mut lines = Vec::new();
    for (name, scores) in names.iter().zip(&scores) {
        let c = data.labels.categories.len();
        let (scores, labels) = (rows(scores, c)?, rows(&data.labels.states, c)?);
        let report = metrics::report(scores, labels, &data.labels.categories)?;
        lines.push(serde_json::json!({"mode": name, "map_plain": report.map_plain, "map_envelope": report.map_envelope}));
        eprintln!(
            "{name:<28} mAP {:.2} (envelope {:.2})",
            report.map_plain, report.map_envelope
        );
    }
    if args.json {
        println!("{}", serde_json::to_string(&lines)?);
    }
    Ok(Exit::Success)
}
