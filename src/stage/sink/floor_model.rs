//! Expiry beside writers: every interleaving of two writers, a floor, files that lose their rows
//! and names that are freed a day later, checked by a model checker with the chain's own decisions.
//! Then each rule of `expire` is broken in turn, and the same checker must find out. A message is
//! its offset; the log is whole (`epoch_model` cuts it) and nobody lies (`chain_model`).
//!
//! A day is longer than any put is under way, and longer than a writer may go without a look at the
//! chain: it ends only when no put of a dead sender is left, and after it everybody has to look.

use super::chain::{Chain, ChainOutcome, FileFacts, Proposal, PutAnswer, WriterId};
use super::chain_model::invariants;
use super::lineage::LogLineage;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeMap;
use tagstream_core::events::{Offset, OffsetRange};
use tagstream_core::storage::names::Epoch;

/// A rule, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Names are freed when their rows go.
    NoHold,
    /// A writer puts without a look, however long ago the last one was.
    NoFence,
    /// Rows and names go without a floor.
    NoFloor,
    /// A floor lies within a file, and the whole file expires.
    FloorWithinFile,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Writer {
    life: u8,
    chain: Option<Chain>,
    in_flight: Option<Proposal>,
    /// A day has passed since it looked at the chain.
    is_stale: bool,
}

/// What has become of a file's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rows {
    There,
    /// Gone today.
    Gone,
    GoneForADay,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct State {
    /// By start.
    store: BTreeMap<i64, (FileFacts, Rows)>,
    floor: Option<i64>,
    writers: Vec<Writer>,
    late: Vec<Proposal>,
    /// How often each offset was put into a file.
    put: Vec<u8>,
    days: u8,
    /// Whether a writer found that it had been outlived.
    outlived: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Resume(usize),
    /// Offsets of it.
    Propose(usize, i64),
    Answered(usize),
    AnswerLost(usize),
    Crash(usize),
    LateLanding(usize),
    LateLoss(usize),
    /// What lies below this offset expires.
    PutFloor(i64),
    TakeRows(i64),
    Free(i64),
    Day,
}

struct Protocol {
    broken: Broken,
}

const LOG_END: i64 = 3;
/// How often each writer may begin.
const LIVES: [u8; 2] = [1, 2];
const DAYS: u8 = 1;

impl State {
    fn end(&self) -> Option<i64> {
        let last = self.store.last_key_value();
        last.map(|(_, (facts, _))| facts.range.end.0)
    }

    fn put(&mut self, proposal: &Proposal) -> PutAnswer {
        let range = proposal.range;
        if let Some((there, _)) = self.store.get(&range.start.0) {
            return PutAnswer::Exists(there.clone());
        }
        let facts = FileFacts {
            range,
            writer: proposal.writer.clone(),
            seal: None,
            lineage: proposal.lineage.clone(),
        };
        self.store.insert(range.start.0, (facts, Rows::There));
        for offset in range.start.0..range.end.0 {
            self.put[offset as usize] += 1;
        }
        PutAnswer::Created
    }

    /// As `ChainWalk` finds a chain's end: the last file says it, else the floor.
    fn resume(&mut self, w: usize) {
        let mut chain = Chain::new(Epoch(0), Offset(self.floor.unwrap_or(0)));
        if let Some((start, (facts, _))) = self.store.last_key_value() {
            chain.end = Offset(*start);
            if chain.follow(facts).is_err() {
                return;
            }
        }
        let writer = &mut self.writers[w];
        writer.life += 1;
        writer.chain = Some(chain);
        writer.is_stale = false;
    }
}

impl Protocol {
    /// Whether a writer may put: it looks first where its last look was long ago.
    fn may_put(&self, state: &mut State, w: usize) -> bool {
        let floor = state.floor;
        let writer = &mut state.writers[w];
        let Some(chain) = &writer.chain else {
            return false;
        };
        if !writer.is_stale || self.broken == Broken::NoFence {
            return true;
        }
        if floor > Some(chain.end.0) {
            (writer.chain, writer.in_flight) = (None, None);
            state.outlived = true;
            return false;
        }
        writer.is_stale = false;
        true
    }

    fn send(&self, state: &mut State, w: usize, is_answered: bool) {
        if !self.may_put(state, w) {
            return;
        }
        let Some(proposal) = state.writers[w].in_flight.clone() else {
            return;
        };
        let answer = state.put(&proposal);
        if !is_answered {
            return;
        }
        let writer = &mut state.writers[w];
        let chain = writer.chain.as_mut().expect("a put has a chain");
        match chain.answer(&proposal, answer) {
            Ok(ChainOutcome::Repeat) => {}
            Ok(_) => writer.in_flight = None,
            Err(_) => (writer.chain, writer.in_flight) = (None, None),
        }
    }

    fn expiry(&self, state: &State, actions: &mut Vec<Action>) {
        let Some(end) = state.end() else { return };
        let floors = match self.broken {
            Broken::FloorWithinFile => (0..=end).collect(),
            _ => {
                let starts = state.store.keys().copied();
                starts.chain([end]).collect::<Vec<_>>()
            }
        };
        let new = floors.into_iter().filter(|o| Some(*o) > state.floor);
        actions.extend(new.map(Action::PutFloor));
        let is_above = |start: i64| match self.broken {
            Broken::NoFloor => false,
            _ => Some(start) >= state.floor,
        };
        for (start, (_, rows)) in &state.store {
            let is_last = state.store.last_key_value().map(|(s, _)| s) == Some(start);
            match rows {
                Rows::There if !is_above(*start) => actions.push(Action::TakeRows(*start)),
                Rows::Gone if self.broken == Broken::NoHold && !is_last => {
                    actions.push(Action::Free(*start));
                }
                Rows::GoneForADay if !is_last => actions.push(Action::Free(*start)),
                _ => {}
            }
        }
        if state.days < DAYS && state.late.is_empty() {
            actions.push(Action::Day);
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            writers: vec![Writer::default(); 2],
            put: vec![0; LOG_END as usize],
            ..State::default()
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (w, writer) in state.writers.iter().enumerate() {
            let Some(chain) = &writer.chain else {
                if writer.life < LIVES[w] {
                    actions.push(Action::Resume(w));
                }
                continue;
            };
            actions.push(Action::Crash(w));
            match writer.in_flight {
                Some(_) => actions.extend([Action::Answered(w), Action::AnswerLost(w)]),
                None => {
                    let room = LOG_END - chain.end.0;
                    actions.extend((1..=room.min(2)).map(|length| Action::Propose(w, length)));
                }
            }
        }
        for late in 0..state.late.len() {
            actions.extend([Action::LateLanding(late), Action::LateLoss(late)]);
        }
        self.expiry(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        match action {
            Action::Resume(w) => next.resume(w),
            Action::Propose(w, length) => {
                let writer = &mut next.writers[w];
                let chain = writer.chain.as_ref()?;
                let range = OffsetRange::new(chain.end, Offset(chain.end.0 + length)).ok()?;
                let id = WriterId(format!("{w}-{}", writer.life));
                let proposal = chain.propose(range, &id, &LogLineage::default());
                writer.in_flight = Some(proposal.ok()?);
            }
            Action::Answered(w) => self.send(&mut next, w, true),
            Action::AnswerLost(w) => self.send(&mut next, w, false),
            Action::Crash(w) => {
                // What it had sent is on its way; it would have looked before, if it had to.
                if self.may_put(&mut next, w) {
                    next.late.extend(next.writers[w].in_flight.take());
                }
                (next.writers[w].chain, next.writers[w].in_flight) = (None, None);
            }
            Action::LateLanding(late) => {
                let proposal = next.late.remove(late);
                next.put(&proposal);
            }
            Action::LateLoss(late) => {
                next.late.remove(late);
            }
            Action::PutFloor(offset) => {
                if self.broken != Broken::NoFloor {
                    next.floor = Some(offset);
                }
            }
            Action::TakeRows(start) => {
                next.store.get_mut(&start)?.1 = Rows::Gone;
            }
            Action::Free(start) => {
                next.store.remove(&start);
            }
            Action::Day => {
                next.days += 1;
                for (_, rows) in next.store.values_mut() {
                    if *rows == Rows::Gone {
                        *rows = Rows::GoneForADay;
                    }
                }
                for writer in &mut next.writers {
                    writer.is_stale = writer.chain.is_some();
                }
            }
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONCE, |_, s: &State| s.put.iter().all(|times| *times < 2)),
            Property::always(ALL, |_, s: &State| {
                let ends = s.writers.iter().filter_map(|w| w.chain.as_ref());
                let end = ends.map(|chain| chain.end.0).max().unwrap_or(0);
                s.put[..end as usize].iter().all(|times| *times > 0)
            }),
            Property::always(CHAIN, |_, s: &State| {
                let ranges = s
                    .store
                    .values()
                    .map(|(f, _)| (f.range.start.0, f.range.end.0));
                let kept = ranges.filter(|(start, _)| Some(*start) >= s.floor);
                invariants::breaks(kept).is_empty()
            }),
            Property::always(KEPT, |_, s: &State| {
                let there = |o: &usize| {
                    let holds = |(f, rows): &(FileFacts, Rows)| {
                        let range = f.range.start.0..f.range.end.0;
                        *rows == Rows::There && range.contains(&(*o as i64))
                    };
                    s.store.values().any(holds)
                };
                let floor = s.floor.unwrap_or(0) as usize;
                (floor..s.put.len()).all(|o| s.put[o] == 0 || there(&o))
            }),
        ];
        if self.broken == Broken::Nothing {
            properties.extend([
                Property::sometimes("one that slept finds a floor", |_, s: &State| s.outlived),
                Property::sometimes("the log ends above freed names", |_, s: &State| {
                    s.put.iter().all(|times| *times == 1) && s.store.len() == 1
                }),
            ]);
        }
        properties
    }
}

const ONCE: &str = "no offset is put into two files, whatever expired between";
const ALL: &str = "what lies below a writer's end was put";
const CHAIN: &str = "files above the floor form one chain";
const KEPT: &str = "rows above the floor stay";

#[test]
fn no_interleaving_of_writers_and_expiry_loses_or_doubles() {
    let broken = Broken::Nothing;
    let checker = Protocol { broken }.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    assert!(states > 10_000, "the model must branch: {states} states");
    println!("expiry: {states} states, {} deep", checker.max_depth());
}

/// The checker must find out that `broken` is broken, by one of `properties`.
fn is_found(broken: Broken, properties: &[&'static str]) {
    let any = HasDiscoveries::AnyOf(properties.iter().copied().collect());
    let search = Protocol { broken }.checker().finish_when(any).threads(2);
    let found = search.spawn_bfs().join().discoveries();
    assert!(
        properties.iter().any(|name| found.contains_key(name)),
        "{broken:?} breaks none of {properties:?}"
    );
}

#[test]
fn names_that_are_freed_at_once_are_found() {
    is_found(Broken::NoHold, &[ONCE]);
}

#[test]
fn a_writer_that_slept_and_does_not_look_is_found() {
    is_found(Broken::NoFence, &[ONCE]);
}

#[test]
fn rows_that_go_without_a_floor_are_found() {
    is_found(Broken::NoFloor, &[ONCE]);
}

#[test]
fn a_floor_within_a_file_is_found() {
    is_found(Broken::FloorWithinFile, &[KEPT]);
}
