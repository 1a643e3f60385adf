//! Sending originals again, each once.

use super::journal::{OpenBatch, Record, Step};
use super::letters::{Letter, Original, REPLAY_OF, Replayed, headers, split, text};
use super::temporary;
use super::topic::{Scanned, Topic};
use super::writer::{WITHIN, Writer};
use anyhow::Context as _;
use bytes::Bytes;
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tagstream_core::config::KafkaConfig;
use tagstream_core::events::header;

/// Letters of one batch.
const BATCH: usize = 500;
/// Bytes of one batch.
const BATCH_BYTES: usize = 8 << 20;
/// A batch that was begun this long ago is nobody's any more.
const ABANDONED_AFTER: Duration = Duration::from_secs(90);

/// What to send, and where.
pub(super) struct Replay<'a> {
    pub kafka: &'a KafkaConfig,
    pub topic: &'a Topic,
    /// Topics that may be written to.
    pub sources: &'a [&'a str],
    pub dry_run: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub sent: usize,
    /// Sent by an earlier call.
    pub before: usize,
    /// Not sent, and why.
    pub refused: Vec<(Letter, String)>,
    pub dry_run: bool,
}

impl Replay<'_> {
    /// Sends what of `chosen` was not sent before.
    pub(super) fn run(&self, scanned: &Scanned, chosen: &[Letter]) -> anyhow::Result<Done> {
        let mut done = Done {
            dry_run: self.dry_run,
            ..Done::default()
        };
        let writer = Writer::new(self.kafka)?;
        let settled = self.settle(&writer, scanned)?;
        let is_sent = |l: &Letter| l.replayed || settled.contains(&(l.partition, l.offset));
        let sent = scanned.letters.iter().filter(|l| is_sent(l));
        let mut originals: BTreeSet<_> = sent.flat_map(Letter::identities).collect();
        for (partition, end) in &scanned.ends {
            let mut wanted = BTreeMap::new();
            for letter in chosen.iter().filter(|l| l.partition == *partition) {
                let mut letter = letter.clone();
                if is_sent(&letter) || letter.without(|i| originals.contains(i)) {
                    done.before += 1;
                    continue;
                }
                originals.extend(letter.identities());
                match letter.original(self.sources) {
                    Original::Nowhere(reason) => done.refused.push((letter, reason)),
                    _ => _ = wanted.insert(letter.offset, letter),
                }
            }
            self.partition(&writer, *partition, *end, &wanted, &mut done)?;
        }
        Ok(done)
    }

    /// Finds out what was sent of batches whose process died, and notes it.
    fn settle(&self, writer: &Writer, scanned: &Scanned) -> anyhow::Result<BTreeSet<(i32, i64)>> {
        let mut all = BTreeSet::new();
        let now = chrono::Utc::now().timestamp_millis();
        for ((_, name), batch) in &scanned.journal.open {
            let age = u64::try_from(now - batch.begun_ms).unwrap_or_default();
            if Duration::from_millis(age) < ABANDONED_AFTER {
                let seconds = ABANDONED_AFTER.as_secs();
                return Err(temporary(format!(
                    "another replay is under way, or died less than {seconds} s ago (batch {name} \
                     of partition {}): call again later",
                    batch.partition
                )));
            }
            let sent = self.sent_of(scanned, batch)?;
            all.extend(sent.iter().map(|offset| (batch.partition, *offset)));
            if !self.dry_run {
                writer.note(
                    self.topic,
                    batch.partition,
                    Step::Done,
                    &Record::new(name, sent),
                )?;
            }
        }
        Ok(all)
    }

    /// Those letters of a batch that the topics they came from have again.
    fn sent_of(&self, scanned: &Scanned, batch: &OpenBatch) -> anyhow::Result<BTreeSet<i64>> {
        let of_batch =
            |l: &&Letter| l.partition == batch.partition && batch.letters.contains(&l.offset);
        let letters: Vec<&Letter> = scanned.letters.iter().filter(of_batch).collect();
        let names: BTreeMap<String, i64> = letters.iter().map(|l| (l.name(), l.offset)).collect();
        let sources = letters
            .iter()
            .filter_map(|l| Some(&l.source.as_ref()?.0.topic));
        let sources: BTreeSet<_> = sources.collect();
        let mut sent = BTreeSet::new();
        for source in sources {
            let topic = Topic::open(self.kafka, source)?;
            for partition in topic.partitions()? {
                let (low, high) = topic.bounds(partition)?;
                let ends = batch.ends.get(&**source);
                let from = ends.and_then(|ends| ends.get(&partition)).copied();
                topic.read(partition, from.unwrap_or(low), high, |message| {
                    let name = text(&headers(message), REPLAY_OF);
                    sent.extend(name.and_then(|name| names.get(&name)));
                    Ok(true)
                })?;
            }
        }
        Ok(sent)
    }

    /// Sends the wanted letters of one partition, in batches.
    fn partition(
        &self,
        writer: &Writer,
        partition: i32,
        mut seen: i64,
        wanted: &BTreeMap<i64, Letter>,
        done: &mut Done,
    ) -> anyhow::Result<()> {
        let mut rest: Vec<&Letter> = wanted.values().collect();
        while !rest.is_empty() {
            let next = rest.len().min(BATCH);
            let (found, looked_at) = self.originals(partition, &rest[..next])?;
            let mut batch = Vec::new();
            for (letter, original) in rest.drain(..looked_at).zip(found) {
                match original {
                    Ok(outgoing) => batch.push(outgoing),
                    Err(reason) => done.refused.push((letter.clone(), reason)),
                }
            }
            if !self.dry_run && !batch.is_empty() {
                seen = self.send(writer, partition, seen, &batch)?;
            }
            done.sent += batch.len();
        }
        Ok(())
    }

    /// The originals of the first of `letters`, as many as a batch may hold, and how many letters
    /// these are.
    fn originals(
        &self,
        partition: i32,
        letters: &[&Letter],
    ) -> anyhow::Result<(Vec<Result<Replayed, String>>, usize)> {
        let whole = letters.iter().filter(|l| l.omitted.is_empty());
        let whole: BTreeMap<i64, &Letter> = whole.map(|l| (l.offset, *l)).collect();
        let (mut found, mut bytes, mut until) = (BTreeMap::new(), 0, i64::MAX);
        if let (Some((first, _)), Some((last, _))) =
            (whole.first_key_value(), whole.last_key_value())
        {
            self.topic.read(partition, *first, last + 1, |message| {
                if let Some(letter) = whole.get(&message.offset()) {
                    bytes += message.payload_len();
                    found.insert(message.offset(), taken(letter, message));
                }
                if bytes >= BATCH_BYTES {
                    until = message.offset();
                }
                Ok(bytes < BATCH_BYTES)
            })?;
        }
        let mut originals = Vec::new();
        for letter in letters.iter().take_while(|l| l.offset <= until) {
            originals.push(match letter.omitted.is_empty() {
                true => found
                    .remove(&letter.offset)
                    .ok_or_else(|| "the letter is not there any more".to_owned()),
                false => self.at_its_source(letter)?,
            });
        }
        let looked_at = originals.len();
        Ok((originals, looked_at))
    }

    /// Sends one batch between its two records. Returns the offset behind the last one.
    fn send(
        &self,
        writer: &Writer,
        partition: i32,
        seen: i64,
        batch: &[Replayed],
    ) -> anyhow::Result<i64> {
        let name = format!("{:016x}", rand::random::<u64>());
        let offsets: BTreeSet<i64> = batch.iter().map(|o| o.letter.offset).collect();
        let begun = Instant::now();
        let mut record = Record::new(&name, offsets.clone());
        for outgoing in batch {
            let Some((source, _)) = &outgoing.letter.source else {
                continue;
            };
            if !record.ends.contains_key(&*source.topic) {
                let topic = Topic::open(self.kafka, &source.topic)?;
                let ends = topic
                    .partitions()?
                    .into_iter()
                    .map(|p| Ok((p, topic.bounds(p)?.1)));
                let ends = ends.collect::<anyhow::Result<_>>()?;
                record.ends.insert(source.topic.to_string(), ends);
            }
        }
        let at = writer.note(self.topic, partition, Step::Begun, &record)?;
        // Whoever's record comes first in the partition has the right to send.
        let mut other = None;
        self.topic.read(partition, seen, at, |message| {
            let found = Record::of(&headers(message), message.payload())?;
            if let Some((_, record)) = found.filter(|(_, r)| !writer.is_ours(&r.batch)) {
                other = Some(record.batch);
            }
            Ok(true)
        })?;
        let none = Record::new(&name, BTreeSet::new());
        if let Some(other) = other {
            writer.note(self.topic, partition, Step::Done, &none)?;
            let message = format!("another replay is under way (batch {other}): call again later");
            return Err(temporary(message));
        }
        if begun.elapsed() > WITHIN {
            writer.note(self.topic, partition, Step::Done, &none)?;
            return Err(temporary(
                "the brokers are too slow; call again later".into(),
            ));
        }
        writer.send(batch).with_context(|| {
            format!(
                "sending again; the next call finds out what of batch {name} was sent, {} s from \
                 now at the earliest",
                ABANDONED_AFTER.as_secs()
            )
        })?;
        let at = writer.note(
            self.topic,
            partition,
            Step::Done,
            &Record::new(&name, offsets),
        )?;
        Ok(at + 1)
    }

    /// The original of a letter that has not all of it, from where it was read; else why it cannot
    /// be had.
    fn at_its_source(&self, letter: &Letter) -> anyhow::Result<Result<Replayed, String>> {
        let Some((source, offset)) = &letter.source else {
            return Ok(Err("it does not say where it was read".into()));
        };
        let topic = Topic::open(self.kafka, &source.topic)?;
        let mut found = None;
        topic.read(source.partition, offset.0, offset.0 + 1, |message| {
            if message.offset() == offset.0 {
                found = Some(taken(letter, message));
            }
            Ok(false)
        })?;
        Ok(match found {
            Some(original) if is_the_same(letter, &original) => Ok(original),
            Some(_) => Err(format!("{source}@{offset} is another message now")),
            None => Err(format!(
                "its original is too large for a letter, and {source}@{offset} is not there any \
                 more"
            )),
        })
    }
}

/// The original of `letter`, from the letter itself or from where it was read.
fn taken(letter: &Letter, message: &BorrowedMessage<'_>) -> Replayed {
    let in_letter = letter.omitted.is_empty();
    Replayed {
        letter: letter.clone(),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: match in_letter {
            true => split(headers(message)).0,
            false => headers(message),
        },
        time: match in_letter {
            true => letter.source_time,
            false => message.timestamp().to_millis(),
        },
    }
}

/// Whether what lies where the original was is what the letter says of it.
fn is_the_same(letter: &Letter, original: &Replayed) -> bool {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len) as u64;
    let sizes = letter
        .omitted
        .iter()
        .all(|(name, much)| match name.as_str() {
            header::VALUE_OMITTED => length(&original.value) == *much,
            header::KEY_OMITTED => length(&original.key) == *much,
            _ => original.headers.len() as u64 == *much,
        });
    sizes && (letter.source_time.is_none() || letter.source_time == original.time)
}
