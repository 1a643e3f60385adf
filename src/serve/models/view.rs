//! The list of versions, and one of them.

use super::{Listing, Report};
use crate::serve::format;
use crate::serve::frame::form_token;
use crate::serve::visitor::Visitor;
use maud::{Markup, html};
use tagstream_model::registry::{HistoryEntry, VersionRecord};

/// Decisions that are shown at once.
const SHOWN_DECISIONS: usize = 50;

pub(super) fn list(listing: &Listing, visitor: &Visitor) -> Markup {
    let serving = listing.serving().map(|version| version.version);
    html! {
        section {
            div.spread {
                h1 { "Models" }
                @if let Some(version) = listing.serving() {
                    span.chip.good { "version " (version.version) " serves" }
                } @else {
                    span.chip.warn { "none serves" }
                }
            }
            @if listing.versions.is_empty() {
                p.soft { "There is no version yet: " code { "tagstream registry add BUNDLE" } }
            }
            div.wide {
                table {
                    thead { tr {
                        th { "version" } th { "registered" } th { "by" } th { "why" }
                        th.n { "categories" } th { "verdict" } th { "report" } th { "" }
                    } }
                    tbody {
                        @for version in listing.versions.iter().rev() {
                            (row(listing, version, serving, visitor))
                        }
                    }
                }
            }
        }
        @if listing.versions.len() > 1 { (compare_form(listing)) }
        (history(&listing.history))
    }
}

fn row(
    listing: &Listing,
    version: &VersionRecord,
    serving: Option<u64>,
    visitor: &Visitor,
) -> Markup {
    let number = version.version;
    let judged = listing
        .history
        .iter()
        .rfind(|e| e.version == number && e.verdict.is_some());
    html! {
        tr {
            td.fit {
                a href=(format!("/models/{number}")) { (number) }
                @if serving == Some(number) { " " span.chip.good { "serves" } }
            }
            td.fit { (format::time(version.created)) }
            td { (version.who) }
            td { (version.why) }
            td.n { (version.categories) }
            td {
                @if let Some(verdict) = judged.and_then(|entry| entry.verdict) {
                    span.chip.{ (verdict) } { (verdict) }
                }
            }
            td {
                @if version.attachments.contains_key("report.html") {
                    a href=(format!("/models/{number}/report")) { "report" }
                }
            }
            td {
                @if visitor.acts() && serving != Some(number) {
                    details {
                        summary { (verb(listing, number).1) }
                        (decide_form(listing, number, visitor))
                    }
                }
            }
        }
    }
}

/// What making a version serve is called: in a form, and for people.
fn verb(listing: &Listing, version: u64) -> (&'static str, &'static str) {
    match listing.has_served(version) {
        true => ("roll_back", "Roll back"),
        false => ("promote", "Promote"),
    }
}

fn decide_form(listing: &Listing, version: u64, visitor: &Visitor) -> Markup {
    let (action, name) = verb(listing, version);
    let field = format!("why-{version}");
    html! {
        form.stack method="post" action="/models/decide" {
            (form_token(visitor))
            input type="hidden" name="version" value=(version);
            input type="hidden" name="generation" value=(listing.generation());
            input type="hidden" name="action" value=(action);
            label for=(field) { "Why? The history keeps it." }
            input id=(field) type="text" name="why" required maxlength="1000";
            button.main[action == "promote"].danger[action != "promote"] type="submit" {
                (name) " to version " (version)
            }
        }
    }
}

fn compare_form(listing: &Listing) -> Markup {
    let newest = listing.versions.last().map(|version| version.version);
    let serving = listing.serving().map(|version| version.version);
    let other = serving.filter(|serving| Some(*serving) != newest);
    let other = other.or_else(|| listing.versions.iter().rev().nth(1).map(|v| v.version));
    let choose = |name: &str, text: &str, chosen: Option<u64>| {
        html! {
            label for=(name) { (text) }
            select id=(name) name=(name) {
                @for version in listing.versions.iter().rev() {
                    option value=(version.version)
                        selected[Some(version.version) == chosen] { (version.version) }
                }
            }
        }
    };
    html! {
        section {
            h2 { "Compare two" }
            form.row method="get" action="/models/compare" {
                (choose("a", "version", other))
                (choose("b", "with", newest))
                button type="submit" { "Compare" }
            }
        }
    }
}

pub(super) fn history(entries: &[HistoryEntry]) -> Markup {
    html! {
        section {
            h2 { "Decisions" }
            @if entries.is_empty() { p.soft { "Nothing was decided yet." } }
            div.wide {
                table {
                    thead { tr {
                        th { "when" } th { "what" } th { "verdict" } th { "by" } th { "why" }
                    } }
                    tbody {
                        @for entry in entries.iter().rev().take(SHOWN_DECISIONS) {
                            tr {
                                td.fit { (format::time(entry.time)) }
                                td.fit {
                                    "version "
                                    a href=(format!("/models/{}", entry.version)) {
                                        (entry.version)
                                    }
                                    " " (entry.action)
                                }
                                td {
                                    @if let Some(verdict) = entry.verdict {
                                        span.chip.{ (verdict) } { (verdict) }
                                    }
                                }
                                td { (entry.who) }
                                td { (entry.why) }
                            }
                        }
                    }
                }
            }
            @if entries.len() > SHOWN_DECISIONS {
                p.soft { "The newest " (SHOWN_DECISIONS) " of " (entries.len()) "." }
            }
        }
    }
}

pub(super) fn one(
    listing: &Listing,
    version: &VersionRecord,
    report: Option<&Report>,
    visitor: &Visitor,
) -> Markup {
    let number = version.version;
    let serves = listing
        .serving()
        .is_some_and(|serving| serving.version == number);
    let about: Vec<_> = listing
        .history
        .iter()
        .filter(|e| e.version == number)
        .cloned()
        .collect();
    html! {
        section {
            div.spread {
                h1 { "Version " (number) }
                @if serves { span.chip.good { "serves" } }
            }
            dl.facts {
                dt { "id" } dd { code { (version.id) } }
                dt { "trained from" }
                dd { code { (version.parent.as_deref().unwrap_or("nothing: the first")) } }
                dt { "registered" }
                dd { (format::time(version.created)) " by " (version.who) ": " (version.why) }
                dt { "categories" } dd { (version.categories) }
                @for (name, value) in &version.metrics {
                    dt { (name) } dd { (format!("{value:.4}")) }
                }
                @if version.attachments.contains_key("report.html") {
                    dt { "report" }
                    dd {
                        a href=(format!("/models/{number}/report")) { "report of its retraining" }
                    }
                }
            }
            @if visitor.acts() && !serves { (decide_form(listing, number, visitor)) }
        }
        @if let Some(report) = report { (gates(report)) }
        section {
            h2 { "Files" }
            div.wide {
                table {
                    thead { tr { th { "file" } th.n { "bytes" } th { "SHA-256" } } }
                    tbody {
                        @for (name, entry) in version.files.iter().chain(&version.attachments) {
                            tr {
                                td { (name) }
                                td.n { (format::count(entry.bytes as f64)) }
                                td { code { (entry.sha256) } }
                            }
                        }
                    }
                }
            }
        }
        (history(&about))
    }
}

/// The gates of a judgement.
pub(super) fn gates(report: &Report) -> Markup {
    let judged = &report.judgement;
    html! {
        section {
            div.spread {
                h2 { "Gates" }
                span.chip.{ (judged.verdict) } { (judged.verdict) }
            }
            p.soft {
                "judged " (format::time(report.written))
                @if let (Some(before), Some(after)) = (judged.champion_map, judged.candidate_map) {
                    ", mAP " (format!("{before:.2}")) " → " (format!("{after:.2}"))
                }
            }
            (gate_table(report))
        }
    }
}

/// Every gate of a judgement.
pub(crate) fn gate_table(report: &Report) -> Markup {
    html! {
        div.wide {
            table {
                thead { tr { th { "gate" } th { "measured" } th { "asked" } } }
                tbody {
                    @for gate in &report.judgement.gates {
                        tr {
                            td {
                                @if gate.passed { span.good aria-label="passed" { "✓" } }
                                @else { span.bad aria-label="failed" { "✗" } }
                                " " (gate.name)
                            }
                            td { (gate.measured) }
                            td { (gate.asked) }
                        }
                    }
                }
            }
        }
        @if let Some(wanted) = report.judgement.labels_wanted {
            p.soft { "Enough for a decision at about " (wanted) " more labels." }
        }
    }
}
