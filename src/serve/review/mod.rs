//! Pictures that are worth a label, one after another, and what people say of them.
//!
//! Each answer is a label event on the topic, with who said so and when; taking one back is a
//! retraction. What is asked, and in which order, is `labels suggest`'s choice; see
//! [`crate::labelling::suggest`].

mod desk;
mod grid;
mod known;
mod labeller;
mod places;
mod view;

pub(crate) use labeller::Labeller;

use super::access::ActForm;
use super::frame::{self, Tab};
use super::heat::Heat;
use super::models::{Catalogue, Report};
use super::pictures::Pictures;
use super::visitor::Visitor;
use crate::labelling::PublishError;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use desk::{Answer, Order};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use tagstream_core::events::LabelState;

/// Longest name of a category or of somebody, characters.
const LONGEST_NAME: usize = 100;

/// What the review page needs.
pub(crate) struct Review {
    /// None where nothing can be labelled, and why.
    labeller: Result<Arc<Labeller>, &'static str>,
    catalogue: Arc<Catalogue>,
    pictures: Arc<Pictures>,
    heat: Arc<Heat>,
}

impl Review {
    /// A page that asks; without a labeller it says why it does not.
    pub(crate) fn new(
        labeller: Result<Arc<Labeller>, &'static str>,
        catalogue: Arc<Catalogue>,
        pictures: Arc<Pictures>,
        heat: Arc<Heat>,
    ) -> Arc<Self> {
        Arc::new(Review {
            labeller,
            catalogue,
            pictures,
            heat,
        })
    }

    /// The report that says how many labels are wanted.
    async fn last_report(&self) -> Option<Arc<Report>> {
        let listing = self.catalogue.listing().await.ok()?;
        let judged = listing.last_judged()?;
        self.catalogue
            .report(listing.version(judged.version)?)
            .await
    }

    /// What the page shows after something was said.
    async fn state(&self, labeller: &Arc<Labeller>, seat: &str, order: Order) -> Response {
        let shown = labeller.show(seat, order);
        let choosing = labeller.choosing(order);
        let report = self.last_report().await;
        let question = view::question(shown.as_ref(), &choosing, &self.pictures, &self.heat);
        let progress = {
            let mut known = labeller.known();
            view::progress(&mut known, report.as_deref(), shown.as_ref())
        };
        let body = json!({
            "question": question.into_string(),
            "progress": progress.into_string(),
            "waits": shown.is_none() && choosing.now,
        });
        Json(body).into_response()
    }
}

/// `/review` and what it sends.
pub(crate) fn routes(review: Arc<Review>) -> Router {
    Router::new()
        .route("/review", get(page))
        .route("/review/say", post(say))
        .route("/review/grid", get(grid::page).post(grid::say))
        .with_state(review)
}

#[derive(Debug, Default, Deserialize)]
struct Wanted {
    #[serde(default)]
    order: String,
}

async fn page(
    State(review): State<Arc<Review>>,
    Extension(visitor): Extension<Visitor>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let order = Order::named(&wanted.order).unwrap_or(Order::Mixed);
    let asks = match &review.labeller {
        Err(why) => Err(*why),
        Ok(_) if !visitor.acts() => Err("Your name has the role `read`; labelling needs `act`."),
        Ok(_) => Ok(format!("{:032x}", rand::random::<u128>())),
    };
    let scripts: &[&str] = if asks.is_ok() { &["review.js"] } else { &[] };
    let content = view::page(asks.as_deref().map_err(|why| *why), order, &visitor);
    frame::page("Review", Tab::Review, &visitor, scripts, &content).into_response()
}

/// Who says it: the name that was proven, or else the one that was typed in.
fn annotator(visitor: &Visitor, form: &ActForm) -> String {
    let typed = form.field("annotator");
    match !visitor.known && is_name(typed) {
        true => typed.to_owned(),
        false => visitor.name.clone(),
    }
}

/// Whether it is a seat that a page has given.
fn is_seat(seat: &str) -> bool {
    seat.len() == 32 && seat.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whose a seat is: two people with one name, in two windows, are two.
fn seat_of(visitor: &Visitor, seat: &str) -> String {
    format!("{} {seat}", visitor.name)
}

fn is_name(text: &str) -> bool {
    let length = text.chars().count();
    (1..=LONGEST_NAME).contains(&length) && !text.chars().any(char::is_control)
}

/// One act of somebody at the review page; answers with what it shows then.
async fn say(
    State(review): State<Arc<Review>>,
    Extension(visitor): Extension<Visitor>,
    Extension(form): Extension<ActForm>,
) -> Response {
    let Ok(labeller) = &review.labeller else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (seat, what) = (form.field("seat"), form.field("what"));
    let Some(order) = Order::named(form.field("order")).filter(|_| is_seat(seat)) else {
        return trouble(StatusCode::UNPROCESSABLE_ENTITY, "Load the page again.");
    };
    let seat = seat_of(&visitor, seat);
    let about = (form.field("image_id"), form.field("category"));
    let who = annotator(&visitor, &form);
    let done = match what {
        "show" => Ok(()),
        "yes" | "no" | "pass" => {
            let answer = match what {
                "yes" => Answer::Known(LabelState::Present),
                "no" => Answer::Known(LabelState::Absent),
                _ => Answer::Passed,
            };
            labeller.answer(&seat, about, answer, &who).await
        }
        "back" => {
            labeller.back(&seat);
            Ok(())
        }
        "undo" => labeller.undo(&seat, &who).await.map(drop),
        "leave" => {
            labeller.leave(&seat);
            return StatusCode::NO_CONTENT.into_response();
        }
        "add" if is_name(about.1) => labeller.add(&seat, about, &who).await.map(drop),
        _ => {
            return trouble(
                StatusCode::UNPROCESSABLE_ENTITY,
                "That cannot be said here.",
            );
        }
    };
    if matches!(what, "yes" | "no" | "undo" | "add") {
        audit(&visitor, &who, what, about, &done);
    }
    match done {
        Ok(()) => review.state(labeller, &seat, order).await,
        Err(error) => trouble(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

fn audit(
    visitor: &Visitor,
    annotator: &str,
    what: &str,
    (image_id, category): (&str, &str),
    done: &Result<(), PublishError>,
) {
    let outcome = done
        .as_ref()
        .map_or_else(ToString::to_string, |()| "done".into());
    tracing::info!(
        target: "audit", act = "label", who = %visitor.name, annotator, what, image_id, category,
        outcome, "a label"
    );
}

fn trouble(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({"trouble": why}))).into_response()
}
