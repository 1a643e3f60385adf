//! The topic's id: what tells a topic from one of the same name created later. librdkafka knows it,
//! its Rust wrapper does not ask.

use rdkafka::bindings as rd;
use std::ffi::{CStr, CString};
use std::time::Duration;

/// The broker did not answer, or does not know the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoAnswer;

/// The id of `topic` (base64), or `None` where the broker knows no ids (before Kafka 3.1).
///
/// # Safety
/// `client` must be a live librdkafka handle for the whole call.
pub(super) unsafe fn topic_id(
    client: *mut rd::rd_kafka_t,
    topic: &str,
    timeout: Duration,
) -> Result<Option<String>, NoAnswer> {
    let name = CString::new(topic).map_err(|_| NoAnswer)?;
    let milliseconds = timeout.as_millis().min(i32::MAX as u128) as i32;
    // SAFETY: `client` is live (the caller's promise); every object made here is destroyed below,
    // after its last use; what an event owns is only read before the event is destroyed.
    unsafe {
        let queue = rd::rd_kafka_queue_new(client);
        let options = rd::rd_kafka_AdminOptions_new(
            client,
            rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        rd::rd_kafka_AdminOptions_set_request_timeout(
            options,
            milliseconds,
            std::ptr::null_mut(),
            0,
        );
        let mut names = [name.as_ptr()];
        let topics = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        rd::rd_kafka_DescribeTopics(client, topics, options, queue);
        let event = rd::rd_kafka_queue_poll(queue, milliseconds);
        let id = (!event.is_null())
            .then(|| described_id(event))
            .flatten()
            .ok_or(NoAnswer);
        if !event.is_null() {
            rd::rd_kafka_event_destroy(event);
        }
        rd::rd_kafka_TopicCollection_destroy(topics);
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_queue_destroy(queue);
        id
    }
}

/// `None` without a description.
///
/// # Safety
/// `event` must be a live event.
unsafe fn described_id(event: *mut rd::rd_kafka_event_t) -> Option<Option<String>> {
    // SAFETY: `event` is live; the result, the descriptions and the strings belong to it and are
    // copied before it is destroyed.
    unsafe {
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return None;
        }
        let mut count = 0;
        let descriptions = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count != 1 || descriptions.is_null() {
            return None;
        }
        let error = rd::rd_kafka_TopicDescription_error(*descriptions);
        if !error.is_null()
            && rd::rd_kafka_error_code(error) != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return None;
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(*descriptions);
        if id.is_null() {
            return None;
        }
        let text = rd::rd_kafka_Uuid_base64str(id);
        if text.is_null() {
            return None;
        }
        let text = CStr::from_ptr(text).to_str().ok()?;
        // All zeros: the broker does not know ids.
        let known = !text.is_empty() && text.bytes().any(|b| b != b'A');
        Some(known.then(|| text.to_owned()))
    }
}
