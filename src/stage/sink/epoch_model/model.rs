//! The protocol as a model: what can happen, and what must hold.

use super::{
    Action, Broken, LIVES, MESSAGES, Order, Protocol, Put, READ_AHEAD, Record, SEALS_ELSEWHERE,
    State, Trouble, Writer, lineage, stop,
};
use crate::stage::sink::chain::WriterId;
use crate::stage::sink::chain_model::invariants;
use stateright::{Model, Property};
use std::collections::BTreeSet;
use tagstream_core::events::{Offset, OffsetRange};

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            writers: vec![Writer::default(); 2],
            ..State::default()
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.produced < MESSAGES {
            actions.push(Action::Produce);
        }
        if self.trouble == Trouble::Cut && state.cuts == 0 {
            actions.extend((0..state.log.len()).map(Action::Cut));
        }
        for (w, writer) in state.writers.iter().enumerate() {
            let Some(chain) = &writer.chain else {
                if writer.life < LIVES[w] {
                    actions.push(Action::Resume(w));
                }
                continue;
            };
            actions.push(Action::Crash(w));
            // After the cut librdkafka lets nobody read on.
            let may_read = writer.cuts == state.cuts && writer.rows.len() < READ_AHEAD;
            if may_read && writer.position < state.log.len() as i64 {
                actions.push(Action::Read(w));
            }
            if writer.in_flight.is_some() {
                actions.extend([Action::Answered(w), Action::AnswerLost(w)]);
            } else if writer.rows.first().is_some_and(|(o, _)| *o == chain.end.0) {
                actions.extend((1..=writer.rows.len()).map(|rows| Action::Propose(w, rows)));
            }
        }
        actions.extend((0..state.late.len()).map(Action::LateLanding));
        actions.extend(state.orders.iter().map(|order| Action::Operate(*order)));
        let may_skip = self.trouble == Trouble::Skip && state.skips == 0;
        if may_skip && !state.origins.is_empty() {
            actions.push(Action::MeanToSkip);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        match action {
            Action::Produce => {
                next.log.push((next.produced, i32::from(next.cuts)));
                next.produced += 1;
            }
            Action::Cut(at) => {
                next.log.truncate(at);
                next.cuts += 1;
            }
            Action::Resume(w) => self.resume(&mut next, w),
            Action::Read(w) => self.read(&mut next, w),
            Action::Propose(w, count) => {
                let writer = &mut next.writers[w];
                let chain = writer.chain.as_ref()?;
                let rows = &writer.rows[..count];
                let end = Offset(rows.last()?.0 + 1);
                let range = OffsetRange::new(chain.end, end).ok()?;
                let id = WriterId(format!("{w}-{}", writer.life));
                let messages = rows.iter().map(|(_, (message, _))| *message).collect();
                match chain.propose(range, &id, &lineage(rows)) {
                    Ok(proposal) => {
                        writer.in_flight = Some(Put { proposal, messages });
                        writer.rows.drain(..count);
                    }
                    Err(_) => stop(writer),
                }
            }
            Action::Answered(w) => {
                let put = next.writers[w].in_flight.clone()?;
                let answer = next.put_rows(&put);
                self.answer(&mut next, w, &put, answer);
            }
            Action::AnswerLost(w) => {
                let put = next.writers[w].in_flight.clone()?;
                next.put_rows(&put);
            }
            Action::Crash(w) => {
                next.late.extend(next.writers[w].in_flight.take());
                stop(&mut next.writers[w]);
            }
            Action::LateLanding(i) => {
                let put = next.late.remove(i);
                next.put_rows(&put);
            }
            Action::Operate(order) => self.operate(&mut next, order),
            Action::MeanToSkip => {
                let end = self.walk(&mut next).end.0;
                next.skips += 1;
                let origin = end + 1;
                next.orders.insert(Order { end, origin });
            }
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(CHAIN, |_, s: &State| {
                s.origins.iter().all(|(epoch, (origin, _))| {
                    let of = s.store.range((*epoch, 0)..(*epoch, SEALS_ELSEWHERE));
                    let of = of.map(|(_, f)| (f.facts.range.start.0, f.facts.range.end.0));
                    let ranges: Vec<_> = of.collect();
                    invariants::breaks(ranges.iter().copied()).is_empty()
                        && ranges.first().is_none_or(|(start, _)| start == origin)
                })
            }),
            Property::always(ONCE, |_, s: &State| {
                let mut seen = BTreeSet::new();
                let mut all = s.store.values().flat_map(|f| &f.messages);
                all.all(|message| seen.insert(message))
            }),
            Property::always(NOTHING_LOST, |_, s: &State| {
                let there: BTreeSet<_> = s.store.values().flat_map(|f| &f.messages).collect();
                let in_files =
                    |(message, _): &Record| there.contains(message) || s.skipped.contains(message);
                s.writers.iter().all(|writer| {
                    let Some(chain) = &writer.chain else {
                        return true;
                    };
                    // What it reads on from is the log; all before is in files.
                    let before = (chain.end.0 as usize).min(s.log.len());
                    writer.cuts != s.cuts
                        || writer.position < before as i64
                        || s.log[..before].iter().all(in_files)
                })
            }),
        ];
        if self.broken == Broken::Nothing {
            properties.extend([
                Property::sometimes(
                    "the second epoch reads the log to its end",
                    |_, s: &State| {
                        let last = s.store.range((1, 0)..(2, 0)).next_back();
                        let end = last.map(|(_, f)| f.facts.range.end.0);
                        s.produced == MESSAGES && end == Some(s.log.len() as i64)
                    },
                ),
                Property::sometimes("a zombie meets a seal", |_, s: &State| s.met),
            ]);
        }
        properties
    }
}

pub(super) const CHAIN: &str = "the files of an epoch form one chain from its origin";
pub(super) const ONCE: &str = "no message stands in two files";
pub(super) const NOTHING_LOST: &str =
    "what lies before a writer's end is in files or was skipped by order";
