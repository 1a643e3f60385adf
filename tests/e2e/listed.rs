//! `tagstream tag --parquet`: folders, lists and buckets into the predictions table without Kafka,
//! once through kills; lists that change; the file of dead letters.

use crate::harness::{World, bucket, not_tested, unique};
use crate::topics::{repository, text};
use object_store::path::Path as ObjectPath;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tagstream_core::storage::store::TableStore;

/// A world whose table is written from the folder `pictures` in it.
fn world(name: &str, pictures: usize) -> World {
    let mut world = World::new(name, 1);
    world.config.source.images_topic = "listing".into();
    let folder = pictures_of(&world);
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    for i in 0..pictures {
        add(&world, &format!("sub/{i:03}.png"));
    }
    let config = world.folder.path().join("stage.toml");
    std::fs::write(
        config,
        "output.max_file_age_ms = 1\nfetch.concurrency = 4\n",
    )
    .unwrap();
    world
}

fn pictures_of(world: &World) -> PathBuf {
    world.folder.path().join("pictures")
}

fn add(world: &World, name: &str) {
    let to = pictures_of(world).join(name);
    std::fs::copy(world.picture(name.len() as u8 % 8), to).unwrap();
}

/// A picture that begins as one and is none.
fn add_broken(world: &World, name: &str) {
    let whole = std::fs::read(world.picture(1)).unwrap();
    std::fs::write(pictures_of(world).join(name), &whole[..40]).unwrap();
}

fn letters_of(world: &World) -> PathBuf {
    world.folder.path().join("letters.jsonl")
}

fn letters(world: &World) -> Vec<Value> {
    let text = std::fs::read_to_string(letters_of(world)).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn tag_with(world: &World, model: &Path, input: &str, more: &[&str], failpoints: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
    command
        .args(["tag", "--parquet", &world.config.output.url, "--model"])
        .arg(model)
        .arg("--config")
        .arg(world.folder.path().join("stage.toml"))
        .arg("--dead-letters")
        .arg(letters_of(world))
        .args(more)
        .arg(input)
        .env("TAGSTREAM_FAILPOINTS", failpoints)
        .envs(world.credentials());
    command.output().unwrap()
}

fn model() -> PathBuf {
    repository().join("tests/fixtures/tiny-model")
}

fn tag(world: &World, more: &[&str]) -> (Option<i32>, String) {
    let folder = pictures_of(world).display().to_string();
    let output = tag_with(world, &model(), &folder, more, "");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn every_image_is_a_row_or_a_letter_once_however_often_it_is_killed() {
    let world = world("listed", 40);
    for name in ["a.png", "sub/020b.png", "z.png"] {
        add_broken(&world, name);
    }
    std::fs::write(pictures_of(&world).join("notes.txt"), "no picture").unwrap();
    let folder = pictures_of(&world).display().to_string();
    // The first file may hold everything: then there is nothing left to be killed at.
    let kills = [
        ("put.before=kill", true),
        ("dead_letter.ack.after=kill", true),
        ("put.after=kill", true),
        ("fetch.after=kill@9", false),
    ];
    for (failpoints, always) in kills {
        let output = tag_with(&world, &model(), &folder, &[], failpoints);
        let (code, said) = (output.status.code(), text(&output.stderr));
        assert!(
            code.is_none() || (!always && code == Some(1)),
            "{failpoints}: {said}"
        );
    }
    let (code, said) = tag(&world, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("43 of 43 images"), "{said}");
    assert!(
        said.contains("3 images came to nothing (3 bad_image)"),
        "{said}"
    );
    assert!(said.contains("1 left out"), "{said}");
    world.assert_exactly_once(&[43], 40);
    let names: BTreeSet<String> = world.rows().into_iter().map(|row| row.image_id).collect();
    assert_eq!(names.len(), 40);
    let told: Vec<(i64, String)> = letters(&world)
        .iter()
        .map(|l| {
            (
                l["position"].as_i64().unwrap(),
                l["image_id"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let mut sorted = told.clone();
    sorted.sort();
    let expected = [(0, "a"), (22, "sub/020b"), (42, "z")];
    assert_eq!(sorted, expected.map(|(at, id)| (at, id.to_owned())));

    // Everything is there: nothing is done again, and not even the model is needed.
    let files = world.files().len();
    let nowhere = world.folder.path().join("no-model");
    let again = tag_with(&world, &nowhere, &folder, &[], "");
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    assert_eq!((world.files().len(), letters(&world).len()), (files, 3));
}

#[test]
fn a_list_that_has_changed_is_noticed_and_only_grows() {
    let world = world("changed", 5);
    let (code, said) = tag(&world, &[]);
    assert_eq!(code, Some(0), "{said}");
    add(&world, "sub/000a.png");
    add(&world, "sub/new.png");
    std::fs::remove_file(pictures_of(&world).join("sub/004.png")).unwrap();
    let (code, said) = tag(&world, &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("2 are new, 1 are gone, 0 have another address"),
        "{said}"
    );
    assert_eq!(world.rows().len(), 5);
    let (code, said) = tag(&world, &["--changed", "keep"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = tag(&world, &["--changed", "append"]);
    assert_eq!(code, Some(0), "{said}");
    world.assert_exactly_once(&[7], 7);
    let names: Vec<String> = world.rows().into_iter().map(|row| row.image_id).collect();
    assert_eq!(names[5..], ["sub/000a", "sub/new"]);
    // One that is gone stays in the list: it is told again, until it is kept so.
    let (code, said) = tag(&world, &[]);
    assert_eq!(
        (code, said.contains("0 are new, 1 are gone")),
        (Some(2), true),
        "{said}"
    );
}

#[test]
fn lists_name_files_and_addresses_and_letters_of_others_are_left_alone() {
    let world = world("lists", 2);
    let list = world.folder.path().join("list.txt");
    let lines = "pictures/sub/000.png\n\npictures/sub/001.png\nhttp://127.0.0.1:1/gone.png\n";
    std::fs::write(&list, lines).unwrap();
    let config = world.folder.path().join("stage.toml");
    std::fs::write(config, "fetch.outage_wait_ms = 0\nfetch.retries = 0\n").unwrap();
    let list = list.display().to_string();
    let output = tag_with(&world, &model(), &list, &["--id", "uri"], "");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    world.assert_exactly_once(&[3], 2);
    assert_eq!(letters(&world)[0]["uri"], "http://127.0.0.1:1/gone.png");

    // Another list in the same table needs a file of its own.
    let other = ["--name", "other", "--id", "uri"];
    let output = tag_with(&world, &model(), &list, &other, "");
    let said = text(&output.stderr);
    assert_ne!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("name another"), "{said}");
    assert_eq!(letters(&world).len(), 1);
    for wrong in [&["--name", "a/b"][..], &["--json"]] {
        let output = tag_with(&world, &model(), &list, wrong, "");
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_of_a_bucket_is_a_list_too() {
    let Some((url, options)) = bucket() else {
        return not_tested("tag --parquet of a bucket (no TAGSTREAM_TEST_S3_URL)");
    };
    let world = world("bucket", 0);
    let url = format!("{url}/{}", unique("pictures"));
    let store = TableStore::open(&url, &options).await.unwrap();
    let picture = std::fs::read(world.picture(2)).unwrap();
    for name in ["a ü+1.png", "b/c.jpg", "b/no-extension"] {
        let path = ObjectPath::parse(format!("{}/{name}", store.root())).unwrap();
        store
            .put_if_absent(&path, picture.clone().into())
            .await
            .unwrap();
    }
    let notes = store.root().clone().join("notes.txt");
    store.put_if_absent(&notes, "notes".into()).await.unwrap();
    let output = tag_with(&world, &model(), &url, &[], "");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("left out"), "{said}");
    let names: BTreeSet<String> = world.rows().into_iter().map(|row| row.image_id).collect();
    let expected = ["a ü+1", "b/c", "b/no-extension"].map(String::from);
    assert_eq!(names, BTreeSet::from(expected));
}
