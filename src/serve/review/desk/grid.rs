//! Many questions at once: one category in many pictures.

use super::{Answer, Desk, Order, Question};
use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

impl Desk {
    /// How many open questions there are about each category.
    pub(crate) fn open_categories(&self, order: Order) -> BTreeMap<String, usize> {
        let mut open = BTreeMap::new();
        for question in self.queues.get(&order).into_iter().flatten() {
            *open.entry(question.category.clone()).or_default() += 1;
        }
        open
    }

    /// Shows `name` at most `most` questions about `category`, of pictures that are before nobody
    /// else.
    pub(crate) fn show_grid(
        &mut self,
        name: &str,
        order: Order,
        (category, most): (&str, usize),
        now: Instant,
    ) -> Vec<Question> {
        self.seat(name, order, now);
        self.release(name);
        let passed = self.seats.get(name).map(|seat| &seat.passed);
        let mut pictures = HashSet::new();
        let mut grid = Vec::new();
        for question in self.queues.get(&order).into_iter().flatten() {
            let key = question.key();
            let open = question.category == category
                && !self.answered.contains(&key)
                && !passed.is_some_and(|passed| passed.contains(&key))
                && self.is_free(&question.image_id, name, now);
            if open && grid.len() < most && pictures.insert(question.image_id.clone()) {
                grid.push(question.clone());
            }
        }
        let until = now + self.hold;
        for question in &grid {
            let hold = (name.to_owned(), until);
            self.held.insert(question.image_id.clone(), hold);
        }
        if let Some(seat) = self.seats.get_mut(name) {
            seat.order = order;
            seat.grid = grid.clone();
        }
        grid
    }

    /// The question of the grid before `name` that is about this picture.
    pub(crate) fn of_grid(&self, name: &str, image_id: &str) -> Option<Question> {
        let mut grid = self.seats.get(name)?.grid.iter();
        grid.find(|question| question.image_id == image_id).cloned()
    }

    /// Notes what `name` said to the questions of their grid, which is put away.
    pub(crate) fn take_grid(&mut self, name: &str, answers: Vec<(Question, Answer)>) {
        let mut known = Vec::new();
        if let Some(seat) = self.seats.get_mut(name) {
            seat.grid.clear();
            for (question, answer) in answers {
                match answer {
                    Answer::Passed => drop(seat.passed.insert(question.key())),
                    Answer::Known(_) => known.push(question.key()),
                }
                seat.past.push((question, answer));
            }
            let beyond = seat.past.len().saturating_sub(super::MOST_PAST);
            seat.past.drain(..beyond);
            seat.at = seat.past.len();
        }
        known.into_iter().for_each(|key| self.close(key));
        self.release(name);
    }
}
