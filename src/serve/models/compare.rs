//! Two versions beside each other.

use super::{Listing, Report, view};
use crate::serve::format;
use maud::{Markup, html};
use std::collections::BTreeSet;
use tagstream_model::registry::VersionRecord;

type Side<'a> = (&'a VersionRecord, Option<&'a Report>);

pub(super) fn view(listing: &Listing, a: Side<'_>, b: Side<'_>) -> Markup {
    let serving = listing.serving().map(|version| version.version);
    let (left, right) = (a.0, b.0);
    let names: BTreeSet<&String> = left.metrics.keys().chain(right.metrics.keys()).collect();
    let files: BTreeSet<&String> = left.files.keys().chain(right.files.keys()).collect();
    let head = |version: &VersionRecord| {
        html! {
            th.n {
                a href=(format!("/models/{}", version.version)) { "version " (version.version) }
                @if serving == Some(version.version) { " " span.chip.good { "serves" } }
            }
        }
    };
    html! {
        section {
            h1 { "Version " (left.version) " and version " (right.version) }
            @if left.parent.as_ref() == Some(&right.id) || right.parent.as_ref() == Some(&left.id) {
                p.soft { "One was trained from the other." }
            }
            div.wide {
                table {
                    thead { tr { th { "" } (head(left)) (head(right)) th.n { "difference" } } }
                    tbody {
                        tr {
                            td { "registered" }
                            td.n { (format::time(left.created)) }
                            td.n { (format::time(right.created)) }
                            td.n { "" }
                        }
                        tr {
                            td { "categories" }
                            td.n { (left.categories) } td.n { (right.categories) }
                            td.n { (signed(right.categories as f64 - left.categories as f64, 0)) }
                        }
                        @for name in names {
                            @let (x, y) = (left.metrics.get(name), right.metrics.get(name));
                            tr {
                                td { (name) }
                                td.n { (figure(x)) } td.n { (figure(y)) }
                                td.n {
                                    @if let (Some(x), Some(y)) = (x, y) { (signed(y - x, 4)) }
                                }
                            }
                        }
                        @for name in files {
                            @let (x, y) = (left.files.get(name), right.files.get(name));
                            tr {
                                td { (name) }
                                td.n { (x.map_or("-".into(), |f| format::bytes(f.bytes as f64))) }
                                td.n { (y.map_or("-".into(), |f| format::bytes(f.bytes as f64))) }
                                td.n {
                                    @if x.map(|f| &f.sha256) == y.map(|f| &f.sha256) { "the same" }
                                    @else { "another" }
                                }
                            }
                        }
                    }
                }
            }
        }
        div.columns {
            @for (version, report) in [a, b] {
                @if let Some(report) = report {
                    div { h3 { "Version " (version.version) } (view::gates(report)) }
                }
            }
        }
    }
}

fn figure(value: Option<&f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.4}"))
}

fn signed(value: f64, digits: usize) -> String {
    match value == 0.0 {
        true => "0".into(),
        false => format!("{value:+.digits$}"),
    }
}
