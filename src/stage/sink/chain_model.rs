//! Every interleaving of two writers over one partition, with lost answers, late puts and crashes, checked by a model checker.
//!
//! The store is a map from start to (end, writer), put if absent. A writer reads the chain's end (resume), proposes a file of
//! one or two offsets, puts it, and gets the answer, loses it, or dies; a put may also land long after its sender died.

use super::{
    chain::{Chain, FileFacts, Proposal, PutAnswer, Step, WriterId},
    names::Epoch,
};
use crate::events::{Offset, OffsetRange};
use stateright::{Checker, Model, Property};
use std::collections::BTreeMap;

const LOG_END: i64 = 3;
const MAX_LIVES: u8 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Writer {
    /// Times this writer was assigned the partition; part of its writer id.
    life: u8,
    chain: Option<Chain>,
    in_flight: Option<Proposal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    store: BTreeMap<i64, FileFacts>,
    writers: [Writer; 2],
    /// Puts whose sender has died, still on their way.
    late: Vec<Proposal>,
    /// What some writer believes to be committed.
    acknowledged: Vec<OffsetRange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Resume(usize),
    Propose(usize, i64),
    /// The put reaches the store and the answer reaches the writer.
    Answered(usize),
    /// The put reaches the store, the answer is lost.
    AnswerLost(usize),
    /// The put never reaches the store and the writer knows nothing.
    RequestLost(usize),
    Crash(usize),
    LateLanding(usize),
}

struct TwoWriters;

fn put(store: &mut BTreeMap<i64, FileFacts>, proposal: &Proposal) -> PutAnswer {
    let start = proposal.range.start.0;
    if let Some(facts) = store.get(&start) {
        return PutAnswer::Exists(facts.clone());
    }
    store.insert(
        start,
        FileFacts {
            range: proposal.range,
            writer: proposal.writer.clone(),
            seal: None,
        },
    );
    PutAnswer::Created
}

impl State {
    fn answer(&mut self, w: usize, answer: PutAnswer) {
        let writer = &mut self.writers[w];
        let proposal = writer.in_flight.clone().expect("a put is in flight");
        let chain = writer
            .chain
            .as_mut()
            .expect("a writer with a put has a chain");
        match chain
            .answer(&proposal, answer)
            .expect("nothing foreign is in the store")
        {
            Step::Landed => {
                self.acknowledged.push(proposal.range);
                self.acknowledged.sort_by_key(|r| (r.start, r.end));
                self.acknowledged.dedup();
                writer.in_flight = None;
            }
            Step::Repeat => {}
            Step::Covered { .. } => writer.in_flight = None,
            Step::Sealed(_) => unreachable!("nothing is sealed in this model"),
        }
    }
}

impl Model for TwoWriters {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            store: BTreeMap::new(),
            writers: Default::default(),
            late: Vec::new(),
            acknowledged: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (w, writer) in state.writers.iter().enumerate() {
            match (&writer.chain, &writer.in_flight) {
                (None, _) if writer.life < MAX_LIVES => actions.push(Action::Resume(w)),
                (None, _) => {}
                (Some(chain), None) => {
                    for length in 1..=2 {
                        if chain.end.0 + length <= LOG_END {
                            actions.push(Action::Propose(w, length));
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
            Action::Resume(w) => {
                let mut chain = Chain::new(Epoch(0), Offset(0));
                while let Some(facts) = next.store.get(&chain.end.0) {
                    chain.follow(facts).expect("the chain is sound");
                }
                next.writers[w].life += 1;
                next.writers[w].chain = Some(chain);
            }
            Action::Propose(w, length) => {
                let writer = &mut next.writers[w];
                let chain = writer.chain.as_ref()?;
                let range = OffsetRange::new(chain.end, Offset(chain.end.0 + length)).ok()?;
                let id = WriterId(format!("{w}-{}", writer.life));
                writer.in_flight = Some(chain.propose(range, &id).ok()?);
            }
            Action::Answered(w) => {
                let proposal = next.writers[w].in_flight.clone()?;
                let answer = put(&mut next.store, &proposal);
                next.answer(w, answer);
            }
            Action::AnswerLost(w) => {
                let proposal = next.writers[w].in_flight.clone()?;
                put(&mut next.store, &proposal);
                next.answer(w, PutAnswer::Unknown);
            }
            Action::RequestLost(w) => next.answer(w, PutAnswer::Unknown),
            Action::Crash(w) => {
                next.late.extend(next.writers[w].in_flight.take());
                next.late.sort_by_key(|p| (p.range.start, p.range.end));
                next.writers[w].chain = None;
            }
            Action::LateLanding(i) => {
                let proposal = next.late.remove(i);
                put(&mut next.store, &proposal);
            }
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("files form one chain from the origin", |_, s: &State| {
                let mut end = 0;
                s.store.values().all(|f| {
                    let continues = f.range.start.0 == end;
                    end = f.range.end.0;
                    continues
                })
            }),
            Property::always(
                "what a writer believes committed is in the store",
                |_, s: &State| {
                    s.acknowledged
                        .iter()
                        .all(|r| s.store.get(&r.start.0).is_some_and(|f| f.range == *r))
                },
            ),
            Property::sometimes("the whole log is written", |_, s: &State| {
                s.store.values().any(|f| f.range.end.0 == LOG_END)
            }),
            Property::sometimes("a writer was overtaken and went on", |_, s: &State| {
                let by = |w: &str| s.store.values().any(|f| f.writer.0.starts_with(w));
                by("0-1") && by("1-1") && s.store.len() >= 3
            }),
        ]
    }
}

#[test]
fn no_interleaving_of_two_writers_breaks_the_chain() {
    let checker = TwoWriters.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    assert!(
        checker.unique_state_count() > 1_000,
        "the model must branch"
    );
}
