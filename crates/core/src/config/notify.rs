//! Where news goes that a person waits for.

use super::{Flaw, Secret, settings};
use url::Url;

settings! {
    /// Who is told of a retraining's verdict, of a model that a stage refuses, and of its end.
    NotifyConfig {
        /// Address to which each piece of news is sent as JSON, by POST
        /// (`schemas/notification.schema.json`); `http` or `https`, never shown. Empty: nobody is
        /// told.
        webhook: Secret = Secret::default(),
        /// What the request's `Authorization` says, as `Bearer ...`; empty: nothing.
        authorization: Secret = Secret::default(),
        /// Time for one piece of news, all tries together. A stage that ends waits for it.
        timeout_ms: u64 = 10_000,
        /// Tries after the first, when the other side is away or says that it cannot now (408, 429,
        /// 5xx).
        retries: u32 = 3,
    }
}

impl NotifyConfig {
    /// What cannot be although every type is right.
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let webhook = self.webhook.expose();
        if !webhook.is_empty() && !is_web_address(webhook) {
            let reason = "is no `http` or `https` address (its value is not shown)";
            flaws.push(Flaw::new("notify.webhook", reason));
        }
        flaws.extend(authorization_flaw(
            "notify.authorization",
            &self.authorization,
        ));
        if self.timeout_ms == 0 {
            flaws.push(Flaw::new("notify.timeout_ms", "must be at least 1"));
        }
        flaws
    }
}

/// Whether requests can be sent to this address.
pub fn is_web_address(address: &str) -> bool {
    Url::parse(address).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}

/// What is wrong with a value of `Authorization` that stands at `key`.
pub fn authorization_flaw(key: &str, value: &Secret) -> Option<Flaw> {
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    (!value.expose().chars().all(plain)).then(|| {
        let reason = "holds characters that a header cannot (a line break at its end?); its value \
                      is not shown";
        Flaw::new(key, reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_called_is_refused_and_never_shown() {
        let config = NotifyConfig {
            webhook: Secret::from("ftp://hunter2.example.org".to_owned()),
            authorization: Secret::from("Bearer hunter2\n".to_owned()),
            timeout_ms: 0,
            ..NotifyConfig::default()
        };
        let flaws = config.flaws();
        let keys: Vec<&str> = flaws.iter().map(|flaw| flaw.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "notify.webhook",
                "notify.authorization",
                "notify.timeout_ms"
            ]
        );
        assert!(!format!("{config:?} {flaws:?}").contains("hunter2"));
        assert!(NotifyConfig::default().flaws().is_empty());
        let plain = NotifyConfig {
            webhook: Secret::from("http://127.0.0.1:9000/hooks/x".to_owned()),
            ..NotifyConfig::default()
        };
        assert!(plain.flaws().is_empty());
    }
}
