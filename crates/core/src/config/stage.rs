//! The stage's configuration; every key stands with its default in `configs/stage.toml`.

use super::decode::DecodeConfig;
use super::{
    BoxForm, Configuration, FileFormat, Flaw, Kind, NotifyConfig, PredictionsOrder, Secret, Shape,
    SourceConfig, TraceConfig, VectorEncoding, choice, settings,
};
use crate::address::Address;
use crate::address::options;
use crate::digest;
use std::collections::BTreeMap;

settings! {
    /// `tagstream run --config`: everything the stage can be told.
    StageConfig {
        /// The broker and the consumer group.
        kafka: KafkaConfig = KafkaConfig::default(),
        /// The topics read.
        source: SourceConfig = SourceConfig::default(),
        /// The bound on memory.
        memory: MemoryConfig = MemoryConfig::default(),
        /// How images are fetched, and from where they may be.
        fetch: FetchConfig = FetchConfig::default(),
        /// How images are decoded.
        decode: DecodeConfig = DecodeConfig::default(),
        /// The model and how batches are made for it.
        model: ModelConfig = ModelConfig::default(),
        /// Where rows and messages go.
        output: OutputConfig = OutputConfig::default(),
        /// The label store.
        labels: LabelsConfig = LabelsConfig::default(),
        /// The HTTP port for health, metrics and information.
        http: HttpConfig = HttpConfig::default(),
        /// How log lines look, and which are written.
        log: LogConfig = LogConfig::default(),
        /// Credentials and options of object stores, by URL scheme; where a key is missing the
        /// usual environment variables count.
        object_store: ObjectStoreConfig = ObjectStoreConfig::default(),
        /// How the stage ends.
        shutdown: ShutdownConfig = ShutdownConfig::default(),
        /// Who is told that the stage refused a model, or has ended.
        notify: NotifyConfig = NotifyConfig::default(),
        /// Traces of images, in a build with the feature `otlp`.
        trace: TraceConfig = TraceConfig::default(),
    }
}

settings! {
    /// The broker and the consumer group.
    KafkaConfig {
        /// `host:port`, comma-separated.
        brokers: String = "localhost:9092".into(),
        /// Consumer group; processes that share it share the partitions.
        group_id: String = "tagstream".into(),
        /// Consumer: silence after which the broker gives our partitions to others.
        session_timeout_ms: u64 = 45_000,
        /// Consumer: time between polls after which librdkafka leaves the group. Being left is
        /// fatal.
        max_poll_interval_ms: u64 = 300_000,
        /// Producer: time after which an unacknowledged message is a failure.
        message_timeout_ms: u64 = 120_000,
        /// Passed to librdkafka as they are (TLS, SASL, tuning), for consumer and producer. Names
        /// stand in quotes (`"sasl.password" = "..."`). In a variable's name underscores stand for
        /// their dots: TAGSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD.
        properties: BTreeMap<String, Secret> as Kind::Properties = BTreeMap::new(),
    }
}

settings! {
    /// The bound on memory.
    MemoryConfig {
        /// Bytes of messages, images and rows in flight, all partitions together, MiB. Reading
        /// pauses at this bound.
        budget_mib: u64 = 512,
    }
}

settings! {
    /// How images are fetched, and from where they may be.
    FetchConfig {
        /// Images being fetched, or fetched and waiting to be decoded, of one partition; half as
        /// many more are kept for other partitions. Of local files at most three a decoding thread.
        concurrency: usize = 64,
        /// Most of them from one host or bucket; 0: three quarters. Hosts that have never answered,
        /// or are down, take at most half together.
        host_concurrency: usize = 0,
        /// Deadline of one image, retries included. After it the message is a dead letter, if its
        /// host answers others; else it waits for the host.
        timeout_ms: u64 = 10_000,
        /// How long a host, bucket or folder that is down is waited for. Its messages wait, others
        /// go on; after this time they are dead letters of kind `outage`, until it answers. A host
        /// that no `allow_hosts` names and that has never answered is waited for a tenth of it.
        /// 0: nothing is waited for.
        outage_wait_ms: u64 = 600_000,
        /// Deadline of one connection attempt.
        connect_timeout_ms: u64 = 3_000,
        /// Largest image in bytes, MiB.
        max_mib: u64 = 32,
        /// Retries of transient errors.
        retries: u32 = 3,
        /// First delay between retries; doubles, with jitter.
        retry_delay_ms: u64 = 100,
        /// Redirects followed, each checked like the first address.
        max_redirects: u32 = 3,
        /// Schemes allowed: `file`, `s3`, `gs`, `az`, `http`, `https`, `data`.
        allow_schemes: Vec<String> =
            ["s3", "gs", "az", "https", "data"].map(String::from).to_vec(),
        /// Hosts (or buckets) allowed, `*.example.org` for all hosts below a domain; empty: all
        /// hosts.
        allow_hosts: Vec<String> = Vec::new(),
        /// Buckets and containers that images may be fetched from: `photos`, or `s3://photos` for
        /// one store's alone; `*` for all that the credentials reach. Those named in `allow_hosts`
        /// are allowed, too; empty: no others. A message must not choose whom this machine asks
        /// for credentials.
        allow_buckets: Vec<String> = Vec::new(),
        /// Folders that `file` URIs may lie in; empty: none.
        allow_path_prefixes: Vec<String> = Vec::new(),
        /// Whether private, loopback, link-local and other special addresses may be fetched from
        /// by http(s): all of them.
        allow_private_addresses: bool = false,
        /// Networks that http(s) may fetch from although they are not public, as `10.20.0.0/16`.
        allow_networks: Vec<String> = Vec::new(),
    }
}

choice! {
    /// An execution provider of ONNX Runtime.
    Provider {
        /// The processor.
        Cpu = "cpu",
        /// CUDA; an error if it is not usable.
        Cuda = "cuda",
        /// TensorRT; an error if it is not usable.
        Tensorrt = "tensorrt",
        /// CUDA where it is usable, else the processor; which one is logged and shown.
        Auto = "auto",
    }
}

settings! {
    /// The model and how batches are made for it.
    ModelConfig {
        /// A bundle directory or `registry-url[@version]`.
        path: String = String::new(),
        /// `cpu`, `cuda`, `tensorrt` or `auto`.
        provider: Provider = Provider::Cpu,
        /// Device number for `cuda` and `tensorrt`.
        device: u32 = 0,
        /// Inference workers; 0: one per core on a CPU, two on a GPU (one computes while the
        /// other's images and results are copied). On a GPU every worker takes device memory for
        /// its activations; weights are held once with `cuda`, once a worker with `tensorrt`.
        workers: usize = 0,
        /// Largest batch. On a CPU a run of the model takes at most four images, and from the
        /// second image on at most about 20 ms: more only take memory. A batch is one run, of a
        /// tiny model up to four.
        max_batch: usize = 16,
        /// Largest batch in bytes of pixels, MiB.
        max_batch_mib: u64 = 64,
        /// Longest time that a ready image waits for others to join its batch while the workers
        /// are busy; one that is idle takes what is ready.
        max_delay_ms: u64 = 20,
        /// Most tags of one image: those that exceed their thresholds the furthest.
        max_tags: usize = 100,
        /// How often the registry's pointer is looked at; 0: never.
        watch_interval_ms: u64 = 5_000,
        /// Categories whose tags and scores are counted by name among the metrics, the model's
        /// first ones, eleven series each; all others are counted together. 0: all together.
        metric_categories: usize = 100,
        /// Most GPU memory for the arena of one session, MiB; 0: what there is. A worker has two
        /// sessions, encoder and head; what CUDA and cuDNN take for themselves comes on top.
        device_memory_mib: u64 = 0,
        /// Folder where TensorRT keeps its engines, which take minutes to build; empty: they are
        /// built anew at every start.
        engine_cache: String = String::new(),
        /// Whether TensorRT may compute a 32-bit encoder in 16 bit. One of `tagstream init
        /// --precision fp16` always is.
        tensorrt_fp16: bool = false,
    }
}

settings! {
    /// Where rows and messages go.
    OutputConfig {
        /// Where tables are kept: a folder (`file:///...` or a path) or an object store
        /// (`s3://bucket/prefix`).
        url: String = String::new(),
        /// Name of the predictions table, below `url`.
        table: String = "predictions".into(),
        /// `parquet` or `arrow`.
        format: FileFormat = FileFormat::Parquet,
        /// How scores and embeddings lie in Parquet files: `plain`, which every reader takes, or
        /// `byte_stream_split`, which saves a part of their bytes and which Spark 3.5 cannot read.
        vector_encoding: VectorEncoding = VectorEncoding::Plain,
        /// A file ends at this size (estimated before compression), MiB.
        max_file_mib: u64 = 128,
        /// A file ends when its first row has waited this long, also when the topic is idle.
        max_file_age_ms: u64 = 60_000,
        /// Topic for predictions; empty: none.
        predictions_topic: String = "predictions".into(),
        /// In which order predictions go out: `offset`, as the partition's messages came, or
        /// `ready`, each as soon as it is made, so that a slow image holds up no other's. Files are
        /// in the order of offsets either way.
        predictions_order: PredictionsOrder = PredictionsOrder::Offset,
        /// Topic that gets each message without a row, with the reason in its headers.
        dead_letter_topic: String = "dead-letters".into(),
        /// Whether messages of the predictions topic carry the embedding.
        embedding_in_topic: bool = false,
        /// Whether the table has a column of region embeddings, one per tag.
        region_embeddings: bool = false,
        /// Where tags are seen: `one` box a tag, the whole picture where no region supports the
        /// tag; `all`: a column `boxes` with every region's, and `box` null where there is none;
        /// `masks`: the same with each region's cells. A table should be read and written in one
        /// form.
        boxes: BoxForm = BoxForm::One,
    }
}

settings! {
    /// The label store.
    LabelsConfig {
        /// Whether the labels topic is read.
        enabled: bool = false,
        /// Topic of label events.
        topic: String = "labels".into(),
        /// Name of the label table, below `output.url`.
        table: String = "labels".into(),
    }
}

settings! {
    /// The HTTP port for health, metrics and information.
    HttpConfig {
        /// Address to listen on; empty: none.
        bind: String = "127.0.0.1:9464".into(),
        /// `/health/livez` fails when a loop has not moved for this long.
        liveness_limit_ms: u64 = 60_000,
        /// How often the output is tried for `/health/readyz`.
        sink_check_ms: u64 = 10_000,
        /// How often the brokers are asked for `/health/readyz`.
        broker_check_ms: u64 = 5_000,
        /// Most connections at a time; above it the one that has been quiet for longest is closed.
        max_connections: usize = 64,
        /// Most connections that one address (of IPv6: one /64) may open a second, over 16 seconds;
        /// those beyond are closed unread and counted, but for health, metrics and information.
        /// 0: as many as it likes.
        connections_per_second: u32 = 32,
        /// A connection on which no answer was sent for this long is closed, whatever it waits for.
        idle_timeout_ms: u64 = 30_000,
    }
}

choice! {
    /// How log lines look.
    LogFormat {
        /// Text on a terminal, JSON otherwise.
        Auto = "auto",
        /// For people.
        Text = "text",
        /// For machines.
        Json = "json",
    }
}

settings! {
    /// How log lines look, and which are written.
    LogConfig {
        /// `auto`, `text` or `json`.
        format: LogFormat = LogFormat::Auto,
        /// Level or filter (`info`, `tagstream=debug,warn`).
        filter: String = "info".into(),
    }
}

const S3_OPTIONS: Kind = Kind::Options(&options::S3);
const GS_OPTIONS: Kind = Kind::Options(&options::GS);
const AZ_OPTIONS: Kind = Kind::Options(&options::AZ);

settings! {
    /// Credentials and options of object stores; where a key is missing the usual environment
    /// variables count.
    ObjectStoreConfig {
        /// Options for `s3://` (`endpoint`, `region`, `access_key_id`, `secret_access_key`,
        /// `allow_http`, ...).
        s3: BTreeMap<String, Secret> as S3_OPTIONS = BTreeMap::new(),
        /// Options for `gs://`.
        gs: BTreeMap<String, Secret> as GS_OPTIONS = BTreeMap::new(),
        /// Options for `az://`.
        az: BTreeMap<String, Secret> as AZ_OPTIONS = BTreeMap::new(),
    }
}

settings! {
    /// How the stage ends.
    ShutdownConfig {
        /// After SIGTERM: time to finish what was read; then the process ends without it (it is
        /// read again).
        drain_timeout_ms: u64 = 20_000,
    }
}

impl StageConfig {
    /// SHA-256 (hex) of the whole configuration, without its secrets: which one a process runs
    /// with.
    pub fn hash(&self) -> String {
        let text = toml::to_string(self).expect("a configuration is plain data");
        digest::sha256(text)
    }
}

impl Configuration for StageConfig {
    const SHAPE: Shape = Shape {
        file: "stage.toml",
        of: "Configuration of tagstream's stage (tagstream run)",
        head: "The stage's configuration (`tagstream run --config`): every key with its default. \
            Variables that name keys of retrain.toml or serve.toml alone are left to them; one \
            that names no key of any is an error.",
        keys: StageConfig::KEYS,
    };

    fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let mut refuse = |wrong: bool, key: &str, reason: &str| {
            if wrong {
                flaws.push(Flaw::new(key, reason));
            }
        };
        let empty_brokers = "is empty: name at least one host:port";
        refuse(
            self.kafka.brokers.is_empty(),
            "kafka.brokers",
            empty_brokers,
        );
        refuse(
            self.kafka.brokers.contains('@'),
            "kafka.brokers",
            "holds a user name or a password; they belong into `kafka.properties` \
             (`sasl.username`, `sasl.password`)",
        );
        refuse(
            self.kafka.group_id.is_empty(),
            "kafka.group_id",
            "is empty: processes share partitions by it",
        );
        refuse(
            self.memory.budget_mib <= self.fetch.max_mib,
            "memory.budget_mib",
            "must be larger than `fetch.max_mib`, or the largest image could never be read",
        );
        let counts = [
            (self.model.max_batch as u64, "model.max_batch"),
            (self.model.max_tags as u64, "model.max_tags"),
            (self.model.max_batch_mib, "model.max_batch_mib"),
            (self.output.max_file_age_ms, "output.max_file_age_ms"),
        ];
        for (count, key) in counts {
            refuse(count == 0, key, "must be at least 1");
        }
        let mut steps = self.output.table.split('/');
        refuse(
            steps.any(|step| matches!(step, "" | "." | "..")),
            "output.table",
            "must be a plain name or names joined by `/`",
        );
        refuse(
            self.output.dead_letter_topic.is_empty(),
            "output.dead_letter_topic",
            "is empty: messages that yield no row must go somewhere",
        );
        // Without one, the commands that only want the object stores' options can do their work.
        if !self.output.url.is_empty() {
            flaws.extend(address_flaw("output.url", &self.output.url));
        }
        flaws.extend(self.source.flaws());
        flaws.extend(self.fetch.flaws());
        flaws.extend(self.http.flaws());
        flaws.extend(self.notify.flaws());
        flaws.extend(self.trace.flaws());
        flaws.extend(self.decode.flaws());
        flaws
    }
}

impl HttpConfig {
    fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        for (is_zero, key) in [
            (self.sink_check_ms == 0, "http.sink_check_ms"),
            (self.broker_check_ms == 0, "http.broker_check_ms"),
            (self.max_connections == 0, "http.max_connections"),
            (self.idle_timeout_ms == 0, "http.idle_timeout_ms"),
        ] {
            if is_zero {
                flaws.push(Flaw::new(key, "must be at least 1"));
            }
        }
        if !self.bind.is_empty() && !self.bind.contains(':') {
            let reason = "must be `host:port`, or empty for no port";
            flaws.push(Flaw::new("http.bind", reason));
        }
        flaws
    }
}

impl FetchConfig {
    /// What cannot be although every type is right.
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        if self.concurrency == 0 {
            flaws.push(Flaw::new("fetch.concurrency", "must be at least 1"));
        }
        const SCHEMES: [&str; 7] = ["file", "s3", "gs", "az", "http", "https", "data"];
        let unknown = self
            .allow_schemes
            .iter()
            .find(|s| !SCHEMES.contains(&s.as_str()));
        if let Some(scheme) = unknown {
            let reason = format!("names `{scheme}`; known are {}", SCHEMES.join(", "));
            flaws.push(Flaw::new("fetch.allow_schemes", reason));
        }
        flaws
    }
}

/// What is wrong with the address that stands at `key`.
pub fn address_flaw(key: &str, address: &str) -> Option<Flaw> {
    let error = Address::parse(address).err()?;
    Some(Flaw::new(key, error.to_string()))
}
