//! The message by which people hear of a verdict or of a stage's end.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// A retraining's model was promoted.
    Promoted,
    /// A retraining's model waits: too little is known to judge by.
    Held,
    /// A retraining's model was judged worse.
    Rejected,
    /// A stage does not take the registry's version; its old model goes on.
    Refused,
    /// A stage has ended.
    Stopped,
}

impl News {
    /// Its name in messages and metrics.
    pub fn name(self) -> &'static str {
        match self {
            News::Promoted => "promoted",
            News::Held => "held",
            News::Rejected => "rejected",
            News::Refused => "refused",
            News::Stopped => "stopped",
        }
    }
}

/// The model that a [`Notification`] is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifiedModel {
    /// Where its registry is, without secrets.
    pub registry: String,
    /// Its version there.
    pub version: u64,
    /// Its bundle's id, where it is known.
    pub id: Option<String>,
}

/// One piece of news, as `notify.webhook` receives it (JSON).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// [`Notification::FORMAT_VERSION`] of who wrote it.
    pub format_version: u32,
    /// The same in every try to send it: who has seen it need not act again.
    pub id: String,
    /// What has happened.
    pub event: News,
    /// When.
    pub time: DateTime<Utc>,
    /// The command that tells: `run` or `retrain`.
    pub command: String,
    /// The machine that it runs on.
    pub host: String,
    /// Version and revision of the build that sends it.
    pub build: String,
    /// All of it in a sentence, for people; chat services show a field of this name.
    pub text: String,
    /// What was measured, or what went wrong.
    pub why: String,
    /// The model that it is about.
    pub model: Option<NotifiedModel>,
    /// The exit code of a process that has ended.
    pub exit_code: Option<u64>,
}

impl Notification {
    /// The version of the message that this build writes. It is raised when a field is removed or
    /// changes its meaning; fields may be added within a version.
    pub const FORMAT_VERSION: u32 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::label_event::tests::fits;
    use serde_json::{Value, json};

    #[test]
    fn the_published_schema_and_the_code_accept_the_same_news() {
        let schema: Value =
            serde_json::from_str(include_str!("../../../../schemas/notification.schema.json"))
                .unwrap();
        let news = Notification {
            format_version: Notification::FORMAT_VERSION,
            id: "a1".into(),
            event: News::Refused,
            time: DateTime::UNIX_EPOCH,
            command: "run".into(),
            host: "h".into(),
            build: "0.2.0".into(),
            text: "t".into(),
            why: "w".into(),
            model: Some(NotifiedModel {
                registry: "s3://media/models".into(),
                version: 3,
                id: None,
            }),
            exit_code: Some(0),
        };
        let written = serde_json::to_value(&news).unwrap();
        let ours: Vec<&String> = written.as_object().unwrap().keys().collect();
        let mut theirs: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        theirs.sort_unstable();
        let mut sorted = ours.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, theirs);
        let with = |key: &str, value: Value| {
            let mut changed = written.clone();
            changed[key] = value;
            changed
        };
        for (good, value) in [
            (true, written.clone()),
            (true, with("model", Value::Null)),
            (true, with("exit_code", Value::Null)),
            (true, with("more", json!(1))),
            (false, json!({"event": "held"})),
            (false, with("event", json!("bored"))),
            (false, with("time", json!("yesterday"))),
            (false, with("model", json!({"version": 1}))),
            (false, with("format_version", json!("1"))),
        ] {
            assert_eq!(fits(&schema, &schema, &value), good, "the schema: {value}");
            let read = serde_json::from_value::<Notification>(value.clone());
            assert_eq!(read.is_ok(), good, "the code: {value}");
        }
        for event in schema["properties"]["event"]["enum"].as_array().unwrap() {
            let read: News = serde_json::from_value(event.clone()).unwrap();
            assert_eq!(event, read.name());
        }
    }
}
