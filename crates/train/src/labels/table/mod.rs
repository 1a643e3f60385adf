//! The state of all labels after all events: last write wins per (image, category).
//!
//! There may be tens of millions of labels, so a label takes eight bytes (its category and state,
//! and the number of the event that said so) and an event sixteen (its time and place in the log);
//! names stand once. Times count in microseconds, as in the stage's tables.

mod gathering;
mod kept;
mod strings;
#[cfg(test)]
mod tests;

pub use gathering::{Gathering, Said};
pub use kept::KeptError;

use chrono::{DateTime, Utc};
use gathering::{Addresses, Events, NONE, Origins, Row};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use strings::Strings;
use tagstream_core::digest;
use tagstream_core::events::{LabelEvent, LabelState};

/// When a label was said, and, among labels of one instant, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp<'a> {
    /// The event's time.
    pub time: DateTime<Utc>,
    /// Topic of the event.
    pub topic: &'a str,
    /// Partition of the event.
    pub partition: i32,
    /// Offset of the event; for files the line.
    pub offset: i64,
}

/// Who said what is known of one category in one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label<'a> {
    /// Who.
    pub annotator: &'a str,
    /// When.
    pub stamp: Stamp<'a>,
}

/// All that is known about one image.
#[derive(Debug, Clone, Copy)]
pub struct ImageLabels<'a> {
    table: &'a LabelTable,
    place: usize,
}

impl<'a> ImageLabels<'a> {
    /// Known labels, by category.
    pub fn known(self) -> impl Iterator<Item = (&'a str, LabelState, Label<'a>)> {
        let table = self.table;
        table.rows_of(self.place).iter().filter_map(move |row| {
            let label = Label {
                annotator: table.origins.annotator(&table.events, row.event),
                stamp: table.origins.stamp(&table.events, row.event),
            };
            Some((table.category(*row), row.state()?, label))
        })
    }

    /// The same, without who said so.
    pub fn states(self) -> impl Iterator<Item = (&'a str, LabelState)> {
        let rows = self.table.rows_of(self.place).iter();
        rows.filter_map(move |row| Some((self.table.category(*row), row.state()?)))
    }

    /// When something that is known was said last.
    pub fn last_said(self) -> Option<DateTime<Utc>> {
        let rows = self.table.rows_of(self.place).iter();
        let known = rows.filter(|row| row.state().is_some());
        let times = known.map(|row| self.table.events.times[row.event as usize]);
        times.max().and_then(DateTime::from_timestamp_micros)
    }

    /// Where label events say that the image is; empty if none told.
    pub fn uri(self) -> Cow<'a, str> {
        self.place_of(self.table.uris[self.place])
    }

    /// Where the image is: the addresses that are known, the likeliest first. From where it was
    /// tagged it could be fetched once; annotation tools often tell addresses of their own.
    pub fn addresses(self) -> impl Iterator<Item = Cow<'a, str>> {
        let tagged = self.table.tagged.get(self.place).copied().unwrap_or(0);
        let told = Some(self.table.uris[self.place]).filter(|told| *told != tagged);
        let all = [Some(tagged), told].into_iter().flatten();
        all.filter(|number| *number != 0)
            .map(move |number| self.place_of(number))
    }

    /// The likeliest address; empty if none is known.
    pub fn address(self) -> Cow<'a, str> {
        self.addresses().next().unwrap_or_default()
    }

    fn place_of(self, number: u32) -> Cow<'a, str> {
        let name = self.table.images.get(self.place);
        self.table.addresses.get(name, number)
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

/// The state of all labels after all events, however they were ordered and filed. A [`Gathering`]
/// makes it.
#[derive(Clone, Default)]
pub struct LabelTable {
    /// In order.
    images: Strings,
    /// Of each image the number of its address, and the event that told it.
    uris: Vec<u32>,
    uri_events: Vec<u32>,
    /// Of each image the number of the address where it was tagged; empty if nobody looked.
    tagged: Vec<u32>,
    /// In order.
    categories: Strings,
    /// Image `i` has the rows from `starts[i]` to `starts[i + 1]`, by category.
    starts: Vec<usize>,
    rows: Vec<Row>,
    events: Events,
    origins: Origins,
    addresses: Addresses,
}

impl LabelTable {
    /// A table of events in the order given; events without a time count as said at the epoch.
    pub fn of_events<'a>(events: impl IntoIterator<Item = &'a LabelEvent>) -> Self {
        let mut gathering = Gathering::default();
        for (line, event) in events.into_iter().enumerate() {
            let stamp = Stamp {
                time: event.event_time.unwrap_or_default(),
                offset: line as i64,
                ..Stamp::default()
            };
            gathering.apply(event, &stamp);
        }
        gathering.finish()
    }

    fn rows_of(&self, place: usize) -> &[Row] {
        match self.starts.get(place..place + 2) {
            Some(&[begin, end]) => &self.rows[begin..end],
            _ => &[],
        }
    }

    fn category(&self, row: Row) -> &str {
        self.categories.get(row.category() as usize)
    }

    /// Every image of which anything was ever said, by id.
    fn all(&self) -> impl Iterator<Item = (&str, ImageLabels<'_>)> {
        let images = self.images.iter().enumerate();
        images.map(|(place, id)| (id, ImageLabels { table: self, place }))
    }

    /// What is known about one image, if anything ever was said.
    pub fn image(&self, image_id: &str) -> Option<ImageLabels<'_>> {
        let place = self.images.search(image_id)?;
        Some(ImageLabels { table: self, place })
    }

    /// What is known about one category in one image.
    pub fn state(&self, image_id: &str, category: &str) -> Option<LabelState> {
        let category = self.categories.search(category)?;
        let rows = self.rows_of(self.images.search(image_id)?);
        let row = rows.binary_search_by_key(&category, |row| row.category() as usize);
        rows[row.ok()?].state()
    }

    /// Images with at least one known label, by id.
    pub fn images(&self) -> impl Iterator<Item = (&str, ImageLabels<'_>)> {
        self.all().filter(|(_, image)| {
            let mut rows = self.rows_of(image.place).iter();
            rows.any(|row| row.state().is_some())
        })
    }

    /// Ids of images that have labels but no address.
    pub fn without_uri(&self) -> impl Iterator<Item = &str> {
        self.images()
            .filter(|(_, image)| image.addresses().next().is_none())
            .map(|(id, _)| id)
    }

    /// Tells where an image was when it was tagged.
    pub fn tagged_at(&mut self, image_id: &str, uri: &str) {
        if let Some(place) = self.images.search(image_id) {
            self.tagged.resize(self.images.len(), 0);
            self.tagged[place] = self.addresses.number(image_id, uri);
        }
    }

    /// Every known label: image, category, state; in order.
    pub fn known(&self) -> impl Iterator<Item = (&str, &str, LabelState)> {
        self.all()
            .flat_map(|(id, image)| image.states().map(move |(c, state)| (id, c, state)))
    }

    /// Labels that both tables know alike.
    pub fn agreements(&self, other: &Self) -> usize {
        let same = |(id, image): (&str, ImageLabels<'_>)| {
            let Some(other) = other.image(id) else {
                return 0;
            };
            let mut theirs = other.states().peekable();
            let ours = image.states().filter(|(category, state)| {
                while theirs.next_if(|(name, _)| name < category).is_some() {}
                theirs.peek() == Some(&(*category, *state))
            });
            ours.count()
        };
        self.all().map(same).sum()
    }

    /// How much is known about each category.
    pub fn counts(&self) -> BTreeMap<String, CategoryCount> {
        let mut counts = vec![CategoryCount::default(); self.categories.len()];
        for row in &self.rows {
            let count = &mut counts[row.category() as usize];
            match row.state() {
                Some(LabelState::Present) => count.present += 1,
                Some(LabelState::Absent) => count.absent += 1,
                None => {}
            }
        }
        let images = self.images().count() as u64;
        let named = self.categories.iter().zip(counts);
        let known = named.filter(|(_, count)| count.present + count.absent > 0);
        known
            .map(|(name, count)| {
                let unknown = images - count.present - count.absent;
                (name.to_owned(), CategoryCount { unknown, ..count })
            })
            .collect()
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

    /// Bytes that the table takes on the heap: of its labels (rows, and the events that said them),
    /// and of the names and addresses of images.
    pub fn heap_bytes(&self) -> (usize, usize) {
        let labels = self.rows.capacity() * size_of::<Row>() + self.events.heap_bytes();
        let images = self.images.heap_bytes()
            + self.starts.capacity() * size_of::<usize>()
            + (self.uris.capacity() + self.uri_events.capacity() + self.tagged.capacity())
                * size_of::<u32>()
            + self.addresses.heap_bytes()
            + self.origins.heap_bytes()
            + self.categories.heap_bytes();
        (labels, images)
    }

    fn shrink(&mut self) {
        self.rows.shrink_to_fit();
        self.events.times.shrink_to_fit();
        self.events.offsets.shrink_to_fit();
        self.events.origins.shrink_to_fit();
    }

    /// All that was ever said last, retractions too: what equal tables agree on.
    fn facts(&self, place: usize) -> impl Iterator<Item = (&str, Option<LabelState>, Label<'_>)> {
        self.rows_of(place).iter().map(move |row| {
            let label = Label {
                annotator: self.origins.annotator(&self.events, row.event),
                stamp: self.origins.stamp(&self.events, row.event),
            };
            (self.category(*row), row.state(), label)
        })
    }

    fn uri_stamp(&self, place: usize) -> Option<Stamp<'_>> {
        let event = self.uri_events[place];
        (event != NONE).then(|| self.origins.stamp(&self.events, event))
    }
}

impl PartialEq for LabelTable {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.all().zip(other.all());
        self.images.len() == other.images.len()
            && pairs.all(|((id, a), (other_id, b))| {
                id == other_id
                    && a.uri() == b.uri()
                    && self.uri_stamp(a.place) == other.uri_stamp(b.place)
                    && self.facts(a.place).eq(other.facts(b.place))
            })
    }
}

impl Eq for LabelTable {}

impl fmt::Debug for LabelTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut images = f.debug_map();
        for (id, image) in self.all() {
            let facts: Vec<_> = self.facts(image.place).collect();
            images.entry(&id, &(image.uri(), facts));
        }
        images.finish()
    }
}
