//! What follows from each way in which a message is refused.
//!
//! librdkafka tries again by itself what it can, for `kafka.message_timeout_ms`; what it hands back
//! is judged here, by its code alone.

use rdkafka::error::RDKafkaErrorCode as Code;

/// What a refusal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProduceVerdict {
    /// The message, or the batch that it was part of, is too large for its topic.
    TooLarge,
    /// It passes by itself, or with a new process.
    Passes,
    /// The topic or the partition is not there: passes if it is just being created.
    Missing,
    /// It stays until somebody does something.
    ForGood(Remedy),
}

/// What somebody has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Grant a right.
    Allow,
    /// Correct the credentials.
    Credentials,
    /// Change what the topic takes.
    TopicRules,
    /// Change the client's settings, or the brokers' version.
    Client,
}

impl Remedy {
    /// The remedy in words.
    pub fn words(self) -> &'static str {
        match self {
            Remedy::Allow => {
                "grant Write and Describe on it (and, before Kafka 3.0, IdempotentWrite on the \
                 cluster) to this stage's user, then start again"
            }
            Remedy::Credentials => {
                "correct the user and the password or certificate under `kafka.properties`, then \
                 start again"
            }
            Remedy::TopicRules => {
                "the broker's rules for this topic (compaction, timestamps, schema validation, \
                 policies) forbid the message: change them (kafka-configs.sh) or name another \
                 topic, then start again"
            }
            Remedy::Client => {
                "the brokers do not take messages as this client sends them: look at \
                 `kafka.properties` (compression.type, acks) and at the brokers' version and the \
                 topic's message format, then start again"
            }
        }
    }
}

/// What a refusal with `code` means. A code that no broker answers to a message counts as one that
/// passes: a new process starts from what is in files.
pub fn verdict(code: Code) -> ProduceVerdict {
    match code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => {
            ProduceVerdict::TooLarge
        }
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId => ProduceVerdict::Missing,
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::DelegationTokenAuthorizationFailed => ProduceVerdict::ForGood(Remedy::Allow),
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::DelegationTokenAuthDisabled
        | Code::DelegationTokenNotFound
        | Code::DelegationTokenOwnerMismatch
        | Code::DelegationTokenRequestNotAllowed
        | Code::DelegationTokenExpired
        | Code::InvalidPrincipalType
        | Code::UnacceptableCredential => ProduceVerdict::ForGood(Remedy::Credentials),
        Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::PolicyViolation
        | Code::InvalidTopic
        | Code::InvalidConfig => ProduceVerdict::ForGood(Remedy::TopicRules),
        Code::InvalidRequiredAcks
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::BadCompression
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::NotImplemented
        | Code::InvalidArgument
        | Code::InvalidRequest
        | Code::KeySerialization
        | Code::ValueSerialization => ProduceVerdict::ForGood(Remedy::Client),
        _ => ProduceVerdict::Passes,
    }
}

/// Whether the same client may send the message again: a code that passes, and that does not say
/// that the client has tried for its whole time or is of no use any more.
pub fn may_be_sent_again(code: Code) -> bool {
    let over = matches!(
        code,
        Code::MessageTimedOut | Code::Fatal | Code::BrokerDestroy | Code::GaplessGuarantee
    );
    !over
        && matches!(
            verdict(code),
            ProduceVerdict::Passes | ProduceVerdict::Missing
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::bindings::{rd_kafka_err_desc, rd_kafka_get_err_descs};
    use std::collections::BTreeSet;

    /// Every code that librdkafka lists, by its name in the C library.
    fn listed() -> Vec<(rdkafka::types::RDKafkaRespErr, String)> {
        let (mut first, mut count) = (std::ptr::null::<rd_kafka_err_desc>(), 0);
        // SAFETY: librdkafka gives a static table and its length; entries without a name are the
        // gaps between codes.
        unsafe {
            rd_kafka_get_err_descs(&mut first, &mut count);
            let table = std::slice::from_raw_parts(first, count);
            let named = table.iter().filter(|entry| !entry.name.is_null());
            named
                .map(|entry| {
                    let name = std::ffi::CStr::from_ptr(entry.name);
                    (entry.code, name.to_string_lossy().into_owned())
                })
                .collect()
        }
    }

    const TOO_LARGE: &str = "INVALID_MSG_SIZE MSG_SIZE_TOO_LARGE RECORD_LIST_TOO_LARGE";
    const MISSING: &str =
        "_UNKNOWN_PARTITION _UNKNOWN_TOPIC UNKNOWN_TOPIC_OR_PART UNKNOWN_TOPIC_ID";
    const ALLOW: &str = "TOPIC_AUTHORIZATION_FAILED GROUP_AUTHORIZATION_FAILED \
        CLUSTER_AUTHORIZATION_FAILED TRANSACTIONAL_ID_AUTHORIZATION_FAILED \
        DELEGATION_TOKEN_AUTHORIZATION_FAILED";
    const CREDENTIALS: &str = "_AUTHENTICATION UNSUPPORTED_SASL_MECHANISM ILLEGAL_SASL_STATE \
        SECURITY_DISABLED SASL_AUTHENTICATION_FAILED DELEGATION_TOKEN_AUTH_DISABLED \
        DELEGATION_TOKEN_NOT_FOUND DELEGATION_TOKEN_OWNER_MISMATCH \
        DELEGATION_TOKEN_REQUEST_NOT_ALLOWED DELEGATION_TOKEN_EXPIRED INVALID_PRINCIPAL_TYPE \
        UNACCEPTABLE_CREDENTIAL";
    const TOPIC_RULES: &str =
        "TOPIC_EXCEPTION INVALID_TIMESTAMP INVALID_CONFIG POLICY_VIOLATION INVALID_RECORD";
    const CLIENT: &str = "_BAD_COMPRESSION _INVALID_ARG _NOT_IMPLEMENTED _UNSUPPORTED_FEATURE \
        _KEY_SERIALIZATION _VALUE_SERIALIZATION INVALID_REQUIRED_ACKS UNSUPPORTED_VERSION \
        INVALID_REQUEST UNSUPPORTED_FOR_MESSAGE_FORMAT UNSUPPORTED_COMPRESSION_TYPE";
    /// What a broker answers to messages, or the client says of them, and that passes.
    const PASSES: &str = "UNKNOWN INVALID_MSG LEADER_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION \
        REQUEST_TIMED_OUT BROKER_NOT_AVAILABLE REPLICA_NOT_AVAILABLE NETWORK_EXCEPTION \
        NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND OUT_OF_ORDER_SEQUENCE_NUMBER \
        DUPLICATE_SEQUENCE_NUMBER INVALID_PRODUCER_EPOCH UNKNOWN_PRODUCER_ID \
        KAFKA_STORAGE_ERROR FENCED_LEADER_EPOCH UNKNOWN_LEADER_EPOCH THROTTLING_QUOTA_EXCEEDED \
        COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR NOT_CONTROLLER \
        REBOOTSTRAP_REQUIRED PRODUCER_FENCED _TRANSPORT _RESOLVE _MSG_TIMED_OUT _TIMED_OUT \
        _TIMED_OUT_QUEUE _ALL_BROKERS_DOWN _ISR_INSUFF _SSL _PURGE_QUEUE _PURGE_INFLIGHT _RETRY \
        _FATAL _GAPLESS_GUARANTEE _INCONSISTENT _INVALID_DIFFERENT_RECORD _DESTROY \
        _DESTROY_BROKER _BAD_MSG _FAIL _CRIT_SYS_RESOURCE _QUEUE_FULL _STATE _INTR _WAIT_COORD";

    #[test]
    fn every_code_of_librdkafka_has_its_verdict() {
        let classes = [
            (TOO_LARGE, ProduceVerdict::TooLarge),
            (MISSING, ProduceVerdict::Missing),
            (ALLOW, ProduceVerdict::ForGood(Remedy::Allow)),
            (CREDENTIALS, ProduceVerdict::ForGood(Remedy::Credentials)),
            (TOPIC_RULES, ProduceVerdict::ForGood(Remedy::TopicRules)),
            (CLIENT, ProduceVerdict::ForGood(Remedy::Client)),
            (PASSES, ProduceVerdict::Passes),
        ];
        let mut unseen: BTreeSet<&str> = classes
            .iter()
            .flat_map(|(names, _)| names.split_whitespace())
            .collect();
        let listed = listed();
        assert!(listed.len() > 150, "{} codes", listed.len());
        for (code, name) in &listed {
            let named = |names: &str| names.split_whitespace().any(|n| n == name);
            let expected = classes.iter().find(|(names, _)| named(names));
            unseen.remove(name.as_str());
            // What speaks of groups, of reading or of administration is no answer to a message.
            let expected = expected.map_or(ProduceVerdict::Passes, |(_, verdict)| *verdict);
            assert_eq!(verdict((*code).into()), expected, "{name}");
        }
        assert!(unseen.is_empty(), "librdkafka lists no {unseen:?}");
    }

    #[test]
    fn what_the_client_gave_up_is_not_sent_again_by_it() {
        for code in [Code::MessageTimedOut, Code::Fatal, Code::InvalidRecord] {
            assert!(!may_be_sent_again(code), "{code}");
        }
        for code in [
            Code::InvalidDifferentRecord,
            Code::NotEnoughReplicas,
            Code::UnknownTopic,
        ] {
            assert!(may_be_sent_again(code), "{code}");
        }
    }
}
