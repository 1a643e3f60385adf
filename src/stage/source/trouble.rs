//! What keeps a client from its brokers, named from what librdkafka says of its connections.
//!
//! librdkafka goes on trying for ever and answers questions with "transport failure" when their
//! time is over. What it says meanwhile of each connection tells a name that does not resolve from
//! a listener that wants TLS; [`Troubles`] keeps the latest word on each address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The same trouble is told this often, however many clients have it.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A listener that wants a login closes what asks without one sooner than this.
const SOON: Duration = Duration::from_secs(2);
/// An alert of TLS, read as the length of an answer.
const TLS_ALERT: &str = "Invalid response size 35251";

/// Why a connection to a broker does not come about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The name means nothing here.
    Unresolved,
    /// Nobody listens.
    Refused,
    /// No answer, or no way there.
    Silent,
    /// The connection was closed.
    Closed,
    /// We speak TLS, the listener does not.
    PlainListener,
    /// The connection is closed at the first request: a listener that waits for TLS does that.
    TlsListener,
    /// The listener's certificate, or ours, is not accepted.
    Certificate(String),
    /// TLS fails otherwise.
    Tls(String),
    /// The listener closes what does not log in.
    LoginWanted,
    /// The listener takes no logins, or none of this kind.
    Mechanism(String),
    /// The login was refused.
    Login(String),
    /// The server that gives tokens gave none.
    NoToken(String),
    /// Something else, in librdkafka's words.
    Other(String),
}

/// A connection that does not come about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    /// `host:port`.
    pub address: String,
    /// Why.
    pub cause: Cause,
}

impl Cause {
    /// Whether asking again cannot help: somebody has to change a configuration.
    pub fn is_mistake(&self) -> bool {
        use Cause::{Certificate, Login, LoginWanted, Mechanism, PlainListener, Tls, TlsListener};
        matches!(
            self,
            PlainListener
                | TlsListener
                | Certificate(_)
                | Tls(_)
                | LoginWanted
                | Mechanism(_)
                | Login(_)
        )
    }

    /// Whether the cause is read from a closed connection alone, which a proxy without a broker
    /// behind it closes as well.
    pub fn is_guessed(&self) -> bool {
        use Cause::{LoginWanted, PlainListener, TlsListener};
        matches!(self, PlainListener | TlsListener | LoginWanted)
    }

    /// Whether `next` is the better word. After a first try that fails, librdkafka leaves the first
    /// request out, and the next failure looks like another one; a closed connection says least.
    fn gives_way_to(&self, next: &Cause) -> bool {
        let vague = matches!(next, Cause::Closed | Cause::LoginWanted);
        self != next && !(self.is_mistake() && vague)
    }

    /// Reads it from librdkafka's words on a connection.
    fn of(words: &str) -> Self {
        let has = |part: &str| words.contains(part);
        let after = |part: &str| {
            let (_, rest) = words.split_once(part).unwrap_or(("", words));
            rest.trim_matches([':', ' ']).to_owned()
        };
        if has("Failed to resolve") {
            Cause::Unresolved
        } else if has("connecting to a PLAINTEXT") || has("wrong version number") {
            Cause::PlainListener
        } else if has("connecting to a SSL listener") || has(TLS_ALERT) {
            Cause::TlsListener
        } else if has("might require SASL") {
            Cause::LoginWanted
        } else if has("mechanism handshake failed") {
            Cause::Mechanism(after("mechanism handshake failed"))
        } else if has("SASL") || has("uthentication") {
            Cause::Login(after("SASL authentication error"))
        } else if has("certificate") || has("unknown ca") || has("SSL alert") {
            Cause::Certificate(after("SSL handshake failed"))
        } else if has("SSL") || has("ssl") {
            Cause::Tls(after("SSL handshake failed"))
        } else if has("Connection refused") {
            Cause::Refused
        } else if has("timed out") || has("No route to host") || has("nreachable") {
            Cause::Silent
        } else if has("isconnected") || has("reset by peer") || has("Broken pipe") {
            Cause::Closed
        } else {
            Cause::Other(words.to_owned())
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Unresolved => f.write_str("its name cannot be resolved here"),
            Cause::Refused => f.write_str("it refuses connections: nobody listens there"),
            Cause::Silent => f.write_str("it does not answer"),
            Cause::Closed => f.write_str("it closes connections"),
            Cause::PlainListener => f.write_str(
                "TLS was asked for, but the listener closes the connection or answers without: it \
                 is a plaintext one, or `security.protocol` is wrong",
            ),
            Cause::TlsListener => f.write_str(
                "it closes the connection at the first request: a listener that wants TLS does so \
                 (`security.protocol` = ssl or sasl_ssl)",
            ),
            Cause::Certificate(words) => write!(
                f,
                "a certificate is not accepted (`ssl.ca.location`, `ssl.certificate.location`, \
                 the host's name in it): {words}"
            ),
            Cause::Tls(words) => write!(f, "TLS fails: {words}"),
            Cause::LoginWanted => f.write_str(
                "it closes the connection after the first request: a listener that wants a login \
                 does so (`security.protocol` = sasl_ssl or sasl_plaintext)",
            ),
            Cause::Mechanism(words) => write!(
                f,
                "it does not take this way of logging in (`security.protocol`, \
                 `sasl.mechanism`): {words}"
            ),
            Cause::Login(words) => write!(
                f,
                "it refuses the login (`sasl.username`, `sasl.password`): {words}"
            ),
            Cause::NoToken(words) => write!(f, "it gives no token to log in with: {words}"),
            Cause::Other(words) => f.write_str(words),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.cause)
    }
}

impl Trouble {
    /// Reads `[thrd:...]: sasl_ssl://host:port/bootstrap: words (after 3ms in state CONNECT)`.
    fn parse(line: &str) -> Option<Self> {
        let line = match line.strip_prefix("[thrd:") {
            Some(rest) => rest.split_once("]: ")?.1,
            None => line,
        };
        // The coordinator is a client of its own: `GroupCoordinator: host:port: words`.
        let line = line.strip_prefix("GroupCoordinator: ").unwrap_or(line);
        let (name, words) = line.split_once(": ")?;
        let logs_in = name.starts_with("sasl");
        let name = name.split_once("://").map_or(name, |(_, name)| name);
        let address = name.split('/').next().unwrap_or(name);
        if !address.contains(':') {
            return None;
        }
        let (words, state) = match words.rfind(" (after ") {
            Some(end) => words.split_at(end),
            None => (words, ""),
        };
        let cause = match Cause::of(words) {
            Cause::Closed if state.contains("in state APIVERSION_QUERY") => Cause::TlsListener,
            Cause::Closed if !logs_in && closed_soon(state) => Cause::LoginWanted,
            cause => cause,
        };
        Some(Trouble {
            address: address.to_owned(),
            cause,
        })
    }
}

/// Whether a connection was closed as soon as it was up: ` (after 3ms in state UP, ...`.
fn closed_soon(state: &str) -> bool {
    let after = state
        .strip_prefix(" (after ")
        .and_then(|s| s.split_once("ms in state UP"));
    let after = after.and_then(|(after, _)| after.parse::<u64>().ok());
    after.is_some_and(|after| Duration::from_millis(after) < SOON)
}

#[derive(Debug)]
struct Seen {
    cause: Cause,
    since: Instant,
}

/// The troubles that a client has now.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<String, Seen>>>);

impl Troubles {
    /// Takes note of what librdkafka says of a connection. Returns whether it says that.
    pub(super) fn note(&self, words: &str) -> bool {
        let Some(mut trouble) = Trouble::parse(words) else {
            return false;
        };
        // Who has answered needs neither TLS nor a login that is not configured: it goes down.
        if trouble.cause.is_guessed() && has_answered(&trouble.address) {
            trouble.cause = Cause::Closed;
        }
        let now = Instant::now();
        {
            let mut all = self.0.lock().expect("no panic while locked");
            let seen = all.entry(trouble.address.clone()).or_insert_with(|| Seen {
                cause: trouble.cause.clone(),
                since: now,
            });
            if seen.cause.gives_way_to(&trouble.cause) {
                if !(seen.cause.is_mistake() && trouble.cause.is_mistake()) {
                    seen.since = now;
                }
                seen.cause = trouble.cause;
            }
            trouble.cause = seen.cause.clone();
        }
        // Brokers close what is idle.
        if trouble.cause != Cause::Closed && is_news(&trouble.to_string(), now) {
            tracing::warn!("cannot use the broker at {trouble}");
        }
        true
    }

    /// A mistake that has lasted for `settled`: longer than a broker takes to go down.
    pub(super) fn mistake(&self, settled: Duration) -> Option<Trouble> {
        let all = self.0.lock().expect("no panic while locked");
        let mut lasting = all
            .iter()
            .filter(|(_, seen)| seen.cause.is_mistake() && seen.since.elapsed() >= settled);
        lasting.next().map(|(address, seen)| Trouble {
            address: address.clone(),
            cause: seen.cause.clone(),
        })
    }

    /// Takes note of what the server of tokens at `endpoint` answered: a reason, or a token.
    pub(super) fn token(&self, endpoint: &str, refused: Option<&str>) {
        let mut all = self.0.lock().expect("no panic while locked");
        match refused {
            None => _ = all.remove(endpoint),
            Some(reason) => {
                let seen = Seen {
                    cause: Cause::NoToken(reason.to_owned()),
                    since: Instant::now(),
                };
                all.insert(endpoint.to_owned(), seen);
            }
        }
    }

    /// The addresses that there is trouble with.
    pub(super) fn addresses(&self) -> Vec<String> {
        let all = self.0.lock().expect("no panic while locked");
        all.keys().cloned().collect()
    }

    /// What is wrong with `address`.
    pub(super) fn at(&self, address: &str) -> Option<Cause> {
        let all = self.0.lock().expect("no panic while locked");
        all.get(address).map(|seen| seen.cause.clone())
    }

    /// All of them in one line; `None` if there are none.
    pub(super) fn told(&self) -> Option<String> {
        let all = self.0.lock().expect("no panic while locked");
        let told: Vec<_> = all
            .iter()
            .map(|(address, seen)| format!("{address}: {}", seen.cause))
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// A broker has answered: what was only guessed of closed connections is not believed.
    pub(super) fn forget_guesses(&self) {
        let mut all = self.0.lock().expect("no panic while locked");
        all.retain(|_, seen| !seen.cause.is_guessed());
    }

    /// The brokers answer.
    pub(super) fn clear(&self) {
        self.0.lock().expect("no panic while locked").clear();
    }
}

/// Brokers that have answered this process, which has one configuration for all clients.
static ANSWERED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// So many of them are remembered.
const MOST_BROKERS: usize = 1_024;

/// The brokers at these addresses (`host:port`) have answered.
pub(super) fn answered(addresses: impl IntoIterator<Item = String>) {
    let mut all = ANSWERED.lock().expect("no panic while locked");
    for address in addresses {
        if all.len() < MOST_BROKERS {
            all.insert(address);
        }
    }
}

fn has_answered(address: &str) -> bool {
    let all = ANSWERED.lock().expect("no panic while locked");
    all.contains(address)
}

/// Whether something is worth a line: not if any client of this process had one for it a moment
/// ago.
pub(super) fn is_news(what: &str, now: Instant) -> bool {
    static TOLD: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());
    let mut told = TOLD.lock().expect("no panic while locked");
    told.retain(|_, at| now.saturating_duration_since(*at) < TELL_EVERY);
    if told.contains_key(what) {
        return false;
    }
    told.insert(what.to_owned(), now);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as librdkafka 2.12 writes them, the address, and what is said.
    const LINES: [(&str, &str, &str); 13] = [
        (
            "[thrd:127.0.0.1:1/bootstrap]: 127.0.0.1:1/bootstrap: Connect to \
                 ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT, 1 \
                 identical error(s) suppressed)",
            "127.0.0.1:1",
            "refuses connections",
        ),
        (
            "kafka-internal:9092/1: Failed to resolve 'kafka-internal:9092': Name or service \
                 not known (after 3ms in state CONNECT)",
            "kafka-internal:9092",
            "cannot be resolved",
        ),
        (
            "GroupCoordinator: 10.9.8.7:9092: Connection setup timed out in state CONNECT \
                 (after 30030ms in state CONNECT)",
            "10.9.8.7:9092",
            "does not answer",
        ),
        (
            "ssl://localhost:9092/bootstrap: SSL handshake failed: Disconnected: connecting \
                 to a PLAINTEXT broker listener? (after 2ms in state SSL_HANDSHAKE)",
            "localhost:9092",
            "plaintext one",
        ),
        (
            "localhost:9093/bootstrap: Disconnected while requesting ApiVersion: might be \
                 caused by incorrect security.protocol configuration (connecting to a SSL \
                 listener?) or broker version is < 0.10 (see api.version.request) (after 8ms in \
                 state APIVERSION_QUERY)",
            "localhost:9093",
            "wants TLS",
        ),
        (
            "localhost:9093/bootstrap: Receive failed: Invalid response size 352518912 \
                 (0..100000000): increase receive.message.max.bytes (after 8ms in state \
                 APIVERSION_QUERY)",
            "localhost:9093",
            "wants TLS",
        ),
        (
            "localhost:9093/bootstrap: Receive failed: Connection reset by peer (after 8ms \
                 in state APIVERSION_QUERY)",
            "localhost:9093",
            "wants TLS",
        ),
        (
            "ssl://localhost:9093/bootstrap: SSL handshake failed: error:0A000086:SSL \
                 routines:tls_post_process_server_certificate:certificate verify failed: broker \
                 certificate could not be verified, verify that ssl.ca.location is correctly \
                 configured (after 9ms in state SSL_HANDSHAKE)",
            "localhost:9093",
            "certificate is not accepted",
        ),
        (
            "localhost:9094/bootstrap: Disconnected: verify that security.protocol is \
                 correctly configured, broker might require SASL authentication (after 3ms in \
                 state UP)",
            "localhost:9094",
            "wants a login",
        ),
        (
            "localhost:9094/bootstrap: Disconnected: connection closed by peer: receive 0 after \
             POLLIN (after 1ms in state UP, 1 identical error(s) suppressed)",
            "localhost:9094",
            "wants a login",
        ),
        (
            "localhost:9094/bootstrap: Disconnected: connection closed by peer: receive 0 after \
             POLLIN (after 600000ms in state UP)",
            "localhost:9094",
            "closes connections",
        ),
        (
            "sasl_plaintext://localhost:9094/bootstrap: SASL SCRAM-SHA-512 mechanism \
                 handshake failed: Broker: Unsupported SASL mechanism: broker's supported \
                 mechanisms: PLAIN (after 3ms in state AUTH_HANDSHAKE)",
            "localhost:9094",
            "supported mechanisms: PLAIN",
        ),
        (
            "sasl_plaintext://localhost:9094/bootstrap: SASL authentication error: \
                 Authentication failed: Invalid username or password (after 3ms in state \
                 AUTH_REQ)",
            "localhost:9094",
            "refuses the login",
        ),
    ];

    #[test]
    fn lines_of_librdkafka_become_causes() {
        for (line, address, said) in LINES {
            let trouble = Trouble::parse(line).unwrap();
            assert_eq!(trouble.address, address, "{line}");
            let told = trouble.to_string();
            assert!(told.contains(said) && !told.contains("(after"), "{told}");
        }
        for other in ["1/1 brokers are down", "no address here", ""] {
            assert_eq!(Trouble::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_mistake_counts_once_it_has_lasted_and_only_until_something_else_is_wrong() {
        let troubles = Troubles::default();
        let login = "h:1/1: SASL authentication error: no (after 1ms in state AUTH_REQ)";
        assert!(troubles.note(login));
        assert_eq!(troubles.mistake(Duration::from_secs(3600)), None);
        assert!(troubles.mistake(Duration::ZERO).is_some());
        // That is less than what is known.
        assert!(troubles.note("h:1/1: Disconnected (after 1ms in state UP)"));
        assert!(troubles.mistake(Duration::ZERO).is_some());
        assert!(troubles.note("h:1/1: Connect to ipv4#1.2.3.4:1 failed: Connection refused"));
        assert_eq!(troubles.mistake(Duration::ZERO), None);
        assert_eq!(troubles.at("h:1"), Some(Cause::Refused));
        assert!(troubles.note("g:1/1: Disconnected (after 1ms in state UP)"));
        troubles.forget_guesses();
        assert_eq!(troubles.at("g:1"), None);
        assert_eq!(troubles.at("h:1"), Some(Cause::Refused));
        troubles.clear();
        assert_eq!(troubles.told(), None);
    }

    /// A broker that dies closes young connections, too: what it wanted before is known.
    #[test]
    fn who_has_answered_wants_nothing_that_is_not_configured() {
        let closed = [
            "Disconnected: connection closed by peer: receive 0 after POLLIN (after 1ms in state \
             UP)",
            "Disconnected (after 1ms in state APIVERSION_QUERY)",
            "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener? (after \
             1ms in state SSL_HANDSHAKE)",
        ];
        answered(["answered.example:1".to_owned()]);
        for words in closed {
            for (address, is_mistake) in [("answered.example:1", false), ("new.example:1", true)] {
                let troubles = Troubles::default();
                assert!(troubles.note(&format!("{address}/1: {words}")));
                let found = troubles.mistake(Duration::ZERO);
                assert_eq!(found.is_some(), is_mistake, "{address} {words}: {found:?}");
            }
        }
    }

    #[test]
    fn one_line_for_all_clients() {
        let now = Instant::now();
        assert!(is_news("something unheard of", now));
        assert!(!is_news("something unheard of", now));
        assert!(is_news("something unheard of", now + TELL_EVERY));
    }
}
