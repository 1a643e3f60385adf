//! Partitions come and go: where they start, how they are given up, how the line leaves the group.

use super::{Driver, LEAVE, Revocation, Task, writer};
use crate::stage::ledger::Ledger;
use crate::stage::pipeline::lives::{PartitionWatch, Watching};
use crate::stage::pipeline::owned::Owned;
use crate::stage::pipeline::{LineError, StageStatus};
use crate::stage::row_maker::RowMaker;
use crate::stage::sink::broken::{BrokenChain, Resumed};
use crate::stage::sink::files::Fence;
use crate::stage::sink::log_facts::LogFacts;
use crate::stage::source;
use crate::stage::source::{Generation, OffsetCommit, SourceCommand, SourceEvent, StartPosition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::failpoint;
use tagstream_core::process::blocking;
use tokio::sync::watch;
use tokio::time::Instant;

impl<M: RowMaker> Driver<M> {
    pub(super) fn resume(
        &mut self,
        generation: Generation,
        partitions: Vec<PartitionId>,
        reply: SyncSender<Vec<StartPosition>>,
    ) {
        let restored = self.line.settings.restored.clone();
        let (sink, start) = (self.line.sink.clone(), self.line.settings.start.clone());
        let process = Arc::clone(&self.line.settings.process);
        let logs = Arc::clone(&self.line.logs);
        let watching = Watching {
            lives: self.line.settings.lives.clone(),
            places: 2 * self.line.maker.places() as i64,
            max_age: self.line.settings.rules.max_age,
        };
        self.tasks.spawn(async move {
            let asked_of = Arc::clone(&logs);
            let asked = blocking::run(move || {
                let ask = |partition: PartitionId| {
                    Ok::<_, LineError>((asked_of.facts(&partition)?, partition))
                };
                partitions
                    .into_iter()
                    .map(ask)
                    .collect::<Result<Vec<_>, _>>()
            });
            let facts = asked.await.map_err(LineError::Panicked)??;
            let chains = facts.into_iter().map(|(log, partition)| {
                let writer = writer(&process, generation);
                let (sink, start) = (&sink, &start);
                async move {
                    let resumed = sink.resume(&partition, &writer, &log, start).await?;
                    Ok::<_, LineError>((partition, log, resumed))
                }
            });
            let chains = futures::future::try_join_all(chains).await?;
            let compared = blocking::run(move || {
                let compare = |(partition, log, resumed): (PartitionId, LogFacts, Resumed)| {
                    let (log, resumed) = source::compared(&*logs, &partition, log, resumed)?;
                    let resumed = restore(&partition, resumed, &restored).unbroken(&partition)?;
                    Ok::<_, LineError>((partition, log, resumed))
                };
                chains.into_iter().map(compare).collect::<Result<_, _>>()
            });
            let chains: Vec<_> = compared.await.map_err(LineError::Panicked)??;
            let watched = chains.into_iter().map(|(partition, log, resumed)| {
                let writer = writer(&process, generation);
                let (sink, watching) = (&sink, &watching);
                async move {
                    let chain = &resumed.chain;
                    let watch = watching.begin(sink, &partition, chain, &writer, log.high);
                    let watch = watch.await;
                    (partition, log, resumed, watch)
                }
            });
            Ok(Task::Resumed {
                generation,
                chains: futures::future::join_all(watched).await,
                reply,
            })
        });
    }

    pub(super) fn on_resumed(
        &mut self,
        generation: Generation,
        chains: Vec<(PartitionId, LogFacts, Resumed, Option<PartitionWatch>)>,
        reply: &SyncSender<Vec<StartPosition>>,
    ) {
        let mut starts = Vec::with_capacity(chains.len());
        for (partition, log, resumed, watch) in chains {
            let hint = resumed.hint();
            let chain = resumed.chain;
            tracing::info!(
                %partition, epoch = %chain.epoch, start = %chain.end, log_end = %log.high,
                "partition assigned"
            );
            let starts_at = chain.end;
            let leader_epoch = chain.lineage.leader_epoch();
            starts.push(StartPosition {
                partition: partition.clone(),
                offset: starts_at,
                leader_epoch,
            });
            let committed = log.committed.as_ref().map(|c| c.offset);
            // A commit that never left, or that somebody moved: lag tools must not show what is in
            // files.
            let due = match committed {
                Some(committed) => committed != starts_at,
                None => hint.is_some(),
            };
            let commit = due.then(|| OffsetCommit {
                partition: partition.clone(),
                offset: starts_at,
                hint,
                leader_epoch,
            });
            if let Some(commit) = &commit {
                self.source.command(SourceCommand::Commit(commit.clone()));
            }
            let until = self.line.settings.until.as_ref();
            // What is written while a run reads to the end is not waited for.
            let log_end = until
                .and_then(|u| u.get(&partition))
                .map_or(log.high, |start| start.high);
            self.line.status.owns(&partition, starts_at);
            let mut rules = self.line.settings.rules;
            if let Some(watch) = &watch {
                rules.max_age = watch.max_age(rules.max_age);
            }
            let mut owned = Owned {
                generation,
                lineage: chain.lineage.clone(),
                ledger: Ledger::new(starts_at, rules, self.line.settings.predictions_order),
                chain: Some(chain),
                writer: writer(&self.line.settings.process, generation),
                fence: Fence::default(),
                watch,
                end: starts_at,
                log_end,
                read_to_end: false,
                leave: watch::Sender::new(false),
                committed: commit,
            };
            owned.note_progress();
            self.owned.insert(partition, owned);
        }
        self.line.maker.share_among(self.owned.len());
        self.assigned_once = true;
        self.line.status.report(StageStatus::ASSIGNED, None);
        // A consumer that waits no longer has said why.
        let _ = reply.send(starts);
    }

    pub(super) fn revoke(
        &mut self,
        partitions: Vec<PartitionId>,
        lost: bool,
        reply: SyncSender<Vec<OffsetCommit>>,
    ) {
        tracing::info!(?partitions, lost, "partitions revoked");
        if lost {
            let (guards, lives) = (self.guards(&partitions), self.line.settings.lives.clone());
            tokio::spawn(async move { lives.end(&guards).await });
            for partition in &partitions {
                self.give_up(partition);
            }
            let _ = reply.send(Vec::new());
            return;
        }
        for partition in &partitions {
            if let Some(owned) = self.owned.get(partition) {
                owned.ask_to_leave();
            }
        }
        self.revocation = Some(Revocation {
            partitions,
            reply,
            deadline: Instant::now() + self.line.settings.revoke_timeout,
        });
    }

    pub(super) fn give_up(&mut self, partition: &PartitionId) {
        if let Some(owned) = self.owned.remove(partition) {
            owned.fence.kill();
            self.line.maker.share_among(self.owned.len());
        }
        self.drop_pending(partition);
        self.line.status.gave_up(partition);
    }

    pub(super) fn commits(&self, partitions: &[PartitionId]) -> Vec<OffsetCommit> {
        let of = |partition: &PartitionId| self.owned.get(partition)?.committed.clone();
        partitions.iter().filter_map(of).collect()
    }

    /// Leaves the group. On success with the last offsets committed.
    pub(super) async fn shut_down(mut self, orderly: bool) {
        let partitions: Vec<PartitionId> = self.owned.keys().cloned().collect();
        let commits = if orderly {
            self.commits(&partitions)
        } else {
            Vec::new()
        };
        for partition in &partitions {
            self.give_up(partition);
        }
        self.line.settings.lives.end_all().await;
        // A revocation that waits for us must not keep the consumer from leaving, nor an
        // assignment whose partitions a store that hangs keeps from starting.
        self.revocation = None;
        self.tasks.abort_all();
        self.source.command(SourceCommand::Stop(commits));
        let left = async {
            while let Some(event) = self.source.events.recv().await {
                match event {
                    SourceEvent::Stopped => break,
                    SourceEvent::OffsetsCommitted => {
                        // Only a kill, a stop or a hang matters here: an error has nothing left to
                        // end.
                        let _ = failpoint::pass("offset.commit.after").await;
                    }
                    // The reply is dropped, and the consumer goes on leaving.
                    _ => {}
                }
            }
        };
        if tokio::time::timeout(LEAVE, left).await.is_err() {
            tracing::warn!(
                "the consumer did not leave the group in time; the group notices when its session \
                 ends"
            );
        }
    }
}

/// Goes on where the files end if an operator said so of this end, wherever the group's offset was
/// moved to.
fn restore(
    partition: &PartitionId,
    mut resumed: Resumed,
    restored: &BTreeMap<PartitionId, Offset>,
) -> Resumed {
    let end = resumed.chain.end;
    let moved = matches!(resumed.broken, Some(BrokenChain::OffsetMoved { .. }));
    if moved && restored.get(partition) == Some(&end) {
        tracing::warn!(%partition, %end, "the group's offset is put back to the end of the files");
        resumed.broken = None;
    }
    resumed
}
