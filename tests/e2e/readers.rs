//! Tables as readers read them: what the stage wrote, by `scripts/check_readers.py`, with every
//! reader that is installed (`scripts/setup.sh test`, or `readers` for Spark, too).

use crate::harness::{World, create_topic, not_tested, unique};
use std::path::Path;
use std::process::Command;
use tagstream_core::storage::names::is_hidden;

fn names_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        names.push(entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            names.extend(names_below(&entry.path()));
        }
    }
    names
}

/// A topic that begins with `_`, times at the edges and beyond, and what a kill leaves behind.
#[tokio::test(flavor = "multi_thread")]
async fn every_reader_sees_the_same_rows_of_the_folder() {
    let mut world = World::new("readers", 2);
    let tables = world.folder.path().join("tables");
    world.config.output.url = tables.display().to_string();
    world.config.source.images_topic = unique("_readers");
    create_topic(&world.config.source.images_topic, 2);
    let uri = format!("file://{}", world.picture(1).display());
    let times = [
        ("1900-01-01T00:00:00Z", true),
        ("2026-01-01T00:00:00.123456789Z", true),
        ("2261-12-31T23:59:59.999999Z", true),
        ("0001-01-01T00:00:00Z", false),
        ("+12026-01-01T00:00:00Z", false),
        ("9999-12-31T23:59:59Z", false),
    ];
    let message = |i: usize| {
        let (time, _) = times[i % times.len()];
        let id = format!("image-{i}");
        let value = serde_json::json!({"image_id": id, "uri": uri, "event_time": time});
        (i as i32 % 2, Some(value.to_string()))
    };
    let count = 60;
    world.produce_raw((0..count).map(message));
    world.drain().await.unwrap();
    let refused = (0..count).filter(|i| !times[i % times.len()].1).count();
    let dead = world.read_topic(&world.config.output.dead_letter_topic);
    assert_eq!(dead.len(), refused);
    for (_, _, headers) in &dead {
        assert!(
            headers["error.message"].contains("`event_time`"),
            "{headers:?}"
        );
    }

    let table = tables.join(&world.config.output.table);
    let folders = names_below(&table);
    let topics: Vec<_> = std::fs::read_dir(&table).unwrap().flatten().collect();
    let seen = topics
        .iter()
        .filter(|t| !is_hidden(&t.file_name().to_string_lossy()));
    assert_eq!(seen.count(), 1, "{folders:?}");
    let topic = format!("escaped-{}", world.config.source.images_topic);
    let left = ".0-00000000000000009999.parquet.0123456789abcdef.partial";
    std::fs::write(table.join(topic).join("0").join(left), "half of a file").unwrap();

    let Some(python) = std::env::var_os("TAGSTREAM_READERS_PYTHON") else {
        not_tested("readers of Parquet: no TAGSTREAM_READERS_PYTHON (scripts/setup.sh test)");
        return;
    };
    let mut check = Command::new(python);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    check.arg(root.join("scripts/check_readers.py")).arg(&table);
    check.args([
        "--messages",
        &count.to_string(),
        "--dead-letters",
        &refused.to_string(),
    ]);
    match std::env::var("TAGSTREAM_SPARK_PYTHONS") {
        Ok(pythons) => {
            for python in pythons.split(':') {
                check.args(["--spark", python]);
            }
        }
        Err(_) => not_tested("Spark: no TAGSTREAM_SPARK_PYTHONS (scripts/setup.sh readers)"),
    }
    let output = check.output().unwrap();
    let (out, error) = (output.stdout, output.stderr);
    let said = String::from_utf8_lossy(&out).into_owned() + &String::from_utf8_lossy(&error);
    assert!(output.status.success(), "{said}");
    println!("{said}");
}
