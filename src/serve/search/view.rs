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

/// What was looked at, for people.
fn looked_at(found: &Found) -> String {
    let rows = |rows: usize| format!("{} rows", format::count(rows as f64));
    let rest = match found.is_whole() {
        true => String::new(),
        false => format!(
            ", the newest of {}: the rest was not looked at",
            found.all_files
        ),
    };
    match &found.by_index {
        None => format!("{} in {} files{rest}", rows(found.rows), found.files),
        Some(by_index) => format!(
            "{} by the index of {}, {} newer files scanned{rest}",
            rows(by_index.rows),
            by_index.made.format("%Y-%m-%d"),
            found.files,
        ),
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
                span.soft.small { (looked_at(found)) }
            }
            @if let Some(by_index) = found.by_index.as_ref().filter(|by| by.is_short) {
                p.soft.small {
                    "Of the " (format::count(by_index.read as f64))
                    " nearest rows in the index; what is farther away was not looked at."
                }
            }
            @if let Some(trouble) = &found.trouble {
                p.bad.small role="status" { "The search index was not asked: " (trouble) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::search::scan::ByIndex;

    #[test]
    fn what_was_looked_at_is_said() {
        let mut found = Found {
            rows: 1200,
            files: 12,
            all_files: 12,
            ..Found::default()
        };
        assert_eq!(looked_at(&found), "1\u{2009}200 rows in 12 files");
        found.by_index = Some(ByIndex {
            made: "2026-11-29T10:00:00Z".parse().unwrap(),
            rows: 1_203_400,
            read: 120,
            is_short: false,
        });
        let whole =
            "1\u{2009}203\u{2009}400 rows by the index of 2026-11-29, 12 newer files scanned";
        assert_eq!(looked_at(&found), whole);
        found.all_files = 20;
        let part = format!("{whole}, the newest of 20: the rest was not looked at");
        assert_eq!(looked_at(&found), part);
    }
}
