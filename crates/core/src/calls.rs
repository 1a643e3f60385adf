//! Requests to servers of others that are told something: a webhook, a tracking server. JSON both
//! ways, tried again within a deadline, and no secret in what is said of a failure.

use crate::config::Secret;
use crate::redact::{cover, scrub};
use crate::tls::http_client;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;
use std::fmt;
use std::time::Duration;
use url::Url;

/// The first pause between two tries; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause, also where the other side asks for a longer one.
const MOST_PAUSE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read.
const MOST_ANSWER: usize = 1 << 20;
/// Characters of an answer that an error repeats.
const SAID: usize = 200;

/// Why the other side does not know what it should. The message names it by scheme, host and port
/// alone: paths and queries of webhooks are passwords.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No address, or credentials that no header can hold.
    #[error("{0}")]
    Unusable(&'static str),
    /// It could not be asked.
    #[error("{place} cannot be reached: {reason}")]
    Unreachable {
        /// Scheme, host and port.
        place: String,
        /// What the client says.
        reason: String,
    },
    /// It answered, and not with success.
    #[error("{place} answered {status}{said}")]
    Refused {
        /// Scheme, host and port.
        place: String,
        /// Its status.
        status: StatusCode,
        /// The beginning of what it said, after `: `, or nothing.
        said: String,
        /// How long it asks to be left alone.
        pause: Option<Duration>,
    },
    /// Its answer is no JSON.
    #[error("{place} answered something that is not JSON: {reason}")]
    NotJson {
        /// Scheme, host and port.
        place: String,
        /// What the reader says.
        reason: String,
    },
    /// It did not answer in time.
    #[error("{place} did not answer within {} ms", deadline.as_millis())]
    Late {
        /// Scheme, host and port.
        place: String,
        /// What it had.
        deadline: Duration,
    },
}

impl CallError {
    /// Whether the same request may succeed in a moment.
    fn is_temporary(&self) -> bool {
        match self {
            CallError::Unreachable { .. } => true,
            CallError::Refused { status, .. } => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                    )
            }
            _ => false,
        }
    }

    /// The status of an answer that was not success.
    pub fn status(&self) -> Option<u16> {
        match self {
            CallError::Refused { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }
}

/// A server, and how it is asked.
pub struct Calls {
    client: Client,
    base: Url,
    authorization: Secret,
    deadline: Duration,
    retries: u32,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Calls({})", self.place())
    }
}

impl Calls {
    /// Asks `address`; each request has `deadline`, all tries together.
    ///
    /// # Errors
    /// [`CallError::Unusable`] if that is no address or no header.
    pub fn new(
        address: &str,
        authorization: &Secret,
        deadline: Duration,
        retries: u32,
    ) -> Result<Self, CallError> {
        let base = Url::parse(address).map_err(|_| CallError::Unusable("this is no address"))?;
        let mut headers = HeaderMap::new();
        if !authorization.expose().is_empty() {
            let mut value = HeaderValue::from_str(authorization.expose())
                .map_err(|_| CallError::Unusable("the authorization is no header's value"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = http_client()
            .default_headers(headers)
            // Where a redirect leads, body and credentials were not meant for.
            .redirect(Policy::none())
            .build()
            .map_err(|_| CallError::Unusable("no HTTP client can be made"))?;
        Ok(Calls {
            client,
            base,
            authorization: authorization.clone(),
            deadline,
            retries,
        })
    }

    /// Scheme, host and port.
    pub fn place(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// Posts `body` to the address itself.
    ///
    /// # Errors
    /// [`CallError`], of the last try.
    pub async fn post(&self, body: &Value) -> Result<(), CallError> {
        let answer = self.ask(Method::POST, self.base.clone(), Some(body));
        answer.await.map(drop)
    }

    /// Asks for a path below the address and reads the answer.
    ///
    /// # Errors
    /// [`CallError`], of the last try.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let mut url = self.base.clone();
        let above = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{above}/{path}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let answer = self.ask(method, url, body).await?;
        serde_json::from_slice(&answer).map_err(|e| CallError::NotJson {
            place: self.place(),
            reason: e.to_string(),
        })
    }

    async fn ask(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<Vec<u8>, CallError> {
        let body = body.map(Value::to_string);
        let mut last = None;
        let tries = async {
            let (mut pause, mut left) = (FIRST_PAUSE, self.retries);
            loop {
                let error = match self.once(method.clone(), url.clone(), body.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                if !error.is_temporary() || left == 0 {
                    return Err(error);
                }
                left -= 1;
                let asked = match &error {
                    CallError::Refused { pause, .. } => *pause,
                    _ => None,
                };
                last = Some(error);
                tokio::time::sleep(asked.unwrap_or(pause).min(MOST_PAUSE)).await;
                pause *= 2;
            }
        };
        match tokio::time::timeout(self.deadline, tries).await {
            Ok(outcome) => outcome,
            Err(_) => Err(last.unwrap_or_else(|| CallError::Late {
                place: self.place(),
                deadline: self.deadline,
            })),
        }
    }

    async fn once(
        &self,
        method: Method,
        url: Url,
        body: Option<String>,
    ) -> Result<Vec<u8>, CallError> {
        let unreachable = |error: reqwest::Error| {
            let error = error.without_url();
            CallError::Unreachable {
                place: self.place(),
                reason: self.covered(&with_causes(&error)),
            }
        };
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let (status, pause) = (response.status(), pause_of(&response));
        let mut answer = Vec::new();
        while answer.len() < MOST_ANSWER {
            match response.chunk().await {
                Ok(Some(piece)) => answer.extend_from_slice(&piece),
                Ok(None) => break,
                // What it wants is known already.
                Err(_) if !status.is_success() => break,
                Err(error) => return Err(unreachable(error)),
            }
        }
        if status.is_success() {
            return Ok(answer);
        }
        let said = self.covered(&String::from_utf8_lossy(&answer));
        let said: String = said.chars().take(SAID).collect();
        Err(CallError::Refused {
            place: self.place(),
            status,
            said: match said.is_empty() {
                true => said,
                false => format!(": {said}"),
            },
            pause,
        })
    }

    /// Words of others, without what is secret of the address and of the credentials.
    fn covered(&self, words: &str) -> String {
        let mut words = words.to_owned();
        let credentials = self.authorization.expose();
        let secrets = credentials.split_whitespace().chain([credentials]);
        for secret in secrets.filter(|secret| secret.len() > "Bearer".len()) {
            words = words.replace(secret, "***");
        }
        for part in self.base.path_segments().into_iter().flatten() {
            if part.len() > 3 {
                words = words.replace(part, "***");
            }
        }
        scrub(&cover(words, self.base.as_str()))
    }
}

/// `Retry-After` in seconds.
fn pause_of(response: &Response) -> Option<Duration> {
    let asked = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    asked.trim().parse().ok().map(Duration::from_secs)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}
