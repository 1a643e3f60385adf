//! `http` and `https`.
//!
//! Redirects are followed here, not in the client, because each hop is checked like the first
//! address. The client knows no proxies, keeps no cookies, sends no credentials or referrer and
//! undoes no compression.

use super::Fetched;
use super::address::{CheckedResolver, ForbiddenAddress, Names};
use super::collect::Collector;
use super::error::Failure;
use super::fault::{Symptom, of_chain};
use super::policy::UriPolicy;
use percent_encoding::{AsciiSet, percent_encode};
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::config::{ConfigError, FetchConfig};
use tagstream_core::redact::scrub;
use tagstream_core::tls::{http_client, no_authorities};
use url::Url;

/// Headers that an answer may have; what the HTTP library takes by itself (100) is less than some
/// servers send. All of them together have its own limit of bytes.
const MOST_HEADERS: usize = 1_000;

/// The HTTP client and its rules.
pub(super) struct WebClient {
    client: Client,
    policy: Arc<UriPolicy>,
    max_redirects: u32,
}

impl WebClient {
    pub(super) fn new(
        config: &FetchConfig,
        policy: Arc<UriPolicy>,
        names: Arc<Names>,
    ) -> Result<Self, ConfigError> {
        let wants_tls = config.allow_schemes.iter().any(|scheme| scheme == "https");
        if let (true, Some(why)) = (wants_tls, no_authorities()) {
            return Err(ConfigError::BadValue {
                key: "fetch.allow_schemes".into(),
                reason: format!(
                    "allows `https`, and this machine can check nobody's certificate: {why}. \
                     Install the package ca-certificates, or name a file of certificates in the \
                     variable SSL_CERT_FILE, or take `https` out"
                ),
            });
        }
        let client = http_client()
            .user_agent(concat!("tagstream/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .http1_only()
            .http1_max_headers(MOST_HEADERS)
            .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
            .pool_max_idle_per_host(8)
            .pool_idle_timeout(Duration::from_secs(30))
            .dns_resolver(Arc::new(CheckedResolver {
                names,
                rule: policy.addresses.clone(),
            }))
            .build()
            .map_err(|e| ConfigError::BadValue {
                key: "fetch".into(),
                reason: format!("makes no HTTP client: {}", chain(&e)),
            })?;
        Ok(WebClient {
            client,
            policy,
            max_redirects: config.max_redirects,
        })
    }

    /// Gets `url`, which has been checked.
    pub(super) async fn fetch(
        &self,
        url: &Url,
        collector: Collector<'_>,
    ) -> Result<Fetched, Failure> {
        let mut url = url.clone();
        for hop in 0.. {
            url.set_fragment(None);
            let response = self
                .client
                .get(url.clone())
                .header(ACCEPT, "image/*, */*;q=0.5")
                .send()
                .await
                .map_err(failure)?;
            let status = response.status();
            if status.is_success() {
                return body(response, collector).await;
            }
            let location = match status.as_u16() {
                301 | 302 | 303 | 307 | 308 => response.headers().get(LOCATION),
                _ => None,
            };
            let Some(location) = location else {
                return Err(refusal(status, response.headers()));
            };
            if hop >= self.max_redirects {
                let most = self.max_redirects;
                return Err(Failure::of(
                    Symptom::Redirects,
                    format!("more than {most} redirects (`fetch.max_redirects`)"),
                ));
            }
            let next = url
                .join(&text_of(location))
                .map_err(|_| Failure::of(Symptom::Redirects, "it redirects to what is no URI"))?;
            self.check_redirect(&url, &next)?;
            url = next;
        }
        unreachable!("the loop ends by returning")
    }

    /// Whether the host of `url` answers, whatever it says of what is there.
    pub(super) async fn answers(&self, url: &Url) -> bool {
        let mut url = url.clone();
        url.set_fragment(None);
        let answer = self.client.get(url).header(ACCEPT, "image/*, */*;q=0.5");
        let status = answer.send().await.map(|response| response.status());
        status.is_ok_and(|status| status != 429 && !status.is_server_error())
    }

    fn check_redirect(&self, from: &Url, to: &Url) -> Result<(), Failure> {
        let forbidden = |reason: String| Failure::Forbidden(format!("redirected: {reason}"));
        if !matches!(to.scheme(), "http" | "https") {
            return Err(forbidden(format!("to the scheme `{}`", to.scheme())));
        }
        if from.scheme() == "https" && to.scheme() == "http" {
            return Err(forbidden("from https to http".into()));
        }
        self.policy.check_web(to).map_err(|failure| match failure {
            Failure::Forbidden(reason) => forbidden(reason),
            other => other,
        })
    }
}

/// A header's text, of which servers send any bytes: UTF-8, or else each byte that is not ASCII in
/// its percent-encoded form, as browsers do.
fn text_of(value: &HeaderValue) -> Cow<'_, str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.into(),
        Err(_) => percent_encode(value.as_bytes(), &AsciiSet::EMPTY)
            .to_string()
            .into(),
    }
}

async fn body(mut response: Response, mut collector: Collector<'_>) -> Result<Fetched, Failure> {
    if let Some(length) = response.content_length() {
        collector.announce(length)?;
    }
    while let Some(part) = response.chunk().await.map_err(failure)? {
        collector.push(&part)?;
    }
    Ok(collector.finish())
}

/// What an answer is that is neither the image nor a redirect.
fn refusal(status: StatusCode, headers: &HeaderMap) -> Failure {
    let after = retry_after(headers);
    let symptom = match status.as_u16() {
        code @ 503 if after.is_some() => Symptom::LeaveAlone(code),
        code => Symptom::Status(code),
    };
    Failure::Source {
        symptom,
        reason: format!("the server answered {status}"),
        after,
    }
}

/// The header's delay in seconds, or until its date. Whether there is time for it, the deadline
/// decides.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    date.signed_duration_since(chrono::Utc::now()).to_std().ok()
}

fn failure(error: reqwest::Error) -> Failure {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(forbidden) = cause.downcast_ref::<ForbiddenAddress>() {
            return Failure::Forbidden(format!("{forbidden}, nor in `fetch.allow_networks`"));
        }
        source = cause.source();
    }
    let known = of_chain(&error);
    let symptom = match known {
        Some(symptom) if !error.is_timeout() => symptom,
        _ if error.is_timeout() => Symptom::Timeout,
        _ => Symptom::Broken,
    };
    Failure::of(symptom, chain(&error.without_url()))
}

/// An error and its causes in one line: the client's own message is only the outermost of them.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    scrub(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::fetch::SystemLookup;

    #[test]
    fn a_redirect_cannot_lead_to_where_a_uri_could_not() {
        let config = FetchConfig {
            allow_schemes: vec!["http".into(), "https".into(), "file".into(), "data".into()],
            allow_hosts: vec!["a.example.org".into(), "127.0.0.1".into()],
            ..FetchConfig::default()
        };
        let policy = Arc::new(UriPolicy::new(&config).unwrap());
        let web = WebClient::new(
            &config,
            policy,
            Arc::new(Names::new(Arc::new(SystemLookup))),
        )
        .unwrap();
        let check =
            |from: &str, to: &str| web.check_redirect(&from.parse().unwrap(), &to.parse().unwrap());
        assert_eq!(
            check("http://a.example.org/", "https://a.example.org/b"),
            Ok(())
        );
        for (from, to, says) in [
            (
                "https://a.example.org/",
                "http://a.example.org/b",
                "https to http",
            ),
            (
                "https://a.example.org/",
                "file:///etc/passwd",
                "scheme `file`",
            ),
            ("https://a.example.org/", "data:,x", "scheme `data`"),
            (
                "https://a.example.org/",
                "https://b.example.org/",
                "allow_hosts",
            ),
            ("http://a.example.org/", "http://127.0.0.1/", "public"),
            (
                "http://a.example.org/",
                "http://u:p@a.example.org/",
                "passwords",
            ),
        ] {
            match check(from, to) {
                Err(Failure::Forbidden(reason)) => assert!(reason.contains(says), "{reason}"),
                other => panic!("{from} to {to}: {other:?}"),
            }
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let headers = |value: &str| HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
        assert_eq!(retry_after(&headers("7")), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&headers("Wed, 21 Oct 2015 07:28:00 GMT")), None);
        let later = retry_after(&headers("Fri, 01 Jan 2100 00:00:00 GMT")).unwrap();
        assert!(later > Duration::from_secs(86_400 * 365));
        assert_eq!(retry_after(&headers("soon")), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
