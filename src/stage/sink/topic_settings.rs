//! A topic's settings, asked of the brokers through a client that is there. (The Rust wrapper's
//! client for administrators is one more connection, and ends its queue after its client.)

use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::time::Duration;

/// Why the settings are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Untold {
    /// The brokers refuse to tell.
    #[error("{0}")]
    Refused(RDKafkaErrorCode),
    /// They did not answer.
    #[error("no answer")]
    NoAnswer,
}

/// The settings of `topic`. Blocks.
///
/// # Safety
/// `client` must be a live librdkafka handle for the whole call.
pub(super) unsafe fn topic_settings(
    client: *mut rd::rd_kafka_t,
    topic: &str,
    timeout: Duration,
) -> Result<BTreeMap<String, String>, Untold> {
    let name = CString::new(topic).map_err(|_| Untold::NoAnswer)?;
    let milliseconds = timeout.as_millis().min(i32::MAX as u128) as i32;
    // SAFETY: `client` is live (the caller's promise); every object made here is destroyed below,
    // after its last use; what an event owns is only read before the event is destroyed.
    unsafe {
        let queue = rd::rd_kafka_queue_new(client);
        let options = rd::rd_kafka_AdminOptions_new(
            client,
            rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS,
        );
        rd::rd_kafka_AdminOptions_set_request_timeout(options, milliseconds, ptr::null_mut(), 0);
        let kind = rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        let mut resources = [rd::rd_kafka_ConfigResource_new(kind, name.as_ptr())];
        rd::rd_kafka_DescribeConfigs(client, resources.as_mut_ptr(), 1, options, queue);
        let event = rd::rd_kafka_queue_poll(queue, milliseconds);
        let told = match event.is_null() {
            true => Err(Untold::NoAnswer),
            false => described(event),
        };
        if !event.is_null() {
            rd::rd_kafka_event_destroy(event);
        }
        rd::rd_kafka_ConfigResource_destroy(resources[0]);
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_queue_destroy(queue);
        told
    }
}

/// What an answer says.
///
/// # Safety
/// `event` must be a live event.
unsafe fn described(event: *mut rd::rd_kafka_event_t) -> Result<BTreeMap<String, String>, Untold> {
    let judged = |code: rd::rd_kafka_resp_err_t| match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(Untold::Refused(code)),
    };
    // SAFETY: `event` is live; the result, the resources and the strings belong to it and are
    // copied before it is destroyed.
    unsafe {
        judged(rd::rd_kafka_event_error(event))?;
        let result = rd::rd_kafka_event_DescribeConfigs_result(event);
        if result.is_null() {
            return Err(Untold::NoAnswer);
        }
        let mut count = 0;
        let resources = rd::rd_kafka_DescribeConfigs_result_resources(result, &mut count);
        if count != 1 || resources.is_null() {
            return Err(Untold::NoAnswer);
        }
        judged(rd::rd_kafka_ConfigResource_error(*resources))?;
        let entries = rd::rd_kafka_ConfigResource_configs(*resources, &mut count);
        let text = |text: *const c_char| {
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        let entry = |index: usize| {
            let entry = *entries.add(index);
            let name = text(rd::rd_kafka_ConfigEntry_name(entry))?;
            Some((name, text(rd::rd_kafka_ConfigEntry_value(entry))?))
        };
        Ok((0..count).filter_map(entry).collect())
    }
}
