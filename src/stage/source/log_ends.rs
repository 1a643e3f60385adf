//! Where logs end, and where a consumer stands: librdkafka knows, its Rust wrapper does not ask.
//!
//! A log has two ends. The high watermark lies after the newest record that is replicated. The last
//! stable offset lies at the first record of the oldest transaction that is still open, and is what
//! a reader of committed messages takes for the end.

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::time::Duration;
use tagstream_core::events::Offset;

/// Which of a log's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogEnd {
    /// The high watermark.
    High,
    /// The last stable offset.
    Stable,
}

/// Where a consumer stands in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The offset after what was passed last: a message, or a transaction's marker, which nobody
    /// gets to see. `None` before anything was passed.
    pub offset: Option<Offset>,
    /// The high watermark as the last answer to a fetch told it.
    pub high: Offset,
}

/// Where a log ends, and under which leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndOfLog {
    /// The offset.
    pub offset: Offset,
    /// The epoch of the partition's leader now; `None` where the broker does not tell.
    pub leader_epoch: Option<i32>,
}

fn failed(code: RDKafkaErrorCode) -> KafkaError {
    KafkaError::MetadataFetch(code)
}

/// The ends of `partitions` of `topic`. Blocks.
///
/// # Errors
/// The first refusal, or a time-out.
pub(super) fn log_ends<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    end: LogEnd,
    timeout: Duration,
) -> Result<BTreeMap<i32, EndOfLog>, KafkaError> {
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        asked.add_partition_offset(topic, *partition, KafkaOffset::End)?;
    }
    let isolation = match end {
        LogEnd::High => rd::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
        LogEnd::Stable => rd::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
    };
    let milliseconds = timeout.as_millis().min(i32::MAX as u128) as i32;
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as the borrow of its consumer; every object made here is
    // destroyed below, after its last use; what an event owns is only read before the event is
    // destroyed.
    unsafe {
        let queue = rd::rd_kafka_queue_new(client);
        let options = rd::rd_kafka_AdminOptions_new(
            client,
            rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
        );
        let refused = rd::rd_kafka_AdminOptions_set_isolation_level(options, isolation);
        if !refused.is_null() {
            rd::rd_kafka_error_destroy(refused);
        }
        rd::rd_kafka_AdminOptions_set_request_timeout(
            options,
            milliseconds,
            std::ptr::null_mut(),
            0,
        );
        rd::rd_kafka_ListOffsets(client, asked.ptr(), options, queue);
        let event = rd::rd_kafka_queue_poll(queue, milliseconds);
        let answer = if event.is_null() {
            Err(RDKafkaErrorCode::OperationTimedOut)
        } else {
            let answer = listed(event);
            rd::rd_kafka_event_destroy(event);
            answer
        };
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_queue_destroy(queue);
        answer.map_err(failed)
    }
}

/// # Safety
/// `event` must be a live event.
unsafe fn listed(
    event: *mut rd::rd_kafka_event_t,
) -> Result<BTreeMap<i32, EndOfLog>, RDKafkaErrorCode> {
    let none = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: `event` is live; the result and what it lists belong to it and are copied before it
    // is destroyed.
    unsafe {
        let code = rd::rd_kafka_event_error(event);
        if code != none {
            return Err(code.into());
        }
        let result = rd::rd_kafka_event_ListOffsets_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let infos = rd::rd_kafka_ListOffsets_result_infos(result, &mut count);
        let mut ends = BTreeMap::new();
        for i in 0..count {
            let partition = rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(i));
            if (*partition).err != none {
                return Err((*partition).err.into());
            }
            let leader_epoch = rd::rd_kafka_topic_partition_get_leader_epoch(partition);
            let end = EndOfLog {
                offset: Offset((*partition).offset),
                leader_epoch: (leader_epoch >= 0).then_some(leader_epoch),
            };
            ends.insert((*partition).partition, end);
        }
        Ok(ends)
    }
}

/// Where `consumer` stands in `partition`.
pub(super) fn position<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Position {
    let mut asked = TopicPartitionList::with_capacity(1);
    asked.add_partition(topic, partition);
    let name = CString::new(topic).expect("a topic's name has no zero byte");
    let client = consumer.client().native_ptr();
    let (mut low, mut high) = (0, 0);
    // SAFETY: the client lives as long as the borrow of its consumer, list and name until the end
    // of this function; both calls only read what the client holds.
    unsafe {
        rd::rd_kafka_position(client, asked.ptr());
        rd::rd_kafka_get_watermark_offsets(client, name.as_ptr(), partition, &mut low, &mut high);
    }
    let offset = match asked.elements().first().map(|e| e.offset()) {
        Some(KafkaOffset::Offset(offset)) => Some(Offset(offset)),
        _ => None,
    };
    Position {
        offset,
        high: Offset(high),
    }
}
