//! What is known so far: the label table, and the answers that it does not have yet.

use tagstream_core::events::LabelEvent;
use tagstream_train::labels::{CategoryCount, Gathering, LabelTable, Stamp};

/// Answers that are kept until the table has them.
const MOST_ANSWERS: usize = 50_000;

/// What is known of each category.
#[derive(Debug, Default)]
pub(crate) struct Known {
    table: LabelTable,
    answers: Vec<LabelEvent>,
    /// Answers that are in `table`: the first ones.
    in_table: usize,
    /// Whether the table was read.
    read: bool,
}

impl Known {
    /// The table as it was read now. Answers go on top: it has those later.
    pub(crate) fn read(&mut self, table: LabelTable) {
        self.table = table;
        self.read = true;
        self.in_table = 0;
    }

    /// An answer that was given here.
    pub(crate) fn answer(&mut self, event: LabelEvent) {
        self.answers.push(event);
    }

    /// Puts the answers on top that are not in the table yet: all at once, for a table of millions
    /// of labels is made anew for it.
    fn settle(&mut self) {
        if self.in_table == self.answers.len() {
            return;
        }
        let mut gathering = Gathering::from(std::mem::take(&mut self.table));
        for event in &self.answers[self.in_table..] {
            // Of two that say the same at the same time, the table's own has the later stamp.
            let stamp = Stamp {
                time: event.event_time.unwrap_or_default(),
                ..Stamp::default()
            };
            gathering.apply(event, &stamp);
        }
        self.table = gathering.finish();
        self.answers.truncate(MOST_ANSWERS);
        self.in_table = self.answers.len();
    }

    /// Whether anything is known of what the table holds.
    pub(crate) fn is_read(&self) -> bool {
        self.read
    }

    /// The table, answers included.
    pub(crate) fn table(&mut self) -> &LabelTable {
        self.settle();
        &self.table
    }

    /// Known entries.
    pub(crate) fn count(&mut self) -> u64 {
        self.settle();
        self.table.known().count() as u64
    }

    /// What is known of each category, the least known first.
    pub(crate) fn categories(&mut self) -> Vec<(String, CategoryCount)> {
        self.settle();
        let mut all: Vec<_> = self.table.counts().into_iter().collect();
        all.sort_by_key(|(_, count)| count.present.min(count.absent));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn event(present: &str, retract: &str, second: i64) -> LabelEvent {
        let list = |text: &str| match text {
            "" => Vec::new(),
            text => vec![text.to_owned()],
        };
        LabelEvent {
            present: list(present),
            retract: list(retract),
            event_time: DateTime::from_timestamp(second, 7),
            ..LabelEvent::about("a", "s3://b/a")
        }
    }

    #[test]
    fn answers_count_before_and_after_the_table_has_them() {
        let mut known = Known::default();
        assert!(!known.is_read());
        known.answer(event("cat", "", 1));
        assert_eq!(known.count(), 1);
        known.read(LabelTable::default());
        assert_eq!(known.count(), 1, "the table is behind");
        known.answer(event("", "cat", 2));
        assert_eq!(known.count(), 0, "it was taken back");
        let table = LabelTable::of_events(&[event("cat", "", 1)]);
        known.read(table);
        assert_eq!(known.count(), 0, "also where the table has the answer only");
        let later = LabelTable::of_events(&[event("cat", "", 3)]);
        known.read(later);
        assert_eq!(
            known.categories()[0].1.present,
            1,
            "somebody else said so later"
        );
    }
}
