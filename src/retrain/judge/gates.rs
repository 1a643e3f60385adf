//! The ledger: what each gate measured, what it asked, and what a failure demands.

use super::{CategoryOutcome, Check, Gate, JudgeConfig, Judgement, TagOutcome, Trial, share};
use tagstream_model::registry::Verdict;
use tagstream_train::eval::tags::TagTarget;

/// How the names of gates on what is known begin.
pub(super) const EVIDENCE: &str = "evidence";
/// A precision that was asked for is met within this much.
const PRECISION_TOLERANCE: f64 = 0.05;
/// Tags a picture may be this many times what is there, and one in this many.
const MOST_TAGS: f64 = 3.0;
const LEAST_TAGS: f64 = 0.2;

/// The severest demand of a failed gate.
pub(super) fn verdict(gates: &[Gate]) -> Verdict {
    let demanded = |v| gates.iter().any(|g| !g.passed && g.otherwise == v);
    if demanded(Verdict::Reject) {
        Verdict::Reject
    } else if demanded(Verdict::Hold) {
        Verdict::Hold
    } else {
        Verdict::Promote
    }
}

/// Every gate, in the ledger's order. `finite` says whether the candidate's scores are numbers.
pub(super) fn all(
    judgement: &Judgement,
    checks: &[Check],
    (config, trial): (&JudgeConfig, &Trial<'_>),
    finite: bool,
) -> Vec<Gate> {
    let mut gates: Vec<Gate> = checks.iter().map(of_check).collect();
    gates.push(finite_scores(finite));
    gates.extend(evidence(judgement, config, trial));
    if let (Some(tags), Some(of)) = (&judgement.tags, &trial.tags) {
        gates.extend(of_tags(tags, of.target, config));
    }
    gates.extend(of_the_mean(judgement, config));
    gates.push(no_category_falls(judgement, config));
    gates
}

fn gate(name: &str, passed: bool, measured: String, asked: String, otherwise: Verdict) -> Gate {
    Gate {
        name: name.into(),
        passed,
        measured,
        asked,
        otherwise,
    }
}

fn of_check(check: &Check) -> Gate {
    let detail = check.detail.clone();
    gate(
        &check.name,
        check.passed,
        detail,
        "passes".into(),
        Verdict::Reject,
    )
}

fn finite_scores(finite: bool) -> Gate {
    let measured = if finite {
        "all finite"
    } else {
        "some are not finite"
    };
    gate(
        "finite scores",
        finite,
        measured.into(),
        "all finite".into(),
        Verdict::Reject,
    )
}

/// How many categories must be measured: as many as are asked for, or all there are.
pub(super) fn categories_asked(trial: &Trial<'_>, config: &JudgeConfig) -> usize {
    config.min_categories.min(trial.categories.len()).max(1)
}

fn evidence(judgement: &Judgement, config: &JudgeConfig, trial: &Trial<'_>) -> [Gate; 2] {
    let (images, categories) = (judgement.images, judgement.categories.len());
    let asked = categories_asked(trial, config);
    [
        gate(
            &format!("{EVIDENCE}: images"),
            images >= config.min_images,
            format!("{images} unseen images with known labels"),
            format!("at least {}", config.min_images),
            Verdict::Hold,
        ),
        gate(
            &format!("{EVIDENCE}: categories"),
            categories >= asked,
            format!(
                "{categories} categories with {} known presences and an absence",
                config.min_present
            ),
            format!("at least {asked}"),
            Verdict::Hold,
        ),
    ]
}

/// Gates on what users see.
fn of_tags(tags: &TagOutcome, target: TagTarget, config: &JudgeConfig) -> Vec<Gate> {
    let mut gates = vec![tags_a_picture(tags, target)];
    match target {
        TagTarget::Precision(wanted) => {
            let upper = tags.candidate_right.upper;
            let reached = !(upper < wanted - PRECISION_TOLERANCE && tags.right.upper < 0.0);
            gates.push(gate(
                "tags as often right as asked for",
                reached,
                format!(
                    "{} (upper bound {})",
                    share(tags.candidate.right),
                    share(Some(upper))
                ),
                format!(
                    "{:.0} %, within {:.0}, or no less than before",
                    100.0 * wanted,
                    100.0 * PRECISION_TOLERANCE
                ),
                Verdict::Hold,
            ));
        }
        TagTarget::BestF1 | TagTarget::PerImage(_) => {
            gates.push(gate(
                "tags not certainly worse",
                // NaN: nothing to compare, which is no proof of harm.
                tags.f1.upper.is_nan() || tags.f1.upper >= 0.0,
                format!(
                    "F1 {} -> {} with thresholds chosen alike, upper bound {}",
                    share(tags.champion_alike.f1),
                    share(tags.candidate.f1),
                    points(tags.f1.upper)
                ),
                "not below zero".into(),
                Verdict::Hold,
            ));
            let better = tags.f1.lower > 0.0;
            gates.push(no_fall("tags right", &tags.right, better, config));
            gates.push(no_fall("tags found", &tags.found, better, config));
        }
    }
    if target == TagTarget::BestF1 {
        let name = "tags as good as those emitted now";
        gates.push(no_fall(name, &tags.emitted_f1, false, config));
    }
    gates
}

/// A share that falls is made up for by the other one where F1 certainly rises.
fn no_fall(name: &str, change: &super::Interval, better: bool, config: &JudgeConfig) -> Gate {
    let fallen = change.upper < -config.tags_tolerance;
    let (estimate, upper) = (points(change.estimate), points(change.upper));
    let made_up = if better { ", F1 certainly rises" } else { "" };
    gate(
        name,
        better || !fallen,
        format!("{estimate} (upper bound {upper}){made_up}"),
        format!("no upper bound below {}", points(-config.tags_tolerance)),
        Verdict::Hold,
    )
}

fn tags_a_picture(tags: &TagOutcome, target: TagTarget) -> Gate {
    let (before, after) = (tags.champion.per_image, tags.candidate.per_image);
    let there = match target {
        TagTarget::PerImage(wanted) => wanted,
        _ => tags.present_per_image,
    };
    let (least, most) = (LEAST_TAGS * there, MOST_TAGS * there);
    // Few tags are what a high precision asks for.
    let too_few = after < least && after < before && !matches!(target, TagTarget::Precision(_));
    let too_many = after > most && after > before;
    gate(
        "tags a picture",
        !(too_few || too_many),
        format!(
            "{before:.2} -> {after:.2}; about {:.2} are there",
            tags.present_per_image
        ),
        format!("{least:.2} to {most:.2}, or nearer to it than before"),
        Verdict::Hold,
    )
}

fn of_the_mean(judgement: &Judgement, config: &JudgeConfig) -> [Gate; 3] {
    let d = &judgement.by_presences;
    let mean = judgement.difference.estimate;
    let look = match judgement.look {
        0 | 1 => String::new(),
        look => format!(" at look {look} at this champion"),
    };
    [
        gate(
            "mAP not certainly worse",
            // A NaN means that nothing could be measured, which is no proof of harm.
            d.upper.is_nan() || d.upper >= 0.0,
            format!("by presences: upper bound {}", points(d.upper)),
            "not below zero".into(),
            Verdict::Reject,
        ),
        gate(
            "mAP certainly not worse",
            d.lower > -config.margin,
            format!(
                "by presences {} (lower bound {})",
                points(d.estimate),
                points(d.lower)
            ),
            format!("lower bound above {}{look}", points(-config.margin)),
            Verdict::Hold,
        ),
        gate(
            "worth the change",
            mean >= config.min_gain,
            points(mean),
            format!("at least {}", points(config.min_gain)),
            Verdict::Hold,
        ),
    ]
}

fn no_category_falls(judgement: &Judgement, config: &JudgeConfig) -> Gate {
    let lowest = -config.category_tolerance;
    let shown = |c: &CategoryOutcome| {
        let d = &c.difference;
        let (estimate, upper) = (points(d.estimate), points(d.upper));
        format!("{} {estimate} (upper bound {upper})", c.category)
    };
    let all = || judgement.categories.iter();
    let fallen: Vec<String> = all()
        .filter(|c| c.difference.upper < lowest)
        .map(shown)
        .collect();
    let estimate = |c: &CategoryOutcome| c.difference.estimate;
    let worst = all().min_by(|a, b| estimate(a).total_cmp(&estimate(b)));
    let measured = match (fallen.is_empty(), worst) {
        (true, None) => "nothing measured".into(),
        (true, Some(worst)) => format!("worst: {}", shown(worst)),
        (false, _) => fallen.join(", "),
    };
    gate(
        "no category falls",
        fallen.is_empty(),
        measured,
        format!("no upper bound below {}", points(lowest)),
        Verdict::Reject,
    )
}

fn points(x: f64) -> String {
    if !x.is_finite() {
        return "not measurable".into();
    }
    format!("{:+.2} points", 100.0 * x)
}
