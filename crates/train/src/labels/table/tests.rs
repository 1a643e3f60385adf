//! The table against a plain map, its size, and its bytes.

use super::*;
use chrono::TimeDelta;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// An event with all that decides.
#[derive(Debug, Clone)]
struct Told {
    event: LabelEvent,
    topic: &'static str,
    partition: i32,
    offset: i64,
}

impl Told {
    fn stamp(&self) -> Stamp<'_> {
        Stamp {
            time: self.event.event_time.unwrap_or_default(),
            topic: self.topic,
            partition: self.partition,
            offset: self.offset,
        }
    }
}

/// Events about few images and categories at few times, so that most of them overtake others.
fn told(random: &mut StdRng, count: usize) -> Vec<Told> {
    let offsets = [0, 5, i64::from(u32::MAX), 1 << 32, (1 << 40) + 7];
    let mut all = Vec::new();
    for n in 0..count {
        let id = format!("i{}", random.random_range(0..6));
        let uri = match random.random_range(0..4) {
            0 => String::new(),
            1 => format!("s3://b/{id}.jpg"),
            2 => format!("s3://b{}/x.jpg", random.random_range(0..3)),
            _ => format!("{id}/{id}"),
        };
        let mut event = LabelEvent::about(id, uri);
        let mut names = ["cat", "dog", "", "Ümlaut", "e"].map(String::from);
        names.rotate_left(random.random_range(0..5));
        let said = random.random_range(0..=4);
        for (place, name) in names.into_iter().take(said).enumerate() {
            match (place + n) % 3 {
                0 => event.present.push(name),
                1 => event.absent.push(name),
                _ => event.retract.push(name),
            }
        }
        event.annotator = ["", "x", "y"][random.random_range(0..3)].into();
        let seconds = random.random_range(0..4);
        event.event_time = Some(DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds));
        all.push(Told {
            event,
            topic: ["", "t", "u"][random.random_range(0..3)],
            partition: random.random_range(0..2),
            // Each place in a log once.
            offset: offsets[random.random_range(0..5)] + 10 * n as i64,
        });
    }
    all
}

type Entry = (
    Option<LabelState>,
    String,
    (DateTime<Utc>, String, i32, i64),
);

/// What a plain map makes of the same events.
fn plain(told: &[Told]) -> BTreeMap<(String, String), Entry> {
    let mut map: BTreeMap<(String, String), Entry> = BTreeMap::new();
    for one in told {
        let stamp = one.stamp();
        let stamp = (
            stamp.time,
            stamp.topic.into(),
            stamp.partition,
            stamp.offset,
        );
        let said = [
            (&one.event.present, Some(LabelState::Present)),
            (&one.event.absent, Some(LabelState::Absent)),
            (&one.event.retract, None),
        ];
        for (names, state) in said {
            for name in names {
                let key = (one.event.image_id.clone(), name.clone());
                let entry = (state, one.event.annotator.clone(), stamp.clone());
                match map.get(&key) {
                    Some(held) if held.2 > entry.2 => {}
                    _ => drop(map.insert(key, entry)),
                }
            }
        }
    }
    map
}

fn bytes_of(table: &LabelTable) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.write_to(&mut bytes).unwrap();
    bytes
}

fn table(told: &[Told]) -> LabelTable {
    let mut gathering = Gathering::default();
    for one in told {
        gathering.apply(&one.event, &one.stamp());
    }
    gathering.finish()
}

#[test]
fn the_table_is_what_a_plain_map_of_the_last_words_is() {
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..60 {
        let mut all = told(&mut random, 40);
        let expected = plain(&all);
        let found = table(&all);
        let facts = found.all().flat_map(|(id, image)| {
            let id = id.to_owned();
            found
                .facts(image.place)
                .map(move |(category, state, label)| {
                    let stamp = label.stamp;
                    let stamp = (
                        stamp.time,
                        stamp.topic.to_owned(),
                        stamp.partition,
                        stamp.offset,
                    );
                    let entry = (state, label.annotator.to_owned(), stamp);
                    ((id.clone(), category.to_owned()), entry)
                })
        });
        assert_eq!(facts.collect::<BTreeMap<_, _>>(), expected);
        for ((id, category), (state, ..)) in &expected {
            assert_eq!(found.state(id, category), *state, "{id} {category}");
        }
        let known = expected
            .iter()
            .filter(|(_, entry)| entry.0.is_some())
            .count();
        assert_eq!(found.known().count(), known);
        assert_eq!(found.agreements(&found), known);
        // The address that was told last.
        for (id, image) in found.all() {
            let told = all
                .iter()
                .filter(|one| one.event.image_id == id && !one.event.uri.is_empty());
            let last = told.max_by_key(|one| one.stamp());
            assert_eq!(image.uri(), last.map_or("", |one| one.event.uri.as_str()));
        }
        // Whatever the order, however often, and gone on with in the middle.
        let half = table(&all[..20]);
        let kept = LabelTable::read_from(&*bytes_of(&half)).unwrap();
        assert_eq!(kept, half);
        all.reverse();
        let mut gathering = Gathering::from(kept);
        for one in all.iter().chain(&all) {
            gathering.apply(&one.event, &one.stamp());
            if random.random_range(0..5) == 0 {
                gathering.settle();
            }
        }
        let again = gathering.finish();
        assert_eq!(again, found);
        assert_eq!(again.hash(), found.hash());
    }
}

/// 390 to 470 bytes a label is what a map of maps took.
#[test]
fn a_label_takes_no_more_than_24_bytes() {
    for labels_an_event in [1, 5] {
        let mut gathering = Gathering::default();
        let (mut offset, mut labels) = (0, 0);
        for image in 0..20_000 {
            let id = format!("photos/2026/{image:08}");
            for event in 0..5 / labels_an_event {
                let said = Said {
                    image_id: &id,
                    uri: &format!("s3://bucket/{id}.jpg"),
                    annotator: ["ann", "bob"][image % 2],
                    stamp: Stamp {
                        time: DateTime::UNIX_EPOCH + TimeDelta::microseconds(offset),
                        topic: "labels",
                        partition: (image % 7) as i32,
                        offset,
                    },
                };
                offset += 1;
                let names = (0..labels_an_event).map(|n| format!("c{}", event + n));
                let names: Vec<String> = names.collect();
                labels += names.len();
                let state = Some(LabelState::Present);
                gathering.take(&said, names.iter().map(|name| (name.as_str(), state)));
            }
        }
        let table = gathering.finish();
        assert_eq!(table.known().count(), labels);
        let (of_labels, of_images) = table.heap_bytes();
        let most = if labels_an_event == 1 { 24 } else { 12 };
        assert!(
            of_labels <= most * labels,
            "{of_labels} for {labels} labels"
        );
        let each = of_images / 20_000;
        assert!(
            each <= 20 + 2 * 8 + 2 * 4 + 20,
            "{each} for a name of 20 letters"
        );
    }
}

#[test]
fn a_log_that_comes_again_and_again_takes_no_memory() {
    let mut random = StdRng::seed_from_u64(3);
    let all = told(&mut random, 200);
    let mut gathering = Gathering::default();
    for _ in 0..3 {
        for one in &all {
            gathering.apply(&one.event, &one.stamp());
        }
        gathering.settle();
        let [rows, events, images] = gathering.sizes();
        assert!(
            rows <= 6 * 5 && events <= 6 * 6,
            "{rows} rows of {events} events"
        );
        assert_eq!(events, images);
    }
    assert_eq!(gathering.finish(), table(&all));
}

#[test]
fn damaged_bytes_are_no_table() {
    let whole = table(&told(&mut StdRng::seed_from_u64(1), 30));
    let bytes = bytes_of(&whole);
    assert_eq!(LabelTable::read_from(&*bytes).unwrap(), whole);
    let empty = LabelTable::default();
    assert_eq!(LabelTable::read_from(&*bytes_of(&empty)).unwrap(), empty);
    for end in 0..bytes.len() {
        assert!(LabelTable::read_from(&bytes[..end]).is_err(), "{end}");
    }
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert!(LabelTable::read_from(&*other).is_err(), "{at}");
    }
    let mut newer = bytes.clone();
    newer[8] = 2;
    let error = LabelTable::read_from(&*newer).unwrap_err();
    assert!(matches!(error, KeptError::Version { found: 2 }), "{error}");
    let longer = [&bytes[..], b"x"].concat();
    assert!(LabelTable::read_from(&*longer).is_err());
    // Damage that the hash agrees with.
    for at in 12..bytes.len() - 32 {
        let mut other = bytes[..bytes.len() - 32].to_vec();
        other[at] ^= 0x80;
        let hash = Sha256::digest(&other);
        other.extend_from_slice(&hash);
        if let Ok(read) = LabelTable::read_from(&*other) {
            let _ = (read.hash(), read.counts(), format!("{read:?}"));
        }
    }
}
