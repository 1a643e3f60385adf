//! Epochs, seals and logs that are cut: every interleaving of two writers, an operator, and a log
//! that loses its end once and is written anew, checked by a model checker with the stage's own
//! decisions ([`Chain`], [`LogLineage`], [`compared`], [`unread`]). Then each rule is broken in
//! turn, and the same checker must find out. `chain_model.rs` has the rules within one epoch.
//!
//! A message is a number, never used twice. A writer that reads on after the cut is told by
//! librdkafka and ends; what it has read before may be put long afterwards. The operator looks at
//! what the stage refused, and acts on it at any later time; or skips a message.

mod model;
mod tests;

use crate::stage::sink::broken::{BrokenChain, Resumed};
use crate::stage::sink::chain::{
    Chain, ChainOutcome, FileFacts, Proposal, PutAnswer, Seal, SealReason, WriterId,
};
use crate::stage::sink::lineage::LogLineage;
use crate::stage::sink::log_facts::LogFacts;
use crate::stage::sink::repair::unread;
use crate::stage::source::{LogRecord, Logs, Silence, SourceError, compared};
use std::collections::{BTreeMap, BTreeSet};
use tagstream_core::events::{Offset, OffsetRange, PartitionId};
use tagstream_core::storage::names::Epoch;

/// A rule, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Resume does not ask whether the log is the one that was read.
    LogIsTrusted,
    /// The next epoch begins where the log does, and nobody checks that.
    FromTheBeginning,
    /// The loser of a put does not ask which log the winner read.
    WinnerIsTrusted,
    /// A seal does not take the name of the chain's next file.
    SealElsewhere,
    /// The next epoch's origin is put again by whoever follows the seal, as the log begins then.
    OriginPutTwice,
}

/// A message: its number, and the epoch of the leader that took it.
type Record = (u8, i32);

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Writer {
    life: u8,
    chain: Option<Chain>,
    /// Read and not proposed: offset and message.
    rows: Vec<(i64, Record)>,
    /// The next offset to read.
    position: i64,
    /// How often the log had been cut when it began.
    cuts: u8,
    in_flight: Option<Put>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Put {
    proposal: Proposal,
    messages: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct File {
    facts: FileFacts,
    messages: Vec<u8>,
}

/// What an operator means to do with a chain that ended there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Order {
    end: i64,
    origin: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct State {
    log: Vec<Record>,
    produced: u8,
    cuts: u8,
    /// By epoch and start.
    store: BTreeMap<(u32, i64), File>,
    /// Of each epoch: its first offset, and where the log had been cut.
    origins: BTreeMap<u32, (i64, Option<Offset>)>,
    writers: Vec<Writer>,
    late: Vec<Put>,
    orders: BTreeSet<Order>,
    skipped: BTreeSet<u8>,
    skips: u8,
    /// Whether a writer met a seal.
    met: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Produce,
    /// Brokers lose everything from there on, and another leads.
    Cut(usize),
    Resume(usize),
    Read(usize),
    /// Rows of it.
    Propose(usize, usize),
    Answered(usize),
    AnswerLost(usize),
    Crash(usize),
    LateLanding(usize),
    Operate(Order),
    /// The operator looks at the chain and means to skip its next message.
    MeanToSkip,
}

struct Protocol {
    trouble: Trouble,
    broken: Broken,
}

/// What happens in the world. (Both at once are too many states for a test.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The log is cut, once.
    Cut,
    /// An operator skips a message, once.
    Skip,
}

impl Logs for State {
    fn facts(&self, _: &PartitionId) -> Result<LogFacts, SourceError> {
        let high = Offset(self.log.len() as i64);
        Ok(LogFacts {
            low: Offset(0),
            stable: high,
            high,
            leader_epoch: Some(i32::from(self.cuts)),
            committed: None,
            identity: Default::default(),
        })
    }

    fn first_from(&self, _: &PartitionId, from: Offset) -> Result<Option<LogRecord>, SourceError> {
        let record = self.log.get(from.0 as usize);
        Ok(record.map(|(_, leader_epoch)| LogRecord {
            offset: from,
            leader_epoch: Some(*leader_epoch),
        }))
    }

    fn reaches(&self, _: &PartitionId, end: Offset, epoch: i32) -> Result<bool, SourceError> {
        let later = self.log.iter().position(|(_, e)| *e > epoch);
        Ok(later.unwrap_or(self.log.len()) as i64 >= end.0)
    }

    fn silence(&self, _: &PartitionId, from: Offset) -> Result<Silence, SourceError> {
        let (until, stable) = (from, from);
        Ok(Silence { until, stable })
    }
}

impl State {
    fn file(&self, epoch: u32, start: i64) -> Option<&File> {
        self.store.get(&(epoch, start))
    }

    /// Puts a file unless there is one.
    fn put(&mut self, epoch: u32, start: i64, file: File) -> PutAnswer {
        match self.store.get(&(epoch, start)) {
            Some(there) => PutAnswer::Exists(there.facts.clone()),
            None => {
                self.store.insert((epoch, start), file);
                PutAnswer::Created
            }
        }
    }

    fn put_rows(&mut self, put: &Put) -> PutAnswer {
        let proposal = &put.proposal;
        let facts = FileFacts {
            range: proposal.range,
            writer: proposal.writer.clone(),
            seal: None,
            lineage: proposal.lineage.clone(),
        };
        let messages = put.messages.clone();
        let file = File { facts, messages };
        self.put(proposal.epoch.0, proposal.range.start.0, file)
    }
}

impl Protocol {
    /// Follows the newest chain to its end, and puts what origins are missing.
    fn walk(&self, state: &mut State) -> Chain {
        let mut epoch = state.origins.keys().last().copied().unwrap_or(0);
        let (origin, _) = *state.origins.entry(epoch).or_insert((0, None));
        let mut chain = Chain::new(Epoch(epoch), Offset(origin));
        loop {
            let next = state.file(epoch, chain.end.0);
            let seal = state.file(epoch, SEALS_ELSEWHERE + chain.end.0);
            let Some(file) = seal.or(next) else {
                return chain;
            };
            let Ok(step) = chain.follow(&file.facts) else {
                return chain;
            };
            if let ChainOutcome::Sealed(seal) = step {
                epoch += 1;
                let origin = match self.broken {
                    Broken::OriginPutTwice => 0,
                    _ => seal.origin.0,
                };
                let begun = (origin, seal.truncated_at);
                let (origin, _) = *state.origins.entry(epoch).or_insert(begun);
                chain = Chain::new(Epoch(epoch), Offset(origin));
            }
        }
    }

    /// What the log says of a chain.
    fn judge(&self, state: &State, chain: Chain) -> Option<BrokenChain> {
        let log = state.facts(&partition()).expect("the model answers");
        let broken = (chain.end > log.high).then_some(BrokenChain::AheadOfLog {
            high: log.high,
            same_topic: true,
        });
        let resumed = Resumed {
            chain,
            last_start: None,
            broken,
        };
        let compared = compared(state, &partition(), log, resumed);
        compared.expect("the model answers").1.broken
    }

    fn resume(&self, state: &mut State, w: usize) {
        let chain = self.walk(state);
        if self.broken != Broken::LogIsTrusted
            && let Some(broken) = self.judge(state, chain.clone())
        {
            if let BrokenChain::Truncated { at, .. } = broken {
                let origin = match self.broken {
                    Broken::FromTheBeginning => 0,
                    _ => at.0,
                };
                state.orders.insert(Order {
                    end: chain.end.0,
                    origin,
                });
            }
            return;
        }
        let cuts = state.cuts;
        let writer = &mut state.writers[w];
        writer.life += 1;
        writer.position = chain.end.0;
        writer.chain = Some(chain);
        writer.cuts = cuts;
    }

    fn operate(&self, state: &mut State, order: Order) {
        state.orders.remove(&order);
        let chain = self.walk(state);
        if chain.end.0 != order.end {
            return;
        }
        let truncated_at = match self.judge(state, chain.clone()) {
            Some(BrokenChain::Truncated { at, .. }) => Some(at),
            _ => None,
        };
        let high = Offset(state.log.len() as i64);
        let epochs = state.origins.iter().map(|(epoch, (_, cut))| {
            let last = state.store.range((*epoch, 0)..(*epoch, SEALS_ELSEWHERE));
            let end = last.map(|(_, f)| f.facts.range.end).max();
            (*cut, end.unwrap_or(Offset(0)))
        });
        let lowest = unread(epochs, truncated_at, high);
        let in_log = order.origin <= high.0;
        let checked = self.broken != Broken::FromTheBeginning;
        if checked && (!in_log || order.origin < lowest.0) {
            return;
        }
        let seal = Seal {
            origin: Offset(order.origin),
            reason: SealReason::NewEpoch,
            identity: Default::default(),
            group_offset: None,
            truncated_at,
        };
        let facts = FileFacts {
            range: OffsetRange {
                start: chain.end,
                end: chain.end,
            },
            writer: WriterId("operator".into()),
            seal: Some(seal),
            lineage: chain.lineage.clone(),
        };
        let messages = Vec::new();
        let at = match self.broken {
            Broken::SealElsewhere => SEALS_ELSEWHERE + chain.end.0,
            _ => chain.end.0,
        };
        let sealed = state.put(chain.epoch.0, at, File { facts, messages });
        if sealed == PutAnswer::Created {
            let past = chain.end.0.max(0) as usize..order.origin.max(chain.end.0) as usize;
            let skipped = state.log.get(past).unwrap_or_default();
            state
                .skipped
                .extend(skipped.iter().map(|(message, _)| *message));
            self.walk(state);
        }
    }

    fn read(&self, state: &mut State, w: usize) {
        let writer = &mut state.writers[w];
        let Some(chain) = &writer.chain else { return };
        let Some(record) = state.log.get(writer.position as usize) else {
            return;
        };
        let offset = writer.position;
        writer.position += 1;
        if offset >= chain.end.0 {
            writer.rows.push((offset, *record));
            return;
        }
        // Covered by another's file.
        let known = chain.lineage.leader_epoch_at(Offset(offset));
        if known != Some(record.1) && self.broken != Broken::WinnerIsTrusted {
            stop(writer);
        }
    }

    fn answer(&self, state: &mut State, w: usize, put: &Put, answer: PutAnswer) {
        let writer = &mut state.writers[w];
        let chain = writer.chain.as_mut().expect("a put has a chain");
        let mut proposal = put.proposal.clone();
        if self.broken == Broken::WinnerIsTrusted
            && let PutAnswer::Exists(facts) = &answer
        {
            proposal.lineage = facts.lineage.clone();
        }
        let step = chain.answer(&proposal, answer);
        let end = chain.end.0;
        let lineage = chain.lineage.clone();
        match step {
            Ok(ChainOutcome::Landed) => writer.in_flight = None,
            Ok(ChainOutcome::Repeat) => {}
            Ok(ChainOutcome::Covered { .. }) => {
                writer.in_flight = None;
                let other = |(offset, record): &(i64, Record)| {
                    *offset < end && lineage.leader_epoch_at(Offset(*offset)) != Some(record.1)
                };
                if self.broken != Broken::WinnerIsTrusted && writer.rows.iter().any(other) {
                    stop(writer);
                }
                writer.rows.retain(|(offset, _)| *offset >= end);
            }
            Ok(ChainOutcome::Sealed(_)) => {
                state.met = true;
                stop(&mut state.writers[w]);
            }
            Err(_) => stop(writer),
        }
    }
}

/// Messages that are ever produced.
const MESSAGES: u8 = 3;
/// How often each writer may begin.
const LIVES: [u8; 2] = [1, 2];
/// Messages that a writer holds unproposed.
const READ_AHEAD: usize = 2;
/// Seals lie this far from the files where that rule is broken.
const SEALS_ELSEWHERE: i64 = 1_000;

fn partition() -> PartitionId {
    PartitionId::new("images", 0)
}

fn stop(writer: &mut Writer) {
    writer.chain = None;
    writer.rows.clear();
    writer.in_flight = None;
}

fn lineage(rows: &[(i64, Record)]) -> LogLineage {
    let mut lineage = LogLineage::default();
    for (offset, (_, leader_epoch)) in rows {
        lineage.read(Offset(*offset), Some(*leader_epoch));
    }
    lineage
}
