//! One line: the events of a source, the rows of a maker, the files of a table. One task owns all
//! ledgers.

mod alone;
mod cutting;
mod drained;
mod files;
mod partitions;
mod rows;
mod silence;

use super::commit::{FileBounds, FileDone};
use super::lives::PartitionWatch;
use super::owned::Owned;
use super::{Control, LineError, StageStatus};
use crate::stage::budget::Budget;
use crate::stage::guard::OpenLives;
use crate::stage::ledger::{CutReason, CutRules, Finished};
use crate::stage::row_maker::RowMaker;
use crate::stage::sink::begun::FirstOffset;
use crate::stage::sink::broken::Resumed;
use crate::stage::sink::chain::WriterId;
use crate::stage::sink::files::FileSink;
use crate::stage::sink::log_facts::LogFacts;
use crate::stage::sink::producer::Topics;
use crate::stage::sink::table::TableRow;
use crate::stage::source::{
    Generation, Logs, OffsetCommit, Source, SourceCommand, SourceEvent, StartPosition,
};
use alone::{Pending, Queues};
use drained::Drained;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use tagstream_core::config::PredictionsOrder;
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::failpoint;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often ages and pressure are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Above this share of the budget the largest file is cut early.
const PRESSURE: f64 = 0.75;
/// A group that gives out no partitions for this long is told of.
const TELL_WAITING: Duration = Duration::from_secs(5);
/// How long the consumer may take to leave the group.
const LEAVE: Duration = Duration::from_secs(10);

/// What a line is told at its start.
#[derive(Debug, Clone)]
pub struct LineSettings {
    /// Where a partition without files starts.
    pub start: FirstOffset,
    /// When files end.
    pub rules: CutRules,
    /// In which order predictions go out.
    pub predictions_order: PredictionsOrder,
    /// The topic of dead letters.
    pub dead_letter_topic: Arc<str>,
    /// Time to finish what was read when the stage stops.
    pub drain_timeout: Duration,
    /// Time to finish what was read when partitions are taken away: the group waits for us
    /// meanwhile.
    pub revoke_timeout: Duration,
    /// End when every partition's files reach the log's end as named here; `None`: never.
    pub until: Option<BTreeMap<PartitionId, LogFacts>>,
    /// Partitions whose group's offset an operator has put back to the end of their files, and that
    /// end.
    pub restored: BTreeMap<PartitionId, Offset>,
    /// The silence after which the group gives a member's partitions to others.
    pub session: Duration,
    /// This process, once; part of every writer id.
    pub process: Arc<str>,
    /// The lives of partitions in this process.
    pub lives: OpenLives,
}

/// One line, ready to run.
pub struct Line<M: RowMaker> {
    /// Makes rows.
    pub maker: Arc<M>,
    /// Writes files.
    pub sink: FileSink<M::Row>,
    /// Writes messages.
    pub topics: Arc<dyn Topics>,
    /// Knows what Kafka says about partitions.
    pub logs: Arc<dyn Logs>,
    /// Bytes of messages and rows.
    pub budget: Budget,
    /// What the configuration says of this line.
    pub settings: LineSettings,
    /// What it shows of itself.
    pub status: Arc<StageStatus>,
}

enum Task<R: TableRow> {
    Processed {
        partition: PartitionId,
        generation: Generation,
        offset: Offset,
        finished: Finished<R>,
        /// Whether it was worked on alone.
        alone: bool,
    },
    /// A message that is left for the next reader.
    Left {
        partition: PartitionId,
        generation: Generation,
        offset: Offset,
        alone: bool,
    },
    File(FileDone),
    Resumed {
        generation: Generation,
        chains: Vec<(PartitionId, LogFacts, Resumed, Option<PartitionWatch>)>,
        reply: SyncSender<Vec<StartPosition>>,
    },
    /// Partitions of others that are in files.
    Looked(BTreeSet<PartitionId>),
    /// How far each partition holds no message, at the end of a run that reads to the end.
    Ends(Vec<(PartitionId, Generation, Offset)>),
    /// No message lies before `until` that was not read.
    Silent {
        partition: PartitionId,
        generation: Generation,
        until: Offset,
    },
}

struct Revocation {
    partitions: Vec<PartitionId>,
    reply: SyncSender<Vec<OffsetCommit>>,
    deadline: Instant,
}

struct Driver<M: RowMaker> {
    line: Line<M>,
    source: Source,
    owned: BTreeMap<PartitionId, Owned<M::Row>>,
    tasks: JoinSet<Result<Task<M::Row>, LineError>>,
    revocation: Option<Revocation>,
    bounds: FileBounds,
    /// Set once the line reads no more: until then everything must be in files.
    drain_until: Option<Instant>,
    assigned_once: bool,
    began: Instant,
    told_waiting: bool,
    drained: Drained,
    queues: Queues,
}

impl<M: RowMaker> Line<M> {
    /// Runs until told to stop, until drained if so asked, or until an error.
    ///
    /// # Errors
    /// [`LineError`]; what was committed stays, the rest is read again by the next run.
    pub async fn run(
        self,
        source: Source,
        control: watch::Receiver<Control>,
    ) -> Result<(), LineError> {
        let driver = Driver {
            bounds: FileBounds::new(self.settings.rules.max_bytes),
            line: self,
            source,
            owned: BTreeMap::new(),
            tasks: JoinSet::new(),
            revocation: None,
            drain_until: None,
            assigned_once: false,
            began: Instant::now(),
            told_waiting: false,
            drained: Drained::default(),
            queues: Queues::default(),
        };
        driver.run(control).await
    }
}

impl<M: RowMaker> Driver<M> {
    async fn run(mut self, mut control: watch::Receiver<Control>) -> Result<(), LineError> {
        self.line.status.begin();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            let step = tokio::select! {
                Some(event) = self.source.events.recv() => self.on_source(event).await,
                Some(task) = self.tasks.join_next() => self.on_task(task).await,
                changed = control.changed(), if self.drain_until.is_none() => {
                    if changed.is_err() || *control.borrow() == Control::Drain {
                        self.stop_reading();
                    }
                    Ok(())
                }
                _ = tick.tick() => Ok(()),
            };
            if let Err(error) = step.and_then(|()| self.on_tick()) {
                break Err(error);
            }
            if self.is_done() {
                break Ok(());
            }
        };
        self.note_fault(&outcome);
        self.shut_down(outcome.is_ok()).await;
        outcome
    }

    async fn on_source(&mut self, event: SourceEvent) -> Result<(), LineError> {
        match event {
            SourceEvent::Assigned {
                generation,
                partitions,
                reply,
            } => self.resume(generation, partitions, reply),
            SourceEvent::Revoked {
                partitions,
                lost,
                reply,
            } => self.revoke(partitions, lost, reply),
            SourceEvent::Message {
                generation,
                message,
                reservation,
                place,
            } => self.start_row(Pending {
                generation,
                message,
                reservation,
                place,
            })?,
            SourceEvent::End {
                generation,
                partition,
                position,
                high,
            } => self.at_end(generation, partition, position, high),
            SourceEvent::MemoryShort => self.cut_largest_under_pressure(),
            SourceEvent::OffsetsCommitted => failpoint::pass("offset.commit.after").await?,
            SourceEvent::Failed(error) => return Err(error.into()),
            SourceEvent::Stopped => {}
        }
        Ok(())
    }

    async fn on_task(
        &mut self,
        task: Result<Result<Task<M::Row>, LineError>, tokio::task::JoinError>,
    ) -> Result<(), LineError> {
        match task.map_err(|e| LineError::Panicked(e.into()))?? {
            Task::Processed {
                partition,
                generation,
                offset,
                finished,
                alone,
            } => {
                self.made(&partition, alone);
                if let Some(owned) = self
                    .owned
                    .get_mut(&partition)
                    .filter(|o| o.generation == generation)
                {
                    owned.ledger.finish(offset, finished);
                    owned
                        .ledger
                        .publish(Instant::now(), |message| self.line.topics.send(message));
                }
                Ok(())
            }
            Task::Left {
                partition,
                generation,
                offset,
                alone,
            } => {
                self.made(&partition, alone);
                let owned = self.owned.get_mut(&partition);
                if let Some(owned) = owned.filter(|o| o.generation == generation) {
                    owned.ledger.leave(offset);
                }
                Ok(())
            }
            Task::File(done) => self.file_done(done).await,
            Task::Looked(reached) => {
                self.looked(reached);
                Ok(())
            }
            Task::Ends(ends) => {
                self.ends_told(ends);
                Ok(())
            }
            Task::Silent {
                partition,
                generation,
                until,
            } => {
                self.reached(&partition, generation, until);
                Ok(())
            }
            Task::Resumed {
                generation,
                chains,
                reply,
            } => {
                self.on_resumed(generation, chains, &reply);
                Ok(())
            }
        }
    }

    /// Files that should end now. Asked after every event, and there may be many partitions.
    fn due(&self, now: Instant) -> Vec<(PartitionId, CutReason)> {
        // The last quarter of the time that is left is for the files.
        let for_files = self.line.settings.drain_timeout / 4;
        let last_call = |deadline: Option<Instant>| deadline.is_some_and(|d| now + for_files >= d);
        let all_read = self.line.settings.until.is_some() && self.all_read();
        let due = |(partition, owned): (&PartitionId, &Owned<M::Row>)| {
            let revoked = self.revocation.as_ref();
            let revoked = revoked.filter(|r| r.partitions.contains(partition));
            let deadline = self
                .drain_until
                .into_iter()
                .chain(revoked.map(|r| r.deadline));
            let deadline = deadline.min();
            let reason = owned.due(now, deadline.is_some() || all_read, last_call(deadline))?;
            Some((partition.clone(), reason))
        };
        self.owned.iter().filter_map(due).collect()
    }

    /// Says what a line without partitions waits for. Silence would look like a hang: a member of
    /// the group that was killed holds its place until its session ends.
    fn tell_waiting(&mut self, now: Instant) {
        if self.assigned_once || now - self.began < TELL_WAITING {
            return;
        }
        let session = self.line.settings.session.as_secs_f64();
        let waiting = format!(
            "the group has given this process no partitions yet. A member that was killed, or \
             has not left, keeps its place until its session ends, {session} s after it was last \
             heard (kafka.session_timeout_ms)"
        );
        let told = std::mem::replace(&mut self.told_waiting, true);
        self.line
            .status
            .report(StageStatus::ASSIGNED, Some(waiting.clone()));
        if !told {
            tracing::info!("{waiting}");
        }
    }

    /// After every event: files that are due, revocations that are done, pressure.
    fn on_tick(&mut self) -> Result<(), LineError> {
        let now = Instant::now();
        self.line.status.beat();
        let moved = self.source.last_moved_ms();
        self.line
            .status
            .source_beat_ms
            .store(moved, Ordering::Relaxed);
        self.pump();
        self.tell_waiting(now);
        for (partition, reason) in self.due(now) {
            self.cut(&partition, reason);
        }
        let used = self.line.budget.used_bytes();
        metrics::gauge!("tagstream_row_budget_used_bytes", "table" => self.table())
            .set(used as f64);
        if used as f64 > PRESSURE * self.line.budget.bytes() as f64 {
            self.cut_largest_under_pressure();
        }
        let settled =
            |partition: &PartitionId| self.owned.get(partition).is_none_or(Owned::is_settled);
        if let Some(revocation) = self
            .revocation
            .take_if(|r| now >= r.deadline || r.partitions.iter().all(settled))
        {
            let commits = self.commits(&revocation.partitions);
            let guards = self.guards(&revocation.partitions);
            for partition in &revocation.partitions {
                self.give_up(partition);
            }
            let lives = self.line.settings.lives.clone();
            // The next owner is to find that these lives ended in order.
            tokio::spawn(async move {
                lives.end(&guards).await;
                let _ = revocation.reply.send(commits);
            });
        }
        Ok(())
    }

    fn table(&self) -> String {
        self.line.sink.table().to_owned()
    }

    fn stop_reading(&mut self) {
        self.source.command(SourceCommand::StopReading);
        self.drain_until = Some(Instant::now() + self.line.settings.drain_timeout);
        self.owned.values().for_each(Owned::ask_to_leave);
        // Whoever is killed because this takes too long did not die of a message.
        let lives = self.line.settings.lives.clone();
        tokio::spawn(async move { lives.end_all().await });
        let making: usize = self.owned.values().map(|o| o.ledger.making()).sum();
        tracing::info!(making, "stopping: finishing what was read");
    }

    fn is_done(&mut self) -> bool {
        match self.drain_until {
            Some(deadline) => {
                self.owned.values().all(Owned::is_settled) || Instant::now() >= deadline
            }
            None => self.is_drained(),
        }
    }
}

fn writer(process: &str, generation: Generation) -> WriterId {
    WriterId(format!("{process}-{}", generation.0))
}
