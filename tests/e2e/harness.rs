//! What the cases share: a broker, pictures, a stand-in model, the stage in this process, and
//! readers of what it left.

use crate::servers::blocking;
pub(crate) use crate::servers::{
    bootstrap, bucket, create_topic, is_real_broker, not_tested, unique,
};
use arrow_array::cast::AsArray;
use arrow_array::{
    FixedSizeListArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tagstream::stage::pipeline;
use tagstream::stage::pipeline::{
    Control, ImageModel, PipelineError, PixelSlot, RunOptions, StageStatus, TagError, Tagged,
};
use tagstream::stage::sink::predictions::{ModelStamp, PredictionLayout, RowTag};
use tagstream_core::config::StageConfig;
use tagstream_core::events::BoundingBox;
use tagstream_core::storage::store::TableStore;
use tagstream_image::decode::ImageSize;
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};
use tokio::sync::watch;

/// Time after which a test is stuck; never part of what is asserted.
pub(crate) const STUCK: Duration = Duration::from_secs(60);

/// One world: topics, a folder for pictures and one for tables.
pub(crate) struct World {
    pub folder: tempfile::TempDir,
    pub config: StageConfig,
    pub partitions: i32,
}

/// What a row says, as far as cases ask.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReadRow {
    pub partition: i32,
    pub offset: i64,
    pub image_id: String,
    pub embedding: Vec<f32>,
}

impl World {
    pub(crate) fn new(name: &str, partitions: i32) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let folder = tempfile::tempdir().unwrap();
        let mut config = StageConfig::default();
        config.kafka.brokers = bootstrap();
        config.kafka.group_id = unique(&format!("{name}-group"));
        // Long enough that nobody alive is thrown out on a busy machine.
        config.kafka.session_timeout_ms = if is_real_broker() { 6_000 } else { 2_000 };
        config.source.images_topic = unique(&format!("{name}-images"));
        config.output.predictions_topic = unique(&format!("{name}-predictions"));
        config.output.dead_letter_topic = unique(&format!("{name}-dead"));
        match bucket() {
            Some((url, options)) => {
                config.output.url = format!("{url}/{}", unique(name));
                config.object_store = options;
            }
            None => config.output.url = folder.path().join("tables").to_str().unwrap().into(),
        }
        config.output.max_file_age_ms = 500;
        config.decode.helper = env!("CARGO_BIN_EXE_tagstream").into();
        config.fetch.allow_schemes = vec!["file".into()];
        config.fetch.allow_path_prefixes = vec![folder.path().to_str().unwrap().into()];
        config.shutdown.drain_timeout_ms = 5_000;
        for topic in [
            &config.source.images_topic,
            &config.output.predictions_topic,
            &config.output.dead_letter_topic,
        ] {
            create_topic(topic, partitions);
        }
        let world = World {
            folder,
            config,
            partitions,
        };
        for shade in 0..8u8 {
            let picture = image::RgbImage::from_pixel(40, 30, image::Rgb([shade * 30, 100, 200]));
            picture.save(world.picture(shade)).unwrap();
        }
        world
    }

    pub(crate) fn picture(&self, shade: u8) -> PathBuf {
        self.folder.path().join(format!("{shade}.png"))
    }

    /// Writes `count` references, round robin over the partitions; every 10th is broken. Returns
    /// how many are.
    pub(crate) fn produce(&self, first: usize, count: usize) -> usize {
        let values = (first..first + count).map(|i| {
            let value = if i % 10 == 9 {
                format!("{{\"image_id\": \"broken-{i}\"")
            } else {
                let uri = format!("file://{}", self.picture((i % 8) as u8).display());
                serde_json::json!({"image_id": format!("image-{i}"), "uri": uri}).to_string()
            };
            (i as i32 % self.partitions, Some(value))
        });
        self.produce_raw(values);
        (first..first + count).filter(|i| i % 10 == 9).count()
    }

    pub(crate) fn produce_raw(&self, values: impl IntoIterator<Item = (i32, Option<String>)>) {
        self.produce_bytes(
            values
                .into_iter()
                .map(|(p, v)| (p, v.map(String::into_bytes))),
        );
    }

    pub(crate) fn produce_bytes(&self, values: impl IntoIterator<Item = (i32, Option<Vec<u8>>)>) {
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", bootstrap())
            .set("message.timeout.ms", "30000")
            .set("message.max.bytes", "8388608")
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .unwrap();
        for (partition, value) in values {
            let mut record =
                BaseRecord::<str, [u8]>::to(&self.config.source.images_topic).partition(partition);
            if let Some(value) = &value {
                record = record.payload(value);
            }
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(Duration::from_secs(60)).unwrap();
    }

    /// Runs the stage in this process until it has read everything.
    pub(crate) async fn drain(&self) -> Result<Arc<StageStatus>, PipelineError> {
        self.drain_with(&self.config, RunOptions::default()).await
    }

    pub(crate) async fn drain_with(
        &self,
        config: &StageConfig,
        options: RunOptions,
    ) -> Result<Arc<StageStatus>, PipelineError> {
        let status = Arc::new(StageStatus::default());
        let (_keep, control) = watch::channel(Control::Run);
        let options = RunOptions {
            until_drained: true,
            ..options
        };
        let run = pipeline::run(
            config,
            Arc::new(StandIn::new(0)),
            &options,
            Arc::clone(&status),
            control,
        );
        tokio::time::timeout(STUCK, run)
            .await
            .expect("the stage is stuck")?;
        Ok(status)
    }

    /// The object store's options as a child process takes them from its environment.
    pub(crate) fn credentials(&self) -> impl Iterator<Item = (String, &str)> {
        let options = self.config.object_store.s3.iter();
        options.map(|(k, v)| (format!("AWS_{}", k.to_uppercase()), v.expose()))
    }

    fn store(&self) -> TableStore {
        // Whoever looks may come before the stage has made the folder.
        if !self.config.output.url.contains("://") {
            std::fs::create_dir_all(&self.config.output.url).unwrap();
        }
        TableStore::open_for_reading(&self.config.output.url, &self.config.object_store).unwrap()
    }

    /// The folder of the images topic's files, and what lies in it.
    async fn objects(&self, store: &TableStore) -> (ObjectPath, Vec<ObjectPath>) {
        let folder = store
            .root()
            .clone()
            .join(self.config.output.table.as_str())
            .join(self.config.source.images_topic.as_str());
        let names = store.list(&folder, None).await.unwrap();
        (folder, names)
    }

    /// Moves the files of this world's images topic to the name of another topic, which is this
    /// world's from now on.
    pub(crate) fn rename_images_topic(&mut self, topic: String) {
        let store = self.store();
        blocking(async {
            let (folder, names) = self.objects(&store).await;
            let parent = folder.prefix_matches(store.root()).then_some(store.root());
            let target = parent
                .unwrap()
                .clone()
                .join(self.config.output.table.as_str())
                .join(topic.as_str());
            for name in names {
                let rest: Vec<_> = name.prefix_match(&folder).unwrap().collect();
                let to = rest.into_iter().fold(target.clone(), ObjectPath::join);
                store.objects().rename(&name, &to).await.unwrap();
            }
        });
        self.config.source.images_topic = topic;
    }

    /// Every Parquet file below the table, with its bytes' batches and footer.
    pub(crate) fn files(&self) -> BTreeMap<String, (Vec<RecordBatch>, BTreeMap<String, String>)> {
        let store = self.store();
        let files = blocking(async {
            let (_, names) = self.objects(&store).await;
            let mut files = Vec::new();
            for name in names
                .into_iter()
                .filter(|n| n.extension() == Some("parquet"))
            {
                let bytes = store.read(&name).await.unwrap().expect("it was listed");
                files.push((name.to_string(), bytes));
            }
            files
        });
        let read = |(name, bytes): (String, bytes::Bytes)| {
            let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
            let footer = builder
                .metadata()
                .file_metadata()
                .key_value_metadata()
                .unwrap();
            let footer = footer
                .iter()
                .filter_map(|kv| Some((kv.key.clone(), kv.value.clone()?)))
                .collect();
            let batches = builder.build().unwrap().collect::<Result<_, _>>().unwrap();
            (name, (batches, footer))
        };
        files.into_iter().map(read).collect()
    }

    pub(crate) fn rows(&self) -> Vec<ReadRow> {
        self.files()
            .values()
            .flat_map(|(batches, _)| batches)
            .flat_map(read_rows)
            .collect()
    }

    /// The heart: ranges tile each partition from its start without gap or overlap, and every
    /// (partition, offset) is a row once.
    pub(crate) fn assert_exactly_once(&self, ends: &[i64], rows: usize) {
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        let mut ranges: Vec<(i32, i64, i64)> = Vec::new();
        for (path, (batches, footer)) in self.files() {
            let range: serde_json::Value =
                serde_json::from_str(&footer["tagstream.range"]).unwrap();
            let partition: i32 = footer["tagstream.partition"].parse().unwrap();
            let (start, end) = (
                range["start"].as_i64().unwrap(),
                range["end"].as_i64().unwrap(),
            );
            for row in batches.iter().flat_map(read_rows) {
                assert!(
                    row.partition == partition && (start..end).contains(&row.offset),
                    "{path} holds {row:?}"
                );
            }
            ranges.push((partition, start, end));
        }
        ranges.sort_unstable();
        for (partition, start, end) in ranges {
            let expected = next.insert(partition, end).unwrap_or(0);
            assert_eq!(
                start, expected,
                "partition {partition}: a gap or an overlap"
            );
        }
        for (partition, end) in ends.iter().enumerate() {
            let reached = next.get(&(partition as i32)).copied().unwrap_or(0);
            assert_eq!(
                reached, *end,
                "partition {partition} is not read to its end"
            );
        }
        let all = self.rows();
        let distinct: BTreeSet<(i32, i64)> = all.iter().map(|r| (r.partition, r.offset)).collect();
        assert_eq!(distinct.len(), all.len(), "an offset is there twice");
        assert_eq!(all.len(), rows, "rows");
    }

    /// Every message of a topic: (key, value, headers).
    pub(crate) fn read_topic(
        &self,
        topic: &str,
    ) -> Vec<(Option<String>, String, BTreeMap<String, String>)> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap())
            .set("group.id", unique("reader"))
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        for p in 0..self.partitions {
            list.add_partition_offset(topic, p, Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&list).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (mut messages, mut ended) = (Vec::new(), BTreeSet::new());
        while ended.len() < self.partitions as usize {
            match consumer
                .poll(Duration::from_secs(30))
                .expect("the topic has an end")
            {
                Ok(m) => {
                    let headers = m.headers().map_or_else(BTreeMap::new, |h| {
                        h.iter()
                            .map(|h| (h.key.to_owned(), text(h.value.unwrap_or_default())))
                            .collect()
                    });
                    messages.push((
                        m.key().map(text),
                        text(m.payload().unwrap_or_default()),
                        headers,
                    ));
                }
                Err(rdkafka::error::KafkaError::PartitionEOF(p)) => {
                    ended.insert(p);
                }
                Err(error) => panic!("{error}"),
            }
        }
        messages
    }
}

pub(crate) fn read_rows(batch: &RecordBatch) -> Vec<ReadRow> {
    let ids: &StringArray = batch["image_id"].as_string();
    let partitions: &Int32Array = batch["partition"].as_primitive();
    let offsets: &Int64Array = batch["offset"].as_primitive();
    let embeddings: &FixedSizeListArray = batch["embedding"].as_fixed_size_list();
    (0..batch.num_rows())
        .map(|i| {
            let vector = embeddings.value(i);
            let vector: &Float32Array = vector.as_primitive();
            ReadRow {
                partition: partitions.value(i),
                offset: offsets.value(i),
                image_id: ids.value(i).into(),
                embedding: vector.values().to_vec(),
            }
        })
        .collect()
}

/// A stand-in for the model: says the mean colour. Everything around it is real.
pub(crate) struct StandIn {
    layout: Arc<PredictionLayout>,
    preprocessing: Preprocessing,
    stamp: Arc<ModelStamp>,
}

impl StandIn {
    /// One whose score vector is longer by `more`.
    pub(crate) fn new(more: usize) -> Self {
        StandIn {
            layout: Arc::new(PredictionLayout {
                categories: (0..3 + more).map(|i| format!("category-{i}")).collect(),
                display: Default::default(),
                embedding: 4,
                region_embeddings: false,
                boxes: Default::default(),
                records: false,
            }),
            preprocessing: Preprocessing {
                height: 8,
                width: 8,
                fit: Fit::Squash,
                filter: Filter::Bicubic,
            },
            stamp: Arc::new(ModelStamp {
                version: format!("stand-in-{more}"),
                preprocessing_hash: "none".into(),
            }),
        }
    }
}

pub(crate) struct StandInSlot {
    pixels: Vec<u8>,
    preprocessing: Preprocessing,
    layout: Arc<PredictionLayout>,
    stamp: Arc<ModelStamp>,
}

impl ImageModel for StandIn {
    type Slot = StandInSlot;
    async fn slot(&self) -> Result<StandInSlot, TagError> {
        Ok(StandInSlot {
            pixels: vec![0; 8 * 8 * 3],
            preprocessing: self.preprocessing.clone(),
            layout: Arc::clone(&self.layout),
            stamp: Arc::clone(&self.stamp),
        })
    }
    fn layout(&self) -> Arc<PredictionLayout> {
        Arc::clone(&self.layout)
    }
}

impl PixelSlot for StandInSlot {
    fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }
    fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }
    fn set_image_size(&mut self, _size: ImageSize) {}
    async fn infer(self) -> Result<Tagged, TagError> {
        // Rows leave out of order, as they do with a real batch.
        tokio::task::yield_now().await;
        let mean = |channel: usize| {
            let values = self
                .pixels
                .iter()
                .skip(channel)
                .step_by(3)
                .map(|v| f32::from(*v));
            values.sum::<f32>() / 64.0
        };
        let tag = RowTag {
            category: 0,
            score: 0.9,
            bounding_box: BoundingBox {
                x: 0.0,
                y: 0.0,
                w: 1.0,
                h: 1.0,
            },
            boxes: Vec::new(),
            masks: Vec::new(),
            region: None,
        };
        Ok(Tagged {
            model: self.stamp,
            scores: vec![0.5; self.layout.categories.len()],
            layout: self.layout,
            tags: vec![tag],
            embedding: vec![mean(0), mean(1), mean(2), 1.0],
        })
    }
}
