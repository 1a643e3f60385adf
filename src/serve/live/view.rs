//! The parts of the live page.

use super::Parts;
use super::letters::{Letter, Letters};
use super::newest::Newest;
use super::stages::{StageState, StageView};
use crate::serve::format;
use crate::serve::models::{Listing, Report, gate_table};
use crate::serve::picture_view;
use crate::serve::pictures::Pictures;
use chrono::Utc;
use maud::{Markup, PreEscaped, html};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use tagstream_core::events::DeadLetterKind;

/// What the parts are written of.
pub(super) struct Shown<'a> {
    pub(super) stages: &'a [StageView],
    /// None without tables.
    pub(super) newest: Option<&'a Newest>,
    /// None without a topic of dead letters.
    pub(super) letters: Option<&'a Letters>,
    pub(super) listing: Result<&'a Listing, String>,
    pub(super) report: Option<&'a Report>,
    pub(super) pictures: &'a Pictures,
}

type Write = fn(&Shown<'_>) -> Markup;

/// The parts in the order of the page.
pub(super) static PARTS: [(&str, Write); 6] = [
    ("figures", figures),
    ("stages", stages),
    ("model", model),
    ("verdict", verdict),
    ("letters", letters),
    ("newest", newest),
];

/// The whole page.
pub(super) fn whole(parts: &Parts) -> Markup {
    let part = |name: &str| {
        let html = parts
            .iter()
            .find(|(own, _)| *own == name)
            .map_or("", |(_, html)| &**html);
        // Written by the functions below, which escape.
        html! { section data-live=(name) { (PreEscaped(html)) } }
    };
    html! {
        div.spread {
            h1 { "Live" }
            span #connection.chip role="status" { "connecting" }
        }
        (part("figures"))
        (part("stages"))
        div.columns { (part("model")) (part("verdict")) }
        (part("letters"))
        (part("newest"))
    }
}

fn figures(shown: &Shown<'_>) -> Markup {
    let rates: Vec<f64> = shown
        .stages
        .iter()
        .filter_map(|s| s.images_a_second)
        .collect();
    let rate = (!rates.is_empty()).then(|| rates.iter().sum::<f64>());
    let tags = shown.newest.and_then(Newest::tags_a_picture);
    let lag: f64 = shown.stages.iter().flat_map(|s| s.lags.values()).sum();
    let dead: f64 = shown
        .stages
        .iter()
        .flat_map(|s| s.dead_letters.values())
        .sum();
    let figure = |name: &str, value: Option<String>, more: String| {
        html! { div {
            dt { (name) }
            dd { b { (value.unwrap_or_else(|| "-".into())) } span.small { (more) } }
        } }
    };
    let age = shown.newest.and_then(Newest::age_at_tagging);
    html! {
        h2 { "Throughput" }
        dl.figures {
            (figure("images a second", rate.map(format::rate), "over 10 s".into()))
            (figure(
                "tags a second",
                rate.zip(tags).map(|(rate, tags)| format::rate(rate * tags)),
                tags.map_or_else(String::new, |tags| format!("{tags:.1} a picture")),
            ))
            (figure("messages behind", Some(format::count(lag)), "all partitions".into()))
            (figure("dead letters", Some(format::count(dead)), "since the start".into()))
            (figure(
                "from picture to row",
                age.map(|age| format::seconds(Some(age))),
                "median of the newest".into(),
            ))
        }
        (curve(shown.stages))
    }
}

/// The sum of all stages' rates over the last minutes.
fn curve(stages: &[StageView]) -> Markup {
    let longest = stages
        .iter()
        .map(|stage| stage.curve.len())
        .max()
        .unwrap_or_default();
    let mut sums = vec![0.0; longest];
    for stage in stages {
        // Newest last: shorter curves belong to the right.
        for (sum, rate) in sums[longest - stage.curve.len()..]
            .iter_mut()
            .zip(&stage.curve)
        {
            *sum += rate;
        }
    }
    let top = sums.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    if longest < 2 {
        return html! {};
    }
    let mut line = String::new();
    for (at, rate) in sums.iter().enumerate() {
        let (x, y) = (
            100.0 * at as f64 / (longest - 1) as f64,
            28.0 - 26.0 * rate / top,
        );
        let step = if at == 0 { 'M' } else { 'L' };
        let _ = write!(line, "{step}{x:.2} {y:.2}");
    }
    html! {
        svg.spark viewBox="0 0 100 30" preserveAspectRatio="none" role="img"
            aria-label={ "images a second over the last minutes, at most " (format::rate(top)) } {
            path.area d={ (line) "L100 30L0 30Z" } {}
            path d=(line) {}
        }
    }
}

fn stages(shown: &Shown<'_>) -> Markup {
    html! {
        h2 { "Stages" }
        @if shown.stages.is_empty() {
            p.soft { "None is named in " code { "stages.addresses" } "." }
        }
        @for stage in shown.stages { (one_stage(stage)) }
        @let lags = lags(shown.stages);
        @if !lags.is_empty() {
            h3 { "Messages behind, by partition" }
            @let most = lags.values().copied().fold(1.0, f64::max);
            div.bars {
                @for ((topic, partition), lag) in &lags {
                    span { (topic) "/" (partition) }
                    svg.share viewBox={ "0 0 " (most) " 1" } preserveAspectRatio="none"
                        aria-hidden="true" {
                        rect.amount x="0" y="0" width=(lag) height="1" {}
                    }
                    span.n { (format::count(*lag)) }
                }
            }
        }
    }
}

fn lags(stages: &[StageView]) -> BTreeMap<(String, i32), f64> {
    let mut all = BTreeMap::new();
    for (partition, lag) in stages.iter().flat_map(|stage| &stage.lags) {
        // In a rebalance two may have it; the later figure is the smaller.
        let known = all.entry(partition.clone()).or_insert(*lag);
        *known = known.min(*lag);
    }
    all
}

fn one_stage(stage: &StageView) -> Markup {
    let (kind, state) = match &stage.state {
        StageState::Unasked => ("", "not asked yet"),
        StageState::Ready => ("good", "ready"),
        StageState::NotReady(_) => ("warn", "not ready"),
        StageState::Silent(_) => ("bad", "does not answer"),
    };
    let (used, budget) = stage.memory;
    html! {
        div.spread {
            b { (stage.name) }
            span.chip.(kind) { (state) }
        }
        @match &stage.state {
            StageState::NotReady(reasons) => { @for reason in reasons { p.warn { (reason) } } },
            StageState::Silent(reason) => { p.bad { (reason) } },
            _ => {},
        }
        @for outage in &stage.outages { p.warn { "down: " (outage) } }
        @if matches!(stage.state, StageState::Ready | StageState::NotReady(_)) {
            dl.figures {
                div { dt { "images a second" } dd { b.text {
                    (stage.images_a_second.map_or("-".into(), format::rate))
                } } }
                div { dt { "batch in the model" } dd {
                    b.text { (format::seconds(stage.inference.p50)) }
                    span.small { "p99 " (format::seconds(stage.inference.p99)) }
                } }
                div { dt { "batch waiting" } dd {
                    b.text { (format::seconds(stage.waiting.p50)) }
                    span.small { "p99 " (format::seconds(stage.waiting.p99)) }
                } }
                div { dt { "images in a batch" } dd { b.text {
                    (stage.batch.p50.map_or("-".into(), |images| format!("{images:.0}")))
                } } }
                div { dt { "memory for rows" } dd {
                    b.text { (format::bytes(used)) }
                    span.small { "of " (format::bytes(budget)) }
                } }
                div { dt { "computes on" } dd {
                    b.text { (if stage.provider.is_empty() { "-" } else { &stage.provider }) }
                    span.small { "tagstream " (stage.version) }
                } }
            }
        }
    }
}

fn model(shown: &Shown<'_>) -> Markup {
    let listing = match &shown.listing {
        Ok(listing) => *listing,
        Err(reason) => {
            return html! {
                h2 { "Model" }
                p.bad { "The registry does not answer." }
                p.soft { (reason) }
            };
        }
    };
    let now = Utc::now();
    html! {
        h2 { "Model" }
        @if let Some(version) = listing.serving() {
            dl.facts {
                dt { "serves" }
                dd {
                    a href=(format!("/models/{}", version.version)) {
                        "version " (version.version)
                    }
                }
                @if let Some(entry) = listing.serves_by() {
                    dt { "since" }
                    dd { (format::time(entry.time)) " (" (format::ago(entry.time, now)) ")" }
                    dt { "by" } dd { (entry.who) ": " (entry.why) }
                }
                dt { "categories" } dd { (version.categories) }
                dt { "id" } dd { code { (version.id) } }
            }
            @for stage in shown.stages {
                @if !stage.model.is_empty() && stage.model != version.id {
                    p.warn { (stage.name) " still runs " code { (stage.model) } }
                }
            }
        } @else {
            p.soft { "No version serves yet." }
        }
    }
}

fn verdict(shown: &Shown<'_>) -> Markup {
    let judged = shown
        .listing
        .as_ref()
        .ok()
        .and_then(|listing| listing.last_judged());
    html! {
        h2 { "Last verdict" }
        @if let Some(entry) = judged {
            p {
                @if let Some(verdict) = entry.verdict {
                    span.chip.{ (verdict) } { (verdict) }
                }
                " version "
                a href=(format!("/models/{}", entry.version)) { (entry.version) }
                ", " (format::ago(entry.time, Utc::now()))
            }
            @if let Some(report) = shown.report {
                p.soft {
                    @let passed = report.judgement.gates.iter().filter(|g| g.passed).count();
                    (passed) " of " (report.judgement.gates.len()) " gates passed"
                }
                details { summary { "Gates" } (gate_table(report)) }
            } @else {
                p.soft { (entry.why) }
            }
        } @else {
            p.soft { "No retraining was judged yet." }
        }
    }
}

fn letters(shown: &Shown<'_>) -> Markup {
    let mut kinds: BTreeMap<&str, f64> = BTreeMap::new();
    for (kind, count) in shown.stages.iter().flat_map(|stage| &stage.dead_letters) {
        *kinds.entry(kind).or_default() += count;
    }
    // Stages tell of every kind there is; most never happen.
    kinds.retain(|_, count| *count > 0.0);
    html! {
        h2 { "Dead letters" }
        @if kinds.is_empty() { p.soft { "None since the stages began." } }
        div.row {
            @for (kind, count) in &kinds {
                span.chip { (kind) " " b { (format::count(*count)) } }
            }
        }
        @if let Some(letters) = shown.letters {
            @if let Some(trouble) = &letters.trouble { p.bad { (trouble) } }
            @if !letters.letters.is_empty() {
                ul.plainlist.letters {
                    @for letter in &letters.letters { (one_letter(letter, shown)) }
                }
            }
        }
    }
}

/// Whether the picture itself may be had, although its message is a dead letter.
fn may_be_had(kind: &str) -> bool {
    [
        DeadLetterKind::FetchFailed,
        DeadLetterKind::FetchTimeout,
        DeadLetterKind::Outage,
        DeadLetterKind::Inference,
    ]
    .iter()
    .any(|one| one.as_str() == kind)
}

fn one_letter(letter: &Letter, shown: &Shown<'_>) -> Markup {
    html! {
        li {
            div {
                div.row {
                    span.chip { (letter.kind) }
                    @if let Some((image_id, _)) = &letter.image { span { (image_id) } }
                    @if let Some(time) = letter.time { span.soft.small { (format::time(time)) } }
                }
                p { (letter.cause) }
                p.soft.small { (letter.source) }
            }
            @if let Some((image_id, uri)) = &letter.image {
                @if may_be_had(&letter.kind) {
                    img width="88" alt=(image_id) loading="lazy" src=(shown.pictures.path(uri));
                }
            }
        }
    }
}

fn newest(shown: &Shown<'_>) -> Markup {
    html! {
        h2 { "Newest pictures" }
        @match shown.newest {
            None => { p.soft { "No tables are named in " code { "tables.url" } "." } },
            Some(newest) => {
                @if let Some(trouble) = &newest.trouble { p.bad { (trouble) } }
                @if newest.pictures.is_empty() && newest.trouble.is_none() {
                    p.soft { "The table has no rows yet." }
                }
                div.pictures {
                    @for picture in &newest.pictures {
                        (picture_view::figure(picture, shown.pictures))
                    }
                }
            },
        }
    }
}
