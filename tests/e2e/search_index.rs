//! `tagstream search-index`, and pages that search through what it writes, on a folder or a bucket.

use crate::harness::World;
use crate::pages::page;
use crate::serve::pages_of;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tagstream::serve::config::ServeConfig;
use tagstream_core::storage::store::TableStore;
use url::form_urlencoded::byte_serialize;

/// Runs the command; what it reports.
fn index(world: &World, config: &ServeConfig, cache: &Path) -> Value {
    let path = world.folder.path().join("index.toml");
    std::fs::write(&path, toml::to_string(config).unwrap()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .args(["search-index", "--json", "--config"])
        .arg(&path)
        .env("TAGSTREAM_CACHE", cache)
        .envs(world.credentials())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_go_through_the_index_and_scan_what_is_newer() {
    let world = World::new("search-index", 1);
    let mut rows = 40 - world.produce(0, 40);
    world.drain().await.unwrap();
    let registry = world.folder.path().join("registry");
    let config = pages_of(&world, registry.to_str().unwrap(), "127.0.0.1:9");
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let report = index(&world, &config, ours.path());
    assert_eq!(
        (&report["rows"], &report["anew"]),
        (&rows.into(), &true.into())
    );

    let mut pages = world.serve_with("pages", &config, Some(theirs.path()));
    let address = pages.address_in("the pages are served");
    let image = world.rows()[0].image_id.clone();
    let name: String = byte_serialize(image.as_bytes()).collect();
    let search = async || {
        let (status, text) = page(&address, &format!("/search?image={name}")).await;
        assert_eq!(status, 200);
        text
    };
    let text = search().await;
    let all = format!("{rows} rows by the index of ");
    assert!(
        text.contains(&all) && text.contains(", 0 newer files scanned"),
        "{text}"
    );
    let copies = theirs.path().join("search");
    assert!(
        copies.is_dir(),
        "the index was copied to {}",
        copies.display()
    );

    rows += 20 - world.produce(40, 20);
    world.drain().await.unwrap();
    let text = search().await;
    assert!(
        text.contains(&all) && !text.contains(", 0 newer files"),
        "{text}"
    );
    let report = index(&world, &config, ours.path());
    assert_eq!(
        (&report["rows"], &report["anew"]),
        (&rows.into(), &false.into())
    );
    let text = search().await;
    let all = format!("{rows} rows by the index of ");
    assert!(
        text.contains(&all) && text.contains(", 0 newer files scanned"),
        "{text}"
    );
    world.assert_exactly_once(&[60], rows);

    let options = &world.config.object_store;
    let store = TableStore::open_for_reading(&world.config.output.url, options).unwrap();
    let table = store
        .root()
        .clone()
        .join(world.config.output.table.as_str());
    let manifest = table.join("_search_index").join("manifest-1.json");
    store.replace(&manifest, "half of".into()).await.unwrap();
    for _ in 0..2 {
        let text = search().await;
        assert!(text.contains("The search index was not asked"), "{text}");
        assert!(text.contains(&format!("{rows} rows in ")), "{text}");
    }
    assert_eq!(pages.log().matches("searches scan the table").count(), 1);
    assert_eq!(index(&world, &config, ours.path())["anew"], true);
    assert!(search().await.contains(&all));
}
