//! News for people: a retraining's verdict, a refused model, the end of a stage, sent as JSON to
//! `notify.webhook`. It never keeps anything from going on: what cannot be sent is logged and
//! counted.

use std::time::Duration;
use tagstream_core::calls::{CallError, Calls};
use tagstream_core::config::NotifyConfig;
use tagstream_core::events::Notification;

/// Where news is sent.
#[derive(Debug)]
pub struct Webhook {
    calls: Calls,
}

impl Webhook {
    /// As configured; none if nobody is to be told.
    ///
    /// # Errors
    /// [`CallError::Unusable`] if the address or the credentials cannot be used.
    pub fn new(config: &NotifyConfig) -> Result<Option<Self>, CallError> {
        let address = config.webhook.expose();
        if address.is_empty() {
            return Ok(None);
        }
        let deadline = Duration::from_millis(config.timeout_ms);
        let calls = Calls::new(address, &config.authorization, deadline, config.retries)?;
        Ok(Some(Webhook { calls }))
    }

    /// Sends a piece of news, as often as is configured.
    ///
    /// # Errors
    /// [`CallError`] of the last try.
    pub async fn send(&self, news: &Notification) -> Result<(), CallError> {
        let body = serde_json::to_value(news)
            .map_err(|_| CallError::Unusable("this news cannot be written as JSON"))?;
        self.calls.post(&body).await
    }

    /// The same; a failure is a warning.
    pub async fn tell(&self, news: &Notification) {
        let event = news.event.name();
        let sent = self.send(news).await;
        let result = if sent.is_ok() { "sent" } else { "failed" };
        metrics::counter!("tagstream_notifications_total", "event" => event, "result" => result)
            .increment(1);
        match sent {
            Ok(()) => tracing::info!(event, place = self.calls.place(), "the webhook was told"),
            Err(error) => tracing::warn!(event, "the webhook was not told: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
