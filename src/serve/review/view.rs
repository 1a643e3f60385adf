//! The review page and its two parts: the question, and what is known.

use super::desk::{Answer, Order, Question, Shown};
use super::known::Known;
use super::labeller::Choosing;
use crate::serve::format;
use crate::serve::heat::Heat;
use crate::serve::models::Report;
use crate::serve::picture_view;
use crate::serve::pictures::Pictures;
use crate::serve::visitor::Visitor;
use maud::{Markup, html};
use tagstream_core::events::{LabelState, QuestionPurpose};

/// Categories that are shown with what is known of them.
const SHOWN_CATEGORIES: usize = 40;

/// The whole page; without a seat it says why nothing is asked.
pub(super) fn page(seat: Result<&str, &str>, order: Order, visitor: &Visitor) -> Markup {
    let order_name = order.name();
    html! {
        div.spread {
            h1 { "Review" }
            form.row method="get" action="/review" {
                label for="order" { "asked first" }
                select #order name="order" {
                    @for (own, name, text) in Order::ALL {
                        option value=(name) selected[own == order] { (text) }
                    }
                }
                noscript { button type="submit" { "Choose" } }
                a href={ "/review/grid?order=" (order_name) } { "Many at once" }
            }
        }
        @match seat {
            Err(why) => { section { p { (why) } } },
            Ok(seat) => { div.review data-seat=(seat) data-order=(order_name) {
                section.asked {
                    div #question aria-live="polite" {
                        p.soft { "Questions are being chosen." }
                    }
                    p #trouble.note.bad role="alert" hidden {}
                }
                div.beside {
                    section #progress { p.soft { "Reading what is known." } }
                    @if !visitor.known {
                        section.stack {
                            label for="annotator" { "Your name, on each answer" }
                            input #annotator type="text" maxlength="100"
                                placeholder=(visitor.name) autocomplete="nickname";
                        }
                    }
                    section.keys { (help()) }
                }
            } },
        }
    }
}

fn help() -> Markup {
    html! {
        h2 { "Keys" }
        dl.facts {
            dt { kbd { "y" } } dd { "yes, it is there" }
            dt { kbd { "n" } } dd { "no, it is not" }
            dt { kbd { "d" } } dd { "don't know" }
            dt { kbd { "→" } } dd { "next, say nothing" }
            dt { kbd { "←" } } dd { "back" }
            dt { kbd { "u" } } dd { "undo the last answer" }
            dt { kbd { "a" } } dd { "add a category" }
            dt { kbd { "h" } } dd { "show where the model sees it, or hide that" }
        }
    }
}

/// The question that is asked, or why there is none.
pub(super) fn question(
    shown: Option<&Shown>,
    choosing: &Choosing,
    pictures: &Pictures,
    heat: &Heat,
) -> Markup {
    let Some(shown) = shown else {
        return html! {
            @match (&choosing.trouble, choosing.now) {
                (_, true) => { p.soft { "Questions are being chosen." } },
                (Some(trouble), false) => {
                    p.bad { "No questions can be chosen." }
                    p.soft { (trouble) }
                },
                (None, false) => {
                    p { "There is no question left." }
                    p.soft { "New ones come when new pictures are tagged." }
                },
            }
        };
    };
    let q = &shown.question;
    let state = match shown.answer {
        Some(Answer::Known(LabelState::Present)) => Some("You said: yes."),
        Some(Answer::Known(LabelState::Absent)) => Some("You said: no."),
        Some(Answer::Passed) => Some("You said nothing."),
        None => None,
    };
    let button = |what: &str, class: &str, text: &str, key: &str| {
        html! {
            button type="button" class=(class) data-say=(what) { (text) " " kbd { (key) } }
        }
    };
    html! {
        div.ask data-image-id=(q.image_id) data-category=(q.category) {
            div.spread {
                h2.question { "Is there " strong { (q.category) } " in it?" }
                span.soft.small {
                    @match q.purpose {
                        QuestionPurpose::Learning => { "teaches most" },
                        QuestionPurpose::Measuring => { "drawn evenly, to measure" },
                    }
                }
            }
            span.shot.large { (picture(q, pictures, heat)) }
            p.small.soft {
                span title=(q.image_id) { (q.image_id) }
                " · the model says " (format!("{:.0} %", 100.0 * q.score))
                @if q.place.is_some() { " · framed where it sees it" }
                @if let Some(state) = state { " · " strong { (state) } }
            }
            div.answers {
                (button("yes", "main", "Yes", "y"))
                (button("no", "", "No", "n"))
                (button("pass", "", "Don't know", "d"))
            }
            div.row {
                (button("back", "plain", "Back", "←"))
                (button("pass", "plain", "Next", "→"))
                (button("undo", "plain", "Undo", "u"))
                @if !heat.is_all_there_is() && heat.path(&q.uri, &q.category).is_some() {
                    button.plain #heat type="button" { "Heat " kbd { "h" } }
                }
                span.soft.small { (shown.behind) " behind you" }
            }
            form.row.add {
                label for="add" { "Something else is in it" }
                input #add type="text" list="categories" maxlength="100" autocomplete="off"
                    required;
                button type="submit" { "Add" }
            }
        }
    }
}

/// The picture that is asked about, with frames where the model saw what is asked about, and heat:
/// at once where the model's grid is too coarse for frames, else when it is asked for.
pub(super) fn picture(question: &Question, pictures: &Pictures, heat: &Heat) -> Markup {
    let path = heat.path(&question.uri, &question.category);
    html! {
        img alt=(question.image_id) src=(pictures.path(&question.uri));
        @if let Some(place) = &question.place { (picture_view::frames(place.size, &place.boxes)) }
        @match path {
            Some(path) if heat.is_all_there_is() => { img.heat alt="" loading="lazy" src=(path); },
            Some(path) => { img.heat alt="" data-src=(path) hidden; },
            None => {},
        }
    }
}

/// What is known of each category, and how much is missing for a decision.
pub(super) fn progress(
    known: &mut Known,
    report: Option<&Report>,
    shown: Option<&Shown>,
) -> Markup {
    let categories = known.categories();
    let most = categories
        .iter()
        .map(|(_, c)| c.present + c.absent)
        .max()
        .unwrap_or(1)
        .max(1);
    let total = known.count();
    let asked = shown.map(|shown| shown.question.category.as_str());
    html! {
        h2 { "Known so far" }
        p { b #known-total data-known=(total) { (format::count(total as f64)) } " labels" }
        (missing(total, report))
        div.bars.known tabindex="0" role="group" aria-label="what is known of each category" {
            @for (name, count) in categories.iter().take(SHOWN_CATEGORIES) {
                span.current[asked == Some(name.as_str())] { (name) }
                svg.share viewBox={ "0 0 " (most) " 1" } preserveAspectRatio="none" role="img"
                    aria-label={ (count.present) " present, " (count.absent) " absent" } {
                    rect.present x="0" y="0" width=(count.present) height="1" {}
                    rect.absent x=(count.present) y="0" width=(count.absent) height="1" {}
                }
                span.n { (count.present) " / " (count.absent) }
            }
        }
        @if categories.len() > SHOWN_CATEGORIES {
            p.soft { "The least known " (SHOWN_CATEGORIES) " of " (categories.len()) "." }
        }
        p.soft.small { "present / absent" }
        datalist #categories {
            @for (name, _) in &categories { option value=(name) {} }
        }
    }
}

/// Labels until a retraining can decide: what the judge wanted, less what has come since.
fn missing(total: u64, report: Option<&Report>) -> Markup {
    let Some(report) = report else {
        return html! { p.soft { "No retraining was judged yet." } };
    };
    let since = total.saturating_sub(report.labels.known);
    html! {
        @match report.judgement.labels_wanted {
            Some(wanted) if wanted > since => {
                p {
                    "About " b { (format::count((wanted - since) as f64)) }
                    " more until a retraining can decide"
                }
                meter min="0" max=(wanted) value=(since)
                    aria-label={ (since) " of about " (wanted) " labels have come" } {}
            },
            Some(_) => { p.good { "Enough for the next retraining to decide." } },
            None => {
                p.soft { "The last retraining could decide; " (since) " labels came since." }
            },
        }
    }
}
