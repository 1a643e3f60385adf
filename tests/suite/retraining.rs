//! `tagstream retrain` as an operator calls it: labels in a table, a registry, the demo model, pictures that it finds hard.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::LazyLock,
    time::Duration,
};
use tagstream::{
    config::ObjectStoreConfig,
    demo::scenes::{Scene, Style, categories},
    events::{Offset, PartitionId},
    model::registry::{Action, Cache, Registry, Verdict},
    stage::{
        label_rows::{LabelRow, LabelRows},
        row_maker::{Made, RowMaker},
        sink::{parquet, store::TableStore},
        source::SourceMessage,
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const IMAGES: u64 = 600;
/// Fewer than the model could tell apart, so that each has enough labels to be judged by.
const CATEGORIES: usize = 10;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

fn tagstream(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
    command
        .env("TAGSTREAM_CACHE", folder.join("cache"))
        .env_remove("TAGSTREAM_REGISTRY")
        .stdout(Stdio::null());
    if let Some(library) = tagstream_library() {
        command.env("ORT_DYLIB_PATH", library);
    }
    command
}

/// The library that this process found, for a child whose cache folder is another.
fn tagstream_library() -> Option<PathBuf> {
    tagstream::model::runtime::Runtime::load()
        .ok()
        .map(|runtime| runtime.library().to_path_buf())
}

/// Pictures, a registry with the zero-shot demo model, a label table.
struct World {
    folder: TempDir,
    registry: Registry,
}

impl World {
    /// `tell` says what a labeller says about a scene and a category, if they look at it.
    fn new(tell: impl Fn(&Scene, &str, u64) -> bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        let root = root.as_path();
        let list = root.join("categories.txt");
        let names = &categories()[..CATEGORIES];
        std::fs::write(&list, names.join("\n")).unwrap();
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-clip");
        let bundle = root.join("zero-shot");
        run(tagstream(root)
            .args(["init", "--clip"])
            .arg(clip)
            .arg("--categories")
            .arg(&list)
            .arg("--out")
            .arg(&bundle));
        let url = root.join("registry");
        run(tagstream(root)
            .args(["registry", "add", "--promote", "--registry"])
            .arg(&url)
            .arg(&bundle));
        let options = ObjectStoreConfig::default();
        let opened = Registry::open(url.to_str().unwrap(), &options);
        let world = World {
            registry: RUNTIME.block_on(opened).unwrap(),
            folder,
        };
        world.label(names, tell);
        let config = format!(
            "[registry]\nurl = {url:?}\n[labels]\nurl = {tables:?}\nmin_new_labels = 10\n\
             [fetch]\nallow_schemes = [\"file\"]\nallow_path_prefixes = [{images:?}]\n\
             [train]\nset = [\"prompts.train=false\", \"optimizer.epochs=8\", \"optimizer.rate=0.002\"]\nwork_folder = {work:?}\n\
             [lease]\ntime_to_live_s = 1\nwait_s = 60\n[report]\nfolder = {report:?}\n",
            tables = root.join("tables"),
            images = root.join("images"),
            work = root.join("work"),
            report = root.join("report"),
        );
        std::fs::write(root.join("retrain.toml"), config).unwrap();
        world
    }

    /// Draws scenes and writes a label table in which two thirds of all entries are known.
    fn label(&self, names: &[&str], tell: impl Fn(&Scene, &str, u64) -> bool) {
        let root = self.folder.path();
        std::fs::create_dir_all(root.join("images")).unwrap();
        let mut rows: Vec<LabelRow> = Vec::new();
        for i in 0..IMAGES {
            let scene = Scene::draw(7, i, Style::Pale, 128);
            let path = root.join(format!("images/{}.jpg", scene.image_id));
            std::fs::write(&path, scene.jpeg().unwrap()).unwrap();
            let known = names
                .iter()
                .enumerate()
                .filter(|(k, _)| !(i * 31 + *k as u64 * 17).is_multiple_of(3));
            let (present, absent): (Vec<&str>, Vec<&str>) =
                known.map(|(_, n)| *n).partition(|n| tell(&scene, n, i));
            let event = serde_json::json!({
                "image_id": scene.image_id,
                "uri": format!("file://{}", path.display()),
                "present": present,
                "absent": absent,
            });
            rows.push(row(i as i64, &event.to_string()));
        }
        let bytes = parquet::encode(&(), &rows, &Default::default()).unwrap();
        let tables = root.join("tables");
        RUNTIME.block_on(async {
            let options = ObjectStoreConfig::default();
            let store = TableStore::open(tables.to_str().unwrap(), &options)
                .await
                .unwrap();
            let path = store.root().clone().join("labels").join("labels").join("0");
            let path = path.join("0-00000000000000000000.parquet");
            store.put_if_absent(&path, bytes.into()).await.unwrap();
        });
    }

    fn retrain(&self, more: &[&str]) -> Child {
        let root = self.folder.path();
        let log = std::fs::File::create(root.join("log.txt")).unwrap();
        tagstream(root)
            .args(["retrain", "--config"])
            .arg(root.join("retrain.toml"))
            .args(more)
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log.txt")).unwrap()
    }

    fn finish(&self, more: &[&str]) -> Option<i32> {
        self.retrain(more).wait().unwrap().code()
    }

    /// Versions whole, history without a gap, one champion.
    fn assert_whole(&self) {
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

fn row(offset: i64, json: &str) -> LabelRow {
    let message = SourceMessage {
        partition: PartitionId::new("labels", 0),
        offset: Offset(offset),
        key: None,
        payload: Some(bytes::Bytes::copy_from_slice(json.as_bytes())),
        headers: Vec::new(),
        timestamp: Some("2026-01-01T00:00:00Z".parse().unwrap()),
    };
    match RUNTIME
        .block_on(LabelRows::default().make(&message))
        .unwrap()
    {
        Made::Row { row, .. } => row,
        other => panic!("{other:?}"),
    }
}

fn run(command: &mut Command) {
    let status: ExitStatus = command.status().unwrap();
    assert!(status.success(), "{command:?}");
}

fn truth(scene: &Scene, category: &str, _: u64) -> bool {
    scene.has(category)
}

#[test]
fn labels_make_a_better_model_which_is_promoted_and_reported() {
    let world = World::new(truth);
    assert_eq!(world.finish(&["--dry-run"]), Some(0), "{}", world.log());
    let versions = RUNTIME.block_on(world.registry.versions()).unwrap();
    assert_eq!(versions.len(), 1, "a dry run registers nothing");

    assert_eq!(world.finish(&[]), Some(0), "{}", world.log());
    world.assert_whole();
    let history = RUNTIME.block_on(world.registry.history()).unwrap();
    let entry = history.last().unwrap();
    assert_eq!(
        (entry.action, entry.verdict),
        (Action::Promoted, Some(Verdict::Promote))
    );
    let current = RUNTIME.block_on(world.registry.current()).unwrap();
    assert_eq!((current.version, current.run.is_some()), (2, true));
    for name in ["report.html", "report.json", "labels.csv.gz"] {
        assert!(current.attachments.contains_key(name), "{name}");
    }
    let report = world.folder.path().join("report/report.json");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let judgement = &report["judgement"];
    let gain = judgement["difference"]["estimate"].as_f64().unwrap();
    assert!(gain > 0.03, "mAP rose by {gain}");
    assert!(report["labels"]["held_out_images"].as_u64().unwrap() > 40);
    let examples = report["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 12);

    // The same labels again: nothing to do.
    assert_eq!(world.finish(&[]), Some(99), "{}", world.log());
    assert!(world.log().contains("nothing to do"));
    assert_eq!(
        RUNTIME.block_on(world.registry.versions()).unwrap().len(),
        2
    );
}

#[test]
fn shuffled_labels_are_never_promoted() {
    // Images that are learned from are labelled with the truth about another scene; held-out ones honestly.
    let world = World::new(|scene, category, i| {
        if tagstream::retrain::judge::is_held_out(&scene.image_id, 0.2) {
            return scene.has(category);
        }
        Scene::draw(1234, i, Style::Pale, 128).has(category)
    });
    let config = world.folder.path().join("retrain.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("epochs=8", "epochs=16");
    std::fs::write(&config, text).unwrap();
    let code = world.finish(&[]);
    assert_eq!(code, Some(3), "{}", world.log());
    let current = RUNTIME.block_on(world.registry.current()).unwrap();
    assert_eq!(current.version, 1);
    let history = RUNTIME.block_on(world.registry.history()).unwrap();
    assert_eq!(history.last().unwrap().action, Action::Rejected);
    world.assert_whole();
}

/// Kills a retraining at random moments: 4, or as many as `TAGSTREAM_TEST_KILLS` says.
#[test]
fn a_run_that_is_killed_is_finished_by_the_next() {
    let kills: u64 = std::env::var("TAGSTREAM_TEST_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4);
    let world = World::new(truth);
    let mut finished = false;
    for round in 0..kills {
        let mut child = world.retrain(&[]);
        // Not a wait for anything: the moment is what varies.
        let moment = Duration::from_millis(300 + (round * 7919) % 6000);
        std::thread::sleep(moment);
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        world.assert_whole();
        if let Some(status) = ended {
            assert!(matches!(status.code(), Some(0 | 99)), "{}", world.log());
            finished = true;
        }
    }
    let last = world.finish(&[]);
    let expected = if finished { Some(99) } else { Some(0) };
    let versions = RUNTIME.block_on(world.registry.versions()).unwrap();
    assert!(
        last == expected || last == Some(99),
        "{last:?} {}",
        world.log()
    );
    assert_eq!(versions.len(), 2, "the run registered once");
    world.assert_whole();
    let history = RUNTIME.block_on(world.registry.history()).unwrap();
    assert_eq!(history.len(), 2, "one promotion of each version");
    assert_eq!(
        RUNTIME.block_on(world.registry.current()).unwrap().version,
        2
    );
}
