//! Commits of the group's offsets: a hint for lag tools and for the next owner, so nobody waits
//! long for one. A broker that accepts a connection and says nothing would otherwise hold the
//! polling thread for as long as its socket lives.

use rdkafka::TopicPartitionList;
use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{IsError, KafkaError, KafkaResult, RDKafkaErrorCode};
use std::ptr;
use std::time::{Duration, Instant};

/// A commit that has no answer after this long is not waited for any more.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// A queue of librdkafka's for the answers to commits.
///
/// # Safety
/// It must be dropped before the consumer that it was made for.
pub(super) struct Commits {
    queue: *mut rd::rd_kafka_queue_t,
    asked: Option<Instant>,
}

// SAFETY: librdkafka's queues may be used by any thread, one at a time here.
unsafe impl Send for Commits {}

impl Commits {
    /// # Safety
    /// The result must be dropped before `consumer` is.
    pub(super) unsafe fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Self {
        // SAFETY: the client lives as long as the borrow, and longer than the queue by the
        // caller's promise.
        let queue = unsafe { rd::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Commits { queue, asked: None }
    }

    /// Whether an answer is still to come.
    pub(super) fn is_busy(&self) -> bool {
        self.asked.is_some_and(|at| at.elapsed() < FORGOTTEN)
    }

    /// Sends a commit; [`Self::answer`] brings what comes of it.
    pub(super) fn send<C: ConsumerContext>(
        &mut self,
        consumer: &BaseConsumer<C>,
        list: &TopicPartitionList,
    ) -> KafkaResult<()> {
        // SAFETY: client, list and queue are live; librdkafka copies the list.
        let code = unsafe {
            rd::rd_kafka_commit_queue(
                consumer.client().native_ptr(),
                list.ptr(),
                self.queue,
                None,
                ptr::null_mut(),
            )
        };
        if code.is_error() {
            return Err(KafkaError::ConsumerCommit(code.into()));
        }
        self.asked = Some(Instant::now());
        Ok(())
    }

    /// The answer to a commit, if one comes within `limit`.
    pub(super) fn answer(&mut self, limit: Duration) -> Option<KafkaResult<()>> {
        self.asked?;
        let limit = limit.as_millis().min(i32::MAX as u128) as i32;
        // SAFETY: the queue is live, and the event is destroyed after its last use.
        let code = unsafe {
            let event = rd::rd_kafka_queue_poll(self.queue, limit);
            if event.is_null() {
                return None;
            }
            let code = rd::rd_kafka_event_error(event);
            rd::rd_kafka_event_destroy(event);
            code
        };
        self.asked = None;
        Some(match code.is_error() {
            true => Err(KafkaError::ConsumerCommit(code.into())),
            false => Ok(()),
        })
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        // SAFETY: made by `of`, destroyed once; answers that come later are thrown away by
        // librdkafka.
        unsafe { rd::rd_kafka_queue_destroy(self.queue) }
    }
}

/// Commits and waits for the answer, at most `limit`.
pub(super) fn commit_within<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
    limit: Duration,
) -> KafkaResult<()> {
    // SAFETY: dropped at the end of this function, which borrows the consumer.
    let mut commits = unsafe { Commits::of(consumer) };
    commits.send(consumer, list)?;
    let late = KafkaError::ConsumerCommit(RDKafkaErrorCode::OperationTimedOut);
    commits.answer(limit).unwrap_or(Err(late))
}
