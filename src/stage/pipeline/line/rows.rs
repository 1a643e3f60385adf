//! A message on its way to a row.

use super::{Driver, LineError, Owned, Pending, StageStatus, Task};
use crate::stage::guard::LifeGuard;
use crate::stage::ledger::Finished;
use crate::stage::row_maker::{Leave, RowMaker, RowOutcome};
use crate::stage::sink::dead_letter_topic;
use crate::stage::sink::dead_letter_topic::{RecordsRefused, letters_of};
use crate::stage::sink::outgoing::Outgoing;
use crate::stage::sink::table::TableRow;
use crate::stage::source::SourceMessage;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tagstream_core::events::DeadLetterKind;

impl<M: RowMaker> Driver<M> {
    /// Takes note of a message that was read.
    pub(super) fn start_row(&mut self, pending: Pending) -> Result<(), LineError> {
        let message = &pending.message;
        let Some(owned) = self
            .owned
            .get_mut(&message.partition)
            .filter(|o| o.generation == pending.generation)
        else {
            return Ok(());
        };
        // Another writer's file covers it: if that is of the same log.
        let covered = message.offset < owned.end;
        if covered
            && owned
                .lineage
                .is_of_another_log(message.offset, message.leader_epoch)
        {
            return Err(LineError::OtherLog(message.partition.clone()));
        }
        let admitted = |o: &mut Owned<M::Row>| o.ledger.admit(message.offset, message.leader_epoch);
        if self.drain_until.is_some() || !admitted(owned) {
            return Ok(());
        }
        owned.note_progress();
        self.line.status.messages.fetch_add(1, Ordering::Relaxed);
        let topic = message.partition.topic.to_string();
        metrics::counter!("tagstream_messages_total", "topic" => topic).increment(1);
        self.take(pending);
        Ok(())
    }

    /// Starts the making of a message's row; with a `guard` it is the only one.
    pub(super) fn make(&mut self, pending: Pending, guard: Option<Arc<LifeGuard>>) {
        let Pending {
            generation,
            message,
            reservation,
            place,
        } = pending;
        let owned = self.owned.get(&message.partition);
        // Nobody waits for what was given up.
        let leave = owned.map_or_else(Leave::now, |owned| Leave::new(owned.leave.subscribe()));
        let watch = owned.and_then(|owned| owned.watch.as_ref());
        let poison = watch.and_then(|watch| watch.verdict(message.offset));
        let is_suspect = watch.is_some_and(|watch| watch.is_suspect(message.offset));
        let alone = guard.is_some();
        let maker = Arc::clone(&self.line.maker);
        let status = Arc::clone(&self.line.status);
        let dead_letters = Arc::clone(&self.line.settings.dead_letter_topic);
        let topics = Arc::clone(&self.line.topics);
        self.tasks.spawn(async move {
            let made = match (poison, guard) {
                (Some(reason), _) => {
                    let kind = DeadLetterKind::Poison;
                    maker.gave_up(&message, kind, &reason);
                    RowOutcome::DeadLetter { kind, reason }
                }
                (None, Some(guard)) => {
                    let work = maker.make(&message, &leave);
                    guard.alone(message.offset, is_suspect, work).await?
                }
                (None, None) => maker.make(&message, &leave).await?,
            };
            let Some((rows, letters)) = rows_and_letters(made) else {
                return Ok(Task::Left {
                    partition: message.partition,
                    generation,
                    offset: message.offset,
                    alone,
                });
            };
            let (mut finished, mut held) = (nothing(), 0);
            for (row, prediction) in rows {
                let prediction = prediction.map(|message| topics.prepared(message));
                held += row.bytes() + prediction.as_ref().map_or(0, Outgoing::held_bytes);
                finished.rows.push(row);
                finished.predictions.extend(prediction);
            }
            for refused in &letters {
                count_dead_letter(&status, &message, refused);
                let letter = dead_letter_topic::message(&dead_letters, &message, refused);
                finished.dead_letters.push(topics.prepared(letter));
            }
            if !letters.is_empty() {
                // They share its bytes.
                held += message.bytes();
            }
            let mut reservation = reservation;
            reservation.shrink(held);
            finished.reservation = Some(reservation);
            drop(place);
            Ok(Task::Processed {
                partition: message.partition,
                generation,
                offset: message.offset,
                finished,
                alone,
            })
        });
    }
}

/// Rows, each with what goes to the predictions topic.
type Predicted<R> = Vec<(R, Option<Outgoing>)>;

/// Rows with their predictions, and what becomes dead letters; `None` for what was given up.
fn rows_and_letters<R>(made: RowOutcome<R>) -> Option<(Predicted<R>, Vec<RecordsRefused>)> {
    Some(match made {
        RowOutcome::Row { row, prediction } => (vec![(row, prediction)], Vec::new()),
        RowOutcome::Records { rows, refused } => (rows, letters_of(refused)),
        RowOutcome::DeadLetter { kind, reason } => {
            let records = Vec::new();
            let whole = RecordsRefused {
                records,
                kind,
                reason,
            };
            (Vec::new(), vec![whole])
        }
        RowOutcome::Nothing => (Vec::new(), Vec::new()),
        RowOutcome::Left => return None,
    })
}

fn nothing<R>() -> Finished<R> {
    Finished {
        rows: Vec::new(),
        predictions: Vec::new(),
        dead_letters: Vec::new(),
        reservation: None,
    }
}

fn count_dead_letter(status: &StageStatus, message: &SourceMessage, refused: &RecordsRefused) {
    let (kind, reason) = (refused.kind, &refused.reason);
    let news = status.dead_letter(kind);
    let topic = message.partition.topic.to_string();
    metrics::counter!(
        "tagstream_dead_letters_total", "topic" => topic, "kind" => kind.as_str()
    )
    .increment(1);
    let (partition, offset) = (&message.partition, message.offset);
    tracing::debug!(%partition, %offset, %kind, reason, "dead letter");
    if let Some(count) = news {
        tracing::warn!(
            %kind,
            count,
            %partition,
            %offset,
            reason,
            "messages become dead letters; this is the newest of its kind"
        );
    }
}
