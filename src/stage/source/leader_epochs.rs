//! Leader epochs of messages and positions: librdkafka knows them, its Rust wrapper does not ask.

use rdkafka::TopicPartitionList;
use rdkafka::bindings as rd;
use rdkafka::message::BorrowedMessage;
use std::ffi::CString;

/// The epoch of the leader that took `message`; `None` in formats of before Kafka 0.11.
pub(super) fn leader_epoch(message: &BorrowedMessage<'_>) -> Option<i32> {
    // SAFETY: the message lives as long as the borrow; the call only reads it.
    let epoch = unsafe { rd::rd_kafka_message_leader_epoch(message.ptr()) };
    (epoch >= 0).then_some(epoch)
}

/// Adds a leader epoch to an element of a list: to an assigned partition, so that librdkafka
/// notices when the log was truncated, or to a committed offset.
pub(super) fn set_leader_epoch(
    list: &mut TopicPartitionList,
    topic: &str,
    partition: i32,
    leader_epoch: Option<i32>,
) {
    let (Some(epoch), Ok(topic)) = (leader_epoch, CString::new(topic)) else {
        return;
    };
    // SAFETY: the list lives as long as the borrow, the name until the end of this function; the
    // element belongs to the list.
    unsafe {
        let element = rd::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition);
        if !element.is_null() {
            rd::rd_kafka_topic_partition_set_leader_epoch(element, epoch);
        }
    }
}
