//! Every interleaving of two and three writers over one partition, with lost answers, late puts,
//! crashes, zombies and committed offsets that lie, checked by a model checker. Then each rule of
//! the protocol is broken in turn, and the same checker must find out: a rule whose loss nobody
//! notices would be none.
//!
//! The store is a set of named files, put if absent. A writer puts the origin that it sees (or
//! takes the one that is there), follows the chain to its end (resume), proposes a file of one or
//! two offsets, puts it, and gets the answer, loses it, or dies; a put may also land long after its
//! sender died. A writer that does not know that it was replaced (a zombie) is one that goes on.

#[path = "../../../tests/common/invariants.rs"]
pub(super) mod invariants;

use super::chain::{Chain, ChainOutcome, FileFacts, Proposal, PutAnswer, WriterId};
use super::lineage::LogLineage;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeMap;
use tagstream_core::events::{Offset, OffsetRange};
use tagstream_core::storage::names::Epoch;

/// A rule of the protocol, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// A put replaces what is there.
    PutOverwrites,
    /// A file's name says its end too, so that two files can start at one offset.
    NameHasEnd,
    /// Resume goes on at the committed offset without looking at the file that it names.
    HintIsTrusted,
    /// The loser of a put goes on after its own rows instead of after the winner's.
    LoserKeepsItsRows,
    /// A put without an answer counts as done.
    NoAnswerIsTaken,
    /// A file under our writer's name is taken for ours whatever it holds, and names come back in
    /// another life.
    WriterNamesComeBack,
    /// Each first owner starts where it sees the log begin; nobody writes it down.
    NoOrigin,
    /// A file that starts anywhere may be put.
    StartsAnywhere,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Writer {
    /// Times this writer was assigned the partition; part of its writer id.
    life: u8,
    chain: Option<Chain>,
    in_flight: Option<Proposal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    origin: Option<i64>,
    /// Files by name; the name is the start (and the end, where that rule is broken).
    store: BTreeMap<(i64, i64), FileFacts>,
    writers: Vec<Writer>,
    /// Puts whose sender has died, still on their way.
    late: Vec<Proposal>,
    /// What some writer believes to be committed.
    acknowledged: Vec<OffsetRange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    /// The writer is given the partition; it sees the log begin at the second number, and the
    /// group's committed offset says that the file from the third ends at the fourth, which may be
    /// a lie.
    Resume(usize, i64, Option<(i64, i64)>),
    /// Offsets skipped, offsets held.
    Propose(usize, i64, i64),
    /// The put reaches the store and the answer reaches the writer.
    Answered(usize),
    /// The put reaches the store, the answer is lost.
    AnswerLost(usize),
    /// The put never reaches the store and the writer knows nothing.
    RequestLost(usize),
    Crash(usize),
    LateLanding(usize),
}

struct Protocol {
    writers: usize,
    lives: u8,
    log_end: i64,
    broken: Broken,
}

impl Protocol {
    fn name(&self, range: OffsetRange) -> (i64, i64) {
        let end = match self.broken {
            Broken::NameHasEnd => range.end.0,
            _ => 0,
        };
        (range.start.0, end)
    }

    fn put(&self, store: &mut BTreeMap<(i64, i64), FileFacts>, proposal: &Proposal) -> PutAnswer {
        let name = self.name(proposal.range);
        if let Some(facts) = store.get(&name)
            && self.broken != Broken::PutOverwrites
        {
            return PutAnswer::Exists(facts.clone());
        }
        let facts = FileFacts {
            range: proposal.range,
            writer: proposal.writer.clone(),
            seal: None,
            lineage: proposal.lineage.clone(),
        };
        store.insert(name, facts);
        PutAnswer::Created
    }

    fn answer(&self, state: &mut State, w: usize, answer: PutAnswer) {
        let writer = &mut state.writers[w];
        let proposal = writer.in_flight.clone().expect("a put is in flight");
        let chain = writer.chain.as_mut().expect("a put has a chain");
        let ours = |facts: &FileFacts| facts.writer == proposal.writer;
        let taken = match (&answer, self.broken) {
            (PutAnswer::Unknown, Broken::NoAnswerIsTaken) => true,
            (PutAnswer::Exists(facts), Broken::WriterNamesComeBack) => ours(facts),
            _ => false,
        };
        let step = if taken {
            chain.end = proposal.range.end;
            ChainOutcome::Landed
        } else {
            // A chain that somebody broke is noticed by the properties, not here.
            let mut at = Chain::new(chain.epoch, proposal.range.start);
            match at.answer(&proposal, answer) {
                Ok(step) => {
                    chain.end = at.end;
                    step
                }
                Err(_) => ChainOutcome::Repeat,
            }
        };
        match step {
            ChainOutcome::Landed => {
                state.acknowledged.push(proposal.range);
                state.acknowledged.sort_by_key(|r| (r.start, r.end));
                state.acknowledged.dedup();
                writer.in_flight = None;
            }
            ChainOutcome::Repeat => {}
            ChainOutcome::Covered { .. } => {
                if self.broken == Broken::LoserKeepsItsRows {
                    chain.end = proposal.range.end;
                }
                writer.in_flight = None;
            }
            ChainOutcome::Sealed(_) => unreachable!("nothing is sealed in this model"),
        }
    }

    fn resume(&self, state: &mut State, w: usize, log_start: i64, hint: Option<(i64, i64)>) {
        let origin = match self.broken {
            Broken::NoOrigin => log_start,
            _ => *state.origin.get_or_insert(log_start),
        };
        let file_of = |start: i64| state.store.values().find(|f| f.range.start.0 == start);
        let believed = hint.filter(|(start, end)| {
            self.broken == Broken::HintIsTrusted
                || file_of(*start).is_some_and(|f| f.range.end.0 == *end)
        });
        let mut chain = Chain::new(Epoch(0), Offset(believed.map_or(origin, |(_, end)| end)));
        while let Some(facts) = file_of(chain.end.0) {
            if chain.follow(facts).is_err() {
                break;
            }
        }
        let writer = &mut state.writers[w];
        writer.life += 1;
        writer.chain = Some(chain);
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            origin: None,
            store: BTreeMap::new(),
            writers: vec![Writer::default(); self.writers],
            late: Vec::new(),
            acknowledged: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (w, writer) in state.writers.iter().enumerate() {
            match (&writer.chain, &writer.in_flight) {
                (None, _) if writer.life < self.lives => {
                    for log_start in 0..=1 {
                        actions.push(Action::Resume(w, log_start, None));
                    }
                    for end in 1..=self.log_end {
                        let lies = (0..end).map(|start| Action::Resume(w, 0, Some((start, end))));
                        actions.extend(lies);
                    }
                }
                (None, _) => {}
                (Some(chain), None) => {
                    let skips = i64::from(self.broken == Broken::StartsAnywhere);
                    for (skip, length) in (0..=skips).flat_map(|s| [(s, 1), (s, 2)]) {
                        if chain.end.0 + skip + length <= self.log_end {
                            actions.push(Action::Propose(w, skip, length));
                        }
                    }
                    actions.push(Action::Crash(w));
                }
                (Some(_), Some(_)) => actions.extend([
                    Action::Answered(w),
                    Action::AnswerLost(w),
                    Action::RequestLost(w),
                    Action::Crash(w),
                ]),
            }
        }
        actions.extend((0..state.late.len()).map(Action::LateLanding));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        match action {
            Action::Resume(w, log_start, hint) => self.resume(&mut next, w, log_start, hint),
            Action::Propose(w, skip, length) => {
                let writer = &mut next.writers[w];
                let chain = writer.chain.as_ref()?;
                let start = chain.end.0 + skip;
                let range = OffsetRange::new(Offset(start), Offset(start + length)).ok()?;
                let life = match self.broken {
                    Broken::WriterNamesComeBack => 0,
                    _ => writer.life,
                };
                let id = WriterId(format!("{w}-{life}"));
                let at = Chain::new(chain.epoch, range.start);
                writer.in_flight = Some(at.propose(range, &id, &LogLineage::default()).ok()?);
            }
            Action::Answered(w) => {
                let proposal = next.writers[w].in_flight.clone()?;
                let answer = self.put(&mut next.store, &proposal);
                self.answer(&mut next, w, answer);
            }
            Action::AnswerLost(w) => {
                let proposal = next.writers[w].in_flight.clone()?;
                self.put(&mut next.store, &proposal);
                self.answer(&mut next, w, PutAnswer::Unknown);
            }
            Action::RequestLost(w) => self.answer(&mut next, w, PutAnswer::Unknown),
            Action::Crash(w) => {
                next.late.extend(next.writers[w].in_flight.take());
                next.late.sort_by_key(|p| (p.range.start, p.range.end));
                next.writers[w].chain = None;
            }
            Action::LateLanding(i) => {
                let proposal = next.late.remove(i);
                self.put(&mut next.store, &proposal);
            }
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn ranges(state: &State) -> impl Iterator<Item = (i64, i64)> {
            state
                .store
                .values()
                .map(|f| (f.range.start.0, f.range.end.0))
        }
        let mut properties = vec![
            Property::always(CHAIN, |_, s: &State| {
                let first = ranges(s).map(|(start, _)| start).min();
                let starts_right = first.is_none_or(|start| s.origin.is_none_or(|o| o == start));
                invariants::breaks(ranges(s)).is_empty() && starts_right
            }),
            Property::always(ONCE, |model: &Self, s: &State| {
                (0..model.log_end).all(|offset| !invariants::doubled(ranges(s), offset))
            }),
            Property::always(ACKNOWLEDGED, |_, s: &State| {
                let stands = |r: &OffsetRange| s.store.values().any(|f| f.range == *r);
                s.acknowledged.iter().all(stands)
            }),
        ];
        if self.broken == Broken::Nothing {
            properties.extend([
                Property::sometimes("the whole log is written", |model: &Self, s: &State| {
                    ranges(s).any(|(_, end)| end == model.log_end)
                }),
                Property::sometimes("two writers took turns", |_, s: &State| {
                    let by = |w: &str| s.store.values().any(|f| f.writer.0.starts_with(w));
                    by("0-") && by("1-")
                }),
            ]);
        }
        properties
    }
}

const CHAIN: &str = "files form one chain from the origin";
const ONCE: &str = "no offset stands in two files";
const ACKNOWLEDGED: &str = "what a writer believes committed is in the store";

fn holds(writers: usize, lives: u8, log_end: i64, at_least: usize) {
    let protocol = Protocol {
        writers,
        lives,
        log_end,
        broken: Broken::Nothing,
    };
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    assert!(states > at_least, "the model must branch: {states} states");
    println!(
        "{writers} writers, {lives} lives each, {log_end} messages: {states} states, {} deep",
        checker.max_depth()
    );
}

#[test]
fn no_interleaving_of_two_writers_with_two_lives_breaks_the_chain() {
    holds(2, 2, 3, 10_000);
}

#[test]
fn no_interleaving_of_three_writers_breaks_the_chain() {
    holds(3, 1, 3, 5_000);
}

/// The checker must find out that `broken` is broken, by one of `properties`.
fn is_found(broken: Broken, properties: &[&'static str]) {
    let protocol = Protocol {
        writers: 2,
        lives: 2,
        log_end: 3,
        broken,
    };
    let any = HasDiscoveries::AnyOf(properties.iter().copied().collect());
    let search = protocol.checker().finish_when(any).threads(2);
    let checker = search.spawn_bfs().join();
    let found = checker.discoveries();
    assert!(
        properties.iter().any(|name| found.contains_key(name)),
        "{broken:?} breaks none of {properties:?}; found: {:?}",
        found.keys().collect::<Vec<_>>()
    );
    let (name, path) = found.iter().next().expect("something was found");
    let steps = path.clone().into_actions().len();
    let states = checker.unique_state_count();
    println!("{broken:?}: \"{name}\" is broken in {steps} steps, after {states} states");
}

#[test]
fn a_put_that_overwrites_is_found() {
    is_found(Broken::PutOverwrites, &[CHAIN, ACKNOWLEDGED]);
}

#[test]
fn a_name_that_says_the_end_too_is_found() {
    is_found(Broken::NameHasEnd, &[ONCE, CHAIN]);
}

#[test]
fn a_committed_offset_that_is_trusted_is_found() {
    is_found(Broken::HintIsTrusted, &[CHAIN]);
}

#[test]
fn a_loser_that_keeps_its_rows_is_found() {
    is_found(Broken::LoserKeepsItsRows, &[CHAIN]);
}

#[test]
fn a_missing_answer_taken_for_success_is_found() {
    is_found(Broken::NoAnswerIsTaken, &[ACKNOWLEDGED]);
}

#[test]
fn writer_names_that_come_back_are_found() {
    is_found(Broken::WriterNamesComeBack, &[ACKNOWLEDGED]);
}

#[test]
fn owners_that_do_not_agree_on_the_origin_are_found() {
    is_found(Broken::NoOrigin, &[CHAIN, ONCE]);
}

#[test]
fn files_that_start_anywhere_are_found() {
    is_found(Broken::StartsAnywhere, &[CHAIN]);
}
