//! What the demonstration sends: references to scenes, and some that are broken on purpose.

use super::{DemoError, Story, io_error, topic};
use crate::stage::source::{ClientSettings, Covering};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use std::path::Path;
use std::time::Duration;
use tagstream_core::events::{DeadLetterKind, ImageReference, LabelEvent};

/// A message that must end as a dead letter.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The message's value.
    pub value: String,
    /// The kind that it must get.
    pub kind: DeadLetterKind,
}

fn reference(image_id: &str, uri: String) -> String {
    let reference = ImageReference {
        image_id: image_id.into(),
        uri,
        event_time: None,
        attributes: Default::default(),
    };
    serde_json::to_string(&reference).expect("an image reference is JSON")
}

/// Writes a few files that are no good pictures into `folder` and returns messages of every broken
/// sort.
///
/// # Errors
/// [`DemoError::Io`].
pub fn write_broken_pictures(folder: &Path, jpeg: &[u8]) -> Result<Vec<Broken>, DemoError> {
    let files: [(&str, &[u8], DeadLetterKind); 4] = [
        (
            "truncated.jpg",
            &jpeg[..jpeg.len() / 2],
            DeadLetterKind::BadImage,
        ),
        (
            "page.jpg",
            b"<!DOCTYPE html><title>404</title>",
            DeadLetterKind::UnsupportedImage,
        ),
        ("empty.jpg", b"", DeadLetterKind::UnsupportedImage),
        (
            "notes.jpg",
            b"not a picture at all",
            DeadLetterKind::UnsupportedImage,
        ),
    ];
    let mut broken = Vec::new();
    for (name, bytes, kind) in files {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(io_error(&path))?;
        let value = reference(name, format!("file://{}", path.display()));
        broken.push(Broken { value, kind });
    }
    let missing = folder.join("missing.jpg");
    let others = [
        (
            reference("missing", format!("file://{}", missing.display())),
            DeadLetterKind::NotFound,
        ),
        (
            reference("outside", "file:///etc/hostname".into()),
            DeadLetterKind::ForbiddenUri,
        ),
        (
            reference("loopback", "http://127.0.0.1:9/a.jpg".into()),
            DeadLetterKind::ForbiddenUri,
        ),
        (
            reference("scheme", "gopher://example.org/a.jpg".into()),
            DeadLetterKind::BadUri,
        ),
        (
            r#"{"image_id":"cut off"#.to_string(),
            DeadLetterKind::BadMessage,
        ),
        (
            r#"{"uri":"data:,nameless"}"#.to_string(),
            DeadLetterKind::BadMessage,
        ),
    ];
    broken.extend(others.map(|(value, kind)| Broken { value, kind }));
    Ok(broken)
}

impl Story {
    /// Sends image references: `good` are (image id, path of the picture), and `broken` ones spread
    /// among them.
    ///
    /// # Errors
    /// [`DemoError::Kafka`].
    pub fn send_references(
        &self,
        good: &[(String, std::path::PathBuf)],
        broken: &[Broken],
    ) -> Result<(), DemoError> {
        let every = (good.len() / (broken.len() + 1)).max(1);
        let mut rest = broken.iter();
        let mut messages = Vec::with_capacity(good.len() + broken.len());
        for (i, (image_id, path)) in good.iter().enumerate() {
            if i % every == every - 1
                && let Some(b) = rest.next()
            {
                messages.push((format!("broken-{i}"), b.value.clone()));
            }
            let uri = format!("file://{}", path.display());
            messages.push((image_id.clone(), reference(image_id, uri)));
        }
        messages.extend(
            rest.enumerate()
                .map(|(i, b)| (format!("broken-last-{i}"), b.value.clone())),
        );
        self.send(topic::IMAGES, &messages)
    }

    /// Sends label events.
    ///
    /// # Errors
    /// [`DemoError::Kafka`].
    pub fn send_labels(&self, events: &[LabelEvent]) -> Result<(), DemoError> {
        let messages: Vec<(String, String)> = events
            .iter()
            .map(|event| {
                let value = serde_json::to_string(event).expect("a label event is JSON");
                (event.image_id.clone(), value)
            })
            .collect();
        self.send(topic::LABELS, &messages)
    }

    fn send(&self, topic: &str, messages: &[(String, String)]) -> Result<(), DemoError> {
        let producer: ThreadedProducer<Covering> = ClientSettings::new(self.brokers())
            .set("message.timeout.ms", "30000")
            .create()?;
        for (key, value) in messages {
            let mut record = BaseRecord::to(topic).key(key).payload(value);
            // A full queue empties by itself: the producer's own thread sends.
            while let Err((error, back)) = producer.send(record) {
                match error {
                    KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => {
                        producer.flush(Duration::from_secs(10))?;
                        record = back;
                    }
                    other => return Err(other.into()),
                }
            }
        }
        producer.flush(Duration::from_secs(30))?;
        Ok(())
    }
}
