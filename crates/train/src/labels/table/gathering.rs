//! Events on their way into a table, in any order.
//!
//! What an event says of many categories shares the event's stamp: a row is the category with what
//! is said of it, and the event's number. Rows that later ones have overtaken are dropped whenever
//! they have become as many as those that count, so that events which come again and again (a topic
//! that was replayed) take no memory.

use super::strings::{Interner, Strings};
use super::{LabelTable, Stamp};
use chrono::DateTime;
use std::cmp::Ordering;
use std::collections::HashMap;
use tagstream_core::events::{LabelEvent, LabelState};

/// No event.
pub(super) const NONE: u32 = u32::MAX;
/// Rows from which on it is worth looking for overtaken ones.
const SETTLED: usize = 1 << 22;

/// Who said something, and where its log stands: what many events have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) annotator: u32,
    pub(super) topic: u32,
    pub(super) partition: i32,
    /// The upper half of the offset.
    pub(super) above: i32,
}

/// A category with what is said of it, and the event that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// Category, and in the two lowest bits the state.
    pub(super) code: u32,
    pub(super) event: u32,
}

impl Row {
    pub(super) fn category(self) -> u32 {
        self.code >> 2
    }

    pub(super) fn state(self) -> Option<LabelState> {
        match self.code & 3 {
            1 => Some(LabelState::Present),
            2 => Some(LabelState::Absent),
            _ => None,
        }
    }
}

fn code(category: u32, state: Option<LabelState>) -> u32 {
    let state = match state {
        Some(LabelState::Present) => 1,
        Some(LabelState::Absent) => 2,
        None => 0,
    };
    category << 2 | state
}

/// Stamps of events, a column each.
#[derive(Debug, Clone, Default)]
pub(super) struct Events {
    /// Microseconds since the epoch.
    pub(super) times: Vec<i64>,
    /// The lower halves of the offsets.
    pub(super) offsets: Vec<u32>,
    pub(super) origins: Vec<u32>,
}

impl Events {
    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    fn keep(&mut self, used: &[bool]) {
        let mut at = 0..used.len();
        let mut keep = || at.next().is_some_and(|event| used[event]);
        self.times.retain(|_| keep());
        let mut at = 0..used.len();
        let mut keep = || at.next().is_some_and(|event| used[event]);
        self.offsets.retain(|_| keep());
        let mut at = 0..used.len();
        let mut keep = || at.next().is_some_and(|event| used[event]);
        self.origins.retain(|_| keep());
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.times.capacity() * size_of::<i64>()
            + (self.offsets.capacity() + self.origins.capacity()) * size_of::<u32>()
    }
}

/// What origins are of.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins {
    pub(super) all: Vec<Origin>,
    pub(super) annotators: Interner,
    pub(super) topics: Interner,
    numbers: HashMap<Origin, u32>,
}

impl Origins {
    pub(super) fn from_parts(all: Vec<Origin>, annotators: Strings, topics: Strings) -> Self {
        Origins {
            numbers: all.iter().copied().zip(0..).collect(),
            all,
            annotators: annotators.into(),
            topics: topics.into(),
        }
    }

    fn number(&mut self, said: &Said<'_>) -> u32 {
        let origin = Origin {
            annotator: self.annotators.number(said.annotator),
            topic: self.topics.number(said.stamp.topic),
            partition: said.stamp.partition,
            above: (said.stamp.offset >> 32) as i32,
        };
        let next = self.all.len() as u32;
        let number = *self.numbers.entry(origin).or_insert(next);
        if number == next {
            self.all.push(origin);
        }
        number
    }

    /// The stamp of an event.
    pub(super) fn stamp(&self, events: &Events, event: u32) -> Stamp<'_> {
        let event = event as usize;
        let origin = self.all[events.origins[event] as usize];
        let below = i64::from(events.offsets[event]);
        Stamp {
            time: DateTime::from_timestamp_micros(events.times[event]).unwrap_or_default(),
            topic: self.topics.strings().get(origin.topic as usize),
            partition: origin.partition,
            offset: i64::from(origin.above) << 32 | below,
        }
    }

    pub(super) fn annotator(&self, events: &Events, event: u32) -> &str {
        let origin = self.all[events.origins[event as usize] as usize];
        self.annotators.strings().get(origin.annotator as usize)
    }

    /// Which of two events was said later.
    pub(super) fn later(&self, events: &Events, a: u32, b: u32) -> Ordering {
        let time = |event: u32| events.times[event as usize];
        let stamps = || self.stamp(events, a).cmp(&self.stamp(events, b));
        time(a).cmp(&time(b)).then_with(stamps)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.all.capacity() * 2 * size_of::<(Origin, u32)>()
            + self.annotators.heap_bytes()
            + self.topics.heap_bytes()
    }
}

/// Where images are. Most addresses hold the image's name: they are kept without it.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses {
    forms: Interner,
}

/// Where the name stood. No address holds it.
const NAME: char = '\0';

impl Addresses {
    /// The number of an address; 0 is none.
    pub(super) fn number(&mut self, image: &str, uri: &str) -> u32 {
        if self.forms.strings().len() == 0 {
            self.forms.number("");
        }
        if uri.contains(NAME) {
            // It would be read as a form.
            return 0;
        }
        match uri.rsplit_once(image).filter(|_| !image.is_empty()) {
            Some((before, after)) => self.forms.number(&format!("{before}{NAME}{after}")),
            None => self.forms.number(uri),
        }
    }

    /// The address of that number.
    pub(super) fn get<'a>(&'a self, image: &str, number: u32) -> std::borrow::Cow<'a, str> {
        let form = self.forms.strings().get(number as usize);
        match form.split_once(NAME) {
            Some((before, after)) => format!("{before}{image}{after}").into(),
            None => form.into(),
        }
    }

    pub(super) fn strings(&self) -> &Strings {
        self.forms.strings()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.forms.heap_bytes()
    }
}

impl From<Strings> for Addresses {
    fn from(forms: Strings) -> Self {
        Self {
            forms: forms.into(),
        }
    }
}

/// Events that become a [`LabelTable`].
#[derive(Debug, Default)]
pub struct Gathering {
    images: Interner,
    /// Of each image: the number of its address, and the event that told it.
    uris: Vec<u32>,
    uri_events: Vec<u32>,
    categories: Interner,
    origins: Origins,
    addresses: Addresses,
    events: Events,
    /// Of each event the image.
    event_images: Vec<u32>,
    rows: Vec<Row>,
    /// Rows at which overtaken ones are dropped.
    settle_at: usize,
}

/// What one event says, as columns hold it.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// As the event names it.
    pub image_id: &'a str,
    /// Where it is; may be empty.
    pub uri: &'a str,
    /// Who says so.
    pub annotator: &'a str,
    /// When.
    pub stamp: Stamp<'a>,
}

impl Gathering {
    /// Takes an event in. The order of calls does not matter: stamps decide.
    pub fn apply(&mut self, event: &LabelEvent, stamp: &Stamp<'_>) {
        let said = Said {
            image_id: &event.image_id,
            uri: &event.uri,
            annotator: &event.annotator,
            stamp: *stamp,
        };
        let present = event.present.iter().map(|c| (c, Some(LabelState::Present)));
        let absent = event.absent.iter().map(|c| (c, Some(LabelState::Absent)));
        let retract = event.retract.iter().map(|c| (c, None));
        let all = present.chain(absent).chain(retract);
        self.take(
            &said,
            all.map(|(category, state)| (category.as_str(), state)),
        );
    }

    /// The same of an event that is none of its own: what is said of each category, `None` takes
    /// back what was said before.
    pub fn take<'a>(
        &mut self,
        said: &Said<'_>,
        categories: impl IntoIterator<Item = (&'a str, Option<LabelState>)>,
    ) {
        let image = self.images.number(said.image_id);
        if self.uris.len() < self.images.strings().len() {
            self.uris.push(0);
            self.uri_events.push(NONE);
        }
        let event = self.events.len() as u32;
        self.events.times.push(said.stamp.time.timestamp_micros());
        self.events.offsets.push(said.stamp.offset as u32);
        self.events.origins.push(self.origins.number(said));
        self.event_images.push(image);
        if !said.uri.is_empty() {
            let held = self.uri_events[image as usize];
            if held == NONE || self.origins.later(&self.events, held, event).is_le() {
                let number = self.addresses.number(said.image_id, said.uri);
                if number != 0 {
                    self.uris[image as usize] = number;
                    self.uri_events[image as usize] = event;
                }
            }
        }
        let before = self.rows.len();
        for (category, state) in categories {
            let code = code(self.categories.number(category), state);
            self.rows.push(Row { code, event });
        }
        if self.rows.len() == before && self.uri_events[image as usize] != event {
            self.events.times.pop();
            self.events.offsets.pop();
            self.events.origins.pop();
            self.event_images.pop();
        }
        if self.rows.len() >= self.settle_at.max(SETTLED) {
            self.settle();
        }
    }

    /// Rows, events, and events with an image.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 3] {
        let [rows, images] = [self.rows.len(), self.event_images.len()];
        [rows, self.events.len(), images]
    }

    /// Drops rows that are overtaken, and events that nothing refers to.
    pub(super) fn settle(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        let grouped = Grouped::new(rows, &self.event_images, None, self.uris.len());
        self.rows = grouped.latest(&self.origins, &self.events).rows;
        let used = self.drop_unused();
        let mut at = 0..used.len();
        self.event_images
            .retain(|_| at.next().is_some_and(|event| used[event]));
        self.settle_at = 2 * self.rows.len();
    }

    /// Drops the events that nothing refers to, and says which stayed.
    fn drop_unused(&mut self) -> Vec<bool> {
        let mut used = vec![false; self.events.len()];
        let by_rows = self.rows.iter().map(|row| row.event);
        let by_uris = self.uri_events.iter().copied();
        for event in by_rows.chain(by_uris).filter(|event| *event != NONE) {
            used[event as usize] = true;
        }
        let mut next = 0;
        let numbers: Vec<u32> = used
            .iter()
            .map(|used| {
                let number = next;
                next += u32::from(*used);
                number
            })
            .collect();
        if next as usize == used.len() {
            return used;
        }
        for row in &mut self.rows {
            row.event = numbers[row.event as usize];
        }
        for event in self.uri_events.iter_mut().filter(|event| **event != NONE) {
            *event = numbers[*event as usize];
        }
        self.events.keep(&used);
        used
    }

    /// The table of all that was taken in.
    pub fn finish(mut self) -> LabelTable {
        let images = self.images.strings();
        let mut order: Vec<u32> = (0..images.len() as u32).collect();
        order.sort_by(|a, b| images.get(*a as usize).cmp(images.get(*b as usize)));
        let ranks = ranks(&order);
        let names = self.categories.strings();
        let mut named: Vec<u32> = (0..names.len() as u32).collect();
        named.sort_by(|a, b| names.get(*a as usize).cmp(names.get(*b as usize)));
        let category_ranks = self::ranks(&named);
        for row in &mut self.rows {
            let category = category_ranks[row.category() as usize];
            row.code = category << 2 | row.code & 3;
        }
        let rows = std::mem::take(&mut self.rows);
        let event_images = std::mem::take(&mut self.event_images);
        let grouped = Grouped::new(rows, &event_images, Some(&ranks), order.len());
        drop(event_images);
        let Grouped { starts, rows } = grouped.latest(&self.origins, &self.events);
        self.rows = rows;
        self.drop_unused();
        let by_order = |values: &[u32]| order.iter().map(|image| values[*image as usize]).collect();
        let mut table = LabelTable {
            uris: by_order(&self.uris),
            uri_events: by_order(&self.uri_events),
            tagged: Vec::new(),
            images: self.images.strings().ordered(&order),
            categories: self.categories.strings().ordered(&named),
            starts,
            rows: self.rows,
            events: self.events,
            origins: self.origins,
            addresses: self.addresses,
        };
        table.shrink();
        table
    }
}

impl From<LabelTable> for Gathering {
    /// The table, to be gone on with.
    fn from(table: LabelTable) -> Self {
        let mut event_images = vec![0; table.events.len()];
        for (image, range) in table.starts.windows(2).enumerate() {
            for row in &table.rows[range[0]..range[1]] {
                event_images[row.event as usize] = image as u32;
            }
        }
        for (image, &event) in table.uri_events.iter().enumerate() {
            if event != NONE {
                event_images[event as usize] = image as u32;
            }
        }
        Gathering {
            images: table.images.into(),
            uris: table.uris,
            uri_events: table.uri_events,
            categories: table.categories.into(),
            origins: table.origins,
            addresses: table.addresses,
            events: table.events,
            event_images,
            settle_at: 2 * table.rows.len(),
            rows: table.rows,
        }
    }
}

/// The place of each number in an order.
fn ranks(order: &[u32]) -> Vec<u32> {
    let mut ranks = vec![0; order.len()];
    for (rank, number) in order.iter().enumerate() {
        ranks[*number as usize] = rank as u32;
    }
    ranks
}

/// Rows by image: image `i` has `rows[starts[i]..starts[i + 1]]`.
struct Grouped {
    starts: Vec<usize>,
    rows: Vec<Row>,
}

impl Grouped {
    /// The rows of an image in the order in which they came. `ranks` says where each image goes.
    fn new(rows: Vec<Row>, event_images: &[u32], ranks: Option<&[u32]>, images: usize) -> Self {
        let place = |row: &Row| {
            let image = event_images[row.event as usize] as usize;
            ranks.map_or(image, |ranks| ranks[image] as usize)
        };
        let mut starts = vec![0; images + 1];
        for row in &rows {
            starts[place(row) + 1] += 1;
        }
        for image in 0..images {
            starts[image + 1] += starts[image];
        }
        let mut grouped = vec![Row { code: 0, event: 0 }; rows.len()];
        // `starts[i]` runs to where image `i` ends, which is where `i + 1` begins.
        for row in &rows {
            let next = &mut starts[place(row)];
            grouped[*next] = *row;
            *next += 1;
        }
        starts.rotate_right(1);
        if let Some(first) = starts.first_mut() {
            *first = 0;
        }
        Grouped {
            starts,
            rows: grouped,
        }
    }

    /// Of each image and category the last word, categories in order.
    fn latest(mut self, origins: &Origins, events: &Events) -> Self {
        let (mut written, mut begin) = (0, 0);
        for image in 0..self.starts.len() - 1 {
            let end = self.starts[image + 1];
            self.rows[begin..end].sort_by_key(|row| row.category());
            self.starts[image] = written;
            for at in begin..end {
                let row = self.rows[at];
                let first = written == self.starts[image];
                if first || self.rows[written - 1].category() != row.category() {
                    self.rows[written] = row;
                    written += 1;
                } else if origins
                    .later(events, self.rows[written - 1].event, row.event)
                    .is_le()
                {
                    self.rows[written - 1] = row;
                }
            }
            begin = end;
        }
        if let Some(last) = self.starts.last_mut() {
            *last = written;
        }
        self.rows.truncate(written);
        self
    }
}
