//! Searches through an index beside the same searches by scan, on tables of drawn vectors.

use super::build::bring;
use super::manifest::{IndexManifest, folder, manifest_path};
use super::*;
use crate::labelling::store::data_files;
use crate::serve::search::scan::{Found, SHOWN, Wanted, search};
use crate::stage::sink::parquet;
use crate::stage::sink::predictions::PredictionLayout;
use crate::stage::sink::predictions::tests::{layout, row};
use chrono::{DateTime, TimeDelta};
use object_store::path::Path as ObjectPath;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use tagstream_core::config::{ObjectStoreConfig, VectorEncoding};
use tagstream_core::storage::store::TableStore;

const LENGTH: usize = 32;

/// A table, the folder of copies of its index, and vectors as pictures' are: in clusters.
struct Table {
    store: TableStore,
    copies: tempfile::TempDir,
    draw: StdRng,
    centres: Vec<Vec<f32>>,
    rows: i64,
    /// A folder that goes with it.
    _folder: Option<tempfile::TempDir>,
}

impl Table {
    fn over(store: TableStore, folder: Option<tempfile::TempDir>) -> Self {
        let mut table = Table {
            store,
            copies: tempfile::tempdir().unwrap(),
            draw: StdRng::seed_from_u64(7),
            centres: Vec::new(),
            rows: 0,
            _folder: folder,
        };
        table.centres = (0..40).map(|_| table.numbers(LENGTH)).collect();
        table
    }

    async fn on_disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().to_str().unwrap();
        let opened = TableStore::open(url, &ObjectStoreConfig::default()).await;
        Table::over(opened.unwrap(), Some(folder))
    }

    fn numbers(&mut self, length: usize) -> Vec<f32> {
        (0..length)
            .map(|_| self.draw.random::<f32>() - 0.5)
            .collect()
    }

    fn vector(&mut self) -> Vec<f32> {
        let centre = self.draw.random_range(0..self.centres.len());
        let noise = self.numbers(LENGTH);
        let sum = self.centres[centre].iter().zip(noise);
        unit(sum.map(|(centre, noise)| centre + 0.7 * noise).collect())
    }

    /// A file of rows with these vectors; the images are numbered through.
    async fn put(&mut self, name: &str, vectors: Vec<Vec<f32>>) {
        let layout = Arc::new(PredictionLayout {
            embedding: vectors[0].len(),
            ..(*layout(false)).clone()
        });
        let mut rows = Vec::new();
        for vector in vectors {
            let mut row = row(self.rows, &layout);
            row.embedding = vector;
            // A third has no cat.
            row.scores[0] = if self.rows % 3 == 0 { 0.1 } else { 0.9 };
            row.event_time = DateTime::UNIX_EPOCH + TimeDelta::hours(self.rows);
            rows.push(row);
            self.rows += 1;
        }
        let categories = serde_json::to_string(&layout.categories).unwrap();
        let entries = BTreeMap::from([("tagstream.categories".to_owned(), categories)]);
        let file = parquet::encode(&*layout, &rows, &entries, VectorEncoding::Plain).unwrap();
        let path = self.path(name);
        self.store.replace(&path, file.into()).await.unwrap();
    }

    async fn draw(&mut self, name: &str, rows: usize) {
        let vectors = (0..rows).map(|_| self.vector()).collect();
        self.put(name, vectors).await;
    }

    fn path(&self, name: &str) -> ObjectPath {
        let root = self.store.root().clone();
        root.join("t").join("images").join("0").join(name)
    }

    async fn bring(&self) -> Result<IndexReport, SearchIndexError> {
        bring(&self.store, "t", self.copies.path(), |_, _| ()).await
    }

    /// By a process of its own, as it were.
    async fn search(&self, wanted: &Wanted) -> Found {
        let shelf = IndexShelf::at(self.copies.path().to_owned());
        search(&self.store, "t", wanted, &shelf).await.unwrap()
    }

    /// By scan, whatever stands beside the table.
    async fn scan(&self, wanted: &Wanted) -> Found {
        let path = manifest_path(&self.store, "t");
        let held = self.store.read(&path).await.unwrap();
        self.store.delete(&path).await.unwrap();
        let found = self.search(wanted).await;
        assert!(found.by_index.is_none() && found.trouble.is_none());
        if let Some(held) = held {
            self.store.replace(&path, held).await.unwrap();
        }
        found
    }

    async fn graphs(&self) -> Vec<ObjectPath> {
        let listed = self.store.list(&folder(&self.store, "t"), None).await;
        let mut listed = listed.unwrap();
        listed.retain(|path| path.as_ref().ends_with(".usearch"));
        listed
    }

    async fn put_manifest(&self, text: &str) {
        let path = manifest_path(&self.store, "t");
        let put = self.store.replace(&path, text.to_owned().into()).await;
        put.unwrap();
    }
}

fn unit(vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.into_iter().map(|x| x / length).collect()
}

fn near(vector: Vec<f32>) -> Wanted {
    Wanted {
        near: Some(vector),
        ..Wanted::default()
    }
}

fn names(found: &Found) -> Vec<&str> {
    let pictures = found.pictures.iter();
    pictures.map(|(_, p)| p.image_id.as_str()).collect()
}

/// Builds, searches, adds, expires and replaces on a table.
async fn lives(mut table: Table) {
    finds(&mut table).await;
    let sought = table.vector();
    grows(&mut table, &sought).await;
    shrinks(&mut table, &sought).await;
}

/// An index finds what the scan does, in its order.
async fn finds(table: &mut Table) {
    // The first is large enough that only pages of it are read.
    for (name, rows) in [
        ("0-00.parquet", 3000),
        ("1-00.parquet", 500),
        ("2-00.parquet", 1),
    ] {
        table.draw(name, rows).await;
    }
    let built = table.bring().await.unwrap();
    assert_eq!((built.files, built.rows, built.anew), (3, 3501, true));
    assert_eq!(table.bring().await.unwrap().files_read, 0, "nothing is new");
    let (mut hits, mut asked) = (0, 0);
    for _ in 0..20 {
        let wanted = near(table.vector());
        let (by_index, by_scan) = (table.search(&wanted).await, table.scan(&wanted).await);
        let looked = by_index.by_index.as_ref().unwrap();
        assert_eq!(
            (looked.rows, by_index.files, by_index.all_files),
            (3501, 0, 0)
        );
        assert!(
            looked.read < 600 && by_index.trouble.is_none(),
            "{looked:?}"
        );
        let exact: HashSet<&str> = names(&by_scan).into_iter().collect();
        hits += names(&by_index)
            .iter()
            .filter(|id| exact.contains(*id))
            .count();
        asked += SHOWN;
        // What both found is in the same order, by the same numbers.
        let both = |of: &Found, other: &Found| {
            let other: HashSet<String> = names(other).into_iter().map(str::to_owned).collect();
            let common = of
                .pictures
                .iter()
                .filter(|(_, p)| other.contains(&p.image_id));
            common.cloned().collect::<Vec<_>>()
        };
        assert_eq!(both(&by_index, &by_scan), both(&by_scan, &by_index));
    }
    assert!(hits * 100 >= asked * 95, "{hits} of {asked}");
}

/// A newer file is scanned, and only it, until it comes into the index.
async fn grows(table: &mut Table, sought: &[f32]) {
    let first = format!("image-{}", table.rows);
    table.put("3-00.parquet", vec![sought.to_vec()]).await;
    let found = table.search(&near(sought.to_vec())).await;
    assert_eq!((found.files, found.rows), (1, 1));
    assert_eq!(names(&found)[0], first);
    // It comes into the index; the graph before goes.
    let before = table.graphs().await;
    let added = table.bring().await.unwrap();
    assert_eq!(
        (added.files_read, added.rows_added, added.anew),
        (1, 1, false)
    );
    let after = table.graphs().await;
    assert!(after.len() == 1 && after != before, "{after:?}");
    let found = table.search(&near(sought.to_vec())).await;
    assert_eq!((found.files, names(&found)[0]), (0, first.as_str()));
}

/// A file that goes, or is replaced, is not believed any more.
async fn shrinks(table: &mut Table, sought: &[f32]) {
    // A file goes: nothing of it is found. Another is replaced: it is scanned.
    table
        .store
        .delete(&table.path("1-00.parquet"))
        .await
        .unwrap();
    let replaced = format!("image-{}", table.rows);
    table.put("2-00.parquet", vec![sought.to_vec(); 2]).await;
    let found = table.search(&near(sought.to_vec())).await;
    assert_eq!(found.files, 1);
    assert!(
        names(&found)[..3].contains(&replaced.as_str()),
        "{:?}",
        names(&found)
    );
    assert_eq!(found.by_index.as_ref().unwrap().rows, 3001);
    let of_gone = |id: &&str| (3000..3501).contains(&id[6..].parse::<i64>().unwrap());
    assert!(!names(&found).iter().any(|id| of_gone(id)));
    // With most of it gone, the index is built anew.
    table
        .store
        .delete(&table.path("0-00.parquet"))
        .await
        .unwrap();
    let anew = table.bring().await.unwrap();
    assert_eq!((anew.rows, anew.anew, anew.rows_gone), (3, true, 0));
    assert_eq!(table.graphs().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_lives_beside_a_table_on_disk() {
    lives(Table::on_disk().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_lives_beside_a_table_in_an_object_store() {
    lives(Table::over(TableStore::in_memory(), None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_hold_exactly_and_few_that_hold_are_said_to_be_few() {
    let mut table = Table::over(TableStore::in_memory(), None);
    table.draw("0-00.parquet", 2500).await;
    table.bring().await.unwrap();
    let mut wanted = near(table.vector());
    wanted.tag = Some(("cat".into(), 0.5));
    let found = table.search(&wanted).await;
    assert_eq!(found.pictures.len(), SHOWN);
    assert!(!found.by_index.as_ref().unwrap().is_short);
    let is_cat = |id: &&str| id[6..].parse::<i64>().unwrap() % 3 != 0;
    assert!(names(&found).iter().all(is_cat));
    assert_eq!(names(&found), names(&table.scan(&wanted).await));

    wanted.from = Some(DateTime::UNIX_EPOCH + TimeDelta::hours(100));
    wanted.to = Some(DateTime::UNIX_EPOCH + TimeDelta::hours(110));
    let found = table.search(&wanted).await;
    let by_index = found.by_index.as_ref().unwrap();
    assert!(
        by_index.is_short && by_index.read < by_index.rows,
        "{by_index:?}"
    );
    let exact = table.scan(&wanted).await;
    assert_eq!(exact.pictures.len(), 7);
    let all: HashSet<&str> = names(&exact).into_iter().collect();
    assert!(names(&found).iter().all(|id| all.contains(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_another_length_have_a_graph_of_their_own() {
    let mut table = Table::over(TableStore::in_memory(), None);
    table.draw("0-00.parquet", 200).await;
    let other: Vec<Vec<f32>> = (0..100).map(|_| unit(table.numbers(8))).collect();
    table.put("1-00.parquet", other.clone()).await;
    // A vector that points nowhere is near to nothing.
    table
        .put("2-00.parquet", vec![vec![0.0; 8], vec![f32::NAN; 8]])
        .await;
    let built = table.bring().await.unwrap();
    assert_eq!((built.rows, table.graphs().await.len()), (300, 2));
    let found = table.search(&near(other[5].clone())).await;
    assert_eq!((found.files, names(&found)[0]), (0, "image-205"));
    let found = table.search(&near(table.centres[0].clone())).await;
    assert_eq!(found.by_index.as_ref().unwrap().rows, 200);
    let found = table.search(&near(vec![1.0; 5])).await;
    assert!(found.pictures.is_empty() && found.files == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_named_and_the_scan_answers() {
    let mut table = Table::over(TableStore::in_memory(), None);
    table.draw("0-00.parquet", 300).await;
    table.bring().await.unwrap();
    let wanted = near(table.vector());
    let exact = table.scan(&wanted).await;
    let manifest = table.store.read(&manifest_path(&table.store, "t")).await;
    let manifest = String::from_utf8(manifest.unwrap().unwrap().to_vec()).unwrap();
    let graph = table.graphs().await.remove(0);
    let whole = table.store.read(&graph).await.unwrap().unwrap();

    let broken = async |table: &Table, says: &str| {
        let found = table.search(&wanted).await;
        let trouble = found.trouble.as_ref().unwrap().to_string();
        assert!(trouble.contains(says), "{trouble}");
        assert!(found.by_index.is_none());
        assert_eq!(names(&found), names(&exact));
    };
    table.put_manifest(r#"{"version":2,"all":"else"}"#).await;
    broken(&table, "has version 2").await;
    let refused = table.bring().await.unwrap_err().to_string();
    assert!(refused.contains("use a newer one"), "{refused}");
    table.put_manifest("half of").await;
    broken(&table, "manifest-1.json").await;
    let anew = table.bring().await.unwrap();
    assert!(anew.anew && table.search(&wanted).await.by_index.is_some());

    // A graph that is cut, of other bytes, or missing; this machine has no copy.
    table.put_manifest(&manifest).await;
    let mut other = whole.to_vec();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    for wrong in [
        Some(whole.slice(..whole.len() - 1)),
        Some(other.into()),
        None,
    ] {
        match wrong {
            Some(bytes) => table.store.replace(&graph, bytes).await.unwrap(),
            None => table.store.delete(&graph).await.unwrap(),
        }
        table.copies = tempfile::tempdir().unwrap();
        broken(&table, "writes it anew").await;
    }
    // More would have come: the index is not added to, but built anew.
    table.draw("1-00.parquet", 10).await;
    assert!(table.bring().await.unwrap().anew);
    let found = table.search(&wanted).await;
    assert_eq!(found.by_index.as_ref().unwrap().rows, 310);

    // A manifest that says something else of a whole graph.
    let path = manifest_path(&table.store, "t");
    let held = table.store.read(&path).await.unwrap().unwrap();
    let mut lying: IndexManifest = serde_json::from_slice(&held).unwrap();
    lying.parts[0].rows += 1;
    table
        .put_manifest(&serde_json::to_string(&lying).unwrap())
        .await;
    let found = table.search(&wanted).await;
    let trouble = found.trouble.as_ref().unwrap().to_string();
    assert!(trouble.contains("its head is not what"), "{trouble}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shelf_follows_the_manifest() {
    let mut table = Table::over(TableStore::in_memory(), None);
    let shelf = IndexShelf::at(table.copies.path().to_owned());
    table.draw("0-00.parquet", 50).await;
    assert!(shelf.look(&table.store, "t").await.unwrap().is_none());
    table.bring().await.unwrap();
    let first = shelf.look(&table.store, "t").await.unwrap().unwrap();
    let same = shelf.look(&table.store, "t").await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &same));
    table.draw("1-00.parquet", 50).await;
    table.bring().await.unwrap();
    let second = shelf.look(&table.store, "t").await.unwrap().unwrap();
    assert!(second.made() > first.made());
    // The one before can still be asked: somebody may be at it.
    let vector = table.vector();
    let files = data_files(&table.store, "t").await.unwrap();
    let live = first.live(&files);
    assert_eq!(first.nearest(&vector, 5, &live).unwrap().len(), 5);
    assert_eq!(std::fs::read_dir(table.copies.path()).unwrap().count(), 1);
    table
        .store
        .delete(&manifest_path(&table.store, "t"))
        .await
        .unwrap();
    assert!(shelf.look(&table.store, "t").await.unwrap().is_none());
}
