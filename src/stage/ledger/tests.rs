use super::*;
use crate::stage::sink::predictions::tests::{layout, row};
use crate::stage::sink::predictions::{PredictionLayout, PredictionRow};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const RULES: CutRules = CutRules {
    max_bytes: 3000,
    max_age: Duration::from_secs(60),
};

struct Fixture {
    ledger: Ledger<PredictionRow>,
    layout: Arc<PredictionLayout>,
    now: Instant,
    sent: Vec<Outgoing>,
}

impl Fixture {
    fn new(start: i64) -> Self {
        Fixture {
            ledger: Ledger::new(Offset(start), RULES, PredictionsOrder::Offset),
            layout: layout(false),
            now: Instant::now(),
            sent: Vec::new(),
        }
    }
    fn admit(&mut self, offsets: impl IntoIterator<Item = i64>) {
        for o in offsets {
            assert!(self.ledger.admit(Offset(o), Some(0)));
        }
    }
    fn finish(&mut self, offset: i64, with_row: bool) {
        let rows = with_row.then(|| row(offset, &self.layout));
        let message = |topic: &str| Outgoing {
            topic: topic.into(),
            key: Some(offset.to_string().into()),
            ..Outgoing::default()
        };
        let finished = Finished {
            rows: rows.into_iter().collect(),
            predictions: with_row.then(|| message("p")).into_iter().collect(),
            dead_letters: (!with_row).then(|| message("d")).into_iter().collect(),
            reservation: None,
        };
        self.ledger.finish(Offset(offset), finished);
        let sent = &mut self.sent;
        self.ledger.publish(self.now, |outgoing| {
            sent.push(outgoing);
            Ack::acknowledged()
        });
    }
    fn cut(&mut self) -> (i64, i64, Vec<i64>) {
        let cut = self.ledger.cut(CutReason::Flush).unwrap();
        let rows = cut.rows.iter().map(|r| r.offset.0).collect();
        (cut.range.start.0, cut.range.end.0, rows)
    }
}

#[test]
fn only_the_contiguous_beginning_is_cut_and_in_order() {
    let mut f = Fixture::new(5);
    f.admit(5..10);
    for o in [7, 6, 9] {
        f.finish(o, true);
    }
    assert!(f.ledger.cut(CutReason::Flush).is_none());
    f.finish(5, true);
    assert_eq!(f.cut(), (5, 8, vec![5, 6, 7]));
    f.finish(8, true);
    assert_eq!(f.cut(), (8, 10, vec![8, 9]));
    assert!(f.ledger.is_empty());
}

#[test]
fn messages_reach_the_topics_in_the_partitions_order() {
    let mut f = Fixture::new(0);
    f.admit(0..4);
    for (o, with_row) in [(3, true), (1, false), (0, true), (2, true)] {
        f.finish(o, with_row);
    }
    let keys: Vec<&[u8]> = f.sent.iter().map(|m| m.key.as_deref().unwrap()).collect();
    assert_eq!(keys, [b"0", b"1", b"2", b"3"]);
    assert_eq!(f.sent[1].topic.as_ref(), "d");
}

#[test]
fn holes_and_dead_letters_lie_inside_ranges() {
    let mut f = Fixture::new(0);
    f.admit([2, 3, 9]);
    for o in [2, 3, 9] {
        f.finish(o, false);
    }
    assert_eq!(f.cut(), (0, 10, vec![]));
    f.admit([20]);
    f.finish(20, true);
    assert_eq!(f.cut(), (10, 21, vec![20]));
}

#[test]
fn what_was_read_before_is_not_admitted_again() {
    let mut f = Fixture::new(5);
    assert!(!f.ledger.admit(Offset(4), Some(0)));
    f.admit([5]);
    assert!(!f.ledger.admit(Offset(5), Some(0)));
}

#[test]
fn a_file_ends_by_size_and_the_rest_stays() {
    let mut f = Fixture::new(0);
    f.admit(0..40);
    for o in 0..40 {
        f.finish(o, true);
    }
    assert_eq!(f.ledger.due(f.now), Some(CutReason::Size));
    let (_, end, rows) = f.cut();
    assert!(end < 40 && rows.len() as i64 == end);
    let bytes: u64 = rows.iter().map(|o| row(*o, &f.layout).bytes()).sum();
    assert!((RULES.max_bytes..RULES.max_bytes + 2000).contains(&bytes));
    assert_eq!(f.cut().0, end);
}

#[test]
fn an_idle_tail_ends_by_age() {
    let mut f = Fixture::new(0);
    f.admit([0]);
    assert_eq!(f.ledger.deadline(), None);
    f.finish(0, true);
    assert_eq!(f.ledger.due(f.now), None);
    assert_eq!(f.ledger.deadline(), Some(f.now + RULES.max_age));
    assert_eq!(f.ledger.due(f.now + RULES.max_age), Some(CutReason::Age));
}

#[test]
fn a_row_that_waited_long_for_the_model_does_not_end_a_file_by_itself() {
    let mut f = Fixture::new(0);
    f.admit(0..3);
    f.now += RULES.max_age * 10;
    f.finish(0, true);
    assert_eq!(f.ledger.due(f.now), None);
    let first = f.now;
    f.now += RULES.max_age / 2;
    f.finish(2, true);
    f.finish(1, true);
    assert_eq!(f.ledger.due(f.now), None);
    assert_eq!(f.ledger.deadline(), Some(first + RULES.max_age));
    f.now = first + RULES.max_age;
    assert_eq!(f.ledger.due(f.now), Some(CutReason::Age));
    assert_eq!(f.cut(), (0, 3, vec![0, 1, 2]));
}

#[test]
fn another_layout_ends_the_file_but_an_equal_one_does_not() {
    let mut f = Fixture::new(0);
    f.admit(0..4);
    f.finish(0, true);
    f.layout = layout(false);
    f.finish(1, true);
    assert_eq!(f.ledger.due(f.now), None);
    f.finish(2, false);
    f.layout = layout(true);
    f.finish(3, true);
    assert_eq!(f.ledger.due(f.now), Some(CutReason::Layout));
    assert_eq!(f.cut(), (0, 3, vec![0, 1]));
    assert_eq!(f.cut(), (3, 4, vec![3]));
}

#[test]
fn rows_that_another_writer_covered_are_dropped_finished_or_not() {
    let mut f = Fixture::new(0);
    f.admit(0..6);
    for o in [0, 1, 3] {
        f.finish(o, true);
    }
    f.ledger.advance(Offset(4));
    assert_eq!(f.ledger.making(), 2);
    assert_eq!(f.ledger.ready_bytes(), 0);
    f.finish(2, true);
    f.finish(4, true);
    f.finish(5, true);
    assert_eq!(f.cut(), (4, 6, vec![4, 5]));
    f.ledger.advance(Offset(100));
    assert!(!f.ledger.admit(Offset(99), Some(0)));
    f.admit([100]);
}

#[test]
fn a_cut_drops_what_is_covered_and_keeps_the_rest() {
    let mut f = Fixture::new(0);
    f.admit(0..6);
    for o in 0..6 {
        f.finish(o, true);
    }
    let mut cut = f.ledger.cut(CutReason::Flush).unwrap();
    assert!(cut.drop_covered(Offset(4)));
    assert_eq!(cut.range.start, Offset(4));
    assert_eq!(cut.rows.len(), 2);
    assert!(!cut.drop_covered(Offset(9)));
}

/// How many entries the next file takes and why it ends there, found by walking all that is ready.
fn walked(ledger: &Ledger<PredictionRow>) -> (usize, Option<CutReason>) {
    let (mut bytes, mut layout) = (0, None::<&Arc<PredictionLayout>>);
    for (count, entry) in ledger.entries.iter().take(ledger.ready).enumerate() {
        let State::Done(done) = &entry.state else {
            panic!("{count} is not finished")
        };
        if bytes >= ledger.rules.max_bytes {
            return (count, Some(CutReason::Size));
        }
        if let Some(row) = done.finished.rows.first() {
            if layout.is_some_and(|l| l != row.layout()) {
                return (count, Some(CutReason::Layout));
            }
            layout = Some(row.layout());
        }
        bytes += done.bytes;
    }
    let full = bytes >= ledger.rules.max_bytes;
    (ledger.ready, full.then_some(CutReason::Size))
}

#[test]
fn the_next_file_is_the_one_that_a_walk_over_all_rows_finds() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut f = Fixture::new(0);
    let mut admitted = 0;
    let mut making: Vec<i64> = Vec::new();
    let mut ends = [0; 3];
    for _ in 0..20_000 {
        match rng.random_range(0..20) {
            0..8 => {
                f.admit([admitted]);
                making.push(admitted);
                admitted += 1;
            }
            8..16 if !making.is_empty() => {
                let one = making.swap_remove(rng.random_range(0..making.len()));
                f.layout = layout(rng.random_bool(0.02));
                f.finish(one, rng.random_bool(0.8));
            }
            16..19 => {
                let end = f.ledger.extent.end;
                ends[end.map_or(0, |e| 1 + usize::from(e == CutReason::Layout))] += 1;
                f.ledger.cut(CutReason::Flush);
            }
            19 if rng.random_bool(0.05) => {
                let to = f.ledger.start().0 + rng.random_range(0..8);
                f.ledger.advance(Offset(to));
                admitted = admitted.max(to);
                making.retain(|o| *o >= to);
            }
            _ => {}
        }
        let extent = &f.ledger.extent;
        assert_eq!((extent.count, extent.end), walked(&f.ledger));
    }
    assert!(ends.iter().all(|n| *n > 20), "{ends:?}");
}

#[test]
fn a_silent_end_goes_with_the_last_message() {
    let mut f = Fixture::new(0);
    f.admit([0, 1]);
    f.finish(0, true);
    // Markers lie behind the last message, which is not finished: they must wait for it.
    f.ledger.reach(Offset(4), f.now);
    assert_eq!(f.cut(), (0, 1, vec![0]));
    assert!(f.ledger.cut(CutReason::Flush).is_none());
    f.finish(1, true);
    assert_eq!(f.cut(), (1, 4, vec![1]));
    assert!(f.ledger.is_empty());
}

#[test]
fn a_silent_end_alone_becomes_a_file_by_age_and_a_message_takes_it_along() {
    let mut f = Fixture::new(7);
    assert!(f.ledger.is_empty() && f.ledger.deadline().is_none());
    f.ledger.reach(Offset(9), f.now);
    assert!(!f.ledger.is_empty());
    assert_eq!(f.ledger.due(f.now), None);
    assert_eq!(f.ledger.due(f.now + RULES.max_age), Some(CutReason::Age));
    assert_eq!(f.cut(), (7, 9, vec![]));
    // What is told again, or late, changes nothing.
    f.ledger.reach(Offset(9), f.now);
    f.ledger.reach(Offset(3), f.now);
    assert!(f.ledger.is_empty());
    f.ledger.reach(Offset(11), f.now);
    f.admit([11]);
    assert_eq!(
        f.ledger.due(f.now + RULES.max_age),
        None,
        "it is in the making"
    );
    f.finish(11, true);
    assert_eq!(f.cut(), (9, 12, vec![11]));
    // Another writer's file may cover it, too.
    f.ledger.reach(Offset(20), f.now);
    f.ledger.advance(Offset(25));
    assert!(f.ledger.is_empty());
    assert_eq!(f.ledger.start(), Offset(25));
}

/// One slow fetch held back the predictions of all messages behind it.
#[test]
fn predictions_go_out_as_they_are_made_if_so_ordered_and_files_keep_their_order() {
    let mut f = Fixture::new(5);
    f.ledger = Ledger::new(Offset(5), RULES, PredictionsOrder::Ready);
    f.admit(5..10);
    let sent = |f: &Fixture| -> Vec<String> {
        let name = |o: &Outgoing| {
            let key = o.key.as_deref().map(String::from_utf8_lossy);
            format!("{}{}", o.topic, key.unwrap_or_default())
        };
        f.sent.iter().map(name).collect()
    };
    f.finish(7, true);
    f.finish(6, false);
    f.finish(9, true);
    // A dead letter keeps its place; so does the file.
    assert_eq!(sent(&f), ["p7", "p9"]);
    assert!(f.ledger.cut(CutReason::Flush).is_none());
    f.finish(5, true);
    assert_eq!(sent(&f), ["p7", "p9", "p5", "d6"]);
    let cut = f.ledger.cut(CutReason::Flush).unwrap();
    assert_eq!((cut.predictions.len(), cut.dead_letters.len()), (2, 1));
    f.finish(8, true);
    assert_eq!(f.cut(), (8, 10, vec![8, 9]));
    assert_eq!(sent(&f).len(), 5, "each once");
    // What another writer's file covers is sent no more.
    f.admit(10..12);
    f.finish(11, true);
    f.ledger.advance(Offset(12));
    assert_eq!(sent(&f).last().unwrap(), "p11");
}
