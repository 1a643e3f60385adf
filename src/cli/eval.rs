//! `tagstream eval`: measure a model against labels.

mod boxes;
mod compare;

use super::dataset::{DataArgs, LabelledFeatures, open_model, text_features};
use clap::Args;
use ndarray::{Array2, ArrayView1, ArrayView2, s};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tagstream_core::error::{Exit, usage};
use tagstream_model::OpenedModel;
use tagstream_model::bundle::Bundle;
use tagstream_model::head::{ExportedHead, ZeroShot};
use tagstream_model::tagger::TagDecision;
use tagstream_train::eval::metrics;
use tagstream_train::eval::metrics::{Confusion, EvalReport, F1, sigmoid};
use tagstream_train::eval::tags;
use tagstream_train::eval::tags::TagQuality;
use tagstream_train::labels::read_categories;
use tagstream_train::trainer::scoring::Scorer;

/// Arguments of `tagstream eval`.
///
/// `tags` says how good the tags are that the model would emit, at its own thresholds: how many a
/// picture, the share that is right, the share of what is there that is found (fractions of 1;
/// known entries are weighted so that they stand for all). Means over categories and average
/// precisions are in percent, ece is a fraction. Unknown labels are ignored. F1 is taken at
/// probability 0.5; cf1_at_thresholds and of1_at_thresholds at the bundle's own thresholds.
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
    /// Measure where tags are seen, too, against true boxes: the boxes.csv of `tagstream scenes`
    /// (image_id,label,x,y,w,h in fractions), COCO's instances (.json), Pascal VOC's annotations
    /// (.xml, or a folder of them).
    #[arg(long, value_name = "FILE|DIR", conflicts_with = "categories")]
    pub boxes: Option<PathBuf>,
    /// Measure what the model would gain without labels: prompts in the sets of templates, scores
    /// standardised for each picture (SPARC), and with --clip the ways to read locations; and say
    /// which to take. The labels decide, so a few hundred pictures at least.
    #[arg(long, conflicts_with_all = ["categories", "boxes"])]
    pub compare: bool,
    /// With --compare: the weights that the model was made of, as `init --clip` takes them.
    #[arg(long, requires = "compare")]
    pub clip: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output {
    model: String,
    /// The tags that the model would emit, of all categories: a picture, right, found.
    tags: TagQuality,
    /// The same by category.
    tags_per_category: BTreeMap<String, TagQuality>,
    #[serde(flatten)]
    report: EvalReport,
    /// Where tags are seen, with --boxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    boxes: Option<boxes::BoxQuality>,
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
    let classifier = Classifier::of(&args, bundle)?;
    let names = classifier.names();
    let data = args.data.load(&model, Some(&names))?;
    if data.labels.known() == 0 {
        return Err(usage(format!(
            "{} has no known label of the model's categories",
            args.data.labels.display()
        ))
        .into());
    }
    if args.compare {
        let bundle = bundle.ok_or_else(|| usage("--compare needs a bundle: it has words"))?;
        return compare::run(&args, &model, bundle, &data);
    }
    if args.dense_modes {
        let Classifier::Text { prompts, .. } = &classifier else {
            return Err(usage("--dense-modes needs --categories").into());
        };
        return dense_modes(&args, &model, &data, prompts);
    }
    let (mut scorer, temperature, thresholds) = classifier.scorer(&model, &data)?;
    let mut logits = scorer.logits(&data.features)?;
    logits.iter_mut().for_each(|logit| *logit /= temperature);
    if let Some(bundle) = bundle {
        let decision = TagDecision::of(&bundle.manifest().categories);
        let rows = logits.chunks_exact_mut(names.len());
        rows.for_each(|row| decision.raise(row));
    }
    let logits = ArrayView2::from_shape(data.labels.states().dim(), &logits)?;
    let report = metrics::report(logits, data.labels.states(), &names)?;
    let f1 = at_thresholds(logits, data.labels.states(), &thresholds, &report);
    let weights = tags::weights(logits, data.labels.states());
    let decision = bundle.map_or_else(TagDecision::default, |bundle| {
        TagDecision::of(&bundle.manifest().categories)
    });
    let emitted = emitted_thresholds(&decision, logits, &thresholds);
    let states = data.labels.states();
    let measured = tags::measure_with(logits, states, weights.view(), |image, category| {
        emitted[[image, category]]
    });
    let boxes = match (&args.boxes, bundle) {
        (Some(path), Some(bundle)) => Some(boxes::measure(path, &args.data.images, bundle)?),
        (Some(_), None) => return Err(usage("--boxes needs a bundle: it has tags").into()),
        (None, _) => None,
    };
    let output = Output {
        model: bundle.map_or_else(|| args.model.clone(), |bundle| bundle.id().to_owned()),
        tags: measured.overall,
        tags_per_category: names.iter().cloned().zip(measured.per_category).collect(),
        report,
        boxes,
        temperature,
        cf1_at_thresholds: 100.0 * f1.cf1,
        of1_at_thresholds: 100.0 * f1.of1,
        skipped_images: data.skipped,
        ignored_labels: data.labels.ignored(),
    };
    if args.json {
        println!("{}", serde_json::to_string(&output)?);
    } else {
        print(&output);
    }
    Ok(Exit::Success)
}

/// What is measured: the bundle, or words.
enum Classifier<'a> {
    /// The bundle's head, on its own categories.
    Head(&'a Bundle),
    /// Text features alone, on categories of the user's.
    Text {
        names: Vec<String>,
        prompts: Vec<String>,
    },
}

impl<'a> Classifier<'a> {
    fn of(args: &EvalArgs, bundle: Option<&'a Bundle>) -> anyhow::Result<Self> {
        if let Some(file) = &args.categories {
            let names = read_categories(file).map_err(|error| usage(error.to_string()))?;
            let prompts = names
                .iter()
                .map(|name| args.prompt.replace("{}", &name.replace('_', " ")))
                .collect();
            return Ok(Self::Text { names, prompts });
        }
        let headless = || {
            usage(format!(
                "{} has no head: give --categories for zero-shot",
                args.model
            ))
        };
        Ok(bundle.map(Self::Head).ok_or_else(headless)?)
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Text { names, .. } => names.clone(),
            Self::Head(bundle) => {
                let categories = bundle.manifest().categories.iter();
                categories.map(|category| category.name.clone()).collect()
            }
        }
    }

    /// The scorer, the temperature of its logits, and each category's threshold.
    fn scorer(
        &self,
        model: &OpenedModel,
        data: &LabelledFeatures,
    ) -> anyhow::Result<(Scorer, f32, Vec<f32>)> {
        match self {
            Self::Text { names, prompts } => {
                let (features, dim) = text_features(model, prompts)?;
                let head = ExportedHead::zero_shot(&features, dim, ZeroShot::default());
                let scorer = Scorer::of_head(&head, &data.features)?;
                Ok((scorer, 1.0, vec![0.5; names.len()]))
            }
            Self::Head(bundle) => {
                let manifest = bundle.manifest();
                let categories = manifest.categories.iter();
                let thresholds = categories.map(|category| category.threshold).collect();
                let scorer = Scorer::of_bundle(bundle, &data.features)?;
                Ok((scorer, manifest.calibration.temperature, thresholds))
            }
        }
    }
}

/// Every image's thresholds, beyond reach where a category becomes no tag though it reaches its
/// own.
fn emitted_thresholds(
    decision: &TagDecision,
    odds: ArrayView2<'_, f32>,
    thresholds: &[f32],
) -> Array2<f32> {
    let mut all = Array2::zeros(odds.dim());
    for (mut row, odds) in all.rows_mut().into_iter().zip(odds.rows()) {
        let mut own = thresholds.to_vec();
        decision.withhold(&odds.to_vec(), &mut own, tags::tagged);
        row.assign(&ArrayView1::from(&own));
    }
    all
}

/// F1 where a category is decided present at its own threshold, over the categories that take part
/// in the report's means.
fn at_thresholds(
    logits: ArrayView2<'_, f32>,
    labels: ArrayView2<'_, i8>,
    thresholds: &[f32],
    report: &EvalReport,
) -> F1 {
    let mut confusions = vec![Confusion::default(); thresholds.len()];
    for ((at, &logit), &label) in logits.indexed_iter().zip(labels) {
        let category = at.1;
        if label != 0 {
            let decided = sigmoid(f64::from(logit)) >= f64::from(thresholds[category]);
            confusions[category].add(decided, label > 0);
        }
    }
    let taking_part: Vec<Confusion> = confusions
        .into_iter()
        .zip(&report.per_category)
        .filter(|(_, row)| row.ap_plain.is_some())
        .map(|(c, _)| c)
        .collect();
    F1::of(&taking_part)
}

fn print(output: &Output) {
    let report = &output.report;
    let share = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{:.1}", 100.0 * x));
    eprintln!(
        "{:<28} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6} {:>8}",
        "category", "tags", "right", "found", "AP", "AP env", "F1", "pos", "neg", "unknown"
    );
    for row in &report.per_category {
        let percent = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
        };
        let tags = output.tags_per_category.get(&row.category).copied();
        let tags = tags.unwrap_or_default();
        eprintln!(
            "{:<28} {:>7.3} {:>7} {:>7} {:>7} {:>7} {:>7.1} {:>6} {:>6} {:>8}",
            row.category,
            tags.per_image,
            share(tags.right),
            share(tags.found),
            percent(row.ap_plain),
            percent(row.ap_envelope),
            row.f1,
            row.positives,
            row.negatives,
            row.unknown
        );
    }
    eprintln!(
        "{}: {:.2} tags a picture, {} % right, {} % of what is there found (F1 {}); {} images, \
         mAP {:.2} (envelope {:.2}) over {} categories, CF1 {:.2}, OF1 {:.2}, \
         at thresholds CF1 {:.2}, OF1 {:.2}, ECE {:.4}",
        output.model,
        output.tags.per_image,
        share(output.tags.right),
        share(output.tags.found),
        share(output.tags.f1),
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
    if let Some(boxes) = &output.boxes {
        eprintln!("{boxes}");
    }
    let (no_positives, no_negatives) = (
        report.categories_without_positives,
        report.categories_without_negatives,
    );
    if no_positives + no_negatives > 0 {
        eprintln!(
            "left out of the means: {no_positives} categories without known positives, \
             {no_negatives} without known negatives"
        );
    }
}

/// Ways to make one score of an image's locations and its global feature.
const MODES: [&str; 5] = [
    "global",
    "dense max",
    "dense softmax 1/20",
    "dense mean",
    "global + dense softmax 1/20",
];

/// Zero-shot mAP of several ways to pool locations, and of the global feature.
fn dense_modes(
    args: &EvalArgs,
    model: &OpenedModel,
    data: &LabelledFeatures,
    prompts: &[String],
) -> anyhow::Result<Exit> {
    let (text, dim) = text_features(model, prompts)?;
    let text = ArrayView2::from_shape((prompts.len(), dim), &text)?;
    let images = data.features.len();
    let global = ArrayView2::from_shape((images, dim), data.features.global())?;
    // A matrix a mode, `[images, categories]`.
    let mut scores = MODES.map(|_| Array2::zeros((images, prompts.len())));
    for image in 0..images {
        let dense = data.features.dense(&[image])?;
        let dense = ArrayView2::from_shape((data.features.locations(), dim), &dense)?;
        let cosines = unit_rows(dense).dot(&text.t());
        let whole = unit_rows(global.slice(s![image..=image, ..])).dot(&text.t());
        for (category, &whole) in whole.iter().enumerate() {
            let pooled = pool(cosines.column(category), whole);
            for (scores, score) in scores.iter_mut().zip(pooled) {
                scores[[image, category]] = score;
            }
        }
    }
    let mut lines = Vec::new();
    for (name, scores) in MODES.iter().zip(scores) {
        let (scores, _) = scores.into_raw_vec_and_offset();
        let report = metrics::report(
            ArrayView2::from_shape(data.labels.states().dim(), &scores)?,
            data.labels.states(),
            data.labels.categories(),
        )?;
        let (plain, envelope) = (report.map_plain, report.map_envelope);
        lines.push(serde_json::json!({"mode": name, "map_plain": plain, "map_envelope": envelope}));
        eprintln!("{name:<28} mAP {plain:.2} (envelope {envelope:.2})");
    }
    if args.json {
        println!("{}", serde_json::to_string(&lines)?);
    }
    Ok(Exit::Success)
}

/// The rows, each of length one.
fn unit_rows(rows: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut rows = rows.to_owned();
    for mut row in rows.rows_mut() {
        let norm = row.dot(&row).sqrt().max(f32::MIN_POSITIVE);
        row /= norm;
    }
    rows
}

/// The scores of a category in the order of [`MODES`], from its cosines with every location and
/// with the global feature.
fn pool(cosines: ArrayView1<'_, f32>, whole: f32) -> [f32; MODES.len()] {
    let weights = cosines.mapv(|cosine| (20.0 * cosine).exp());
    let soft = cosines.dot(&weights) / weights.sum();
    let max = cosines.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mean = cosines.sum() / cosines.len() as f32;
    [whole, max, soft, mean, whole + soft]
}
