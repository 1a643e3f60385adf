//! What a tracking server keeps of a run: settings, what was measured, and losses by epoch.

use super::ReportFacts;
use crate::retrain::config::RetrainConfig;
use crate::retrain::judge::Interval;
use serde_json::Value;
use tagstream_train::eval::tags::TagQuality;

/// A number with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Its name, as `map.candidate`.
    pub name: String,
    /// The number, always finite.
    pub value: f64,
    /// The epoch that it belongs to; 0 for what belongs to the whole run.
    pub step: u64,
}

/// A run as a tracking server keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// The run's name; the same settings and inputs have the same.
    pub run: String,
    /// The verdict, in lower case.
    pub verdict: String,
    /// What was measured, in a sentence.
    pub summary: String,
    /// Settings and inputs by name.
    pub params: Vec<(String, String)>,
    /// What was measured.
    pub measurements: Vec<Measurement>,
}

impl RunRecord {
    /// The record of a run that the report tells of.
    pub(super) fn of(facts: &ReportFacts<'_>, config: &RetrainConfig) -> Self {
        RunRecord {
            run: facts.run.to_owned(),
            verdict: facts.judgement.verdict.to_string().to_lowercase(),
            summary: facts.judgement.summary(),
            params: params(facts, config),
            measurements: measurements(facts),
        }
    }
}

fn params(facts: &ReportFacts<'_>, config: &RetrainConfig) -> Vec<(String, String)> {
    let version = facts.champion_version;
    let mut params: Vec<(String, String)> = [
        ("method", facts.method.to_owned()),
        ("seed", facts.seed.to_string()),
        ("max_minutes", config.train.max_minutes.to_string()),
        ("warm_start", config.train.warm_start.to_string()),
        ("champion", facts.champion.to_owned()),
        (
            "champion_version",
            version.map_or("none".into(), |v| v.to_string()),
        ),
        ("candidate", facts.candidate.to_owned()),
        ("snapshot", facts.labels.snapshot.clone()),
        ("folds", facts.labels.folds.to_string()),
        ("code_version", facts.code_version.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    // A configuration that was run with can be read.
    if let Ok(method) = config.method().map(serde_json::to_value) {
        flatten("settings", &method.unwrap_or_default(), &mut params);
    }
    params
}

/// Settings by their paths: `settings.optimizer.epochs`.
fn flatten(path: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                flatten(&format!("{path}.{name}"), value, into);
            }
        }
        Value::String(text) => into.push((path.to_owned(), text.clone())),
        other => into.push((path.to_owned(), other.to_string())),
    }
}

/// Collects what is a number.
#[derive(Default)]
struct Measured(Vec<Measurement>);

impl Measured {
    fn at(&mut self, name: impl Into<String>, value: f64, step: u64) {
        if value.is_finite() {
            let name = name.into();
            self.0.push(Measurement { name, value, step });
        }
    }

    fn of_run(&mut self, name: impl Into<String>, value: f64) {
        self.at(name, value, 0);
    }

    fn interval(&mut self, name: &str, interval: &Interval) {
        self.of_run(format!("{name}.estimate"), interval.estimate);
        self.of_run(format!("{name}.lower"), interval.lower);
        self.of_run(format!("{name}.upper"), interval.upper);
    }

    fn tags(&mut self, whose: &str, tags: &TagQuality) {
        self.of_run(format!("tags.{whose}.per_image"), tags.per_image);
        for (name, share) in [
            ("right", tags.right),
            ("found", tags.found),
            ("f1", tags.f1),
        ] {
            self.of_run(format!("tags.{whose}.{name}"), share.unwrap_or(f64::NAN));
        }
    }
}

fn measurements(facts: &ReportFacts<'_>) -> Vec<Measurement> {
    let (judgement, labels) = (facts.judgement, &facts.labels);
    let mut measured = Measured::default();
    measured.of_run("map.champion", judgement.champion_map);
    measured.of_run("map.candidate", judgement.candidate_map);
    measured.interval("map.difference", &judgement.difference);
    measured.interval("map.by_presences", &judgement.by_presences);
    if let Some(tags) = &judgement.tags {
        measured.tags("champion", &tags.champion);
        measured.tags("candidate", &tags.candidate);
        measured.interval("tags.f1_difference", &tags.f1);
    }
    for (name, count) in [
        ("judged.images", judgement.images),
        ("judged.labels", judgement.labels),
        ("judged.categories", judgement.categories.len()),
        ("judged.look", judgement.look),
        ("gates.all", judgement.gates.len()),
        ("gates.failed", judgement.failed_gates().count()),
        ("labels.images", labels.images),
        ("labels.known", labels.known),
        ("labels.used_images", labels.used_images),
        ("labels.used_known", labels.used_known),
        ("categories.new", labels.new_categories.len()),
    ] {
        measured.of_run(name, count as f64);
    }
    if let Some(drift) = &facts.drift {
        measured.of_run("drift.embeddings", drift.index);
        measured.of_run("drift.images", drift.tagged as f64);
    }
    measured.of_run("memory.peak_mib", facts.cost.peak_mib as f64);
    for (step, seconds) in &facts.cost.seconds {
        measured.of_run(format!("seconds.{step}"), *seconds);
    }
    for epoch in facts.curves {
        for (name, loss) in &epoch.losses {
            measured.at(format!("loss.{name}"), *loss, epoch.epoch as u64);
        }
    }
    measured.0
}
