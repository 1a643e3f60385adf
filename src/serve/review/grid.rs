//! The grid: one category in many pictures, answered at once. A form without script.

use super::desk::{Answer, Order};
use super::labeller::{Choosing, Grid};
use super::{Review, annotator, audit, view};
use crate::serve::access::ActForm;
use crate::serve::frame::{self, Tab, Trouble, form_token};
use crate::serve::heat::Heat;
use crate::serve::pictures::Pictures;
use crate::serve::visitor::Visitor;
use axum::Extension;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;
use tagstream_core::events::LabelState;

/// Pictures at a time.
const PICTURES: usize = 24;
/// What can be said of a picture, or of all that nothing is said of.
const ANSWERS: [(&str, &str); 3] = [("yes", "yes"), ("no", "no"), ("pass", "don't know")];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    order: String,
    category: String,
    /// The seat of the page before, so that what is held for it is held for nobody else.
    seat: String,
}

/// What happened before the grid is shown.
#[derive(Default)]
struct Before {
    /// Answers that were sent.
    sent: Option<usize>,
    /// Whether an answer was taken back.
    undone: Option<bool>,
}

pub(super) async fn page(
    State(review): State<Arc<Review>>,
    Extension(visitor): Extension<Visitor>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let order = Order::named(&wanted.order).unwrap_or(Order::Mixed);
    let seat = match super::is_seat(&wanted.seat) {
        true => wanted.seat.clone(),
        false => format!("{:032x}", rand::random::<u128>()),
    };
    show(
        &review,
        &visitor,
        (&seat, order, &wanted.category),
        &Before::default(),
    )
}

/// Shows the next grid of a seat.
fn show(
    review: &Review,
    visitor: &Visitor,
    (seat, order, category): (&str, Order, &str),
    before: &Before,
) -> Response {
    let content = match &review.labeller {
        Err(why) => html! { h1 { "Review" } section { p { (why) } } },
        Ok(_) if !visitor.acts() => html! {
            h1 { "Review" }
            section { p { "Your name has the role `read`; labelling needs `act`." } }
        },
        Ok(labeller) => {
            let own = super::seat_of(visitor, seat);
            let grid = labeller.show_grid(&own, order, (category, PICTURES));
            let choosing = labeller.choosing(order);
            let form = Form {
                seat,
                order,
                visitor,
                before,
            };
            form.page(&grid, &choosing, (&review.pictures, &review.heat))
        }
    };
    frame::page("Review", Tab::Review, visitor, &[], &content).into_response()
}

/// Takes what was said to a grid, or the last answer back, and shows the next.
pub(super) async fn say(
    State(review): State<Arc<Review>>,
    Extension(visitor): Extension<Visitor>,
    Extension(form): Extension<ActForm>,
) -> Response {
    let Ok(labeller) = &review.labeller else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let seat = form.field("seat");
    let order = Order::named(form.field("order")).filter(|_| super::is_seat(seat));
    let Some(order) = order else {
        return frame::trouble(&Trouble {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            what: "That cannot be said here",
            advice: "Load the page again.",
        });
    };
    let (own, who) = (super::seat_of(&visitor, seat), annotator(&visitor, &form));
    let category = form.field("category");
    let mut before = Before::default();
    let done = match form.field("what") {
        "undo" => labeller
            .undo(&own, &who)
            .await
            .map(|done| before.undone = Some(done)),
        _ => {
            let answers = answers(&form);
            let sent = labeller.answer_grid(&own, &answers, &who).await;
            sent.map(|sent| before.sent = Some(sent))
        }
    };
    let what = if before.undone.is_some() {
        "undo"
    } else {
        "grid"
    };
    let answers = format!("{} answers", before.sent.unwrap_or_default());
    audit(&visitor, &who, what, (&answers, category), &done);
    match done {
        Ok(()) => show(&review, &visitor, (seat, order, category), &before),
        Err(error) => frame::trouble(&Trouble {
            status: StatusCode::BAD_GATEWAY,
            what: "The broker did not take it",
            advice: &error.to_string(),
        }),
    }
}

/// What is said of each picture: its own answer, else that for the rest.
fn answers(form: &ActForm) -> Vec<(String, Answer)> {
    let meant = |text: &str| match text {
        "yes" => Some(Answer::Known(LabelState::Present)),
        "no" => Some(Answer::Known(LabelState::Absent)),
        "pass" => Some(Answer::Passed),
        _ => None,
    };
    let rest = meant(form.field("rest")).unwrap_or(Answer::Passed);
    let said = (0..PICTURES).map(|at| {
        let image = form.field(&format!("image-{at}")).to_owned();
        (
            image,
            meant(form.field(&format!("said-{at}"))).unwrap_or(rest),
        )
    });
    said.filter(|(image, _)| !image.is_empty()).collect()
}

/// What a grid's form says of itself.
struct Form<'a> {
    seat: &'a str,
    order: Order,
    visitor: &'a Visitor,
    before: &'a Before,
}

impl Form<'_> {
    fn page(
        &self,
        grid: &Grid,
        choosing: &Choosing,
        (pictures, heat): (&Pictures, &Heat),
    ) -> Markup {
        let order = self.order.name();
        html! {
            div.spread {
                h1 { "Review, many at once" }
                a href={ "/review?order=" (order) } { "One at a time" }
            }
            section {
                form.row method="get" action="/review/grid" {
                    input type="hidden" name="order" value=(order);
                    input type="hidden" name="seat" value=(self.seat);
                    label for="category" { "category" }
                    select #category name="category" {
                        @for (name, open) in &grid.categories {
                            option value=(name) selected[*name == grid.chosen] {
                                (name) " (" (open) ")"
                            }
                        }
                    }
                    button type="submit" { "Show" }
                }
                @if let Some(sent) = self.before.sent {
                    p.good role="status" { (sent) " answers were sent." }
                }
                @if let Some(undone) = self.before.undone {
                    p role="status" {
                        @if undone { "The last answer was taken back." }
                        @else { "There is nothing to take back." }
                    }
                }
            }
            @if grid.questions.is_empty() {
                section { (view::question(None, choosing, pictures, heat)) }
            } @else {
                (self.questions(grid, pictures, heat))
            }
        }
    }

    fn hidden(&self, category: &str, what: &str) -> Markup {
        html! {
            (form_token(self.visitor))
            input type="hidden" name="seat" value=(self.seat);
            input type="hidden" name="order" value=(self.order.name());
            input type="hidden" name="category" value=(category);
            input type="hidden" name="what" value=(what);
        }
    }

    fn questions(&self, grid: &Grid, pictures: &Pictures, heat: &Heat) -> Markup {
        html! {
            form.stack #grid method="post" action="/review/grid" {
                (self.hidden(&grid.chosen, "say"))
                section {
                    h2.question { "Is there " strong { (grid.chosen) } " in it?" }
                    @if grid.questions.iter().any(|question| question.place.is_some()) {
                        p.small.soft { "Frames are where the model sees it." }
                    }
                    div.pictures {
                        @for (at, question) in grid.questions.iter().enumerate() {
                            fieldset {
                                legend.small.soft title=(question.image_id) {
                                    (question.image_id)
                                }
                                span.shot { (view::picture(question, pictures, heat)) }
                                input type="hidden" name={ "image-" (at) }
                                    value=(question.image_id);
                                (choice(&format!("said-{at}"), None))
                            }
                        }
                    }
                }
                section.stack {
                    fieldset {
                        legend { "All that you have not marked" }
                        (choice("rest", Some("pass")))
                    }
                    @if !self.visitor.known {
                        label for="annotator" { "Your name, on each answer" }
                        input #annotator name="annotator" type="text" maxlength="100"
                            placeholder=(self.visitor.name) autocomplete="nickname";
                    }
                    button.main type="submit" { "Send" }
                }
            }
            form method="post" action="/review/grid" {
                (self.hidden(&grid.chosen, "undo"))
                button.plain type="submit" { "Take the last answer back" }
            }
        }
    }
}

/// The answers to choose from.
fn choice(name: &str, chosen: Option<&str>) -> Markup {
    html! {
        div.row {
            @for (value, text) in ANSWERS {
                label { input type="radio" name=(name) value=(value)
                    checked[chosen == Some(value)]; " " (text) }
            }
        }
    }
}
