//! Who is asked what: questions in their order, seats of those who answer, and what is held for
//! whom, so that two people are never asked the same.
//!
//! Nothing here waits for anybody: broker and tables are others' matter.

mod grid;

use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};
use tagstream_core::events::{BoundingBox, LabelEvent, LabelState, QuestionPurpose};

/// Most seats; the one that was not used for longest gives way.
const MOST_SEATS: usize = 1_000;
/// Answers of a seat that can be gone back to.
const MOST_PAST: usize = 1_000;
/// Answers that are remembered so that nobody is asked again.
const MOST_ANSWERED: usize = 200_000;

/// By what questions are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    /// What teaches most, with some for measuring in between.
    Mixed,
    /// What teaches most alone.
    Value,
    /// Drawn evenly, to measure by.
    Measuring,
    /// Where the two views of the model differ.
    Disagreement,
}

impl Order {
    /// All, with their names in addresses and for people.
    pub(crate) const ALL: [(Order, &'static str, &'static str); 4] = [
        (Order::Mixed, "mixed", "worth most, some to measure"),
        (Order::Value, "value", "worth most"),
        (Order::Measuring, "measuring", "drawn evenly, to measure"),
        (
            Order::Disagreement,
            "disagreement",
            "the model's two views differ",
        ),
    ];

    /// Its name in addresses.
    pub(crate) fn name(self) -> &'static str {
        let found = Order::ALL.iter().find(|(own, _, _)| *own == self);
        found.map_or("", |(_, name, _)| name)
    }

    /// The order of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let found = Order::ALL.iter().find(|(_, own, _)| *own == name);
        found.map(|(order, _, _)| *order)
    }
}

/// Where a category was seen in a picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    /// The picture's width and height, pixels.
    pub size: (u32, u32),
    /// Shares of them.
    pub boxes: Vec<BoundingBox>,
}

/// One category of one picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Question {
    /// The picture's name.
    pub image_id: String,
    /// Where it is; not for pages.
    pub uri: String,
    /// What is asked about.
    pub category: String,
    /// How probable the model finds it.
    pub score: f32,
    /// What it is asked for.
    pub purpose: QuestionPurpose,
    /// Where the model saw it, if it did.
    pub place: Option<Place>,
}

impl Question {
    fn key(&self) -> (String, String) {
        (self.image_id.clone(), self.category.clone())
    }

    /// The event that answers it; `None` takes an answer back.
    pub(crate) fn answered(
        &self,
        state: Option<LabelState>,
        annotator: &str,
        time: DateTime<Utc>,
    ) -> LabelEvent {
        let mut event = LabelEvent::about(&self.image_id, &self.uri);
        let list = match state {
            Some(LabelState::Present) => &mut event.present,
            Some(LabelState::Absent) => &mut event.absent,
            None => &mut event.retract,
        };
        list.push(self.category.clone());
        event.annotator = annotator.to_owned();
        event.event_time = Some(time);
        event
    }
}

/// What somebody said to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is there, or it is not.
    Known(LabelState),
    /// They do not know, or went on.
    Passed,
}

/// What a seat is shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    /// What is asked.
    pub question: Question,
    /// The answer that was given before, where somebody went back.
    pub answer: Option<Answer>,
    /// Answers that can be gone back to.
    pub behind: usize,
}

#[derive(Debug)]
struct Seat {
    order: Order,
    used: Instant,
    past: Vec<(Question, Answer)>,
    /// Which of the past is shown; its length: the one that is new.
    at: usize,
    current: Option<Question>,
    /// The questions of a grid that is shown.
    grid: Vec<Question>,
    passed: HashSet<(String, String)>,
}

/// All questions, all seats.
#[derive(Debug)]
pub(crate) struct Desk {
    hold: Duration,
    queues: HashMap<Order, VecDeque<Question>>,
    seats: HashMap<String, Seat>,
    /// Pictures that are before somebody, by name: the seat, and until when.
    held: HashMap<String, (String, Instant)>,
    answered: HashSet<(String, String)>,
    last_time: DateTime<Utc>,
}

impl Desk {
    /// A desk without questions. A picture is held for a seat for `hold`.
    pub(crate) fn new(hold: Duration) -> Self {
        Desk {
            hold,
            queues: HashMap::new(),
            seats: HashMap::new(),
            held: HashMap::new(),
            answered: HashSet::new(),
            last_time: DateTime::UNIX_EPOCH,
        }
    }

    /// Questions chosen anew, in the place of those before.
    pub(crate) fn refill(&mut self, order: Order, questions: impl IntoIterator<Item = Question>) {
        let open = questions
            .into_iter()
            .filter(|q| !self.answered.contains(&q.key()));
        let open = open.collect();
        self.queues.insert(order, open);
    }

    /// Questions of an order that nobody has answered.
    pub(crate) fn left(&self, order: Order) -> usize {
        self.queues.get(&order).map_or(0, VecDeque::len)
    }

    /// A time for an event: now, but never one that was given before, for the last word counts.
    pub(crate) fn time(&mut self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.last_time = now.max(self.last_time + TimeDelta::microseconds(1));
        self.last_time
    }

    fn seat(&mut self, name: &str, order: Order, now: Instant) -> &mut Seat {
        if !self.seats.contains_key(name)
            && self.seats.len() >= MOST_SEATS
            && let Some(oldest) = self.seats.iter().min_by_key(|(_, seat)| seat.used)
        {
            let oldest = oldest.0.clone();
            self.leave(&oldest);
        }
        let seat = self.seats.entry(name.to_owned()).or_insert_with(|| Seat {
            order,
            used: now,
            past: Vec::new(),
            at: 0,
            current: None,
            grid: Vec::new(),
            passed: HashSet::new(),
        });
        seat.used = now;
        seat
    }

    /// What `name` is asked; none if no question is left for them.
    pub(crate) fn show(&mut self, name: &str, order: Order, now: Instant) -> Option<Shown> {
        let seat = self.seat(name, order, now);
        if seat.order != order {
            seat.order = order;
            seat.current = None;
        }
        let (at, behind) = (seat.at, seat.past.len());
        if let Some((question, answer)) = seat.past.get(at).cloned() {
            return Some(Shown {
                question,
                answer: Some(answer),
                behind: at,
            });
        }
        let current = seat
            .current
            .clone()
            .filter(|q| !self.answered.contains(&q.key()));
        let question = current.filter(|q| self.is_free(&q.image_id, name, now));
        let question = question.or_else(|| self.next(name, order, now))?;
        self.release(name);
        let until = now + self.hold;
        self.held
            .insert(question.image_id.clone(), (name.to_owned(), until));
        self.seats.get_mut(name)?.current = Some(question.clone());
        Some(Shown {
            question,
            answer: None,
            behind,
        })
    }

    fn is_free(&self, image_id: &str, name: &str, now: Instant) -> bool {
        let hold = self.held.get(image_id);
        hold.is_none_or(|(seat, until)| seat == name || *until <= now)
    }

    fn next(&self, name: &str, order: Order, now: Instant) -> Option<Question> {
        let passed = &self.seats.get(name)?.passed;
        let open = self.queues.get(&order)?.iter().find(|question| {
            let key = question.key();
            !self.answered.contains(&key)
                && !passed.contains(&key)
                && self.is_free(&question.image_id, name, now)
        });
        open.cloned()
    }

    fn release(&mut self, name: &str) {
        self.held.retain(|_, (seat, _)| seat != name);
    }

    /// The question that `name` is shown, if it is this one.
    pub(crate) fn shown(
        &self,
        name: &str,
        image_id: &str,
        category: Option<&str>,
    ) -> Option<Question> {
        let seat = self.seats.get(name)?;
        let past = seat.past.get(seat.at).map(|(question, _)| question);
        let question = past.or(seat.current.as_ref())?;
        let same = question.image_id == image_id && category.is_none_or(|c| question.category == c);
        same.then(|| question.clone())
    }

    /// Notes what `name` said to the question that they were shown, and goes on.
    pub(crate) fn take(&mut self, name: &str, answer: Answer) {
        let Some(seat) = self.seats.get_mut(name) else {
            return;
        };
        let key = match seat.past.get_mut(seat.at) {
            Some((question, before)) => {
                // Whoever only looks back takes nothing back by going on.
                if answer != Answer::Passed {
                    *before = answer;
                }
                question.key()
            }
            None => {
                let Some(question) = seat.current.take() else {
                    return;
                };
                let key = question.key();
                seat.past.push((question, answer));
                if seat.past.len() > MOST_PAST {
                    seat.past.remove(0);
                    seat.at -= 1;
                }
                key
            }
        };
        seat.at += 1;
        match answer {
            Answer::Passed => drop(seat.passed.insert(key)),
            Answer::Known(_) => self.close(key),
        }
    }

    /// Notes that `name` said of the picture before them that something else is in it, too.
    pub(crate) fn added(&mut self, name: &str, question: Question) {
        self.close(question.key());
        if let Some(seat) = self.seats.get_mut(name) {
            let answer = Answer::Known(LabelState::Present);
            seat.past.insert(seat.at, (question, answer));
            seat.at += 1;
        }
    }

    /// Nobody is asked this again.
    fn close(&mut self, key: (String, String)) {
        for queue in self.queues.values_mut() {
            queue.retain(|question| question.key() != key);
        }
        if self.answered.len() < MOST_ANSWERED {
            self.answered.insert(key);
        }
    }

    /// Shows `name` the question before.
    pub(crate) fn back(&mut self, name: &str) {
        if let Some(seat) = self.seats.get_mut(name) {
            seat.at = seat.at.saturating_sub(1);
        }
    }

    /// What `name` said last, to be taken back: the question, if something was said to it.
    pub(crate) fn last_answer(&self, name: &str) -> Option<Question> {
        let past = &self.seats.get(name)?.past;
        let known = past
            .iter()
            .rfind(|(_, answer)| matches!(answer, Answer::Known(_)));
        known.map(|(question, _)| question.clone())
    }

    /// Takes the last answer of `name` back: they are asked again.
    pub(crate) fn undo(&mut self, name: &str) {
        let Some(question) = self.last_answer(name) else {
            return;
        };
        let key = question.key();
        self.answered.remove(&key);
        let Some(seat) = self.seats.get_mut(name) else {
            return;
        };
        seat.past.retain(|(other, _)| other.key() != key);
        seat.passed.remove(&key);
        seat.at = seat.past.len();
        seat.current = Some(question.clone());
        let queue = self.queues.entry(seat.order).or_default();
        queue.push_front(question);
    }

    /// Frees what is held for `name`.
    pub(crate) fn leave(&mut self, name: &str) {
        self.seats.remove(name);
        self.release(name);
    }
}

#[cfg(test)]
mod tests;
