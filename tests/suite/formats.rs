//! What older builds wrote is read and gone on with. Each folder in `tests/fixtures/formats` is
//! what one build left behind, kept for ever: `make.sh` there wrote it. What only a newer build can
//! read is refused, and the message says so.

use crate::program::Folder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tagstream_train::trainer::checkpoint::{Checkpoint, CheckpointError};

fn fixtures() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let entries = fs::read_dir(all)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    assert!(!folders.is_empty());
    folders
}

fn files_below(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            let content = fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
}

/// A copy of a fixture that may be written to.
struct Copied(Folder);

impl std::ops::Deref for Copied {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.0
    }
}

impl Copied {
    fn of(fixture: &Path) -> Self {
        let folder = Folder::new();
        let mut files = BTreeMap::new();
        files_below(fixture, &mut files);
        for (path, content) in files {
            let to = folder.root().join(path.strip_prefix(fixture).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, content).unwrap();
        }
        Copied(folder)
    }

    /// Replaces `from` by `to` in a file, which must have it.
    fn edit(&self, below: &str, from: &str, to: &str) {
        let path = self.path(below);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{below} has no {from}: {text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    fn tables(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        files_below(&self.path("tables"), &mut files);
        files.retain(|path, _| path.extension().is_some_and(|e| e == "parquet"));
        files
    }

    /// Partition and offset of every row of the predictions table.
    fn rows(&self) -> Vec<(i32, i64)> {
        let mut rows = Vec::new();
        for path in self.tables().keys() {
            if !path.starts_with(self.path("tables/predictions")) {
                continue;
            }
            let file = fs::File::open(path).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            for batch in reader.build().unwrap() {
                let batch = batch.unwrap();
                let column = |name| batch.column_by_name(name).unwrap();
                let partitions = column("partition").as_primitive::<Int32Type>().values();
                let offsets = column("offset").as_primitive::<Int64Type>().values();
                rows.extend(partitions.iter().copied().zip(offsets.iter().copied()));
            }
        }
        rows
    }
}

/// The embedded broker, in a process of its own, with what the fixture's topics held.
struct Broker {
    process: Child,
    address: String,
}

impl Broker {
    fn start(world: &Copied) -> Self {
        let file = world.path("broker");
        let topics = ["images:2", "predictions:1", "dead-letters:1", "labels:1"];
        let mut process = Command::new(env!("CARGO_BIN_EXE_tagstream"))
            .arg("broker")
            .args(topics.iter().flat_map(|topic| ["--topic", topic]))
            .arg("--address-file")
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !file.exists() {
            assert!(
                process.try_wait().unwrap().is_none(),
                "the broker has ended"
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let address = fs::read_to_string(file).unwrap();
        let broker = Broker { process, address };
        broker.send(world, "references.txt");
        let labels = [
            "labels",
            "import",
            "labels.csv",
            "--form",
            "csv",
            "--topic",
            "labels",
        ];
        world.done(&[&labels[..], &["--brokers", &broker.address]].concat());
        broker
    }

    fn send(&self, world: &Copied, list: &str) {
        world.done(&[
            "produce",
            "--brokers",
            &self.address,
            "--topic",
            "images",
            list,
        ]);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run_stage(world: &Copied, broker: &Broker) -> Output {
    let path = |below| world.path(below).display().to_string();
    let config = format!(
        "kafka.brokers = {:?}\nmodel.path = {:?}\noutput.url = {:?}\nlabels.enabled = true\n\
         http.bind = \"\"\n",
        broker.address,
        path("registry"),
        path("tables"),
    );
    fs::write(world.path("stage.toml"), config).unwrap();
    world.run(&["run", "--config", "stage.toml", "--until-drained"])
}

#[test]
fn tables_of_older_builds_are_gone_on_with() {
    for fixture in fixtures() {
        let world = Copied::of(&fixture);
        let before = world.tables();
        assert_eq!(world.rows().len(), 12, "{}", fixture.display());
        let broker = Broker::start(&world);
        broker.send(&world, "more.txt");
        let output = run_stage(&world, &broker);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", fixture.display());
        let (rows, after) = (world.rows(), world.tables());
        let once: BTreeSet<_> = rows.iter().collect();
        assert_eq!((rows.len(), once.len()), (18, 18), "{rows:?}");
        for (path, content) in &before {
            assert_eq!(after.get(path), Some(content), "{}", path.display());
        }
        assert!(after.len() > before.len());
    }
}

#[test]
fn label_stores_of_older_builds_are_read() {
    for fixture in fixtures() {
        let world = Copied::of(&fixture);
        let known = fs::read_to_string(world.path("labels-known.csv")).unwrap();
        assert!(known.lines().count() == 4, "{known}");
        let read = world.done(&["labels", "export", "--form", "csv", "--store", "tables"]);
        assert_eq!(read, known, "{}", fixture.display());
    }
}

#[test]
fn registries_and_bundles_of_older_builds_are_gone_on_with() {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-model");
    let bundle = bundle.to_str().unwrap();
    for fixture in fixtures() {
        let world = Copied::of(&fixture);
        let serving = |world: &Copied| {
            let shown = world.done(&["registry", "show", "--json"]);
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            shown["pointer"]["version"].as_u64().unwrap()
        };
        assert_eq!(serving(&world), 2, "{}", fixture.display());
        world.done(&[
            "registry",
            "add",
            bundle,
            "--who",
            "test",
            "--why",
            "third",
            "--promote",
        ]);
        assert_eq!(serving(&world), 3);
        world.done(&["registry", "rollback", "--who", "test", "--why", "back"]);
        assert_eq!(serving(&world), 2);
    }
}

#[test]
fn checkpoints_of_older_builds_are_read_or_named() {
    for fixture in fixtures() {
        let file = fixture.join("checkpoint.safetensors");
        if std::env::var_os("UPDATE_FIXTURES").is_some() && !file.exists() {
            expected().write(&file).unwrap();
        }
        let read = Checkpoint::read(&file, "a-run").unwrap();
        assert_eq!(read, Some(expected()), "{}", fixture.display());
        let other = Checkpoint::read(&file, "another-run");
        assert!(matches!(other, Err(CheckpointError::OtherRun { .. })));
    }
}

/// What the fixtures' checkpoints hold.
fn expected() -> Checkpoint {
    Checkpoint {
        identity: "a-run".into(),
        epochs: 3,
        steps: 42,
        tensors: vec![
            ("mean".into(), vec![2, 2], vec![1.0, -2.5, 0.0, 3.25]),
            ("weights".into(), vec![3], vec![0.5, 0.25, 0.125]),
        ],
        numbers: BTreeMap::from([("losses".into(), vec![0.75, 0.5, 0.375])]),
    }
}

/// An older build in front of a newer one's registry.
#[test]
fn newer_registries_are_refused_with_the_way_on() {
    let newest = fixtures().pop().unwrap();
    for file in ["registry.json", "current.json", "versions/2.json"] {
        let world = Copied::of(&newest);
        // With what only the newer format knows.
        let newer = "\"format_version\": 2, \"unheard_of\": []";
        world.edit(&format!("registry/{file}"), "\"format_version\": 1", newer);
        let (_, said) = world.refused(&["registry", "show"]);
        let name = Path::new(file).file_name().unwrap().to_str().unwrap();
        assert!(
            said.contains(name) && said.contains("version 2") && said.contains("newer"),
            "{file}: {said}"
        );
    }
}

/// An older build in front of a newer one's bundle.
#[test]
fn newer_bundles_are_refused_with_the_way_on() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-model");
    let world = Copied::of(&source);
    world.edit(
        "bundle.json",
        "\"format_version\": 1",
        "\"format_version\": 3",
    );
    let (_, said) = world.refused(&["registry", "add", ".", "--why", "test"]);
    assert!(
        said.contains("bundle.json") && said.contains("version 3") && said.contains("newer"),
        "{said}"
    );
}

/// An older build in front of a newer one's table: nothing is written beside it.
#[test]
fn newer_tables_are_refused_with_the_way_on() {
    let newest = fixtures().pop().unwrap();
    let world = Copied::of(&newest);
    let before = world.tables();
    let mut origins = BTreeMap::new();
    files_below(&world.path("tables/predictions"), &mut origins);
    for (path, content) in origins {
        if path.to_str().unwrap().ends_with("-origin.json") {
            let text = String::from_utf8(content).unwrap();
            let raised = text.replace("\"schema_version\": 1", "\"schema_version\": 2");
            assert_ne!(raised, text);
            fs::write(path, raised).unwrap();
        }
    }
    let broker = Broker::start(&world);
    broker.send(&world, "more.txt");
    let output = run_stage(&world, &broker);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("schema version 2"), "{said}");
    assert_eq!(world.tables().len(), before.len());
}

/// An older build's reader of a newer one's labels.
#[test]
fn newer_label_stores_are_refused_with_the_way_on() {
    let newest = fixtures().pop().unwrap();
    let world = Copied::of(&newest);
    for (path, mut bytes) in world.tables() {
        // Thrift: the key, the mark of a string field, its length, its value.
        let key = b"tagstream.schema_version\x18\x011";
        let at = bytes.windows(key.len()).position(|window| window == key);
        let at = at.unwrap_or_else(|| panic!("{} has no schema version", path.display()));
        bytes[at + key.len() - 1] = b'2';
        fs::write(path, bytes).unwrap();
    }
    let (_, said) = world.refused(&["labels", "export", "--form", "csv", "--store", "tables"]);
    assert!(
        said.contains("parquet: it has schema version 2") && said.contains("newer"),
        "{said}"
    );
}
