//! What `run` and `retrain` tell `notify.webhook`.

use chrono::Utc;
use std::sync::Arc;
use tagstream::ops::webhook::Webhook;
use tagstream::retrain::job::Outcome;
use tagstream::stage::watch::Look;
use tagstream_core::build;
use tagstream_core::config::NotifyConfig;
use tagstream_core::digest;
use tagstream_core::error::{Exit, usage};
use tagstream_core::events::{News, Notification, NotifiedModel};
use tagstream_core::redact::redact_place;
use tagstream_model::registry::Verdict;

/// Most characters of a reason.
const MOST_WHY: usize = 1000;

/// What this machine is called.
pub(super) fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().to_owned()
}

/// Tells people, if anybody is to be told.
pub(super) struct Teller {
    webhook: Option<Arc<Webhook>>,
    command: &'static str,
    host: String,
}

impl Teller {
    /// Tells as configured, in the name of this command.
    pub(super) fn new(config: &NotifyConfig, command: &'static str) -> anyhow::Result<Self> {
        let webhook = Webhook::new(config).map_err(|e| usage(format!("`notify`: {e}")))?;
        Ok(Teller {
            webhook: webhook.map(Arc::new),
            command,
            host: host(),
        })
    }

    /// Tells that the stage has ended, and waits until that is said or cannot be.
    pub(super) async fn stopped(&self, outcome: &anyhow::Result<Exit>) {
        let (exit, why) = match outcome {
            Ok(exit) => (
                *exit,
                "it was told to end, or had nothing left to do".to_owned(),
            ),
            Err(error) => (super::exit_of(error), super::said_once(error)),
        };
        let text = format!(
            "tagstream on {} has stopped with exit code {}: {why}",
            self.host, exit as u8
        );
        let mut news = self.news(News::Stopped, text, why);
        news.exit_code = Some(exit as u64);
        if let Some(webhook) = &self.webhook {
            webhook.tell(&news).await;
        }
    }

    /// Tells of a look at the registry that found a version which cannot serve. Does not wait.
    pub(super) fn looked(&self, registry: &str, look: &Look) {
        let (Look::Refused { version, reason }, Some(webhook)) = (look, self.webhook.clone())
        else {
            return;
        };
        let (registry, why) = (redact_place(registry), reason.to_string());
        let text = format!(
            "tagstream on {} refuses version {version} of {registry}; its old model goes on: {why}",
            self.host
        );
        let mut news = self.news(News::Refused, text, why);
        news.model = Some(NotifiedModel {
            registry,
            version: *version,
            id: None,
        });
        tokio::spawn(async move { webhook.tell(&news).await });
    }

    /// Tells of a verdict that stands in the registry, and waits until that is said or cannot be.
    pub(super) async fn judged(&self, registry: &str, outcome: &Outcome) {
        let Outcome::Judged {
            verdict,
            version: Some(version),
            id,
            why,
            ..
        } = outcome
        else {
            return;
        };
        let Some(webhook) = &self.webhook else {
            return;
        };
        let event = match verdict {
            Verdict::Promote => News::Promoted,
            Verdict::Hold => News::Held,
            Verdict::Reject => News::Rejected,
        };
        let registry = redact_place(registry);
        let text = format!(
            "tagstream: version {version} of {registry} was {}: {why}",
            event.name()
        );
        let mut news = self.news(event, text, why.clone());
        news.model = Some(NotifiedModel {
            registry,
            version: *version,
            id: Some(id.clone()),
        });
        // This command has no log but what it says.
        match webhook.send(&news).await {
            Ok(()) => eprintln!("{}: the webhook was told", self.command),
            Err(error) => eprintln!("{}: the webhook was not told: {error}", self.command),
        }
    }

    fn news(&self, event: News, text: String, why: String) -> Notification {
        let time = Utc::now();
        let of = format!(
            "{} {} {} {time} {text}",
            self.host,
            std::process::id(),
            event.name()
        );
        let short = |text: String| text.chars().take(MOST_WHY).collect();
        Notification {
            format_version: Notification::FORMAT_VERSION,
            id: digest::sha256(of)[..32].to_owned(),
            event,
            time,
            command: self.command.to_owned(),
            host: self.host.clone(),
            build: build::name().to_owned(),
            text: short(text),
            why: short(why),
            model: None,
            exit_code: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::extract::State;
    use axum::routing::post;
    use tagstream::retrain::report::RunRecord;
    use tagstream::stage::watch::RefusedVersion;
    use tagstream_core::config::Secret;
    use tagstream_model::registry::RegistryError;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    type Heard = mpsc::UnboundedSender<Notification>;

    /// A teller, and what it tells.
    async fn teller() -> (Teller, mpsc::UnboundedReceiver<Notification>) {
        let (heard, hear) = mpsc::unbounded_channel();
        let keep = async |State(heard): State<Heard>, body: String| {
            heard.send(serde_json::from_str(&body).unwrap()).unwrap();
        };
        let routes = Router::new().route("/x", post(keep)).with_state(heard);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let config = NotifyConfig {
            webhook: Secret::from(url),
            ..NotifyConfig::default()
        };
        (Teller::new(&config, "run").unwrap(), hear)
    }

    fn judged(verdict: Verdict, version: Option<u64>) -> Outcome {
        Outcome::Judged {
            verdict,
            version,
            id: "trm-ml-1".into(),
            why: "mAP 30 -> 46".into(),
            failed_gates: Vec::new(),
            report: None,
            record: Box::new(RunRecord {
                run: "r".into(),
                verdict: "promote".into(),
                summary: String::new(),
                params: Vec::new(),
                measurements: Vec::new(),
            }),
        }
    }

    #[tokio::test]
    async fn verdicts_that_stand_in_the_registry_are_told() {
        let (teller, mut hear) = teller().await;
        let registry = "s3://user:hunter2@media/models";
        for (verdict, event) in [
            (Verdict::Promote, News::Promoted),
            (Verdict::Hold, News::Held),
            (Verdict::Reject, News::Rejected),
        ] {
            teller.judged(registry, &judged(verdict, Some(3))).await;
            let news = hear.try_recv().unwrap();
            assert_eq!((news.event, news.why.as_str()), (event, "mAP 30 -> 46"));
            let model = news.model.unwrap();
            assert_eq!((model.version, model.id.as_deref()), (3, Some("trm-ml-1")));
            assert!(!format!("{} {}", model.registry, news.text).contains("hunter2"));
        }
        // A dry run decides nothing, and neither does a run without labels.
        teller
            .judged(registry, &judged(Verdict::Promote, None))
            .await;
        let reason = "too few".to_owned();
        teller.judged(registry, &Outcome::Nothing { reason }).await;
        assert!(hear.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_refused_version_is_told_and_other_looks_are_not() {
        let (teller, mut hear) = teller().await;
        teller.looked("s3://media/models", &Look::Same);
        let reason = RefusedVersion::Registry(RegistryError::NothingPromoted {
            url: "s3://media/models".into(),
        });
        let why = reason.to_string();
        teller.looked("s3://media/models", &Look::Refused { version: 7, reason });
        let news = hear.recv().await.unwrap();
        assert_eq!((news.event, news.why), (News::Refused, why));
        assert_eq!(news.model.unwrap().version, 7);
    }

    #[tokio::test]
    async fn an_end_is_told_with_its_exit_code_and_ids_differ() {
        let (teller, mut hear) = teller().await;
        teller.stopped(&Ok(Exit::Success)).await;
        let error = usage("no model ".repeat(1000));
        teller.stopped(&Err(error.into())).await;
        let (first, second) = (hear.try_recv().unwrap(), hear.try_recv().unwrap());
        assert_eq!((first.exit_code, second.exit_code), (Some(0), Some(2)));
        assert_ne!(first.id, second.id);
        assert_eq!(second.why.chars().count(), MOST_WHY);
    }
}
