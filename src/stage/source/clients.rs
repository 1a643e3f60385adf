//! How every client of Kafka is made: its settings, and a context through which no value of a
//! property is printed.

use super::interdependent::Interdependent;
use super::logins::Tokens;
use super::msk;
use super::properties::{Hidden, Refusal, check_property, refusal};
use super::security;
use super::token_keys::is_taken;
use super::trouble::{Troubles, is_news};
use rdkafka::client::OAuthToken;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use rdkafka::{ClientConfig, ClientContext, Statistics};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tagstream_core::config::KafkaConfig;

/// A client in the making: what the program sets, and the user's own properties, whose values stay
/// hidden.
#[derive(Clone)]
pub struct ClientSettings {
    config: ClientConfig,
    /// The user's properties, by the name that the user knows them by.
    properties: BTreeMap<String, String>,
}

impl ClientSettings {
    /// A client of these brokers.
    pub fn new(brokers: &str) -> Self {
        let mut settings = Self::without_brokers();
        settings.set("bootstrap.servers", brokers);
        settings
    }

    /// A client that knows no brokers, such as the one that holds an embedded one.
    pub fn without_brokers() -> Self {
        ClientSettings {
            config: ClientConfig::new(),
            properties: BTreeMap::new(),
        }
    }

    /// What consumer and producer of the stage share: the brokers, then the properties of the
    /// configuration as they are.
    pub fn of(kafka: &KafkaConfig) -> Self {
        let mut settings = Self::new(&kafka.brokers);
        settings.set("client.id", "tagstream");
        for (key, value) in &kafka.properties {
            let shown = format!("kafka.properties.\"{key}\"");
            settings.set_users(key, value.expose(), shown);
        }
        settings
    }

    /// What the stage's producer is told.
    pub fn producer(kafka: &KafkaConfig) -> Self {
        let mut settings = Self::of(kafka);
        settings.set("enable.idempotence", "true");
        settings
            .set_unless_users("linger.ms", "5")
            .set_unless_users("message.timeout.ms", kafka.message_timeout_ms.to_string());
        settings
    }

    /// Sets what the program decides.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.config.set(key, value);
        self
    }

    /// Sets what the program proposes: what the user said of it, by either of its names, stands.
    pub fn set_unless_users(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        const NAMES: [(&str, &str); 2] = [
            ("linger.ms", "queue.buffering.max.ms"),
            ("message.timeout.ms", "delivery.timeout.ms"),
        ];
        let alias = NAMES.iter().find(|(name, _)| *name == key);
        let is_users = |key: &str| self.properties.contains_key(key);
        if !is_users(key) && !alias.is_some_and(|(_, alias)| is_users(alias)) {
            self.config.set(key, value);
        }
        self
    }

    /// Sets a property of the user's, who knows it as `shown`.
    pub fn set_users(&mut self, key: &str, value: &str, shown: String) -> &mut Self {
        self.config.set(key, value);
        self.properties.insert(key.into(), shown);
        self
    }

    /// What is set for `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.config.get(key)
    }

    /// What no context of this client may print.
    pub fn covering(&self) -> Covering {
        let users = self.properties.keys();
        let values = users.filter_map(|key| Some((key.as_str(), self.config.get(key)?)));
        Covering {
            hidden: Arc::new(Hidden::of(values)),
            troubles: Troubles::default(),
            // What is wrong with it is said when the client is made.
            tokens: self.tokens().ok().flatten().map(Arc::new),
            asked_for_token: Arc::default(),
        }
    }

    /// Where tokens come from, if the user's properties say so.
    fn tokens(&self) -> Result<Option<Tokens>, Refusal> {
        let users = self.properties.keys();
        let users = users.filter_map(|key| Some((key.as_str(), self.config.get(key)?)));
        let brokers = self.get("bootstrap.servers").unwrap_or_default();
        Tokens::of(&users.collect(), brokers, |key| self.shown(key))
    }

    /// A property as the user knows it.
    fn shown(&self, key: &str) -> String {
        let users = self.properties.get(key).cloned();
        users.unwrap_or_else(|| key.to_owned())
    }

    /// Makes the client.
    ///
    /// # Errors
    /// [`Refusal`], without any value.
    pub fn create<T: FromClientConfigAndContext<Covering>>(&self) -> Result<T, Refusal> {
        self.create_with(self.covering())
    }

    /// Makes the client with a context of its own, which must log by [`Covering::log`].
    ///
    /// # Errors
    /// [`Refusal`], without any value.
    #[allow(clippy::disallowed_methods)]
    pub fn create_with<C, T>(&self, context: C) -> Result<T, Refusal>
    where
        C: ClientContext,
        T: FromClientConfigAndContext<C>,
    {
        // Errors name the brokers.
        if self
            .config
            .get("bootstrap.servers")
            .is_some_and(|brokers| brokers.contains('@'))
        {
            return Err(Refusal::Client(
                "the list of brokers holds a user name or a password; they belong into \
                 `sasl.username` and `sasl.password`"
                    .into(),
            ));
        }
        // One by one first: librdkafka would tell of any of those that are wrong, another one at
        // each start.
        self.tokens()?;
        for (key, shown) in self.properties.iter().filter(|(key, _)| !is_taken(key)) {
            check_property(key, self.config.get(key).unwrap_or_default(), shown)?;
        }
        if let Some(shown) = self.properties.get("transactional.id") {
            return Err(Refusal::Unsupported {
                property: shown.clone(),
                reason: "messages are not written in transactions; remove it".into(),
            });
        }
        self.refuse_missing_login()?;
        let mut config = self.config.clone();
        for key in self.properties.keys().filter(|key| is_taken(key)) {
            config.remove(key);
        }
        if let Some(key) = msk::asked_by(|key| self.get(key)) {
            config.set(key, "OAUTHBEARER");
        }
        let mut followed = Interdependent {
            config: &mut config,
            users: &|key| self.properties.contains_key(key),
        };
        followed.follow();
        let made = config.create_with_context(context);
        made.map_err(|error| refusal(&error, |key| self.shown(key), &self.covering().hidden))
    }

    /// Refuses a way to log in that this build does not have, by its name.
    fn refuse_missing_login(&self) -> Result<(), Refusal> {
        let protocol = self.get("security.protocol").unwrap_or_default();
        let set = ["sasl.mechanism", "sasl.mechanisms"];
        let set = set.into_iter().find_map(|key| Some((key, self.get(key)?)));
        let (key, mechanism) = match set {
            Some(set) => set,
            // librdkafka's default.
            None if protocol.starts_with("sasl") => ("sasl.mechanism", "GSSAPI"),
            None => return Ok(()),
        };
        match security::missing_login(mechanism) {
            None => Ok(()),
            Some(reason) => Err(Refusal::Unsupported {
                property: self.shown(key),
                reason,
            }),
        }
    }
}

/// The context of a client that needs none: it logs what librdkafka says, without the values of
/// properties.
#[derive(Clone)]
pub struct Covering {
    hidden: Arc<Hidden>,
    troubles: Troubles,
    tokens: Option<Arc<Tokens>>,
    /// Whether a token was fetched, or could not be.
    asked_for_token: Arc<AtomicBool>,
}

impl Covering {
    /// Logs a line of librdkafka. What it says of connections is kept, and told once in words that
    /// help.
    pub fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let line = self.line(facility, line);
        let of_connection = matches!(facility, "FAIL" | "ERROR");
        let level = match of_connection && self.troubles.note(&line) {
            true => RDKafkaLogLevel::Debug,
            false => level,
        };
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::error!(target: "librdkafka", facility, "{line}"),
            RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{line}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{line}")
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
        }
    }

    /// `text` with `***` for every value of the user's properties.
    pub fn cover(&self, text: &str) -> String {
        self.hidden.cover(text)
    }

    /// Takes an error that librdkafka reports beside the answers to questions.
    pub fn report(&self, error: &KafkaError, reason: &str) {
        let reason = self.cover(reason);
        // That a partition is read to its end is asked for, and no trouble.
        let known = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::PartitionEOF)
        ) || self.troubles.note(&reason);
        if !known && is_news(&format!("{error}: {reason}"), Instant::now()) {
            tracing::warn!(target: "librdkafka", %error, reason, "librdkafka has trouble");
        }
    }

    /// A token for SASL OAUTHBEARER.
    ///
    /// # Errors
    /// Why there is none.
    pub fn token(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let Some(tokens) = &self.tokens else {
            return Err(
                "nothing says where tokens come from: set `sasl.oauthbearer.method` = \
                        \"oidc\" and the properties that belong to it, or `sasl.mechanism` = \
                        \"AWS_MSK_IAM\""
                    .into(),
            );
        };
        let token = tokens.fetch();
        let refused = token.as_ref().err().map(|error| error.reason.as_str());
        self.troubles.token(&tokens.endpoint(), refused);
        self.asked_for_token.store(true, Ordering::SeqCst);
        if let Err(error) = &token
            && is_news(&error.to_string(), Instant::now())
        {
            tracing::warn!(%error, "the brokers are not logged in to");
        }
        Ok(token?)
    }

    /// What is wrong with the client's connections.
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    fn line(&self, facility: &str, line: &str) -> String {
        // `debug = "conf"` lists every property that is set.
        match line.split_once(" = ") {
            Some((key, _)) if facility == "CONF" => format!("{key} = ***"),
            _ => self.hidden.cover(line),
        }
    }
}

impl ClientContext for Covering {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.token()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Covering::log(self, level, facility, line);
    }

    /// The default prints them.
    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.report(&error, reason);
    }
}

impl ConsumerContext for Covering {}

/// Longest wait for the first token.
const TOKEN: Duration = Duration::from_secs(15);

/// Waits for the first token of a consumer that is only asked questions: it is fetched when the
/// consumer is polled, and without one no question is answered.
pub fn await_token(consumer: &BaseConsumer<Covering>) {
    let covering = consumer.context();
    let (started, asked) = (Instant::now(), &covering.asked_for_token);
    if covering.tokens.is_none() {
        return;
    }
    while !asked.load(Ordering::SeqCst) && started.elapsed() < TOKEN {
        // It is subscribed to nothing.
        let _ = consumer.poll(Duration::from_millis(50));
    }
}

impl ProducerContext for Covering {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::source::known_properties;
    use rdkafka::producer::BaseProducer;

    const MARK: &str = "hunter2-MARK";

    fn refused(properties: &[(&str, &str)]) -> Refusal {
        let mut kafka = KafkaConfig::default();
        let pairs = properties
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string().into()));
        kafka.properties.extend(pairs);
        let settings = ClientSettings::of(&kafka);
        let consumer = settings.create::<BaseConsumer<Covering>>().err();
        let producer = settings.create::<BaseProducer<Covering>>().err();
        let refusal = consumer.expect("a consumer was made");
        assert_eq!(Some(&refusal), producer.as_ref());
        refusal
    }

    #[test]
    fn the_first_wrong_property_is_named_however_many_there_are() {
        let wrong = [
            ("zz.top", MARK),
            ("sasl.pasword", MARK),
            ("ssl.key.pasword", MARK),
        ];
        for _ in 0..5 {
            let said = refused(&wrong).to_string();
            assert!(
                said.contains("sasl.pasword") && !said.contains("MARK"),
                "{said}"
            );
        }
    }

    #[test]
    fn what_only_a_client_finds_is_said_without_values() {
        for properties in [
            &[
                ("security.protocol", "ssl"),
                ("ssl.ca.location", "/hunter2/MARK.pem"),
            ][..],
            &[
                ("security.protocol", "ssl"),
                ("ssl.key.pem", "hunter2 MARK"),
            ],
            &[("security.protocol", "ssl"), ("ssl.cipher.suites", MARK)],
            &[
                ("security.protocol", "sasl_plaintext"),
                ("sasl.mechanism", MARK),
            ],
            &[
                ("security.protocol", "sasl_plaintext"),
                ("sasl.mechanism", "OAUTHBEARER"),
                ("sasl.oauthbearer.config", "hunter2 MARK"),
                ("sasl.oauthbearer.method", "oidc"),
                ("sasl.oauthbearer.client.secret", MARK),
            ],
        ] {
            let said = refused(properties).to_string();
            assert!(
                !said.contains("MARK") && !said.contains("hunter2"),
                "{said}"
            );
            assert!(said.contains("kafka.properties"), "{said}");
        }
    }

    /// Each property by itself, so far as its value can stand for a secret; most make a client.
    #[test]
    fn no_client_that_is_refused_shows_a_value_of_any_property() {
        let mut made = 0;
        // Setting a plugin loads a library.
        for key in known_properties().filter(|key| *key != "plugin.library.paths") {
            for protocol in ["plaintext", "sasl_ssl"] {
                let mut settings = ClientSettings::new("127.0.0.1:9");
                settings
                    .set("security.protocol", protocol)
                    .set("group.id", "group");
                settings.set_users(key, MARK, format!("kafka.properties.\"{key}\""));
                match settings.create::<BaseConsumer<Covering>>() {
                    Ok(_) => made += 1,
                    Err(refused) => {
                        let said = format!("{refused} {refused:?}");
                        assert!(!said.contains("MARK"), "{said}");
                    }
                }
            }
        }
        assert!(made > 20, "{made} clients");
    }

    /// Errors name the brokers.
    #[test]
    fn brokers_with_a_password_are_refused_and_not_shown() {
        for brokers in ["u:MARK@h:9092", "h:9092,kafka://u:MARK@h:9093"] {
            let made = ClientSettings::new(brokers).create::<BaseConsumer<Covering>>();
            let said = made.err().expect("a client was made").to_string();
            assert!(
                said.contains("sasl.password") && !said.contains("MARK"),
                "{said}"
            );
        }
    }

    #[test]
    fn librdkafka_s_lines_are_covered() {
        let mut settings = ClientSettings::without_brokers();
        settings.set_users("sasl.username", "hunter2", String::new());
        let covering = settings.covering();
        let line = covering.line("SASL", "login of hunter2 failed");
        assert_eq!(line, "login of *** failed");
        let line = covering.line("CONF", "  client.rack = elsewhere");
        assert_eq!(line, "  client.rack = ***");
    }
}
