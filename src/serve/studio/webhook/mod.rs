//! Annotations to label events: what an annotation says now, and what must be taken back of what
//! it said before.
//!
//! Several annotations may be about one picture. What one of them takes back another may still
//! say; that is then said again instead of a retraction, since the last write wins.
//!
//! A notice that comes twice, or after a later one, changes nothing. What may be on the topic is
//! on the disk before it is sent: whenever this process dies, the next notice of that annotation
//! takes it back.

use super::error::StudioError;
use super::memory::{Entry, Memory, PictureMemory};
use crate::labelling::{PublishError, Publisher};
use crate::serve::config::ServeConfig;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tagstream_core::events::LabelEvent;
use tagstream_core::process::blocking;
use tagstream_train::labels::{AnnotationNotice, Notice};
use tokio::sync::Mutex;

/// An event that is not acknowledged within this time was not taken. Label Studio itself waits for
/// a second and does not ask again.
const ACKNOWLEDGED: u64 = 10_000;

/// What takes notices.
pub(super) struct Webhook {
    memory: Arc<Memory>,
    publisher: Publisher,
    /// Notices are taken one at a time: two may be about one picture.
    one: Mutex<()>,
}

/// What a notice comes to: events, and what is remembered before and after they are sent.
#[derive(Debug, PartialEq)]
struct Change {
    events: Vec<LabelEvent>,
    before: PictureMemory,
    after: PictureMemory,
}

impl Webhook {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`PublishError`] if librdkafka takes no such client.
    pub(super) fn new(config: &ServeConfig) -> Result<Self, PublishError> {
        let mut kafka = config.kafka.clone();
        kafka.message_timeout_ms = kafka.message_timeout_ms.min(ACKNOWLEDGED);
        Ok(Webhook {
            memory: Arc::new(Memory::new(&config.label_studio.state)),
            publisher: Publisher::new(&kafka, &config.topics.labels)?,
            one: Mutex::default(),
        })
    }

    /// Takes a notice; answers how many label events it came to.
    ///
    /// # Errors
    /// [`StudioError`]; whatever was not sent then is sent with the next notice of the annotation.
    pub(super) async fn take(&self, notice: Notice, who: &str) -> Result<usize, StudioError> {
        let _one = self.one.lock().await;
        let mut sent = 0;
        match notice {
            Notice::Annotated(annotations) => {
                for annotation in annotations {
                    sent += self.annotated(annotation, who).await?;
                }
            }
            Notice::Deleted(keys) => {
                for key in keys {
                    sent += self.deleted(&key, who).await?;
                }
            }
            Notice::Other(action) => {
                tracing::debug!(action, "a notice that says nothing of labels")
            }
        }
        Ok(sent)
    }

    /// Runs what reads and writes files on a thread where no page waits for it.
    async fn remembered<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Memory) -> Result<T, StudioError> + Send + 'static,
    ) -> Result<T, StudioError> {
        let memory = Arc::clone(&self.memory);
        let done = blocking::run(move || work(&memory)).await;
        done.unwrap_or_else(|error| {
            let (path, reason) = (Default::default(), error.to_string());
            Err(StudioError::Memory { path, reason })
        })
    }

    async fn annotated(&self, notice: AnnotationNotice, who: &str) -> Result<usize, StudioError> {
        let key = notice.key.clone();
        let known = self
            .remembered(move |memory| memory.picture_of(&key))
            .await?;
        if known.as_deref() == Some("") {
            return Ok(0);
        }
        let said = notice.event.as_ref().map(|event| event.image_id.clone());
        let mut sent = 0;
        if let (Some(known), Some(said)) = (&known, &said)
            && known != said
        {
            // The task has another picture now: nothing is said of the old one any more.
            let nothing = AnnotationNotice {
                event: None,
                ..notice.clone()
            };
            sent += self.change(known.clone(), nothing, who).await?;
        }
        match said.or(known) {
            Some(image_id) => sent += self.change(image_id, notice, who).await?,
            None => tracing::debug!("an annotation that says nothing and never did"),
        }
        Ok(sent)
    }

    async fn change(
        &self,
        image_id: String,
        notice: AnnotationNotice,
        who: &str,
    ) -> Result<usize, StudioError> {
        let change = self.remembered(move |memory| {
            let picture = memory.picture(&image_id)?;
            let change = changed(picture, &notice);
            if let Some(change) = &change {
                // The key first: what is remembered must be found again.
                memory.put_picture_of(&notice.key, &image_id)?;
                memory.put(&change.before)?;
            }
            Ok(change)
        });
        self.send(change.await?, who).await
    }

    async fn deleted(&self, key: &str, who: &str) -> Result<usize, StudioError> {
        let key = key.to_owned();
        let change = self.remembered(move |memory| {
            let Some(image_id) = memory.picture_of(&key)? else {
                memory.put_picture_of(&key, "")?;
                return Ok(None);
            };
            if image_id.is_empty() {
                return Ok(None);
            }
            let change = gone(memory.picture(&image_id)?, &key, Utc::now());
            if let Some(change) = &change {
                memory.put(&change.before)?;
            }
            Ok(change)
        });
        self.send(change.await?, who).await
    }

    async fn send(&self, change: Option<Change>, who: &str) -> Result<usize, StudioError> {
        let Some(change) = change else {
            return Ok(0);
        };
        let sent = self.publisher.publish(&change.events).await;
        for event in &change.events {
            let outcome = sent
                .as_ref()
                .map_or_else(ToString::to_string, |()| "done".into());
            tracing::info!(
                target: "audit", act = "label", who, annotator = event.annotator,
                what = "label-studio", image_id = event.image_id, outcome, "a label"
            );
        }
        sent?;
        self.remembered(move |memory| memory.put(&change.after))
            .await?;
        Ok(change.events.len())
    }
}

/// What an annotation that says `notice` now comes to; `None` if that is known already.
fn changed(picture: PictureMemory, notice: &AnnotationNotice) -> Option<Change> {
    let old = picture.annotations.get(&notice.key).cloned();
    let old = old.unwrap_or_else(|| Entry {
        time: DateTime::<Utc>::MIN_UTC,
        ..Entry::default()
    });
    if old.gone || notice.time < old.time {
        return None;
    }
    let said = notice.event.as_ref();
    let new = Entry {
        time: notice.time,
        annotator: said.map_or(old.annotator.clone(), |event| event.annotator.clone()),
        present: said.map(|event| event.present.clone()).unwrap_or_default(),
        absent: said.map(|event| event.absent.clone()).unwrap_or_default(),
        ..Entry::default()
    };
    if new == old {
        return None;
    }
    let uri = said.map_or(String::new(), |event| event.uri.clone());
    Some(reckoned(picture, &notice.key, (old, new), uri))
}

/// What a deletion comes to; `None` if that is known already.
fn gone(picture: PictureMemory, key: &str, now: DateTime<Utc>) -> Option<Change> {
    let old = picture.annotations.get(key)?.clone();
    if old.gone && !old.pending {
        return None;
    }
    let new = Entry {
        // Clocks differ: what is taken back must be older than what takes it back.
        time: now.max(old.time + TimeDelta::microseconds(1)),
        annotator: old.annotator.clone(),
        gone: true,
        ..Entry::default()
    };
    Some(reckoned(picture, key, (old, new), String::new()))
}

fn reckoned(
    mut picture: PictureMemory,
    key: &str,
    (old, new): (Entry, Entry),
    uri: String,
) -> Change {
    if !uri.is_empty() {
        picture.uri = uri;
    }
    let before = [&old.present, &old.absent, &old.unsettled];
    let before: BTreeSet<&String> = before.into_iter().flatten().collect();
    let dropped: Vec<String> = before
        .into_iter()
        .filter(|category| !new.says(category))
        .cloned()
        .collect();
    let about = || LabelEvent {
        event_time: Some(new.time),
        ..LabelEvent::about(&picture.image_id, &picture.uri)
    };
    let mut own = LabelEvent {
        present: new.present.clone(),
        absent: new.absent.clone(),
        annotator: new.annotator.clone(),
        ..about()
    };
    let mut others: BTreeMap<&str, LabelEvent> = BTreeMap::new();
    for category in &dropped {
        let rest = picture
            .annotations
            .iter()
            .filter(|(other, _)| *other != key);
        let saying = rest
            .map(|(_, entry)| entry)
            .filter(|entry| entry.says(category));
        let Some(last) = saying.max_by_key(|entry| entry.time) else {
            own.retract.push(category.clone());
            continue;
        };
        let event = others.entry(&last.annotator).or_insert_with(|| LabelEvent {
            annotator: last.annotator.clone(),
            ..about()
        });
        event.event_time = event.event_time.max(Some(last.time));
        match last.present.contains(category) {
            true => event.present.push(category.clone()),
            false => event.absent.push(category.clone()),
        }
    }
    let says = |event: &LabelEvent| {
        !(event.present.is_empty() && event.absent.is_empty() && event.retract.is_empty())
    };
    let events = std::iter::once(own)
        .chain(others.into_values())
        .filter(says)
        .collect();
    let unsettled = Entry {
        unsettled: dropped,
        pending: true,
        ..new.clone()
    };
    let with = |entry: Entry| {
        let mut picture = picture.clone();
        picture.annotations.insert(key.to_owned(), entry);
        picture
    };
    Change {
        events,
        before: with(unsettled),
        after: with(new),
    }
}

#[cfg(test)]
mod tests;
