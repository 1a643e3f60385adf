//! What all pages share: the head, the way between them, the foot.

use super::visitor::Visitor;
use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use maud::{DOCTYPE, Markup, html};
use std::sync::LazyLock;
use tagstream_core::{build, digest};

/// A page that the head leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tab {
    /// What the stages do.
    Live,
    /// Pictures that are worth a label.
    Review,
    /// Pictures of the tables.
    Search,
    /// Versions of the model.
    Models,
}

impl Tab {
    const ALL: [(Tab, &'static str, &'static str); 4] = [
        (Tab::Live, "/", "Live"),
        (Tab::Review, "/review", "Review"),
        (Tab::Search, "/search", "Search"),
        (Tab::Models, "/models", "Models"),
    ];
}

struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

static ASSETS: [Asset; 5] = [
    Asset {
        name: "icon.svg",
        kind: "image/svg+xml",
        text: include_str!("assets/icon.svg"),
    },
    Asset {
        name: "page.css",
        kind: "text/css; charset=utf-8",
        text: include_str!("assets/page.css"),
    },
    Asset {
        name: "live.js",
        kind: "text/javascript; charset=utf-8",
        text: include_str!("assets/live.js"),
    },
    Asset {
        name: "review.js",
        kind: "text/javascript; charset=utf-8",
        text: include_str!("assets/review.js"),
    },
    Asset {
        name: "search.js",
        kind: "text/javascript; charset=utf-8",
        text: include_str!("assets/search.js"),
    },
];

/// Changes with every asset, so that browsers may keep them for ever.
static ASSETS_VERSION: LazyLock<String> = LazyLock::new(|| {
    let all: String = ASSETS.iter().map(|asset| asset.text).collect();
    digest::sha256(all)[..12].to_owned()
});

/// Where an asset is.
fn asset(name: &str) -> String {
    format!("/assets/{name}?v={}", *ASSETS_VERSION)
}

/// Style and scripts.
pub(crate) fn routes() -> Router {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let answer = move || async move {
            let kept = "public, max-age=31536000, immutable";
            (
                [(CONTENT_TYPE, asset.kind), (CACHE_CONTROL, kept)],
                asset.text,
            )
        };
        router.route(&format!("/assets/{}", asset.name), get(answer))
    })
}

fn document(title: &str, scripts: &[&str], body: &Markup) -> Html<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · tagstream" }
                link rel="icon" type="image/svg+xml" href=(asset("icon.svg"));
                link rel="stylesheet" href=(asset("page.css"));
                @for script in scripts {
                    script src=(asset(script)) defer {}
                }
            }
            (body)
        }
    };
    Html(page.into_string())
}

/// A page with the way to the others.
pub(crate) fn page(
    title: &str,
    tab: Tab,
    visitor: &Visitor,
    scripts: &[&str],
    content: &Markup,
) -> Html<String> {
    let body = html! {
        body data-form-token=(visitor.form_token) {
            a.skip href="#content" { "To the content" }
            header.top {
                a.brand href="/" { "tagstream" }
                nav aria-label="Pages" {
                    @for (other, path, name) in Tab::ALL {
                        a href=(path) aria-current=[(other == tab).then_some("page")] { (name) }
                    }
                }
                div.who {
                    @if visitor.known {
                        span title=(if visitor.acts() { "may act" } else { "may look" }) {
                            (visitor.name)
                        }
                    }
                    @if visitor.session {
                        form method="post" action="/logout" {
                            (form_token(visitor))
                            button.plain type="submit" { "Leave" }
                        }
                    }
                }
            }
            main #content { (content) }
            footer { "tagstream " (build::name()) }
        }
    };
    document(title, scripts, &body)
}

/// A page for somebody who is not known yet.
pub(crate) fn bare(title: &str, content: &Markup) -> Html<String> {
    let body = html! {
        body {
            header.top { span.brand { "tagstream" } }
            main #content { (content) }
        }
    };
    document(title, &[], &body)
}

/// What a form must carry to be taken.
pub(crate) fn form_token(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name="form_token" value=(visitor.form_token); }
}

/// Something that did not go as asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trouble<'a> {
    /// How the answer is marked.
    pub status: StatusCode,
    /// What happened.
    pub what: &'a str,
    /// What can be done.
    pub advice: &'a str,
}

/// A page that says so.
pub(crate) fn trouble(trouble: &Trouble<'_>) -> Response {
    let content = html! {
        section.narrow {
            h1 { (trouble.what) }
            p { (trouble.advice) }
            p { a href="/" { "To the first page" } }
        }
    };
    (trouble.status, bare(trouble.what, &content)).into_response()
}
