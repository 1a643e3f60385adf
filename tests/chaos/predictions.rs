//! Follows the predictions topic, and holds every row against what its readers were told.

use crate::checker::{Checker, Row, Verdict};
use crate::traffic::retry;
use crate::world::PREDICTIONS;
use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::Deserialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Scores of one image differ in their last digits with the batch that it was run in.
const SCORE_TOLERANCE: f32 = 1e-3;

#[derive(Debug, Deserialize)]
struct Prediction {
    image_id: String,
    model_version: String,
    source: Source,
    tags: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
struct Source {
    topic: String,
    partition: i32,
    offset: i64,
}

#[derive(Debug, Deserialize)]
struct Tag {
    category: String,
    score: f32,
}

/// What the topic said of one message, and how often.
#[derive(Debug)]
struct Told {
    image_id: String,
    topic: String,
    model_version: String,
    tags: Vec<(String, f32)>,
    times: usize,
}

/// Where a message lies, and its image: a partition and an offset mean another message after the
/// topic was created again.
type Key = (i32, i64, String);

pub struct PredictionReader {
    consumer: BaseConsumer,
    partitions: i32,
    told: HashMap<Key, Told>,
    /// What was wrong with messages that were read since the last check.
    wrong: Vec<String>,
    /// When each message was sent, milliseconds since 1970.
    times: Vec<i64>,
}

impl PredictionReader {
    pub fn new(bootstrap: &str, partitions: i32) -> Result<PredictionReader> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "chaos-predictions")
            .set("enable.auto.commit", "false")
            .create()?;
        let mut all = TopicPartitionList::new();
        for partition in 0..partitions {
            all.add_partition_offset(PREDICTIONS, partition, Offset::Beginning)?;
        }
        consumer.assign(&all)?;
        Ok(PredictionReader {
            consumer,
            partitions,
            told: HashMap::new(),
            wrong: Vec::new(),
            times: Vec::new(),
        })
    }

    /// Reads up to the topic's present end.
    pub fn catch_up(&mut self) -> Result<()> {
        let mut ends = HashMap::new();
        for partition in 0..self.partitions {
            let (_, high) = retry(|| {
                let timeout = Duration::from_secs(10);
                self.consumer
                    .fetch_watermarks(PREDICTIONS, partition, timeout)
            })?;
            ends.insert(partition, high);
        }
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.is_behind(&ends)? {
            ensure!(
                Instant::now() < deadline,
                "the predictions topic could not be read to {ends:?}"
            );
            let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(200)) else {
                continue;
            };
            let payload = message.payload().context("a prediction without a value")?;
            let prediction: Prediction = serde_json::from_slice(payload)
                .with_context(|| String::from_utf8_lossy(payload).into_owned())?;
            let key = message.key().map(<[u8]>::to_vec);
            let time = message.timestamp().to_millis();
            self.times.extend(time);
            self.take(prediction, key.as_deref());
        }
        Ok(())
    }

    fn is_behind(&self, ends: &HashMap<i32, i64>) -> Result<bool> {
        let positions = self.consumer.position()?;
        Ok(ends.iter().any(|(partition, end)| {
            let at = positions
                .find_partition(PREDICTIONS, *partition)
                .and_then(|p| p.offset().to_raw())
                .unwrap_or(0);
            // A position before the first message is a negative mark.
            at.max(0) < *end
        }))
    }

    fn take(&mut self, new: Prediction, key: Option<&[u8]>) {
        if key != Some(new.image_id.as_bytes()) {
            self.wrong.push(format!(
                "the prediction of {} has another key",
                new.image_id
            ));
        }
        let place = (
            new.source.partition,
            new.source.offset,
            new.image_id.clone(),
        );
        let tags: Vec<_> = new
            .tags
            .into_iter()
            .map(|t| (t.category, t.score))
            .collect();
        match self.told.get_mut(&place) {
            Some(told) => {
                told.times += 1;
                if told.model_version == new.model_version && !agree(&told.tags, &tags) {
                    self.wrong.push(format!(
                        "{} was told twice, differently: {:?} and {tags:?}",
                        new.image_id, told.tags
                    ));
                }
            }
            None => {
                let told = Told {
                    image_id: new.image_id,
                    topic: new.source.topic,
                    model_version: new.model_version,
                    tags,
                    times: 1,
                };
                self.told.insert(place, told);
            }
        }
    }

    /// Every row was told, with the same tags. What was told and has no row is none of the files'
    /// business: it is told again when its message is read again.
    pub fn check(&mut self, checker: &Checker, verdict: &mut Verdict) {
        for text in self.wrong.drain(..) {
            verdict.wrong += 1;
            verdict.note(text);
        }
        for (partition, row) in checker.rows() {
            let place = (partition, row.offset, row.image_id.clone());
            let complaint = match self.told.get(&place) {
                None => Some("has a row and no prediction".to_owned()),
                Some(told) => disagreement(told, row),
            };
            if let Some(complaint) = complaint {
                verdict.wrong += 1;
                verdict.note(format!(
                    "{} of partition {partition} {complaint}",
                    row.image_id
                ));
            }
        }
    }

    /// The longest time without a message between two moments, all of them in milliseconds.
    pub fn longest_gap(&self, from: i64, to: i64) -> i64 {
        let within = self
            .times
            .iter()
            .copied()
            .filter(|t| (from..to).contains(t));
        let mut times: Vec<i64> = within.chain([from, to]).collect();
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or(0)
    }

    /// Messages read, and how many of them were told before.
    pub fn size(&self) -> (usize, usize) {
        let times: usize = self.told.values().map(|told| told.times).sum();
        (times, times - self.told.len())
    }
}

fn disagreement(told: &Told, row: &Row) -> Option<String> {
    if told.topic != crate::world::IMAGES {
        return Some(format!("was told to be from topic {}", told.topic));
    }
    if told.model_version == row.model_version && !agree(&told.tags, &row.tags) {
        return Some(format!(
            "has tags {:?}, and {:?} were told of {}",
            row.tags, told.tags, told.image_id
        ));
    }
    None
}

/// The same categories with nearly the same scores. One whose score lies at its threshold may be
/// there or not.
fn agree(a: &[(String, f32)], b: &[(String, f32)]) -> bool {
    let has = |tags: &[(String, f32)], (category, score): &(String, f32)| {
        tags.iter()
            .any(|(c, s)| c == category && (s - score).abs() <= SCORE_TOLERANCE)
    };
    a.len() == b.len() && a.iter().all(|tag| has(b, tag))
}
