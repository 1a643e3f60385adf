//! Versions of the model: what serves, who decided what and why, and deciding.

mod catalogue;
mod compare;
mod view;

pub(crate) use catalogue::{Catalogue, Listing, Report};
pub(crate) use view::gate_table;

use super::access::ActForm;
use super::frame::{self, Tab, Trouble};
use super::visitor::Visitor;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use std::sync::Arc;
use tagstream_model::registry::{Action, RegistryError, VersionRecord};

/// Longest reason, characters.
const LONGEST_REASON: usize = 1_000;
/// What a report may do: show itself. It has its style within, no script, and no origin.
const REPORT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
                             frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox";

/// `/models` and what lies below.
pub(crate) fn routes(catalogue: Arc<Catalogue>) -> Router {
    Router::new()
        .route("/models", get(list))
        .route("/models/compare", get(compared))
        .route("/models/decide", post(decide))
        .route("/models/{version}", get(one))
        .route("/models/{version}/report", get(report))
        .with_state(catalogue)
}

async fn listing(catalogue: &Catalogue) -> Result<Arc<Listing>, Response> {
    catalogue.listing().await.map_err(|error| {
        frame::trouble(&Trouble {
            status: StatusCode::BAD_GATEWAY,
            what: "The registry does not answer",
            advice: &error.to_string(),
        })
    })
}

fn no_such_version() -> Response {
    frame::trouble(&Trouble {
        status: StatusCode::NOT_FOUND,
        what: "There is no such version",
        advice: "The list of models has all there are.",
    })
}

async fn list(
    State(catalogue): State<Arc<Catalogue>>,
    Extension(visitor): Extension<Visitor>,
) -> Result<Response, Response> {
    let listing = listing(&catalogue).await?;
    let content = view::list(&listing, &visitor);
    Ok(frame::page("Models", Tab::Models, &visitor, &[], &content).into_response())
}

async fn one(
    State(catalogue): State<Arc<Catalogue>>,
    Extension(visitor): Extension<Visitor>,
    Path(version): Path<String>,
) -> Result<Response, Response> {
    let listing = listing(&catalogue).await?;
    let record = numbered(&listing, &version)?;
    let report = catalogue.report(record).await;
    let content = view::one(&listing, record, report.as_deref(), &visitor);
    let title = format!("Version {version}");
    Ok(frame::page(&title, Tab::Models, &visitor, &[], &content).into_response())
}

/// The version that an address names.
fn numbered<'a>(listing: &'a Listing, number: &str) -> Result<&'a VersionRecord, Response> {
    let number = number.parse().ok();
    number
        .and_then(|number| listing.version(number))
        .ok_or_else(no_such_version)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pair {
    a: String,
    b: String,
}

async fn compared(
    State(catalogue): State<Arc<Catalogue>>,
    Extension(visitor): Extension<Visitor>,
    Query(pair): Query<Pair>,
) -> Result<Response, Response> {
    let listing = listing(&catalogue).await?;
    let (a, b) = (numbered(&listing, &pair.a)?, numbered(&listing, &pair.b)?);
    let reports = [catalogue.report(a).await, catalogue.report(b).await];
    let [of_a, of_b] = reports.each_ref().map(|report| report.as_deref());
    let content = compare::view(&listing, (a, of_a), (b, of_b));
    Ok(frame::page("Compare", Tab::Models, &visitor, &[], &content).into_response())
}

async fn report(
    State(catalogue): State<Arc<Catalogue>>,
    Path(version): Path<String>,
) -> Result<Response, Response> {
    let listing = listing(&catalogue).await?;
    let record = numbered(&listing, &version)?;
    let file = catalogue
        .attachment(record, "report.html")
        .await
        .map_err(|error| {
            frame::trouble(&Trouble {
                status: StatusCode::BAD_GATEWAY,
                what: "The report cannot be read",
                advice: &error.to_string(),
            })
        })?;
    let Some(file) = file else {
        return Err(frame::trouble(&Trouble {
            status: StatusCode::NOT_FOUND,
            what: "There is no report",
            advice: "This version was not made by a retraining.",
        }));
    };
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, REPORT_POLICY),
        (CACHE_CONTROL, "private, max-age=3600"),
    ];
    Ok((headers, file).into_response())
}

/// Promotes or rolls back, over the pointer that the person has seen.
async fn decide(
    State(catalogue): State<Arc<Catalogue>>,
    Extension(visitor): Extension<Visitor>,
    Extension(form): Extension<ActForm>,
) -> Response {
    let why = form.field("why");
    let (Some(version), Some(seen)) = (form.number("version"), form.number("generation")) else {
        return wrong_form("It names no version.");
    };
    if why.is_empty() || why.chars().count() > LONGEST_REASON {
        return wrong_form("Say why, in at most 1000 characters: the history keeps it.");
    }
    let action = match form.field("action") {
        "promote" => Action::Promoted,
        "roll_back" => Action::RolledBack,
        _ => return wrong_form("It says neither to promote nor to roll back."),
    };
    let decided = catalogue
        .decide(action, version, seen, (visitor.name.as_str(), why))
        .await;
    let outcome = match &decided {
        Ok(_) => "done".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::info!(
        target: "audit", act = %action, who = %visitor.name, version, why, outcome,
        "a decision about a model"
    );
    match decided {
        Ok(_) => Redirect::to("/models").into_response(),
        Err(error) => frame::trouble(&Trouble {
            status: match error {
                RegistryError::Conflict { .. } => StatusCode::CONFLICT,
                RegistryError::NoSuchVersion { .. } => StatusCode::NOT_FOUND,
                _ => StatusCode::BAD_GATEWAY,
            },
            what: "Nothing was changed",
            advice: &error.to_string(),
        }),
    }
}

fn wrong_form(advice: &str) -> Response {
    frame::trouble(&Trouble {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        what: "Nothing was changed",
        advice,
    })
}
