//! The ledger: what each gate measured, what it asked, and what a failure demands.

use super::{CategoryOutcome, Check, Gate, JudgeConfig, Judgement};
use tagstream_model::registry::Verdict;

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
    config: &JudgeConfig,
    finite: bool,
) -> Vec<Gate> {
    let mut gates: Vec<Gate> = checks.iter().map(of_check).collect();
    gates.push(finite_scores(finite));
    gates.extend(evidence(judgement, config));
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

fn evidence(judgement: &Judgement, config: &JudgeConfig) -> [Gate; 2] {
    let (images, categories) = (judgement.images, judgement.categories.len());
    let min_categories = config.min_categories.max(1);
    [
        gate(
            "evidence: images",
            images >= config.min_images,
            format!("{images} held-out images with known labels"),
            format!("at least {}", config.min_images),
            Verdict::Hold,
        ),
        gate(
            "evidence: categories",
            categories >= min_categories,
            format!("{categories} categories with known presences and absences"),
            format!("at least {min_categories}"),
            Verdict::Hold,
        ),
    ]
}

fn of_the_mean(judgement: &Judgement, config: &JudgeConfig) -> [Gate; 3] {
    let d = &judgement.difference;
    [
        gate(
            "mAP not certainly worse",
            // A NaN means that nothing could be measured, which is no proof of harm.
            d.upper.is_nan() || d.upper >= 0.0,
            format!("upper bound {}", points(d.upper)),
            "not below zero".into(),
            Verdict::Reject,
        ),
        gate(
            "mAP certainly not worse",
            d.lower > -config.margin,
            format!("{} (lower bound {})", points(d.estimate), points(d.lower)),
            format!("lower bound above {}", points(-config.margin)),
            Verdict::Hold,
        ),
        gate(
            "worth the change",
            d.estimate >= config.min_gain,
            points(d.estimate),
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
