//! The state of all labels after all events: last write wins per (image, category).

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use tagstream_core::digest;
use tagstream_core::events::{LabelEvent, LabelState};

/// When a label was said, and, among labels of one instant, in which order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp {
    /// The event's time.
    pub time: DateTime<Utc>,
    /// Topic of the event.
    pub topic: String,
    /// Partition of the event.
    pub partition: i32,
    /// Offset of the event; for files the line.
    pub offset: i64,
}

/// What the last event said about one category in one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// What; `None` after a retraction.
    pub state: Option<LabelState>,
    /// Who said so.
    pub annotator: String,
    /// When.
    pub stamp: Stamp,
}

/// All that is known about one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageLabels {
    /// Where label events say that the image is; empty if none told.
    pub uri: String,
    uri_stamp: Stamp,
    /// Where the image was when it was tagged; empty if that is not known.
    tagged_at: String,
    labels: BTreeMap<String, Label>,
}

impl ImageLabels {
    /// Where the image is: the addresses that are known, the likeliest first. From where it was
    /// tagged it could be fetched once; annotation tools often tell addresses of their own.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let told = Some(self.uri.as_str()).filter(|uri| *uri != self.tagged_at);
        let all = [Some(self.tagged_at.as_str()), told].into_iter().flatten();
        all.filter(|uri| !uri.is_empty())
    }

    /// The likeliest address; empty if none is known.
    pub fn address(&self) -> &str {
        self.addresses().next().unwrap_or_default()
    }

    /// Known labels, by category.
    pub fn known(&self) -> impl Iterator<Item = (&str, LabelState, &Label)> {
        self.labels
            .iter()
            .filter_map(|(category, label)| Some((category.as_str(), label.state?, label)))
    }
}

/// How much is known about one category.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct CategoryCount {
    /// Images that have it.
    pub present: u64,
    /// Images that have it not.
    pub absent: u64,
    /// Images of the table of which it is not known.
    pub unknown: u64,
}

/// The state of all labels after all events, however they were ordered and filed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelTable {
    images: BTreeMap<String, ImageLabels>,
}

impl LabelTable {
    /// Takes an event in. The order of calls does not matter: stamps decide.
    pub fn apply(&mut self, event: &LabelEvent, stamp: &Stamp) {
        let image = self.images.entry(event.image_id.clone()).or_default();
        if !event.uri.is_empty() && (image.uri.is_empty() || image.uri_stamp <= *stamp) {
            image.uri.clone_from(&event.uri);
            image.uri_stamp = stamp.clone();
        }
        let said = [
            (&event.present, Some(LabelState::Present)),
            (&event.absent, Some(LabelState::Absent)),
            (&event.retract, None),
        ];
        for (categories, state) in said {
            for category in categories {
                let label = Label {
                    state,
                    annotator: event.annotator.clone(),
                    stamp: stamp.clone(),
                };
                match image.labels.get_mut(category) {
                    Some(earlier) if earlier.stamp > *stamp => {}
                    Some(earlier) => *earlier = label,
                    None => {
                        image.labels.insert(category.clone(), label);
                    }
                }
            }
        }
    }

    /// A table of events in the order given; events without a time count as said at the epoch.
    pub fn of_events<'a>(events: impl IntoIterator<Item = &'a LabelEvent>) -> Self {
        let mut table = LabelTable::default();
        for (line, event) in events.into_iter().enumerate() {
            let stamp = Stamp {
                time: event.event_time.unwrap_or_default(),
                offset: line as i64,
                ..Stamp::default()
            };
            table.apply(event, &stamp);
        }
        table
    }

    /// What is known about one image, if anything ever was said.
    pub fn image(&self, image_id: &str) -> Option<&ImageLabels> {
        self.images.get(image_id)
    }

    /// What is known about one category in one image.
    pub fn state(&self, image_id: &str, category: &str) -> Option<LabelState> {
        self.image(image_id)?.labels.get(category)?.state
    }

    /// Images with at least one known label, by id.
    pub fn images(&self) -> impl Iterator<Item = (&str, &ImageLabels)> {
        self.images
            .iter()
            .filter(|(_, image)| image.known().next().is_some())
            .map(|(id, image)| (id.as_str(), image))
    }

    /// Ids of images that have labels but no address.
    pub fn without_uri(&self) -> impl Iterator<Item = &str> {
        self.images()
            .filter(|(_, image)| image.address().is_empty())
            .map(|(id, _)| id)
    }

    /// Tells where an image was when it was tagged.
    pub fn tagged_at(&mut self, image_id: &str, uri: &str) {
        if let Some(image) = self.images.get_mut(image_id) {
            image.tagged_at = uri.into();
        }
    }

    /// Every known label: image, category, state; in order.
    pub fn known(&self) -> impl Iterator<Item = (&str, &str, LabelState)> {
        self.images()
            .flat_map(|(id, image)| image.known().map(move |(c, state, _)| (id, c, state)))
    }

    /// How much is known about each category.
    pub fn counts(&self) -> BTreeMap<String, CategoryCount> {
        let mut counts: BTreeMap<String, CategoryCount> = BTreeMap::new();
        for (_, category, state) in self.known() {
            if !counts.contains_key(category) {
                counts.insert(category.into(), CategoryCount::default());
            }
            if let Some(count) = counts.get_mut(category) {
                match state {
                    LabelState::Present => count.present += 1,
                    LabelState::Absent => count.absent += 1,
                }
            }
        }
        let images = self.images().count() as u64;
        for count in counts.values_mut() {
            count.unknown = images - count.present - count.absent;
        }
        counts
    }

    /// SHA-256 (hex) over the known labels in order. Equal hashes are equal labels, whatever files,
    /// partitions and orders of arrival they came from; who said them and when does not count.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for (image, category, state) in self.known() {
            let mut part = |bytes: &[u8]| {
                hasher.update((bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            };
            part(image.as_bytes());
            part(category.as_bytes());
            part(match state {
                LabelState::Present => b"+",
                LabelState::Absent => b"-",
            });
        }
        digest::hex(hasher.finalize())
    }
}
