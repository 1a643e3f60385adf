//! The stage's configuration: a TOML file, then `TAGSTREAM_*` environment variables, then flags.
//!
//! Section structs live here; every key stands, commented with its default, in `configs/stage.toml`
//! (a test proves it). An environment variable names a key by its path:
//! `TAGSTREAM_FETCH__TIMEOUT_MS=2000` sets `fetch.timeout_ms`. `StageConfig::load` stands beside
//! the retraining job's, in `src/environment.rs`: both are given one environment.

mod reference;

pub use reference::reference;

use crate::digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable {
        /// The path asked for.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key is unknown, has the wrong type, or the file is not TOML.
    #[error("configuration: {0}")]
    Invalid(Box<figment::Error>),
    /// Environment variables that are keys of no configuration.
    #[error(
        "configuration: nothing has a key of this name: {}. Correct or unset what is set in the environment; \
         configs/stage.toml and configs/retrain.toml list the keys", .0.join(", ")
    )]
    UnknownVariables(Vec<String>),
    /// A value is out of its range or contradicts another.
    #[error("configuration: `{key}` {reason}")]
    BadValue {
        /// Path of the key.
        key: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// A value that must not be printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "***" })
    }
}

/// `tagstream run --config`: everything the stage can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageConfig {
    /// The broker and the consumer group.
    pub kafka: KafkaConfig,
    /// The topics read.
    pub source: SourceConfig,
    /// The bound on memory.
    pub memory: MemoryConfig,
    /// How images are fetched, and from where they may be.
    pub fetch: FetchConfig,
    /// How images are decoded.
    pub decode: DecodeConfig,
    /// The model and how batches are made for it.
    pub model: ModelConfig,
    /// Where rows and messages go.
    pub output: OutputConfig,
    /// The label store.
    pub labels: LabelsConfig,
    /// The HTTP port for health, metrics and information.
    pub http: HttpConfig,
    /// Logs.
    pub log: LogConfig,
    /// Credentials and options of object stores, by URL scheme.
    pub object_store: ObjectStoreConfig,
    /// How the stage ends.
    pub shutdown: ShutdownConfig,
}

macro_rules! section {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $field_doc:literal])* $field:ident: $ty:ty = $default:expr,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[doc = $field_doc])* pub $field: $ty,)*
        }

        impl $name {
            /// Keys with their descriptions, for the reference file.
            pub(crate) const KEYS: &'static [(&'static str, &'static [&'static str])] =
                &[$((stringify!($field), &[$($field_doc),*])),*];
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }
    };
}

section! {
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
        /// Passed to librdkafka as they are (TLS, SASL, tuning), for consumer and producer.
        properties: BTreeMap<String, Secret> = BTreeMap::new(),
    }
}

section! {
    /// The topics read.
    SourceConfig {
        /// Topic of image references.
        images_topic: String = "images".into(),
        /// Where a partition without any file starts: `earliest` or `latest`.
        start: StartAt = StartAt::Earliest,
        /// How often partition statistics (lag) are refreshed.
        statistics_interval_ms: u64 = 5_000,
    }
}

/// Where a partition without any file starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    /// The oldest message kept.
    Earliest,
    /// Messages that arrive from now on.
    Latest,
}

section! {
    /// The bound on memory.
    MemoryConfig {
        /// Bytes of messages, images and rows in flight, all partitions together, MiB. Reading
        /// pauses at this bound.
        budget_mib: u64 = 512,
    }
}

section! {
    /// How images are fetched, and from where they may be.
    FetchConfig {
        /// Images being fetched, or fetched and waiting to be decoded; of local files at most three
        /// a decoding thread.
        concurrency: usize = 64,
        /// Deadline of one image, retries included; after it the message is a dead letter.
        timeout_ms: u64 = 10_000,
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
        allow_schemes: Vec<String> = ["s3", "gs", "az", "https", "data"].map(String::from).to_vec(),
        /// Hosts (or buckets) allowed, `*.example.org` for all hosts below a domain; empty: all.
        allow_hosts: Vec<String> = Vec::new(),
        /// Folders that `file` URIs may lie in; empty: none.
        allow_path_prefixes: Vec<String> = Vec::new(),
        /// Whether private, loopback, link-local and other special addresses may be fetched from by
        /// http(s): all of them.
        allow_private_addresses: bool = false,
        /// Networks that http(s) may fetch from although they are not public, as `10.20.0.0/16`.
        allow_networks: Vec<String> = Vec::new(),
    }
}

section! {
    /// How images are decoded.
    DecodeConfig {
        /// Decoding threads; 0: chosen from the cores and the model workers.
        threads: usize = 0,
        /// Largest image in pixels, megapixels, checked before decoding.
        max_megapixels: u64 = 64,
        /// Largest memory of one image while it is decoded, MiB, checked before decoding.
        max_alloc_mib: u64 = 512,
    }
}

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The processor.
    Cpu,
    /// CUDA; an error if it is not usable.
    Cuda,
    /// TensorRT; an error if it is not usable.
    Tensorrt,
    /// CUDA where it is usable, else the processor; which one is logged and shown.
    Auto,
}

section! {
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
        /// Longest time that a ready image waits for others to join its batch.
        max_delay_ms: u64 = 20,
        /// Most tags of one image: those that exceed their thresholds the furthest.
        max_tags: usize = 100,
        /// How often the registry's pointer is looked at; 0: never.
        watch_interval_ms: u64 = 5_000,
        /// Most GPU memory for the arena of one session, MiB; 0: what there is. A worker has two
        /// sessions, encoder and head; what CUDA and cuDNN take for themselves comes on top.
        device_memory_mib: u64 = 0,
        /// Folder where TensorRT keeps its engines, which take minutes to build; empty: they are
        /// built anew at every start.
        engine_cache: String = String::new(),
        /// Whether TensorRT may compute a 32-bit encoder in 16 bit. One of
        /// `tagstream init --precision fp16` always is.
        tensorrt_fp16: bool = false,
    }
}

/// File format of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC file.
    Arrow,
}

section! {
    /// Where rows and messages go.
    OutputConfig {
        /// Where tables are kept: a folder (`file:///...` or a path) or an object store
        /// (`s3://bucket/prefix`).
        url: String = String::new(),
        /// Name of the predictions table, below `url`.
        table: String = "predictions".into(),
        /// `parquet` or `arrow`.
        format: FileFormat = FileFormat::Parquet,
        /// A file ends at this size (estimated before compression), MiB.
        max_file_mib: u64 = 128,
        /// A file ends when its first row has waited this long, also when the topic is idle.
        max_file_age_ms: u64 = 60_000,
        /// Topic for predictions; empty: none.
        predictions_topic: String = "predictions".into(),
        /// Topic for dead letters.
        dead_letter_topic: String = "dead-letters".into(),
        /// Whether messages of the predictions topic carry the embedding.
        embedding_in_topic: bool = false,
        /// Whether the table has a column of region embeddings, one per tag.
        region_embeddings: bool = false,
    }
}

section! {
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

section! {
    /// The HTTP port for health, metrics and information.
    HttpConfig {
        /// Address to listen on; empty: none.
        bind: String = "127.0.0.1:9464".into(),
        /// `/health/livez` fails when a loop has not moved for this long.
        liveness_limit_ms: u64 = 60_000,
        /// How often the output is tried for `/health/readyz`.
        sink_check_ms: u64 = 10_000,
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

section! {
    /// Logs.
    LogConfig {
        /// `auto`, `text` or `json`.
        format: LogFormat = LogFormat::Auto,
        /// Level or filter (`info`, `tagstream=debug,warn`).
        filter: String = "info".into(),
    }
}

section! {
    /// Credentials and options of object stores; where a key is missing the usual environment
    /// variables count.
    ObjectStoreConfig {
        /// Options for `s3://` (`endpoint`, `region`, `access_key_id`, `secret_access_key`,
        /// `allow_http`, ...).
        s3: BTreeMap<String, Secret> = BTreeMap::new(),
        /// Options for `gs://`.
        gs: BTreeMap<String, Secret> = BTreeMap::new(),
        /// Options for `az://`.
        az: BTreeMap<String, Secret> = BTreeMap::new(),
    }
}

section! {
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

    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] names the first key that cannot be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bad = |key: &str, reason: &str| {
            Err(ConfigError::BadValue {
                key: key.into(),
                reason: reason.into(),
            })
        };
        if self.kafka.brokers.is_empty() {
            return bad("kafka.brokers", "is empty: name at least one host:port");
        }
        if self.memory.budget_mib <= self.fetch.max_mib {
            return bad(
                "memory.budget_mib",
                "must be larger than `fetch.max_mib`, or the largest image could never be read",
            );
        }
        if self.model.max_batch == 0 {
            return bad("model.max_batch", "must be at least 1");
        }
        if self.model.max_tags == 0 {
            return bad("model.max_tags", "must be at least 1");
        }
        if self.fetch.concurrency == 0 {
            return bad("fetch.concurrency", "must be at least 1");
        }
        if self.kafka.group_id.is_empty() {
            return bad(
                "kafka.group_id",
                "is empty: processes share partitions by it",
            );
        }
        if self.model.max_batch_mib == 0 {
            return bad("model.max_batch_mib", "must be at least 1");
        }
        const SCHEMES: [&str; 7] = ["file", "s3", "gs", "az", "http", "https", "data"];
        for scheme in &self.fetch.allow_schemes {
            if !SCHEMES.contains(&scheme.as_str()) {
                let reason = format!("names `{scheme}`; known are {}", SCHEMES.join(", "));
                return bad("fetch.allow_schemes", &reason);
            }
        }
        if self
            .output
            .table
            .split('/')
            .any(|p| matches!(p, "" | "." | ".."))
        {
            return bad(
                "output.table",
                "must be a plain name or names joined by `/`",
            );
        }
        if self.output.max_file_age_ms == 0 {
            return bad("output.max_file_age_ms", "must be at least 1");
        }
        if !self.http.bind.is_empty() && !self.http.bind.contains(':') {
            return bad("http.bind", "must be `host:port`, or empty for no port");
        }
        if self.http.sink_check_ms == 0 {
            return bad("http.sink_check_ms", "must be at least 1");
        }
        if self.output.dead_letter_topic.is_empty() {
            return bad(
                "output.dead_letter_topic",
                "is empty: messages that yield no row must go somewhere",
            );
        }
        Ok(())
    }
}
