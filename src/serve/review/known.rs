//! What is known so far: the label table, and the answers that it does not have yet.

use chrono::{DateTime, Utc};
use tagstream_core::events::LabelEvent;
use tagstream_train::labels::{CategoryCount, LabelTable, Stamp};

/// Answers that are kept until the table has them.
const MOST_ANSWERS: usize = 50_000;

/// What is known of each category.
#[derive(Debug, Default)]
pub(crate) struct Known {
    table: LabelTable,
    answers: Vec<LabelEvent>,
    /// Whether the table was read.
    read: bool,
}

impl Known {
    /// The table as it was read now. Answers go on top: it has those later.
    pub(crate) fn read(&mut self, table: LabelTable) {
        self.table = table;
        self.read = true;
        let answers = std::mem::take(&mut self.answers);
        for event in answers {
            self.answer(event);
        }
    }

    /// An answer that was given here.
    pub(crate) fn answer(&mut self, event: LabelEvent) {
        // Of two that say the same at the same time, the table's own has the later stamp.
        let stamp = Stamp {
            time: micros(event.event_time.unwrap_or_default()),
            ..Stamp::default()
        };
        self.table.apply(&event, &stamp);
        if self.answers.len() < MOST_ANSWERS {
            self.answers.push(event);
        }
    }

    /// Whether anything is known of what the table holds.
    pub(crate) fn is_read(&self) -> bool {
        self.read
    }

    /// The table, answers included.
    pub(crate) fn table(&self) -> &LabelTable {
        &self.table
    }

    /// Known entries.
    pub(crate) fn count(&self) -> u64 {
        self.table.known().count() as u64
    }

    /// What is known of each category, the least known first.
    pub(crate) fn categories(&self) -> Vec<(String, CategoryCount)> {
        let mut all: Vec<_> = self.table.counts().into_iter().collect();
        all.sort_by_key(|(_, count)| count.present.min(count.absent));
        all
    }
}

/// As tables keep times.
fn micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

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
