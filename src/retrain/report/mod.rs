//! The report of a run: one page that needs nothing else, and the same facts as JSON.

mod chart;
mod page;
mod record;

pub use record::{Measurement, RunRecord};

use super::config::RetrainConfig;
use super::job::inputs::Inputs;
use super::job::thinning::Thinned;
use super::judge::Judgement;
use chrono::{DateTime, Utc};
use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tagstream_core::build;
use tagstream_core::events::BoundingBox;
use tagstream_model::bundle::Bundle;
use tagstream_model::trained_on::{LEAST_IMAGES, TENTHS, TrainedOn, stability_index};
use tagstream_train::groups::Groups;
use tagstream_train::labels::{CategoryCount, LabelMatrix};

/// Bounds between ranges of probability. Beyond the outermost ones a prediction is as sure as a
/// pseudo-label.
const BOUNDS: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];

/// Labels of unseen images whose predicted probability lies in one range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ProbabilityRange {
    /// Known entries.
    pub known: u64,
    /// Of those, presences.
    pub present: u64,
}

/// How often a category is there, by how sure the model is of it, on labels that it was not trained
/// on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Confidence {
    /// Probability 0 to 0.1, to 0.3, to 0.5, to 0.7, to 0.9, to 1; a bound belongs to the range
    /// above it.
    pub ranges: [ProbabilityRange; BOUNDS.len() + 1],
}

impl Confidence {
    /// Counts over logits and labels of one shape; `temperature` makes probabilities of logits.
    pub fn measure(
        logits: ArrayView2<'_, f32>,
        labels: ArrayView2<'_, i8>,
        temperature: f32,
    ) -> Self {
        let mut counts = Confidence::default();
        for (logit, label) in logits.iter().zip(labels).filter(|(_, l)| **l != 0) {
            let p = 1.0 / (1.0 + (-f64::from(logit / temperature)).exp());
            let range = &mut counts.ranges[BOUNDS.iter().filter(|bound| p >= **bound).count()];
            range.known += 1;
            range.present += u64::from(*label > 0);
        }
        counts
    }
}

/// A tag on an example picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExampleTag {
    /// Its name in the candidate.
    pub category: String,
    /// Calibrated probability.
    pub score: f32,
    /// Where it is seen; empty where no region supports it.
    pub boxes: Vec<BoundingBox>,
}

/// A judged picture with what both models say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// As the label table names it.
    pub image_id: String,
    /// A small JPEG.
    #[serde(skip)]
    pub picture: Vec<u8>,
    /// Categories known to be there.
    pub present: Vec<String>,
    /// Categories known not to be there.
    pub absent: Vec<String>,
    /// Champion's tags.
    pub before: Vec<ExampleTag>,
    /// Candidate's tags.
    pub after: Vec<ExampleTag>,
}

/// What was tagged last, beside the images that the candidate was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EmbeddingDrift {
    /// Images that were trained on.
    pub trained_on: usize,
    /// Images that were tagged last.
    pub tagged: u64,
    /// How many of these lie in each tenth of those, the least like first.
    pub tenths: [u64; TENTHS],
    /// The population stability index; above 0.25 they are other images.
    pub index: f64,
}

impl EmbeddingDrift {
    /// Compares; `None` where either are too few.
    pub fn measure(trained_on: Option<&TrainedOn>, tagged: &[f32]) -> Option<Self> {
        let trained_on = trained_on?;
        let tenths = trained_on.count(tagged);
        let tagged = tenths.iter().sum();
        (tagged >= LEAST_IMAGES as u64).then(|| EmbeddingDrift {
            trained_on: trained_on.images(),
            tagged,
            tenths,
            index: stability_index(&tenths),
        })
    }
}

/// Mean losses of an epoch, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochLosses {
    /// From 1.
    pub epoch: usize,
    /// Name and value.
    pub losses: Vec<(String, f64)>,
}

/// Seconds that each step took, and the memory that the process held at most.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Step names and seconds, in order.
    pub seconds: Vec<(&'static str, f64)>,
    /// Largest resident size, MiB; 0 where the system does not tell.
    pub peak_mib: u64,
}

/// All that the report tells of.
pub struct Material<'a> {
    /// The configuration.
    pub job: &'a RetrainConfig,
    /// Seconds and memory.
    pub cost: &'a Cost,
    /// The run's name.
    pub run: &'a str,
    /// The model that served when the run began.
    pub champion: &'a Bundle,
    /// The champion's number in the registry; `None`: it is in none.
    pub champion_version: Option<u64>,
    /// The model that the run has trained.
    pub candidate: &'a Bundle,
    /// Losses.
    pub curves: &'a [EpochLosses],
    /// The snapshot.
    pub inputs: &'a Inputs,
    /// All labels that could be used.
    pub labels: &'a LabelMatrix,
    /// What had no room.
    pub thinned: Option<&'a Thinned>,
    /// Which of their images are relatives.
    pub groups: &'a Groups,
    /// Parts that are judged by heads that have not seen them; 1: a share was held out.
    pub folds: usize,
    /// The labels of the images that were judged on.
    pub judged: &'a LabelMatrix,
    /// Every gate with what it measured, and the verdict.
    pub judgement: &'a Judgement,
    /// How often champion and candidate are right, by how sure they are.
    pub confidence: &'a [Confidence; 2],
    /// What was tagged last, where there is enough to be compared.
    pub drift: Option<EmbeddingDrift>,
    /// Pictures.
    pub examples: &'a [Example],
}

/// The two files.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportFiles {
    /// `report.html`.
    pub html: String,
    /// `report.json`.
    pub json: String,
    /// What a tracking server keeps of it.
    pub record: RunRecord,
}

#[derive(Debug, Serialize)]
struct ReportFacts<'a> {
    run: &'a str,
    written: DateTime<Utc>,
    champion: &'a str,
    champion_version: Option<u64>,
    candidate: &'a str,
    method: &'a str,
    seed: u64,
    code_version: &'static str,
    judgement: &'a Judgement,
    labels: LabelFacts<'a>,
    confidence: &'a [Confidence; 2],
    curves: &'a [EpochLosses],
    cost: &'a Cost,
    /// `null`: there was too little to compare.
    drift: Option<EmbeddingDrift>,
    examples: &'a [Example],
}

#[derive(Debug, Serialize)]
struct LabelFacts<'a> {
    snapshot: String,
    images: usize,
    known: usize,
    /// Of the images that could be had.
    used_images: usize,
    used_known: usize,
    /// Images whose features had no room, if there were any: what teaches least was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<&'a Thinned>,
    /// Of the images that neither model has seen.
    judged_images: usize,
    judged_known: usize,
    /// Groups of relatives among the images used, and images that have one.
    groups: usize,
    with_relatives: usize,
    /// Images that were too many to be compared.
    not_compared: usize,
    /// Heads that judge; 1: a share was held out.
    folds: usize,
    without_uri: usize,
    of_unknown_categories: u64,
    new_categories: Vec<String>,
    categories: BTreeMap<String, CategoryCount>,
}

/// Writes both.
///
/// # Errors
/// If the facts cannot be written as JSON.
pub fn make(m: &Material<'_>) -> serde_json::Result<ReportFiles> {
    let new = m.inputs.categories[m.inputs.champion_categories..].iter();
    let facts = ReportFacts {
        run: m.run,
        written: Utc::now(),
        champion: m.champion.id(),
        champion_version: m.champion_version,
        candidate: m.candidate.id(),
        method: m.job.train.method.name(),
        seed: m.job.train.seed,
        code_version: build::name(),
        judgement: m.judgement,
        labels: LabelFacts {
            snapshot: m.inputs.snapshot.clone(),
            images: m.inputs.table.images().count(),
            known: m.inputs.table.known().count(),
            used_images: m.labels.images().len(),
            used_known: m.labels.known(),
            left_out: m.thinned,
            judged_images: m.judged.images().len(),
            judged_known: m.judged.known(),
            groups: m.groups.count(),
            with_relatives: m.groups.with_relatives().iter().filter(|yes| **yes).count(),
            not_compared: m.groups.not_compared(),
            folds: m.folds,
            without_uri: m.inputs.without_uri,
            of_unknown_categories: m.inputs.unknown_category_labels,
            new_categories: new.map(|c| c.name.clone()).collect(),
            categories: m.inputs.counts(),
        },
        confidence: m.confidence,
        curves: m.curves,
        cost: m.cost,
        drift: m.drift,
        examples: m.examples,
    };
    let json = serde_json::to_string_pretty(&facts)?;
    Ok(ReportFiles {
        html: page::html(&facts),
        json,
        record: RunRecord::of(&facts, m.job),
    })
}

#[cfg(test)]
mod tests;
