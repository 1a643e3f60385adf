//! Tokens for SASL OAUTHBEARER by OpenID Connect's client credentials (RFC 6749, 4.4).
//!
//! librdkafka's own way needs a build with libcurl; the properties are the same (KIP-768), and are
//! taken out of what it is told. A token is fetched when a client asks for one, which it does again
//! before the last one ends.

use super::properties::Refusal;
use super::token_keys::{CA, CLIENT, ENDPOINT, METHOD, SCOPE, SECRET, TAKEN};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use rdkafka::client::OAuthToken;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tagstream_core::config::Secret;
use tagstream_core::redact::redact;
use tagstream_core::tls;
use url::Url;

/// How long a token's fetch may take.
const WITHIN: Duration = Duration::from_secs(10);
/// A token that says nothing of its end lasts this long.
const LASTS: i64 = 300;

/// Why there is no token. Nothing that the server was told is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no token from {endpoint}: {reason}")]
pub(super) struct TokenError {
    pub(super) endpoint: String,
    /// In place of the token.
    pub(super) reason: String,
}

/// Where tokens come from.
#[derive(Debug, Clone)]
pub(super) struct TokenSource {
    endpoint: Url,
    client: String,
    secret: Secret,
    scope: Option<String>,
    ca: Option<PathBuf>,
}

/// A token server's answer.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: Option<i64>,
}

/// What a token says of itself, if it is a JWT.
#[derive(Default, Deserialize)]
struct Claims {
    exp: Option<f64>,
    sub: Option<String>,
}

impl TokenSource {
    /// The source that the user's properties name; `None` if they name none.
    ///
    /// # Errors
    /// [`Refusal`] for what is missing or cannot be; `shown` is a property as the user knows it.
    pub(super) fn of(
        properties: &BTreeMap<&str, &str>,
        shown: impl Fn(&str) -> String,
    ) -> Result<Option<Self>, Refusal> {
        let wrong = |key: &str, reason: String| Refusal::Unsupported {
            property: shown(key),
            reason,
        };
        let of = |keys: &[&str]| keys.iter().find_map(|key| properties.get(key)).copied();
        match of(&[METHOD]) {
            Some(method) if method.eq_ignore_ascii_case("oidc") => {}
            Some(method) if !method.eq_ignore_ascii_case("default") => {
                return Err(Refusal::Value {
                    property: shown(METHOD),
                    range: "default, oidc",
                });
            }
            _ => {
                let alone = TAKEN
                    .iter()
                    .find(|key| **key != METHOD && of(&[key]).is_some());
                return match alone {
                    Some(key) => Err(wrong(key, format!("it needs `{METHOD}` = \"oidc\""))),
                    None => Ok(None),
                };
            }
        }
        let needs = |keys: &[&str]| {
            let missing = || wrong(METHOD, format!("\"oidc\" needs `{}`, too", keys[0]));
            of(keys)
                .filter(|value| !value.is_empty())
                .ok_or_else(missing)
        };
        let endpoint = Url::parse(needs(&[ENDPOINT])?).ok();
        let endpoint = endpoint
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.password().is_none());
        let endpoint = endpoint.ok_or_else(|| Refusal::Value {
            property: shown(ENDPOINT),
            range: "an http or https address without a password",
        })?;
        Ok(Some(TokenSource {
            endpoint,
            client: needs(&CLIENT)?.to_owned(),
            secret: needs(&SECRET)?.to_owned().into(),
            scope: of(&[SCOPE]).map(str::to_owned),
            ca: of(&[CA]).map(PathBuf::from),
        }))
    }

    /// Fetches a token. Blocks.
    pub(super) fn fetch(&self) -> Result<OAuthToken, TokenError> {
        let fetched = blocking(|| self.answer());
        let token = fetched.and_then(|body| self.token(&body));
        token.map_err(|reason| TokenError {
            endpoint: self.endpoint(),
            reason,
        })
    }

    /// The server's address, as it may be printed.
    pub(super) fn endpoint(&self) -> String {
        redact(self.endpoint.as_str())
    }

    async fn answer(&self) -> Result<Vec<u8>, String> {
        let mut client = tls::http_client().timeout(WITHIN);
        if let Some(path) = &self.ca {
            let pem = std::fs::read(path).map_err(|e| format!("`{CA}`: {e}"))?;
            let ca = reqwest::Certificate::from_pem(&pem);
            let ca = ca.map_err(|_| format!("`{CA}` names no certificate"))?;
            client = client.add_root_certificate(ca);
        }
        let client = client.build().map_err(|e| why(&e))?;
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if let Some(scope) = &self.scope {
            form.append_pair("scope", scope);
        }
        let request = client
            .post(self.endpoint.clone())
            .basic_auth(&self.client, Some(self.secret.expose()))
            .header("Accept", "application/json")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(form.finish());
        let answer = request.send().await.map_err(|e| why(&e))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("it answers {status}"));
        }
        let body = answer.bytes().await.map_err(|e| why(&e))?;
        Ok(body.to_vec())
    }

    fn token(&self, body: &[u8]) -> Result<OAuthToken, String> {
        let answer: Answer = serde_json::from_slice(body)
            .map_err(|_| "its answer has no `access_token`".to_owned())?;
        let claims = claims(&answer.access_token).unwrap_or_default();
        let now = Utc::now().timestamp_millis();
        let lasts = 1_000 * answer.expires_in.unwrap_or(LASTS);
        let lifetime_ms = claims.exp.map_or(now + lasts, |exp| (exp * 1_000.0) as i64);
        Ok(OAuthToken {
            token: answer.access_token,
            principal_name: claims.sub.unwrap_or_else(|| self.client.clone()),
            lifetime_ms,
        })
    }
}

/// Waits for `work` on a thread of its own: callbacks of librdkafka come on any thread, also on
/// those of a runtime.
pub(super) fn blocking<T, F>(work: impl FnOnce() -> F + Send) -> Result<T, String>
where
    T: Send,
    F: Future<Output = Result<T, String>>,
{
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.map_err(|e| e.to_string())?;
            runtime.block_on(work())
        });
        working
            .join()
            .unwrap_or_else(|_| Err("the request panicked".into()))
    })
}

fn claims(token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// An HTTP error's last reason, without the address.
fn why(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(properties: &[(&'static str, &'static str)]) -> Result<Option<TokenSource>, Refusal> {
        TokenSource::of(&properties.iter().copied().collect(), str::to_owned)
    }

    const WHOLE: [(&str, &str); 4] = [
        (METHOD, "oidc"),
        (ENDPOINT, "https://login.example.org/token"),
        (CLIENT[0], "stage"),
        (SECRET[0], "hunter2"),
    ];

    #[test]
    fn what_is_missing_is_named_and_no_value_is_repeated() {
        assert!(of(&[]).unwrap().is_none());
        assert!(of(&[(METHOD, "default")]).unwrap().is_none());
        assert!(of(&WHOLE).unwrap().is_some());
        for left_out in 1..WHOLE.len() {
            let mut some = WHOLE.to_vec();
            let (missing, _) = some.remove(left_out);
            let said = of(&some).unwrap_err().to_string();
            assert!(
                said.contains(missing) && !said.contains("hunter2"),
                "{said}"
            );
        }
        for wrong in [
            &[(METHOD, "hunter2")][..],
            &[(SECRET[0], "hunter2")],
            &[(METHOD, "oidc"), (ENDPOINT, "https://u:hunter2@h/")],
            &[(METHOD, "oidc"), (ENDPOINT, "hunter2")],
        ] {
            let said = of(wrong).unwrap_err().to_string();
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_token_tells_its_end_and_its_owner_or_the_answer_does() {
        let source = of(&WHOLE).unwrap().unwrap();
        let claims = URL_SAFE_NO_PAD.encode(br#"{"sub":"me","exp":2000000000.5}"#);
        let body = format!(r#"{{"access_token":"e30.{claims}.","expires_in":60}}"#);
        let token = source.token(body.as_bytes()).unwrap();
        assert_eq!(
            (&*token.principal_name, token.lifetime_ms),
            ("me", 2_000_000_000_500)
        );
        let before = Utc::now().timestamp_millis();
        let token = source
            .token(br#"{"access_token":"opaque","expires_in":60}"#)
            .unwrap();
        assert_eq!(token.principal_name, "stage");
        assert!(token.lifetime_ms >= before + 60_000);
        assert!(source.token(br#"{"error":"hunter2"}"#).is_err());
    }
}
