//! The search page.

use super::Asked;
use super::scan::Found;
use crate::serve::format;
use crate::serve::picture_view::figure;
use crate::serve::pictures::Pictures;
use maud::{Markup, html};

pub(super) fn page(
    asked: &Asked,
    words: bool,
    found: Option<&Result<Found, String>>,
    pictures: &Pictures,
) -> Markup {
    html! {
        section {
            h1 { "Search" }
            form.search method="get" action="/search" {
                (field("words", "words", &asked.words, "a red triangle", !words))
                (field("image", "like the image", &asked.image, "its id", false))
                (field("tag", "tagged", &asked.tag, "a category", false))
                (field("least", "at least, %", &asked.least, "50", false))
                (field("from", "from", &asked.from, "2026-01-31", false))
                (field("to", "before", &asked.to, "2026-02-28", false))
                div {
                    label for="upload" { "like a picture of yours" }
                    input id="upload" type="file" accept="image/*" disabled[!words];
                }
                @if !asked.vector.is_empty() {
                    input type="hidden" name="vector" value=(asked.vector);
                }
                button.main type="submit" { "Search" }
            }
            @if !asked.vector.is_empty() {
                p.soft.small {
                    "Nearest to the picture that you chose come first. "
                    a href="/search" { "Begin anew" }
                }
            }
            @if !words {
                p.soft.small {
                    "Words and pictures of yours need the model: "
                    code { "inference.enabled = true" }
                }
            }
            p.bad #trouble role="alert" hidden {}
        }
        @match found {
            None => {},
            Some(Err(reason)) => { section { p.bad role="alert" { (reason) } } },
            Some(Ok(found)) => { (results(found, pictures)) },
        }
    }
}

fn field(name: &str, label: &str, value: &str, example: &str, off: bool) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            input id=(name) name=(name) type="text" value=(value) placeholder=(example)
                disabled[off];
        }
    }
}

fn results(found: &Found, pictures: &Pictures) -> Markup {
    html! {
        section {
            div.spread {
                h2 { (found.pictures.len()) " pictures" }
                span.soft.small {
                    (format::count(found.rows as f64)) " rows in " (found.files) " files"
                    @if !found.is_whole() {
                        ", the newest of " (found.all_files) ": the rest was not looked at"
                    }
                }
            }
            @if found.pictures.is_empty() { p.soft { "Nothing was found." } }
            div.pictures {
                @for (_, picture) in &found.pictures {
                    div {
                        (figure(picture, pictures))
                        form method="get" action="/search" {
                            input type="hidden" name="image" value=(picture.image_id);
                            button.plain.small type="submit" { "More like it" }
                        }
                    }
                }
            }
        }
    }
}
