//! The lines of a process, from a configuration.

use super::around::{Watched, kafka_of};
use super::framed::Framing;
use super::images::{ImageModel, ImageSettings};
use super::{Control, ImageRows, Line, LineError, LineSettings, StageStatus};
use super::{repairs, several};
use crate::stage::budget::Budget;
use crate::stage::decoding;
use crate::stage::fetch::Fetcher;
use crate::stage::guard::OpenLives;
use crate::stage::ledger::CutRules;
use crate::stage::row_maker::RowMaker;
use crate::stage::schemas::SchemaRegistry;
use crate::stage::sink::begun::{BegunError, FirstOffset, TableBegun};
use crate::stage::sink::chain::WriterId;
use crate::stage::sink::files::FileSink;
use crate::stage::sink::log_facts::LogFacts;
use crate::stage::sink::producer::{KafkaTopics, Topics};
use crate::stage::sink::repair::{Repair, RepairKind};
use crate::stage::sink::seal::RepairError;
use crate::stage::source;
use crate::stage::source::{
    Admission, Broker, ClientSettings, ImageTopics, Logs, Refusal, Source, SourceError,
    SourceSettings,
};
use crate::stage::trace::Traces;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tagstream_core::config::{ConfigError, StageConfig, StartAt};
use tagstream_core::events::PartitionId;
use tagstream_core::mapping::MappingError;
use tagstream_core::process::blocking;
use tagstream_core::storage::store::{StoreError, TableStore};
use tagstream_image::decode::DecodeError;
use tokio::sync::watch;

/// How often the topic is asked whether it is still the same.
const IDENTITY_EVERY: Duration = Duration::from_secs(10);

/// Why the stage did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The place of the tables.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The brokers.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// How the table began.
    #[error(transparent)]
    Begun(#[from] BegunError),
    /// A chain that was to be ended.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// A partition named on the command line.
    #[error("{0} is no partition of a topic that this stage reads")]
    NoPartition(PartitionId),
    /// A line.
    #[error(transparent)]
    Line(#[from] LineError),
    /// Nothing but plain JPEGs could be decoded.
    #[error(transparent)]
    Decoders(#[from] DecodeError),
    /// librdkafka refused the producer's configuration.
    #[error("configuration of the producer: {0}")]
    Producer(Refusal),
}

impl PipelineError {
    /// Whether starting again may help without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            PipelineError::Store(error) | PipelineError::Begun(BegunError::Store(error)) => {
                error.is_transient()
            }
            PipelineError::Source(error) => error.is_temporary(),
            PipelineError::Line(error) => error.is_temporary(),
            _ => false,
        }
    }
}

/// What a run is told beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// End when everything that was there at the start is in files, whichever member of the group
    /// wrote them.
    pub until_drained: bool,
    /// What an operator orders for partitions that cannot go on by themselves.
    pub repairs: Vec<Repair>,
    /// The lives of partitions in this process; whoever ends the lines from outside says that they
    /// end in order.
    pub lives: OpenLives,
    /// Where it is told what becomes of images.
    pub traces: Traces,
}

/// A line's place in the world.
#[derive(Debug, Clone)]
pub struct LineSpec {
    /// The topic read.
    pub topic: Arc<str>,
    /// The consumer group.
    pub group: String,
    /// The table written.
    pub table: String,
}

/// What the lines of a process share.
pub struct LineContext<'a> {
    /// The configuration.
    pub config: &'a StageConfig,
    /// The run's options.
    pub options: &'a RunOptions,
    /// Where tables are kept.
    pub store: TableStore,
    /// Where messages go.
    pub topics: Arc<dyn Topics>,
    /// This process, once.
    pub process: Arc<str>,
    /// What it shows of itself.
    pub status: Arc<StageStatus>,
    /// What it is told.
    pub control: watch::Receiver<Control>,
}

impl<'a> LineContext<'a> {
    /// Opens the store, proves its conditional put, starts the producer.
    ///
    /// # Errors
    /// [`PipelineError`] names what is missing.
    pub async fn open(
        config: &'a StageConfig,
        options: &'a RunOptions,
        status: Arc<StageStatus>,
        control: watch::Receiver<Control>,
    ) -> Result<Self, PipelineError> {
        let store = TableStore::open(&config.output.url, &config.object_store).await?;
        let producer = ClientSettings::producer(&config.kafka);
        let patience = Duration::from_millis(config.kafka.message_timeout_ms);
        let topics = KafkaTopics::start(producer, written_topics(config), patience)
            .map_err(PipelineError::Producer)?;
        let process = format!("{:016x}-{}", rand::random::<u64>(), std::process::id());
        Ok(LineContext {
            config,
            options,
            store,
            topics: Arc::new(topics),
            process: process.into(),
            status,
            control,
        })
    }

    /// How long what is missing is waited for; `None`: as long as it takes. A run that reads to the
    /// end has somebody who waits for it.
    pub(super) fn own_wait(&self) -> Option<Duration> {
        let wait = Duration::from_millis(self.config.fetch.outage_wait_ms);
        self.options.until_drained.then_some(wait)
    }

    /// Runs one line: checks the topic, ends the chains that it was told to end, reads until told
    /// to stop.
    ///
    /// # Errors
    /// [`PipelineError`].
    pub async fn run_line<M: RowMaker>(
        &self,
        spec: &LineSpec,
        maker: M,
        budget: Budget,
    ) -> Result<(), PipelineError> {
        let config = self.config;
        let sink = FileSink::new(self.store.clone(), &spec.table, config.output.format)
            .with_vector_encoding(config.output.vector_encoding);
        let broker = Broker::new(&config.kafka, &spec.group, Arc::clone(&spec.topic))?;
        let broker = Arc::new(broker);
        let of_topic = |r: &&Repair| r.partition.topic == spec.topic;
        let repairs: Vec<_> = self
            .options
            .repairs
            .iter()
            .filter(of_topic)
            .cloned()
            .collect();
        let writer = WriterId(format!("{}-0", self.process));
        let start = self.first_offset(spec, &broker, &writer).await?;
        repairs::carry_out(
            &repairs,
            &broker,
            &sink,
            (&writer, &start),
            &*maker.layout(),
        )
        .await?;
        let until = if self.options.until_drained {
            Some(ends(&broker).await?)
        } else {
            None
        };
        let settings = self.line_settings(start, until, &repairs);
        let source_settings = SourceSettings {
            topic: Arc::clone(&spec.topic),
            table: sink.tag(),
            group: spec.group.clone(),
            statistics_interval: Duration::from_millis(config.source.statistics_interval_ms),
        };
        metrics::gauge!("tagstream_row_budget_bytes", "table" => spec.table.clone())
            .set(budget.bytes() as f64);
        let admission = Admission::new(budget.clone(), maker.places(), maker.row_bytes());
        let maker = Arc::new(maker);
        let counting = Arc::clone(&maker);
        let admission = admission.counting(move |message| counting.rows_in(message));
        let source = Source::start(
            &kafka_of(config, &broker).await?,
            &source_settings,
            admission,
        )?;
        let asked = Arc::clone(&broker);
        let recreated = source::recreated(
            move || {
                let broker = Arc::clone(&asked);
                async move {
                    let identity = blocking::run(move || broker.identity()).await;
                    // Who does not answer now is asked again; the consumer knows by itself that the
                    // brokers are gone.
                    identity.ok()?.ok()
                }
            },
            IDENTITY_EVERY,
        );
        let line = Line {
            maker,
            sink,
            topics: Arc::clone(&self.topics),
            logs: broker,
            budget,
            settings,
            status: Arc::clone(&self.status),
        };
        let probe = Broker::new(&config.kafka, &spec.group, Arc::clone(&spec.topic))?;
        let watched = Watched {
            config,
            store: &self.store,
            status: &self.status,
        };
        tokio::select! {
            outcome = line.run(source, self.control.clone()) => {
                self.status.tell_dead_letters(Instant::now());
                Ok(outcome?)
            }
            never = watched.watch_dead_letters() => match never {},
            never = watched.watch_store() => match never {},
            never = watched.watch_broker(probe) => match never {},
            // What is not in a file is read again by the next run, if it is still there.
            () = recreated => {
                self.options.lives.end_all().await;
                Err(SourceError::Recreated { topic: spec.topic.to_string() }.into())
            }
        }
    }

    /// Where partitions without any file start; puts down how the table began.
    async fn first_offset(
        &self,
        spec: &LineSpec,
        broker: &Arc<Broker>,
        writer: &WriterId,
    ) -> Result<FirstOffset, PipelineError> {
        if self.config.source.start == StartAt::Earliest {
            return Ok(FirstOffset::Earliest);
        }
        let (store, table, topic) = (&self.store, &spec.table, &spec.topic);
        let begun = match TableBegun::read(store, table, topic).await? {
            Some(begun) => begun,
            None => {
                let broker = Arc::clone(broker);
                let ask = move || {
                    broker.reach()?;
                    Ok::<_, SourceError>((broker.identity()?, broker.ends()?))
                };
                let asked = blocking::run(ask).await.map_err(LineError::Panicked)?;
                let (identity, ends) = asked?;
                let begun = TableBegun {
                    identity,
                    ends,
                    created: chrono::Utc::now(),
                    writer: writer.clone(),
                };
                begun.put(store, table, topic).await?
            }
        };
        Ok(FirstOffset::Latest(Arc::new(begun)))
    }

    pub(super) fn line_settings(
        &self,
        start: FirstOffset,
        until: Option<BTreeMap<PartitionId, LogFacts>>,
        repairs: &[Repair],
    ) -> LineSettings {
        let config = self.config;
        let restored = repairs
            .iter()
            .filter(|r| r.kind == RepairKind::RestoreOffset)
            .map(|r| (r.partition.clone(), r.end));
        LineSettings {
            start,
            rules: CutRules {
                max_bytes: config.output.max_file_mib << 20,
                max_age: Duration::from_millis(config.output.max_file_age_ms),
            },
            predictions_order: config.output.predictions_order,
            dead_letter_topic: config.output.dead_letter_topic.as_str().into(),
            drain_timeout: Duration::from_millis(config.shutdown.drain_timeout_ms),
            revoke_timeout: Duration::from_millis(
                config
                    .shutdown
                    .drain_timeout_ms
                    .min(config.kafka.session_timeout_ms / 2),
            ),
            until,
            restored: restored.collect(),
            session: Duration::from_millis(config.kafka.session_timeout_ms),
            process: Arc::clone(&self.process),
            lives: self.options.lives.clone(),
        }
    }
}

/// What every partition of the topic holds now.
async fn ends(broker: &Arc<Broker>) -> Result<BTreeMap<PartitionId, LogFacts>, PipelineError> {
    let broker = Arc::clone(broker);
    let ask = move || {
        let partitions = broker.partitions()?;
        let facts = |p: PartitionId| Ok((p.clone(), broker.facts(&p)?));
        partitions.into_iter().map(facts).collect()
    };
    let asked: Result<_, SourceError> = blocking::run(ask).await.map_err(LineError::Panicked)?;
    Ok(asked?)
}

/// The topics that the images line writes to.
fn written_topics(config: &StageConfig) -> Vec<Arc<str>> {
    let output = &config.output;
    let topics = [&output.predictions_topic, &output.dead_letter_topic];
    let named = topics.into_iter().filter(|t| !t.is_empty());
    named.map(|t| t.as_str().into()).collect()
}

fn bad_mapping(error: MappingError) -> ConfigError {
    ConfigError::BadValue {
        key: format!("source.mapping.{}", error.key),
        reason: error.reason,
    }
}

pub(super) fn framing(
    config: &StageConfig,
    patience: Option<Duration>,
) -> Result<Option<Framing>, ConfigError> {
    let registry = SchemaRegistry::new(&config.source.registry)?;
    Ok(registry.map(|registry| Framing {
        registry: Arc::new(registry),
        unknown_id: config.source.registry.unknown_id,
        patience,
    }))
}

/// What makes rows of images, and the bytes for rows.
pub(super) async fn image_rows<T: ImageModel>(
    shared: &LineContext<'_>,
    tagger: Arc<T>,
) -> Result<(ImageRows<T>, Budget), PipelineError> {
    let config = shared.config;
    let total = config.memory.budget_mib << 20;
    let (rows, images) = (Budget::new(total / 2), Budget::new(total / 2));
    let fetcher = Fetcher::new(&config.fetch, &config.object_store)?;
    shared.status.shows(Arc::clone(fetcher.outages()));
    let topic = &config.output.predictions_topic;
    let decoders = decoding::started(&config.decode).await?;
    // A process has one line of images.
    let _ = shared.status.decoders.set(decoders.clone());
    let own_wait = shared.own_wait();
    let settings = ImageSettings {
        decoders,
        status: Arc::clone(&shared.status),
        predictions_topic: (!topic.is_empty()).then(|| topic.as_str().into()),
        embedding_in_topic: config.output.embedding_in_topic,
        places: 2 * config.fetch.concurrency + 8 * config.model.max_batch,
        fetches: config.fetch.concurrency,
        fetches_per_place: match config.fetch.host_concurrency {
            0 => (config.fetch.concurrency * 3 / 4).max(1),
            most => most,
        },
        own_wait,
        decode_threads: config.decode.threads,
        mapping: config.source.mapping.compile().map_err(bad_mapping)?,
        framing: framing(config, own_wait)?,
        max_records: config.source.mapping.max_records,
        traces: shared.options.traces.clone(),
    };
    let maker = ImageRows::new(tagger, fetcher, images, settings).map_err(LineError::from)?;
    Ok((maker, rows))
}

/// Runs the images line of a process with a model that is loaded and warm.
///
/// # Errors
/// [`PipelineError`].
pub async fn run<T: ImageModel>(
    config: &StageConfig,
    tagger: Arc<T>,
    options: &RunOptions,
    status: Arc<StageStatus>,
    control: watch::Receiver<Control>,
) -> Result<(), PipelineError> {
    let topics = ImageTopics::of(&config.source)?;
    for repair in &options.repairs {
        if !topics.takes(&repair.partition.topic) {
            return Err(PipelineError::NoPartition(repair.partition.clone()));
        }
    }
    let shared = LineContext::open(config, options, status, control).await?;
    let (kafka, written) = (config.kafka.clone(), written_topics(config));
    let required = written.clone();
    blocking::run(move || source::require_topics(&kafka, &required))
        .await
        .map_err(LineError::Panicked)??;
    let mut not_read = written;
    if config.labels.enabled {
        not_read.push(config.labels.topic.as_str().into());
    }
    let made = image_rows(&shared, tagger).await?;
    several::run_lines(&shared, &topics, &not_read, made).await
}
