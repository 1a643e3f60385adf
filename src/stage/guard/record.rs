//! What is remembered of a partition's lives, and what follows from it. No IO.
//!
//! A *life* is one assignment of the partition to one process. It says when it ends in order; a
//! life that did not is a death. The record lies beside the chain, so it survives the process,
//! whoever owns the partition next.

use crate::stage::sink::chain::WriterId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tagstream_core::events::Offset;

/// Version of the record's format.
pub const FORMAT: u32 = 1;
/// After as many deaths at one place files are cut at once, so that the place is known closely.
const DEATHS_UNTIL_CAREFUL: u32 = 2;
/// After as many messages are taken one at a time.
const DEATHS_UNTIL_ALONE: u32 = 3;
/// As often a process dies under one message, alone, before the message is taken for the cause: a
/// kill from outside may hit any message once.
const DEATHS_OF_ONE: u32 = 2;
/// As many messages are condemned one after the other without one that passes; more would be no
/// fault of theirs.
const CONDEMNED_AT_MOST: u32 = 3;

/// How a life works on a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As always.
    Normal,
    /// As always, but what is finished goes into files at once.
    Careful,
    /// One message at a time.
    Alone,
}

/// The step in which a message is that is worked on alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialStep {
    /// It was read, and what it names is being fetched.
    Fetch,
    /// The image is being decoded.
    Decode,
    /// The model works on it.
    Infer,
}

impl TrialStep {
    /// The step in words.
    pub fn words(self) -> &'static str {
        match self {
            TrialStep::Fetch => "parsing and fetching",
            TrialStep::Decode => "decoding",
            TrialStep::Infer => "inference",
        }
    }
}

/// A life under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Life {
    writer: WriterId,
    began: DateTime<Utc>,
}

/// A message under which processes died, alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// The message.
    pub offset: Offset,
    /// How often.
    pub deaths: u32,
    /// The step that the last of them had begun.
    pub step: TrialStep,
}

/// The record of one partition's chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivesRecord {
    /// Version of the format.
    pub format: u32,
    /// Where the chain ended when the last life began.
    head: Option<Offset>,
    /// The life under way; none after one that ended in order.
    life: Option<Life>,
    /// Deaths in a row at one place.
    deaths: u32,
    /// Whether the last life was not begun at the normal pace: what it put into files is then no
    /// sign that the place was passed.
    cautious: bool,
    /// The message that is worked on alone.
    alone: Option<Suspect>,
    /// Messages under which a process died before.
    suspects: Vec<Suspect>,
    /// Messages that are dead letters.
    condemned: Vec<Suspect>,
    /// How many of them since a message passed.
    in_a_row: u32,
}

impl LivesRecord {
    /// A life begins at `head`; `old` is what is remembered.
    pub fn begin(
        old: Option<LivesRecord>,
        head: Offset,
        writer: &WriterId,
        now: DateTime<Utc>,
    ) -> Self {
        let mut record = old.unwrap_or_default();
        record.format = FORMAT;
        let moved = record.head != Some(head) && !record.cautious;
        record.deaths = match record.life.take() {
            Some(_) if moved => 1,
            Some(_) => record.deaths + 1,
            None if moved => 0,
            None => record.deaths,
        };
        record.judge();
        for list in [&mut record.suspects, &mut record.condemned] {
            list.retain(|suspect| suspect.offset >= head);
        }
        record.head = Some(head);
        record.cautious = record.pace() != Pace::Normal;
        record.life = Some(Life {
            writer: writer.clone(),
            began: now,
        });
        record
    }

    /// The message that was worked on alone when the last life ended has a death more.
    fn judge(&mut self) {
        let Some(mut suspect) = self.alone.take() else {
            return;
        };
        suspect.deaths += 1;
        if suspect.deaths >= DEATHS_OF_ONE && self.in_a_row < CONDEMNED_AT_MOST {
            self.in_a_row += 1;
            self.condemned.push(suspect);
        } else {
            self.suspects.push(suspect);
        }
    }

    /// How this life works.
    pub fn pace(&self) -> Pace {
        if self.deaths >= DEATHS_UNTIL_ALONE || !self.suspects.is_empty() {
            Pace::Alone
        } else if self.deaths >= DEATHS_UNTIL_CAREFUL {
            Pace::Careful
        } else {
            Pace::Normal
        }
    }

    /// Whether the life under way is `writer`'s.
    pub fn is_life_of(&self, writer: &WriterId) -> bool {
        self.life
            .as_ref()
            .is_some_and(|life| life.writer == *writer)
    }

    /// Deaths in a row at one place.
    pub fn deaths(&self) -> u32 {
        self.deaths
    }

    /// Whether a process has died under the message at `offset`, alone.
    pub fn is_suspect(&self, offset: Offset) -> bool {
        self.suspects.iter().any(|suspect| suspect.offset == offset)
    }

    /// Messages that must not be worked on any more.
    pub fn condemned(&self) -> &[Suspect] {
        &self.condemned
    }

    /// The message at which processes die although it is not condemned: too many were.
    pub fn stuck_at(&self) -> Option<Offset> {
        let stuck = self.suspects.iter().find(|s| s.deaths >= DEATHS_OF_ONE);
        stuck.map(|suspect| suspect.offset)
    }

    /// A step of a message that is worked on alone begins.
    pub fn reached(&mut self, offset: Offset, step: TrialStep) {
        let before = self.suspects.iter().position(|s| s.offset == offset);
        let before = before.map(|index| self.suspects.remove(index));
        let current = self.alone.take().filter(|s| s.offset == offset);
        let deaths = before.or(current).map_or(0, |suspect| suspect.deaths);
        self.alone = Some(Suspect {
            offset,
            deaths,
            step,
        });
    }

    /// The message that was worked on alone came to something.
    pub fn passed(&mut self) {
        self.alone = None;
        self.in_a_row = 0;
    }

    /// The place was passed at which lives ended.
    pub fn survived(&mut self) {
        self.deaths = 0;
        self.cautious = false;
        self.suspects.clear();
    }

    /// The life ends in order.
    pub fn end(&mut self) {
        self.life = None;
        self.alone = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition that is owned by one process after the other.
    #[derive(Default)]
    struct Story(Option<LivesRecord>, u32);

    impl Story {
        /// A life begins at `head`.
        fn life(&mut self, head: i64) -> &mut LivesRecord {
            self.1 += 1;
            let writer = WriterId(format!("w{}", self.1));
            let record =
                LivesRecord::begin(self.0.take(), Offset(head), &writer, DateTime::UNIX_EPOCH);
            // As it is kept.
            let kept = serde_json::to_vec(&record).unwrap();
            self.0.insert(serde_json::from_slice(&kept).unwrap())
        }
    }

    fn condemned(record: &LivesRecord) -> Vec<i64> {
        record.condemned().iter().map(|s| s.offset.0).collect()
    }

    #[test]
    fn after_the_third_death_messages_are_taken_alone_and_the_one_that_kills_is_condemned() {
        let mut story = Story::default();
        let paces: Vec<Pace> = (0..4).map(|_| story.life(10).pace()).collect();
        use Pace::{Alone, Careful, Normal};
        assert_eq!(paces, [Normal, Normal, Careful, Alone]);
        let record = story.life(10);
        record.reached(Offset(10), TrialStep::Fetch);
        record.passed();
        record.reached(Offset(11), TrialStep::Fetch);
        record.reached(Offset(11), TrialStep::Decode);
        // Died once: it may have been chance. What lies before it is tried again, too.
        let record = story.life(10);
        assert_eq!((record.pace(), condemned(record)), (Alone, vec![]));
        record.reached(Offset(10), TrialStep::Infer);
        record.passed();
        record.reached(Offset(11), TrialStep::Decode);
        let record = story.life(11);
        assert_eq!(condemned(record), [11]);
        assert_eq!(record.condemned()[0].step, TrialStep::Decode);
        assert_eq!(record.condemned()[0].deaths, 2);
        record.survived();
        record.end();
        let record = story.life(20);
        assert_eq!((record.pace(), condemned(record)), (Normal, vec![]));
    }

    #[test]
    fn a_message_that_was_alone_by_chance_is_forgiven() {
        let mut story = Story::default();
        for _ in 0..4 {
            story.life(10);
        }
        story.life(10).reached(Offset(12), TrialStep::Infer);
        let record = story.life(10);
        record.reached(Offset(12), TrialStep::Infer);
        record.passed();
        record.reached(Offset(13), TrialStep::Infer);
        // The kill from outside hits another one.
        let record = story.life(12);
        assert_eq!(condemned(record), [0; 0]);
        // Not taken alone yet: no more deaths of its.
        let record = story.life(12);
        assert_eq!(condemned(record), [0; 0]);
    }

    #[test]
    fn lives_that_end_in_order_or_get_on_are_no_deaths() {
        let mut story = Story::default();
        for _ in 0..9 {
            let record = story.life(10);
            assert_eq!(record.pace(), Pace::Normal);
            record.end();
        }
        for head in 10..20 {
            let record = story.life(head);
            assert!(record.deaths() <= 1 && record.pace() == Pace::Normal);
        }
        // An end in order between two deaths neither counts nor forgives.
        story.life(30);
        story.life(30).end();
        assert_eq!(story.life(30).deaths(), 2);
    }

    /// A careful life's files end close to the message that kills: they are no progress.
    #[test]
    fn a_careful_life_that_gets_on_and_dies_is_a_death_all_the_same() {
        let mut story = Story::default();
        for _ in 0..2 {
            story.life(10);
        }
        assert_eq!(story.life(10).pace(), Pace::Careful);
        assert_eq!(story.life(500).pace(), Pace::Alone);
        story.life(500).survived();
        assert_eq!(
            story.life(900).deaths(),
            1,
            "it was at the normal pace again"
        );
    }

    #[test]
    fn when_every_message_kills_it_is_not_the_messages_fault() {
        let mut story = Story::default();
        for _ in 0..3 {
            story.life(0);
        }
        let mut offset = 0;
        for _ in 0..40 {
            let record = story.life(0);
            offset = condemned(record).len() as i64;
            record.reached(Offset(offset), TrialStep::Infer);
        }
        let record = story.life(0);
        assert_eq!(condemned(record), [0, 1, 2]);
        assert_eq!(record.stuck_at(), Some(Offset(offset)));
        record.reached(Offset(3), TrialStep::Infer);
        record.passed();
        record.reached(Offset(4), TrialStep::Infer);
        story.life(0).reached(Offset(4), TrialStep::Infer);
        assert_eq!(condemned(story.life(0)), [0, 1, 2, 4]);
    }
}
