//! The independent checker: reads the bucket and the topics with nothing of the stage's own code,
//! and counts what is lost, doubled or misordered.

#[path = "../common/invariants.rs"]
#[allow(dead_code)]
mod invariants;

use anyhow::{Context, Result, bail, ensure};
use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type, Int64Type};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// A message that was produced, found by its image's name, which is never used twice.
#[derive(Debug, Clone)]
pub struct Produced {
    /// How often the topic had been created again before.
    pub incarnation: usize,
    pub partition: i32,
    pub offset: i64,
    /// The kind of dead letter it must become; `None` for a good image.
    pub expected: Option<&'static str>,
    /// Deleted from the log (by retention, or with the topic) before it was seen in a file: it may
    /// be anywhere or nowhere.
    pub excused: bool,
}

/// One file's facts, read once: files never change, and the checker holds them to it.
struct File {
    etag: String,
    epoch: u32,
    start: i64,
    end: i64,
    /// In file order.
    rows: Vec<Row>,
}

/// What the checker keeps of a row.
#[derive(Debug)]
pub struct Row {
    pub offset: i64,
    pub image_id: String,
    pub model_version: String,
    /// Category and score of each tag.
    pub tags: Vec<(String, f32)>,
}

/// Counts of what must not be; all zero is the promise kept.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub lost: usize,
    pub doubled: usize,
    pub misordered: usize,
    /// Wrong rows, changed files, gaps or overlaps of the chain, dead letters without cause or of
    /// the wrong kind, predictions that are missing or say something else than the row.
    pub wrong: usize,
    /// Processes that ended otherwise than they should.
    pub unexpected: usize,
    pub notes: Vec<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.misordered + self.wrong + self.unexpected == 0
    }

    /// Whether the promise was kept, or, if it was to be broken, whether that was found: how
    /// processes ended is no proof of it.
    pub fn is_as_expected(&self, broken: bool) -> bool {
        match broken {
            false => self.is_clean(),
            true => self.lost + self.doubled + self.misordered + self.wrong > 0,
        }
    }

    pub fn note(&mut self, text: String) {
        if self.notes.len() < 20 {
            self.notes.push(text);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "lost={} doubled={} misordered={} unexpected={}",
            self.lost, self.doubled, self.misordered, self.unexpected
        )
    }
}

/// A dead letter as read from its topic.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub image_id: String,
    pub partition: i32,
    pub offset: i64,
    pub kind: String,
}

pub struct Checker {
    store: Arc<dyn ObjectStore>,
    /// Folder of the topic below the table: `<prefix>/<table>/<topic>`.
    folder: String,
    topic: String,
    files: BTreeMap<i32, BTreeMap<String, File>>,
}

impl Checker {
    pub fn new(store: Arc<dyn ObjectStore>, folder: String, topic: String) -> Self {
        Checker {
            store,
            folder,
            topic,
            files: BTreeMap::new(),
        }
    }

    /// Reads files that are new and makes sure that known ones are what they were.
    pub async fn refresh(&mut self, verdict: &mut Verdict) -> Result<()> {
        let prefix = ObjectPath::from(self.folder.as_str());
        let listed: Vec<_> = self.store.list(Some(&prefix)).try_collect().await?;
        let mut seen = HashSet::new();
        for meta in listed {
            let name = meta.location.to_string();
            if !name.ends_with(".parquet") {
                continue;
            }
            seen.insert(name.clone());
            let partition: i32 = name
                .rsplit('/')
                .nth(1)
                .and_then(|p| p.parse().ok())
                .with_context(|| format!("{name} lies in no partition's folder"))?;
            let etag = meta.e_tag.clone().unwrap_or_default();
            if let Some(known) = self.files.entry(partition).or_default().get(&name) {
                if known.etag != etag {
                    verdict.wrong += 1;
                    verdict.note(format!("{name} was overwritten"));
                }
                continue;
            }
            let epoch: u32 = name
                .rsplit('/')
                .next()
                .and_then(|n| n.split('-').next()?.parse().ok())
                .with_context(|| format!("{name} names no epoch"))?;
            let bytes = self.store.get(&meta.location).await?.bytes().await?;
            let file = self.read(&name, partition, epoch, etag, bytes)?;
            self.files.entry(partition).or_default().insert(name, file);
        }
        for (partition, files) in &self.files {
            for name in files.keys().filter(|n| !seen.contains(*n)) {
                verdict.wrong += 1;
                verdict.note(format!("partition {partition}: {name} disappeared"));
            }
        }
        Ok(())
    }

    fn read(
        &self,
        name: &str,
        partition: i32,
        epoch: u32,
        etag: String,
        bytes: bytes::Bytes,
    ) -> Result<File> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .with_context(|| format!("{name} is no Parquet file"))?;
        let range = reader
            .metadata()
            .file_metadata()
            .key_value_metadata()
            .and_then(|pairs| pairs.iter().find(|p| p.key == "tagstream.range"))
            .and_then(|p| p.value.clone())
            .with_context(|| format!("{name} has no tagstream.range"))?;
        let (start, end) = parse_range(&range).with_context(|| format!("{name}: {range}"))?;
        let mut rows = Vec::new();
        for batch in reader.build()? {
            let batch = batch?;
            let column = |n: &str| {
                batch
                    .column_by_name(n)
                    .with_context(|| format!("{name} has no column {n}"))
            };
            let partitions = column("partition")?.as_primitive::<Int32Type>();
            let offsets = column("offset")?.as_primitive::<Int64Type>();
            let topics = column("topic")?.as_string::<i32>();
            let ids = column("image_id")?.as_string::<i32>();
            let versions = column("model_version")?.as_string::<i32>();
            let tags = column("tags")?.as_list::<i32>();
            for i in 0..batch.num_rows() {
                ensure!(
                    partitions.value(i) == partition && topics.value(i) == self.topic,
                    "{name} holds a row of another partition"
                );
                ensure!(!ids.is_null(i), "{name} holds a row without image");
                rows.push(Row {
                    offset: offsets.value(i),
                    image_id: ids.value(i).to_string(),
                    model_version: versions.value(i).to_string(),
                    tags: tags_of(&tags.value(i)).with_context(|| name.to_string())?,
                });
            }
        }
        Ok(File {
            etag,
            epoch,
            start,
            end,
            rows,
        })
    }

    /// Each partition's newest epoch that has files, and where its chain ends.
    pub fn ends(&self) -> HashMap<i32, (u32, i64)> {
        self.files
            .iter()
            .filter_map(|(p, files)| Some((*p, files.values().map(|f| (f.epoch, f.end)).max()?)))
            .collect()
    }

    /// Where files start: partition, epoch and offset.
    pub fn starts(&self) -> HashSet<(i32, u32, i64)> {
        let of = |(p, files): (&i32, &BTreeMap<String, File>)| {
            let start = |f: &File| (*p, f.epoch, f.start);
            files.values().map(start).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(of).collect()
    }

    /// The images that have a row.
    pub fn images(&self) -> HashSet<String> {
        let files = self.files.values().flat_map(|f| f.values());
        files
            .flat_map(|f| f.rows.iter().map(|row| row.image_id.clone()))
            .collect()
    }

    /// All rows with their partitions.
    pub fn rows(&self) -> impl Iterator<Item = (i32, &Row)> {
        self.files.iter().flat_map(|(partition, files)| {
            let rows = files.values().flat_map(|file| &file.rows);
            rows.map(|row| (*partition, row))
        })
    }

    /// Rows and files read so far.
    pub fn size(&self) -> (usize, usize) {
        let files = self.files.values().flat_map(|f| f.values());
        files.fold((0, 0), |(rows, n), f| (rows + f.rows.len(), n + 1))
    }

    /// Holds the files and dead letters against what was produced, by image name.
    pub fn check(
        &self,
        produced: &HashMap<String, Produced>,
        dead: &[DeadLetter],
        verdict: &mut Verdict,
    ) {
        let mut dead_images = HashSet::new();
        for letter in dead {
            match produced.get(&letter.image_id) {
                Some(p)
                    if p.expected == Some(letter.kind.as_str())
                        && (p.partition, p.offset) == (letter.partition, letter.offset) => {}
                other => {
                    verdict.wrong += 1;
                    verdict.note(format!(
                        "dead letter without cause: {letter:?}, sent {other:?}"
                    ));
                }
            }
            dead_images.insert(letter.image_id.as_str());
        }
        let mut rows: HashSet<&str> = HashSet::new();
        // A message is the topic's incarnation, a partition and an offset, whatever it says.
        let mut places: HashMap<(usize, i32, i64), usize> = HashMap::new();
        for (partition, files) in &self.files {
            let mut chain: Vec<&File> = files.values().collect();
            chain.sort_by_key(|f| (f.epoch, f.start, f.end));
            for epoch in chain.iter().map(|f| f.epoch).collect::<BTreeSet<_>>() {
                let of_it = chain.iter().filter(|f| f.epoch == epoch);
                for (before, after) in invariants::breaks(of_it.map(|f| (f.start, f.end))) {
                    verdict.wrong += 1;
                    verdict.note(format!(
                        "partition {partition} epoch {epoch}: {before:?} is followed by {after:?}"
                    ));
                }
            }
            // Epochs come in the order of the topic's incarnations, and hold rows of one only.
            let mut incarnations: BTreeMap<u32, usize> = BTreeMap::new();
            for file in chain {
                let mut last = file.start - 1;
                for Row {
                    offset, image_id, ..
                } in &file.rows
                {
                    if *offset <= last || *offset >= file.end {
                        verdict.misordered += 1;
                        verdict.note(format!(
                            "partition {partition}: offset {offset} out of order"
                        ));
                    }
                    last = *offset;
                    rows.insert(image_id);
                    let incarnation = produced.get(image_id).map_or(0, |p| p.incarnation);
                    let place = (incarnation, *partition, *offset);
                    *places.entry(place).or_default() += 1;
                    match produced.get(image_id) {
                        Some(p)
                            if (p.partition, p.offset) == (*partition, *offset)
                                && p.expected.is_none()
                                && *incarnations.entry(file.epoch).or_insert(p.incarnation)
                                    == p.incarnation => {}
                        other => {
                            verdict.wrong += 1;
                            verdict.note(format!(
                                "partition {partition} epoch {} offset {offset}: row {image_id:?}, \
                                 sent {other:?}",
                                file.epoch
                            ));
                        }
                    }
                }
            }
            if !incarnations.values().is_sorted() {
                verdict.wrong += 1;
                verdict.note(format!(
                    "partition {partition}: epochs of topics {incarnations:?}"
                ));
            }
        }
        for ((incarnation, partition, offset), count) in &places {
            if *count > 1 {
                verdict.doubled += count - 1;
                verdict.note(format!(
                    "offset {offset} of partition {partition} (topic {incarnation}) stands in \
                     {count} rows"
                ));
            }
        }
        for (image_id, message) in produced {
            let covered =
                rows.contains(image_id.as_str()) || dead_images.contains(image_id.as_str());
            if !covered && !message.excused {
                verdict.lost += 1;
                verdict.note(format!("{image_id} {message:?} is nowhere"));
            }
        }
    }
}

fn tags_of(tags: &arrow_array::ArrayRef) -> Result<Vec<(String, f32)>> {
    let tags = tags.as_struct();
    let field = |name: &str| {
        tags.column_by_name(name)
            .with_context(|| format!("tags have no {name}"))
    };
    let (categories, scores) = (field("category")?, field("score")?);
    let categories = categories.as_string::<i32>();
    let scores = scores.as_primitive::<Float32Type>();
    Ok((0..tags.len())
        .map(|i| (categories.value(i).to_string(), scores.value(i)))
        .collect())
}

/// `{"start":0,"end":7}`, as the footer says it.
fn parse_range(text: &str) -> Result<(i64, i64)> {
    let range: serde_json::Value = serde_json::from_str(text)?;
    match (range["start"].as_i64(), range["end"].as_i64()) {
        (Some(start), Some(end)) if start <= end => Ok((start, end)),
        _ => bail!("not a range"),
    }
}
