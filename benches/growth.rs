//! What grows with years: labels, versions of the registry, files in a partition's folder.
//!
//! `cargo bench --bench growth -- benches/runs/growth.jsonl` appends a row a case: seconds, the
//! memory that the process came to hold, requests. `LABELS=1000000 VERSIONS=300 FILES=10000` makes
//! it shorter. Each case runs in a process of its own, or the memory of one would count for the
//! next.

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tagstream::labelling::store::{read_labels, read_labels_and_keep};
use tagstream::stage::label_rows::{LabelRow, LabelRows};
use tagstream::stage::row_maker::{Leave, RowMaker, RowOutcome};
use tagstream::stage::sink::begun::FirstOffset;
use tagstream::stage::sink::chain::{TopicIdentity, WriterId};
use tagstream::stage::sink::files::{Fence, FileSink};
use tagstream::stage::sink::log_facts::LogFacts;
use tagstream::stage::sink::parquet;
use tagstream::stage::source::SourceMessage;
use tagstream_core::build;
use tagstream_core::config::{FileFormat, ObjectStoreConfig, VectorEncoding};
use tagstream_core::events::{Offset, OffsetRange, PartitionId};
use tagstream_core::storage::store::{StoreError, TableStore};
use tagstream_model::registry::{Action, Decision, REGISTRY_FORMAT, Registry, VersionRecord};

/// Labels of one event.
const EACH: usize = 5;
/// Events of one file.
const FILE: usize = 10_000;
/// How long the registry's store takes to answer.
const ANSWER: Duration = Duration::from_millis(20);

type Done = Result<serde_json::Value, Box<dyn std::error::Error>>;

fn count(name: &str, usual: usize) -> usize {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Resident MiB of this process, now and at most.
fn resident() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    };
    (of("VmRSS:"), of("VmHWM:"))
}

async fn label_row(offset: usize, labels: usize) -> Option<LabelRow> {
    let image = offset % (labels / EACH).max(1);
    let names: Vec<String> = (0..EACH)
        .map(|n| format!("category-{}", (image * 7 + n * 13) % 200))
        .collect();
    let payload = serde_json::json!({
        "image_id": format!("photos/2026/{image:09}"),
        "uri": format!("s3://bucket/photos/2026/{image:09}.jpg"),
        "present": names[..2],
        "absent": names[2..],
        "annotator": format!("annotator-{}", image % 20),
    });
    let message = SourceMessage {
        partition: PartitionId::new("labels", 0),
        offset: Offset(offset as i64),
        leader_epoch: None,
        key: None,
        payload: Some(Bytes::from(payload.to_string())),
        headers: Vec::new(),
        timestamp: DateTime::from_timestamp_millis(1_760_000_000_000 + offset as i64),
    };
    let made = LabelRows::default().make(&message, &Leave::never()).await;
    match made {
        Ok(RowOutcome::Row { row, .. }) => Some(row),
        _ => None,
    }
}

async fn opened(folder: &Path) -> Result<TableStore, StoreError> {
    TableStore::open(&folder.display().to_string(), &ObjectStoreConfig::default()).await
}

/// Writes the label table that the other label cases read.
async fn write_labels(folder: &Path, labels: usize) -> Done {
    let store = opened(folder).await?;
    for (number, begin) in (0..labels / EACH).step_by(FILE).enumerate() {
        let mut rows = Vec::with_capacity(FILE);
        for offset in begin..(begin + FILE).min(labels / EACH) {
            rows.extend(label_row(offset, labels).await);
        }
        let bytes = parquet::encode(&(), &rows, &BTreeMap::new(), VectorEncoding::Plain)?;
        let path = ObjectPath::from(format!("labels/labels/0/0-{:020}.parquet", number * FILE));
        store.put_if_absent(&path, bytes.into()).await?;
    }
    Ok(serde_json::json!({}))
}

async fn labels(folder: &Path, keep: bool) -> Done {
    let url = folder.display().to_string();
    let store = TableStore::open_for_reading(&url, &ObjectStoreConfig::default())?;
    let (before, _) = resident();
    let began = Instant::now();
    let table = match keep {
        true => read_labels_and_keep(&store, "labels").await?,
        false => read_labels(&store, "labels").await?,
    };
    let read = began.elapsed().as_secs_f64();
    let counts = table.counts().len();
    let known = table.known().count();
    let hash = table.hash();
    let seconds = began.elapsed().as_secs_f64();
    let (now, most) = resident();
    let (of_labels, of_images) = table.heap_bytes();
    Ok(serde_json::json!({
        "labels": known,
        "categories": counts,
        "snapshot": hash,
        "read_seconds": read,
        "seconds": seconds,
        "resident_mib": now - before,
        "most_mib": most,
        "bytes_a_label": of_labels as f64 / known.max(1) as f64,
        "image_bytes_a_label": of_images as f64 / known.max(1) as f64,
    }))
}

/// A store in memory that takes its time once it is told to.
#[derive(Debug, Default)]
struct Distant {
    inner: InMemory,
    answer_ms: AtomicU64,
    requests: AtomicU64,
}

impl Distant {
    async fn travel(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let millis = self.answer_ms.load(Ordering::Relaxed);
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }
}

impl std::fmt::Display for Distant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "distant {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Distant {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        self.travel().await;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> StoreResult<GetResult> {
        self.travel().await;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<ObjectPath>>,
    ) -> BoxStream<'static, StoreResult<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> StoreResult<ListResult> {
        self.travel().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> StoreResult<()> {
        self.travel().await;
        self.inner.copy_opts(from, to, options).await
    }
}

/// Versions and decisions of a registry, as `registry list` reads them.
async fn registry(versions: usize) -> Done {
    let distant = Arc::new(Distant::default());
    let prefix = ObjectPath::from("models");
    let registry = Registry::on_store(distant.clone(), prefix.clone()).await?;
    for version in 1..=versions as u64 {
        let record = VersionRecord {
            format_version: REGISTRY_FORMAT,
            version,
            id: format!("v{version}"),
            parent: None,
            created: Utc::now(),
            who: "bench".into(),
            why: String::new(),
            run: None,
            categories: 80,
            metrics: BTreeMap::new(),
            files: BTreeMap::new(),
            attachments: BTreeMap::new(),
            nonce: String::new(),
        };
        let path = prefix
            .clone()
            .join("versions")
            .join(format!("{version}.json"));
        let bytes = serde_json::to_vec(&record)?;
        let options = PutOptions::from(PutMode::Create);
        distant.inner.put_opts(&path, bytes.into(), options).await?;
        registry
            .decide(Decision::by_hand(Action::Held, version, "bench", ""))
            .await?;
    }
    distant
        .answer_ms
        .store(ANSWER.as_millis() as u64, Ordering::Relaxed);
    distant.requests.store(0, Ordering::Relaxed);
    let began = Instant::now();
    let (pointer, all, history) =
        futures::try_join!(registry.pointer(), registry.versions(), registry.history())?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(serde_json::json!({
        "versions": all.len(),
        "decisions": history.len(),
        "answer_ms": ANSWER.as_millis() as u64,
        "requests": distant.requests.load(Ordering::Relaxed),
        "seconds": seconds,
        "serves": pointer.is_some_and(|pointer| pointer.version.is_some()),
    }))
}

/// Taking over a partition whose folder on a local disk holds many files.
async fn takeover(folder: &Path, files: usize) -> Done {
    let store = opened(folder).await?;
    let sink = FileSink::<LabelRow>::new(store, "labels", FileFormat::Parquet);
    let partition = PartitionId::new("labels", 0);
    let writer = WriterId("bench".into());
    let log = LogFacts {
        low: Offset(0),
        stable: Offset(files as i64),
        high: Offset(files as i64),
        leader_epoch: None,
        committed: None,
        identity: TopicIdentity {
            cluster_id: None,
            topic_id: None,
        },
    };
    let start = FirstOffset::Earliest;
    let mut chain = sink.resume(&partition, &writer, &log, &start).await?.chain;
    let place = folder.join("labels/labels/0");
    for offset in 0..files - 1 {
        std::fs::File::create(place.join(format!("0-{offset:020}.parquet")))?;
    }
    // Only the last file is read.
    chain.end = Offset(files as i64 - 1);
    let range = OffsetRange {
        start: chain.end,
        end: Offset(files as i64),
    };
    let lineage = Default::default();
    let file = sink.encode(&partition, &chain, (range, &lineage), &writer, &(), &[])?;
    sink.commit(&partition, &mut chain, &file, &Fence::default())
        .await?;
    let mut seconds = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let resumed = sink.resume(&partition, &writer, &log, &start).await?;
        seconds.push(began.elapsed().as_secs_f64());
        if resumed.chain.end != Offset(files as i64) {
            return Err("it goes on in the wrong place".into());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(serde_json::json!({ "files": files, "seconds": seconds[2], "repetitions": seconds }))
}

fn run(case: &str, folder: &Path) -> Done {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match case {
            "write-labels" => write_labels(folder, count("LABELS", 10_000_000)).await,
            "labels" => labels(folder, true).await,
            "labels-from-snapshot" => labels(folder, false).await,
            "registry" => registry(count("VERSIONS", 3000)).await,
            _ => takeover(&folder.join("takeover"), count("FILES", 100_000)).await,
        }
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [case, folder] = arguments.as_slice()
        && !case.starts_with('-')
    {
        println!("{}", run(case, Path::new(folder))?);
        return Ok(());
    }
    let out = arguments.iter().find(|argument| !argument.starts_with('-'));
    let folder = std::env::temp_dir().join(format!("tagstream-growth-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    for case in [
        "write-labels",
        "labels",
        "labels-from-snapshot",
        "registry",
        "takeover",
    ] {
        let output = Command::new(std::env::current_exe()?)
            .arg(case)
            .arg(&folder)
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        if case == "write-labels" {
            continue;
        }
        let measured: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let row = serde_json::json!({
            "case": case,
            "measured": measured,
            "cores": std::thread::available_parallelism()?.get(),
            "time": Utc::now(),
            "version": build::name(),
        });
        println!("{row}");
        if let Some(out) = out {
            let mut file = std::fs::File::options()
                .create(true)
                .append(true)
                .open(out)?;
            writeln!(file, "{row}")?;
        }
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
