//! Rights on a real broker: librdkafka can grant and deny them, its Rust wrapper does not ask.

use crate::servers::admin;
use rdkafka::bindings as rd;
use std::ffi::CString;
use std::time::Duration;

/// Denies everybody `operation` on `topic`; `false` if the broker has no rights at all.
pub(crate) fn deny(topic: &str, operation: rd::rd_kafka_AclOperation_t) -> bool {
    let admin = admin();
    let (name, everybody, host) = (
        CString::new(topic).unwrap(),
        CString::new("User:*").unwrap(),
        CString::new("*").unwrap(),
    );
    let wait = Duration::from_secs(30).as_millis() as i32;
    // SAFETY: the client lives to the end; each object is destroyed once, after its last use.
    unsafe {
        let client = admin.inner().native_ptr();
        let none = std::ptr::null_mut();
        let mut acl = rd::rd_kafka_AclBinding_new(
            rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            name.as_ptr(),
            rd::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
            everybody.as_ptr(),
            host.as_ptr(),
            operation,
            rd::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_DENY,
            none,
            0,
        );
        let mut others = rd::rd_kafka_AclBinding_new(
            rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            name.as_ptr(),
            rd::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
            everybody.as_ptr(),
            host.as_ptr(),
            rd::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_ALL,
            rd::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
            none,
            0,
        );
        let queue = rd::rd_kafka_queue_new(client);
        let mut both = [acl, others];
        rd::rd_kafka_CreateAcls(client, both.as_mut_ptr(), 2, std::ptr::null(), queue);
        let event = rd::rd_kafka_queue_poll(queue, wait);
        assert!(!event.is_null(), "no answer");
        let mut count = 0;
        let result = rd::rd_kafka_event_CreateAcls_result(event);
        let results = rd::rd_kafka_CreateAcls_result_acls(result, &mut count);
        let granted = (0..count).all(|i| {
            let error = rd::rd_kafka_acl_result_error(*results.add(i));
            error.is_null()
                || rd::rd_kafka_error_code(error)
                    == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        });
        rd::rd_kafka_event_destroy(event);
        rd::rd_kafka_queue_destroy(queue);
        for acl in [&mut acl, &mut others] {
            rd::rd_kafka_AclBinding_destroy(*acl);
        }
        count == 2 && granted
    }
}
