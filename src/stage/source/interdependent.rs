//! Properties that librdkafka refuses in combination. Where the user set one of two, the other
//! follows: nobody is to be told of a property that they never set.
//!
//! The rules are those of `rd_kafka_conf_finalize` in `rdkafka_conf.c`.

use rdkafka::ClientConfig;

/// librdkafka's defaults, its least `message.max.bytes`, and what it wants between a fetch and the
/// answer that brings it.
const MESSAGE_BYTES: i64 = 1_000_000;
const LEAST_MESSAGE_BYTES: i64 = 1_000;
const FETCH_BYTES: i64 = 50 << 20;
const ANSWER_FRAME: i64 = 512;
const SESSION_MS: i64 = 45_000;
const POLL_INTERVAL_MS: i64 = 300_000;
const BACKOFF_MS: i64 = 100;
const BACKOFF_MOST_MS: i64 = 10_000;

/// Settings in the making, and which of them the user chose.
pub(super) struct Interdependent<'a> {
    pub config: &'a mut ClientConfig,
    pub users: &'a dyn Fn(&str) -> bool,
}

impl Interdependent<'_> {
    /// Lets properties that the user did not set follow those that they set.
    pub(super) fn follow(&mut self) {
        if self.config.get("group.id").is_some() {
            self.sizes();
            self.times();
        }
        self.backoff();
        self.linger();
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.config.get(key)?.parse().ok()
    }

    fn is_users(&self, key: &str) -> bool {
        (self.users)(key)
    }

    fn set(&mut self, key: &str, value: i64) {
        if self.number(key) != Some(value) {
            self.config.set(key, value.to_string());
        }
    }

    /// `message.max.bytes` <= `fetch.max.bytes` <= `receive.message.max.bytes` - 512.
    fn sizes(&mut self) {
        const MESSAGE: &str = "message.max.bytes";
        const FETCH: &str = "fetch.max.bytes";
        const RECEIVE: &str = "receive.message.max.bytes";
        let answer = self.number(RECEIVE).map(|most| most - ANSWER_FRAME);
        let mut message = self.number(MESSAGE).unwrap_or(MESSAGE_BYTES);
        if !self.is_users(MESSAGE) {
            let fetch = self.number(FETCH).filter(|_| self.is_users(FETCH));
            let most = fetch.into_iter().chain(answer).min().unwrap_or(message);
            let follows = message.min(most).max(LEAST_MESSAGE_BYTES);
            if follows != message {
                self.set(MESSAGE, follows);
                message = follows;
            }
        }
        // Without either librdkafka finds them by itself.
        if !self.is_users(FETCH) && (self.number(FETCH).is_some() || answer.is_some()) {
            let fetch = self.number(FETCH).unwrap_or(FETCH_BYTES);
            self.set(FETCH, fetch.min(answer.unwrap_or(fetch)).max(message));
        }
    }

    /// `session.timeout.ms` <= `max.poll.interval.ms`.
    fn times(&mut self) {
        const SESSION: &str = "session.timeout.ms";
        const POLL: &str = "max.poll.interval.ms";
        let session = self.number(SESSION).unwrap_or(SESSION_MS);
        let poll = self.number(POLL).unwrap_or(POLL_INTERVAL_MS);
        if session <= poll || self.config.get("group.protocol") == Some("consumer") {
            return;
        }
        match (self.is_users(SESSION), self.is_users(POLL)) {
            (true, false) => self.set(POLL, session),
            (false, true) => self.set(SESSION, poll),
            _ => {}
        }
    }

    /// `reconnect.backoff.ms` <= `reconnect.backoff.max.ms`.
    fn backoff(&mut self) {
        const FIRST: &str = "reconnect.backoff.ms";
        const MOST: &str = "reconnect.backoff.max.ms";
        let first = self.number(FIRST).unwrap_or(BACKOFF_MS);
        let most = self.number(MOST).unwrap_or(BACKOFF_MOST_MS);
        match (first > most, self.is_users(FIRST), self.is_users(MOST)) {
            (true, true, false) => self.set(MOST, first),
            (true, false, true) => self.set(FIRST, most),
            _ => {}
        }
    }

    /// `linger.ms` < `message.timeout.ms`, each of which has a second name.
    fn linger(&mut self) {
        const LINGER: [&str; 2] = ["linger.ms", "queue.buffering.max.ms"];
        const TIMEOUT: [&str; 2] = ["message.timeout.ms", "delivery.timeout.ms"];
        let timeout = TIMEOUT.iter().find_map(|key| self.number(key));
        let users = LINGER.iter().any(|key| self.is_users(key));
        if let (Some(timeout @ 1..), Some(linger), false) = (timeout, self.number(LINGER[0]), users)
            && linger >= timeout
        {
            self.set(LINGER[0], timeout - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::stage::sink::hint::TableTag;
    use crate::stage::source::properties::ranges;
    use crate::stage::source::{ClientSettings, Covering, SourceSettings, consumer_settings};
    use rdkafka::consumer::BaseConsumer;
    use rdkafka::producer::BaseProducer;
    use std::time::Duration;
    use tagstream_core::config::KafkaConfig;
    use tagstream_core::storage::store::TableStore;

    fn kafka(properties: &[(&str, &str)]) -> KafkaConfig {
        let mut kafka = KafkaConfig::default();
        for (key, value) in properties {
            let value = value.to_string().into();
            kafka.properties.insert(key.to_string(), value);
        }
        kafka
    }

    /// What the stage's consumer, the client that asks questions, and the producer say.
    fn refusals(properties: &[(&str, &str)]) -> Vec<String> {
        let kafka = kafka(properties);
        let source = SourceSettings {
            topic: "images".into(),
            table: TableTag::of(&TableStore::in_memory(), "predictions"),
            group: "group".into(),
            statistics_interval: Duration::from_secs(5),
        };
        let consumer = consumer_settings(&kafka, &source);
        let consumer = consumer.create::<BaseConsumer<Covering>>().err();
        let mut asking = ClientSettings::of(&kafka);
        asking.set("group.id", "group");
        let asking = asking.create::<BaseConsumer<Covering>>().err();
        let producer = ClientSettings::producer(&kafka);
        let producer = producer.create::<BaseProducer<Covering>>().err();
        let said = [consumer, asking, producer].into_iter().flatten();
        said.map(|refusal| refusal.to_string()).collect()
    }

    #[test]
    fn what_the_user_did_not_set_follows_what_they_set() {
        for properties in [
            &[("message.max.bytes", "10485760")][..],
            &[("message.max.bytes", "1000000000")],
            &[("message.max.bytes", "1000")],
            &[("fetch.max.bytes", "500000")],
            &[("receive.message.max.bytes", "500000")],
            &[
                ("receive.message.max.bytes", "2000000"),
                ("message.max.bytes", "1900000"),
            ],
            &[("fetch.message.max.bytes", "10485760")],
            &[("queued.max.messages.kbytes", "1")],
            &[("session.timeout.ms", "400000")],
            &[("reconnect.backoff.ms", "20000")],
            &[("reconnect.backoff.max.ms", "5")],
            &[("delivery.timeout.ms", "3")],
            &[("queue.buffering.max.ms", "7")],
        ] {
            assert_eq!(refusals(properties), [""; 0], "{properties:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_a_name_that_the_user_set() {
        for (properties, named) in [
            (
                &[("fetch.max.bytes", "1500"), ("message.max.bytes", "9000")][..],
                "fetch.max.bytes",
            ),
            (&[("acks", "1")], "acks"),
            (&[("max.in.flight", "9")], "max.in.flight"),
            (&[("transactional.id", "mine")], "transactional.id"),
        ] {
            let said = refusals(properties);
            assert!(!said.is_empty(), "{properties:?}");
            assert!(said.iter().all(|s| s.contains(named)), "{said:?}");
        }
    }

    /// Each property with a range of numbers at both its ends, alone.
    #[test]
    fn no_property_is_refused_by_a_name_that_the_user_never_set() {
        let mut tried = 0;
        for (name, least, most) in ranges() {
            for value in [least.max(1), most] {
                tried += 1;
                let value = value.to_string();
                for said in refusals(&[(&name, &value)]) {
                    let alias = match name.as_str() {
                        "max.in.flight.requests.per.connection" => "max.in.flight",
                        "queue.buffering.max.ms" => "linger.ms",
                        "request.required.acks" => "acks",
                        "message.send.max.retries" => "retries",
                        "delivery.timeout.ms" => "message.timeout.ms",
                        other => other,
                    };
                    assert!(said.contains(alias), "{name} = {value}: {said}");
                }
            }
        }
        assert!(tried > 80, "{tried} tried");
    }
}
