//! What the cases share: pictures, a registry with the demo model, label tables, and the binary.

use chrono::DateTime;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock};
use tagstream::demo::scenes::{Scene, Style, categories};
use tagstream::stage::label_rows::{LabelRow, LabelRows};
use tagstream::stage::row_maker::{Leave, RowMaker, RowOutcome};
use tagstream::stage::sink::parquet;
use tagstream::stage::sink::predictions::{ModelStamp, PredictionLayout, PredictionRow};
use tagstream::stage::source::SourceMessage;
use tagstream_core::config::{ObjectStoreConfig, VectorEncoding};
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::storage::store::TableStore;
use tagstream_model::bundle::Bundle;
use tagstream_model::registry::{Cache, HistoryEntry, Registry};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Fewer than the model could tell apart, so that each has enough labels to be judged by.
const CATEGORIES: usize = 10;

pub(super) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// The words by which the first model knows the categories.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Words {
    /// The names, which the demo model was trained with: it is good at once.
    Known,
    /// Words that mean nothing to it: it can only guess, and labels have everything to teach.
    Unknown,
}

/// Pictures, a registry with the zero-shot demo model, label tables.
pub(super) struct World {
    folder: TempDir,
    pub registry: Registry,
    images: u64,
    tables: i64,
}

impl World {
    /// A world with `images` pictures, none of them labelled yet; `train` are lines of the
    /// `[train]` section.
    pub(super) fn new(images: u64, words: Words, train: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        let lines = names().iter().map(|name| match words {
            Words::Known => format!("{name}\n"),
            Words::Unknown => format!("{name}\t{}\n", name.chars().rev().collect::<String>()),
        });
        std::fs::write(root.join("categories.txt"), lines.collect::<String>()).unwrap();
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-clip");
        let (bundle, url) = (root.join("zero-shot"), root.join("registry"));
        run(tagstream(&root)
            .args(["init", "--clip"])
            .arg(clip)
            .arg("--categories")
            .arg(root.join("categories.txt"))
            .arg("--out")
            .arg(&bundle));
        run(tagstream(&root)
            .args(["registry", "add", "--promote", "--registry"])
            .arg(&url)
            .arg(&bundle));
        std::fs::create_dir(root.join("images")).unwrap();
        for i in 0..images {
            let scene = scene(i);
            let path = root.join(format!("images/{}.jpg", scene.image_id));
            std::fs::write(path, scene.jpeg().unwrap()).unwrap();
        }
        let config = format!(
            "[registry]\nurl = {url:?}\n[labels]\nurl = {tables:?}\nmin_new_labels = 10\n\
             [fetch]\nallow_schemes = [\"file\"]\nallow_path_prefixes = [{images:?}]\n\
             [train]\n{train}\nwork_folder = {work:?}\n\
             [lease]\ntime_to_live_s = 1\nwait_s = 60\n[report]\nfolder = {report:?}\n",
            tables = root.join("tables"),
            images = root.join("images"),
            work = root.join("work"),
            report = root.join("report"),
        );
        std::fs::write(root.join("retrain.toml"), config).unwrap();
        let options = ObjectStoreConfig::default();
        let opened = Registry::open(url.to_str().unwrap(), &options);
        World {
            registry: RUNTIME.block_on(opened).unwrap(),
            folder,
            images,
            tables: 0,
        }
    }

    /// Adds lines to the configuration, with the sections that they belong to.
    pub(super) fn configure(&self, lines: &str) {
        let path = self.path("retrain.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{text}{lines}\n")).unwrap();
    }

    /// Replaces lines of the configuration.
    pub(super) fn set(&self, from: &str, to: &str) {
        let path = self.path("retrain.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Names of what is kept beside a version.
    pub(super) fn attachments(&self, version: u64) -> Vec<String> {
        let record = RUNTIME.block_on(self.registry.version(version)).unwrap();
        record.attachments.into_keys().collect()
    }

    /// A version's bundle.
    pub(super) fn bundle(&self, version: u64) -> Bundle {
        let record = RUNTIME.block_on(self.registry.version(version)).unwrap();
        let cache = Cache::at(self.path("bundles"));
        let folder = RUNTIME.block_on(self.registry.materialise(&record, &cache));
        Bundle::open(folder.unwrap()).unwrap()
    }

    /// The groups that a version keeps, by image.
    pub(super) fn groups(&self, version: u64) -> BTreeMap<String, String> {
        let record = RUNTIME.block_on(self.registry.version(version)).unwrap();
        let to = self.path("groups.csv.gz");
        let fetching = self.registry.attachment(&record, "groups.csv.gz", &to);
        RUNTIME.block_on(fetching).unwrap();
        let file = flate2::read::GzDecoder::new(std::fs::File::open(&to).unwrap());
        let mut reader = csv::Reader::from_reader(file);
        reader.deserialize().map(Result::unwrap).collect()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Labels the images, two thirds of all entries, in a file of the label table of their own.
    /// `tell` says whether the labeller says that picture `i` shows a category.
    pub(super) fn label(
        &mut self,
        images: impl Iterator<Item = u64>,
        tell: impl Fn(u64, &str) -> bool,
    ) {
        let start = self.tables * self.images as i64;
        let rows: Vec<LabelRow> = images
            .enumerate()
            .map(|(at, i)| {
                let id = scene(i).image_id;
                let known = names()
                    .iter()
                    .enumerate()
                    .filter(|(k, _)| !(i * 31 + *k as u64 * 17).is_multiple_of(3));
                let (present, absent): (Vec<&str>, Vec<&str>) =
                    known.map(|(_, n)| *n).partition(|n| tell(i, n));
                let event = serde_json::json!({
                    "image_id": id,
                    "uri": format!("file://{}", self.path(&format!("images/{id}.jpg")).display()),
                    "present": present,
                    "absent": absent,
                });
                row(start + at as i64, &event.to_string())
            })
            .collect();
        self.file_labels(start, &rows);
    }

    /// Puts a file into the label table, whose first row has the offset `start`.
    fn file_labels(&mut self, start: i64, rows: &[LabelRow]) {
        let bytes = parquet::encode(&(), rows, &Default::default(), VectorEncoding::Plain).unwrap();
        self.put("labels", start, bytes);
        self.tables += 1;
    }

    fn put(&self, table: &str, start: i64, bytes: Vec<u8>) {
        RUNTIME.block_on(async {
            let options = ObjectStoreConfig::default();
            let tables = self.path("tables");
            let store = TableStore::open(tables.to_str().unwrap(), &options).await;
            let store = store.unwrap();
            let path = store.root().clone().join(table).join(table).join("0");
            let path = path.join(format!("0-{start:020}.parquet"));
            store.put_if_absent(&path, bytes.into()).await.unwrap();
        });
    }

    /// Imports a label file by the command, into the label table.
    pub(super) fn import(&mut self, form: &str, text: &str) {
        let (file, events) = (self.path("export"), self.path("events.jsonl"));
        std::fs::write(&file, text).unwrap();
        run(tagstream(self.folder.path())
            .args(["labels", "import", "--form", form, "--out"])
            .args([&events, &file]));
        let events = std::fs::read_to_string(events).unwrap();
        let start = self.tables * self.images as i64;
        let rows = events
            .lines()
            .zip(start..)
            .map(|(event, offset)| row(offset, event));
        let rows: Vec<LabelRow> = rows.collect();
        self.file_labels(start, &rows);
    }

    /// Predictions of all pictures, which know where they are.
    pub(super) fn predict_all(&self) {
        let layout = Arc::new(PredictionLayout {
            categories: vec!["any".into()],
            display: Default::default(),
            embedding: 1,
            region_embeddings: false,
            boxes: Default::default(),
            records: false,
        });
        let model = Arc::new(ModelStamp {
            version: "m".into(),
            preprocessing_hash: "h".into(),
        });
        let rows: Vec<PredictionRow> = (0..self.images)
            .map(|i| {
                let image_id = scene(i).image_id;
                let path = self.path(&format!("images/{image_id}.jpg"));
                PredictionRow {
                    uri: format!("file://{}", path.display()),
                    image_id,
                    event_time: DateTime::UNIX_EPOCH,
                    processed_time: DateTime::UNIX_EPOCH,
                    partition: PartitionId::new("images", 0),
                    offset: Offset(i as i64),
                    record: 0,
                    model: Arc::clone(&model),
                    width: 128,
                    height: 128,
                    tags: Vec::new(),
                    scores: vec![0.5],
                    embedding: vec![1.0],
                    attributes: BTreeMap::new(),
                    layout: Arc::clone(&layout),
                    trace: Default::default(),
                }
            })
            .collect();
        let encoded = parquet::encode(&*layout, &rows, &Default::default(), VectorEncoding::Plain);
        self.put("predictions", 0, encoded.unwrap());
    }

    /// mAP of a version on all pictures and everything that is in them.
    pub(super) fn measured(&self, version: u64) -> f64 {
        let mut labels = "image_id,label,state\n".to_owned();
        for i in 0..self.images {
            for name in names() {
                let state = if truth(i, name) { "present" } else { "absent" };
                labels += &format!("{},{name},{state}\n", scene(i).image_id);
            }
        }
        let file = self.path("truth.csv");
        std::fs::write(&file, labels).unwrap();
        let output = tagstream(self.folder.path())
            .args(["eval", "--json", "--model"])
            .arg(self.bundle(version).root())
            .arg("--labels")
            .arg(&file)
            .arg("--images")
            .arg(self.path("images"))
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let measured: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        measured["map_plain"].as_f64().unwrap()
    }

    /// Labels every picture.
    pub(super) fn label_all(&mut self, tell: impl Fn(u64, &str) -> bool) {
        self.label(0..self.images, tell);
    }

    /// Starts `tagstream retrain`; what it says goes to [`World::log`].
    pub(super) fn retrain(&self, more: &[&str]) -> Child {
        self.retrain_command().args(more).spawn().unwrap()
    }

    /// Retrains with these failpoints armed, to the end.
    pub(super) fn retrain_failing(&self, failpoints: &str) -> ExitStatus {
        let mut command = self.retrain_command();
        command.env("TAGSTREAM_FAILPOINTS", failpoints);
        command.status().unwrap()
    }

    fn retrain_command(&self) -> Command {
        let log = std::fs::File::create(self.path("log.txt")).unwrap();
        let mut command = tagstream(self.folder.path());
        command
            .args(["retrain", "--config"])
            .arg(self.path("retrain.toml"))
            .stderr(log);
        command
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log.txt")).unwrap()
    }

    /// Retrains to the end; the exit code.
    pub(super) fn finish(&self, more: &[&str]) -> Option<i32> {
        self.retrain(more).wait().unwrap().code()
    }

    /// `tagstream registry` with these arguments.
    pub(super) fn registry_command(&self, arguments: &[&str]) -> Command {
        let mut command = tagstream(self.folder.path());
        command.arg("registry").args(arguments);
        command.arg("--registry").arg(self.path("registry"));
        command
    }

    pub(super) fn report(&self) -> serde_json::Value {
        let text = std::fs::read(self.path("report/report.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    pub(super) fn versions(&self) -> usize {
        RUNTIME.block_on(self.registry.versions()).unwrap().len()
    }

    pub(super) fn serving(&self) -> u64 {
        RUNTIME.block_on(self.registry.current()).unwrap().version
    }

    pub(super) fn history(&self) -> Vec<HistoryEntry> {
        RUNTIME.block_on(self.registry.history()).unwrap()
    }

    /// Versions whole, history without a gap, one champion.
    pub(super) fn assert_whole(&self) {
        RUNTIME.block_on(async {
            let scratch = tempfile::tempdir().unwrap();
            let cache = Cache::at(scratch.path());
            for version in self.registry.versions().await.unwrap() {
                self.registry.materialise(&version, &cache).await.unwrap();
            }
            let history = self.registry.history().await.unwrap();
            let pointer = self.registry.pointer().await.unwrap().unwrap();
            for (i, entry) in history.iter().enumerate() {
                assert_eq!(entry.sequence, i as u64 + 1);
            }
            let last = history.iter().rev().find(|e| e.action.moves()).unwrap();
            assert_eq!(Some(last.version), pointer.version);
        });
    }
}

/// The binary, with a cache folder of its own.
fn tagstream(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
    command
        .env("TAGSTREAM_CACHE", folder.join("cache"))
        .env_remove("TAGSTREAM_REGISTRY")
        .stdout(Stdio::null());
    // The library that this process finds, for a child whose cache folder is another.
    if let Ok(runtime) = tagstream_model::runtime::Runtime::load() {
        command.env("ORT_DYLIB_PATH", runtime.library());
    }
    command
}

pub(super) fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}");
}

pub(super) fn names() -> &'static [&'static str] {
    &categories()[..CATEGORIES]
}

/// The picture with this number.
pub(super) fn scene(i: u64) -> Scene {
    Scene::draw(7, i, Style::Plain, 128)
}

/// What is there.
pub(super) fn truth(i: u64, category: &str) -> bool {
    scene(i).has(category)
}

fn row(offset: i64, json: &str) -> LabelRow {
    let message = SourceMessage {
        partition: PartitionId::new("labels", 0),
        offset: Offset(offset),
        leader_epoch: None,
        key: None,
        payload: Some(bytes::Bytes::copy_from_slice(json.as_bytes())),
        headers: Vec::new(),
        timestamp: Some("2026-01-01T00:00:00Z".parse().unwrap()),
    };
    match RUNTIME
        .block_on(LabelRows::default().make(&message, &Leave::never()))
        .unwrap()
    {
        RowOutcome::Row { row, .. } => row,
        other => panic!("{other:?}"),
    }
}
