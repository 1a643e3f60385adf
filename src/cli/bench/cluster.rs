//! The broker of a run and what is asked of it: topics, references, how many messages a topic
//! holds.

use anyhow::{Context, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::thread;
use std::time::Duration;
use tagstream::demo::broker::EmbeddedBroker;
use tagstream::stage::source::{ClientSettings, Covering};

/// One answer of the broker may take this long.
const ANSWER: Duration = Duration::from_secs(20);

/// The broker.
pub(super) enum Cluster {
    /// In this process.
    Embedded(EmbeddedBroker),
    /// Somewhere else.
    Real(String),
}

impl Cluster {
    /// Starts the embedded broker unless others are named.
    pub(super) fn open(brokers: Option<&str>) -> anyhow::Result<Self> {
        Ok(match brokers {
            Some(brokers) => Cluster::Real(brokers.to_owned()),
            None => Cluster::Embedded(EmbeddedBroker::start()?),
        })
    }

    /// For the report.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Cluster::Embedded(_) => "embedded",
            Cluster::Real(_) => "kafka",
        }
    }

    /// `host:port`, comma-separated.
    pub(super) fn bootstrap(&self) -> &str {
        match self {
            Cluster::Embedded(broker) => broker.bootstrap_servers(),
            Cluster::Real(brokers) => brokers,
        }
    }

    fn client(&self) -> ClientSettings {
        ClientSettings::new(self.bootstrap())
    }

    /// Creates a topic that was not there.
    pub(super) fn create(&self, topic: &str, partitions: i32) -> anyhow::Result<()> {
        if let Cluster::Embedded(broker) = self {
            return Ok(broker.create_topic(topic, partitions)?);
        }
        let admin: AdminClient<Covering> = self.client().create()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(ANSWER));
        let created = runtime.block_on(admin.create_topics(&[new], &options))?;
        for result in created {
            if let Err((topic, code)) = result {
                bail!("cannot create topic {topic}: {code}");
            }
        }
        Ok(())
    }

    /// A producer of references.
    pub(super) fn producer(&self) -> anyhow::Result<References> {
        let producer = self
            .client()
            .set("linger.ms", "1")
            .set("message.timeout.ms", "60000")
            .create()?;
        Ok(References { producer })
    }

    /// Counts the messages of a topic.
    pub(super) fn counter(&self, topic: &str, partitions: i32) -> anyhow::Result<Counter> {
        Ok(Counter {
            consumer: self.client().create()?,
            topic: topic.to_owned(),
            partitions,
        })
    }
}

/// Writes references.
pub(super) struct References {
    producer: BaseProducer<Covering>,
}

impl References {
    /// Sends one; blocks only while the queue is full.
    pub(super) fn send(
        &self,
        topic: &str,
        partition: i32,
        image_id: &str,
        value: &str,
    ) -> anyhow::Result<()> {
        let mut record = BaseRecord::to(topic)
            .partition(partition)
            .key(image_id)
            .payload(value);
        while let Err((error, back)) = self.producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error).context("writing a reference");
            }
            self.producer.poll(Duration::from_millis(5));
            record = back;
        }
        Ok(())
    }

    /// Waits until all are written.
    pub(super) fn flush(&self) -> anyhow::Result<()> {
        self.producer
            .flush(Duration::from_secs(60))
            .context("writing references")
    }
}

/// Counts the messages of a topic by its partitions' ends.
pub(super) struct Counter {
    consumer: BaseConsumer<Covering>,
    topic: String,
    partitions: i32,
}

impl Counter {
    /// How many messages there are.
    pub(super) fn count(&self) -> anyhow::Result<usize> {
        let mut count = 0;
        for partition in 0..self.partitions {
            let (_, end) = self
                .consumer
                .fetch_watermarks(&self.topic, partition, ANSWER)
                .with_context(|| format!("asking how long {} is", self.topic))?;
            count += end.max(0) as usize;
        }
        Ok(count)
    }

    /// Waits until there are `count`, asking `alive` meanwhile.
    pub(super) fn wait_for(
        &self,
        count: usize,
        mut alive: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        loop {
            let there = self.count()?;
            if there >= count {
                return Ok(());
            }
            alive()?;
            // Asking takes time from what is measured, so it is done often only near the end.
            let near = there + count / 20 + 64 >= count;
            thread::sleep(Duration::from_millis(if near { 10 } else { 200 }));
        }
    }
}
