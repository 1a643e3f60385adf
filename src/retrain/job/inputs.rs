//! What a run learns from: the snapshot of labels, its categories, its two parts.

use super::error::JobError;
use crate::labelling::store::{
    TableError, join_uris, join_uris_and_remember, newest_embeddings, read_attribute, read_labels,
    read_labels_and_keep, sampled_pictures,
};
use crate::retrain::config::RetrainConfig;
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use tagstream_core::storage::store::TableStore;
use tagstream_model::bundle::{Bundle, Category};
use tagstream_model::registry::{HistoryEntry, Registry, RegistryError, VersionRecord};
use tagstream_train::labels::{
    CategoryCount, LabelMatrix, LabelTable, LabelsError, read_states, write_states,
};

/// The labels of a run, kept beside the version it registers.
pub(super) const LABELS_FILE: &str = "labels.csv.gz";

/// The snapshot and what follows from it.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The labels.
    pub table: LabelTable,
    /// Their hash.
    pub snapshot: String,
    /// The champion's categories in their order, then new ones.
    pub categories: Vec<Category>,
    /// How many of them are the champion's.
    pub champion_categories: usize,
    /// Labelled images that have an address.
    pub ids: Vec<String>,
    /// Labelled images that have none: they cannot be learned from.
    pub without_uri: usize,
    /// Labels of categories that the candidate does not know.
    pub unknown_category_labels: u64,
    /// Pictures that the model adapts to where no label tells of a presence, with their addresses.
    pub unlabelled: BTreeMap<String, String>,
}

/// Reads the label table, joins addresses, settles the categories. With `keep` what was read is
/// kept beside the table for later runs.
pub(super) async fn read(
    config: &RetrainConfig,
    champion: &Bundle,
    keep: bool,
) -> Result<Inputs, JobError> {
    let source = &config.labels;
    let store = TableStore::open_for_reading(&source.url, &config.object_store);
    let store = store.map_err(TableError::from)?;
    let mut table = match keep {
        true => read_labels_and_keep(&store, &source.table).await?,
        false => read_labels(&store, &source.table).await?,
    };
    let tables = (source.table.as_str(), source.predictions_table.as_str());
    match source.predictions_table.as_str() {
        "" => {}
        _ if keep => join_uris_and_remember(&mut table, &store, tables).await?,
        _ => join_uris(&mut table, &store, tables).await?,
    }
    Ok(Inputs::new(
        table,
        champion.manifest().categories.clone(),
        source.new_category_min_present,
    ))
}

/// What the predictions table says of an attribute, by image.
pub(super) async fn attributes(
    config: &RetrainConfig,
    name: &str,
) -> Result<HashMap<String, String>, JobError> {
    let source = &config.labels;
    if source.predictions_table.is_empty() {
        return Err(JobError::Unsuitable(
            "groups.attribute is read from the predictions table, and labels.predictions_table is \
             empty: name the table, or use groups.pattern"
                .into(),
        ));
    }
    let store = TableStore::open_for_reading(&source.url, &config.object_store);
    let store = store.map_err(TableError::from)?;
    Ok(read_attribute(&store, &source.predictions_table, name).await?)
}

/// Pictures that the predictions table knows, drawn evenly; none if there is no such table yet.
pub(super) async fn unlabelled(
    config: &RetrainConfig,
) -> Result<BTreeMap<String, String>, JobError> {
    let source = &config.labels;
    let store = TableStore::open_for_reading(&source.url, &config.object_store);
    let store = store.map_err(TableError::from)?;
    Ok(sampled_pictures(&store, &source.predictions_table, source.unlabelled).await?)
}

/// Rows whose embeddings are compared with those of the training images.
const COMPARED: usize = 2_000;

/// Embeddings of the images that the champion tagged last; none without a predictions table.
pub(super) async fn embeddings(
    config: &RetrainConfig,
    champion: &Bundle,
) -> Result<Vec<f32>, JobError> {
    let source = &config.labels;
    if source.predictions_table.is_empty() {
        return Ok(Vec::new());
    }
    let store = TableStore::open_for_reading(&source.url, &config.object_store);
    let store = store.map_err(TableError::from)?;
    let dim = champion.manifest().dims.embedding;
    let model = (champion.id(), dim);
    Ok(newest_embeddings(&store, &source.predictions_table, model, COMPARED).await?)
}

impl Inputs {
    /// Inputs from a table; categories that are not among `champion`'s join once enough images are
    /// known to have them.
    pub fn new(table: LabelTable, champion: Vec<Category>, new_min_present: usize) -> Self {
        let counts = table.counts();
        let mut categories = champion;
        let champion_categories = categories.len();
        for (name, count) in &counts {
            let known = categories[..champion_categories]
                .iter()
                .any(|c| c.name == *name);
            let enough = new_min_present > 0 && count.present >= new_min_present as u64;
            if !known && enough {
                categories.push(Category::named(name, &name.replace('_', " "), 0.5));
            }
        }
        let unknown = counts
            .iter()
            .filter(|(name, _)| !categories.iter().any(|c| c.name == **name));
        let ids: Vec<String> = table
            .images()
            .filter(|(_, image)| !image.address().is_empty())
            .map(|(id, _)| id.to_owned())
            .collect();
        Inputs {
            snapshot: table.hash(),
            champion_categories,
            without_uri: table.without_uri().count(),
            unknown_category_labels: unknown.map(|(_, c)| c.present + c.absent).sum(),
            ids,
            categories,
            table,
            unlabelled: BTreeMap::new(),
        }
    }

    /// How much is known about each category.
    pub fn counts(&self) -> BTreeMap<String, CategoryCount> {
        self.table.counts()
    }

    /// The likeliest address of every image.
    pub fn uris(&self) -> HashMap<String, String> {
        let images = self.table.images();
        let labelled = images.map(|(id, image)| (id.to_owned(), image.address().into_owned()));
        self.unlabelled
            .clone()
            .into_iter()
            .chain(labelled)
            .collect()
    }

    /// The addresses of every image, the likeliest first.
    pub fn addresses(&self) -> HashMap<String, Vec<String>> {
        let images = self.table.images();
        let own = |uri: std::borrow::Cow<'_, str>| uri.into_owned();
        let labelled =
            images.map(|(id, image)| (id.to_owned(), image.addresses().map(own).collect()));
        let others = self.unlabelled.iter();
        let others = others.map(|(id, uri)| (id.clone(), vec![uri.clone()]));
        others.chain(labelled).collect()
    }

    /// Whether the model adapts to pictures that nobody has labelled, for want of labels.
    pub fn adapts(&self) -> bool {
        !self.unlabelled.is_empty()
    }

    /// Lets the model adapt to these pictures of the predictions table.
    pub(super) fn adapt_to(&mut self, mut pictures: BTreeMap<String, String>) {
        pictures.retain(|id, _| !self.ids.contains(id));
        self.unlabelled = pictures;
    }

    /// When a label was said last of each of these images, microseconds since the epoch.
    pub(super) fn last_said(&self, ids: &[String]) -> Vec<i64> {
        let said = |id: &String| {
            let said = self.table.image(id).and_then(|image| image.last_said());
            said.map_or(i64::MIN, |time| time.timestamp_micros())
        };
        ids.iter().map(said).collect()
    }

    /// The labels of the images that have an address and a label of a category that the candidate
    /// knows; then the pictures without any.
    pub fn labelled(&self) -> LabelMatrix {
        let names: Vec<String> = self.categories.iter().map(|c| c.name.clone()).collect();
        let wanted: HashSet<&str> = names.iter().map(String::as_str).collect();
        let told = |id: &&String| {
            let known = self.table.image(id).into_iter().flat_map(|i| i.states());
            known.into_iter().any(|(name, _)| wanted.contains(name))
        };
        let labelled = self.ids.iter().filter(told).cloned();
        let others = self.unlabelled.keys().cloned();
        let ids = labelled.chain(others).collect();
        let mut labels = LabelMatrix::of(&self.table, ids, names.clone());
        labels.raise_presences(&parents(&self.categories));
        labels
    }

    /// The images that a version was made with.
    pub(super) async fn images_of(
        registry: &Registry,
        version: &VersionRecord,
    ) -> Result<HashSet<String>, JobError> {
        let kept = kept_labels(registry, version).await?;
        Ok(kept.images().map(|(id, _)| id.to_owned()).collect())
    }

    /// Writes the labels, compressed, for the next run to compare with. The same labels give the
    /// same bytes.
    pub(super) fn write_labels(&self, path: &Path) -> Result<(), JobError> {
        let file = File::create(path).map_err(JobError::io(path))?;
        let mut zip = GzBuilder::new()
            .mtime(0)
            .write(file, Compression::default());
        write_states(self.table.known(), &mut zip)
            .map_err(|e| JobError::io(path)(std::io::Error::other(e)))?;
        zip.finish().map(drop).map_err(JobError::io(path))
    }

    /// Labels that are new or changed since the newest version that keeps its labels and was
    /// decided on; all if there is none.
    pub(super) async fn new_since_last_run(
        &self,
        registry: &Registry,
        history: &[HistoryEntry],
    ) -> Result<usize, JobError> {
        let known = self.table.known().count();
        let versions = registry.versions().await?;
        // A version without a decision was left behind by a run that was stopped: its labels are
        // still to be decided on.
        let with_labels = |version: &&VersionRecord| {
            version.attachments.contains_key(LABELS_FILE)
                && history.iter().any(|e| e.version == version.version)
        };
        let Some(last) = versions.iter().rev().find(with_labels) else {
            return Ok(known);
        };
        let before = kept_labels(registry, last).await?;
        let same = self.table.agreements(&before);
        let before = before.known().count();
        // Added or changed, plus taken back.
        Ok((known - same).max(before - same))
    }
}

pub(super) fn tempfile_path(what: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("tagstream-{what}-{:032x}", rand::random::<u128>()))
}

/// The labels that a version keeps.
async fn kept_labels(
    registry: &Registry,
    version: &VersionRecord,
) -> Result<LabelTable, RegistryError> {
    let aside = tempfile_path("labels");
    registry.attachment(version, LABELS_FILE, &aside).await?;
    let read = read_kept(&aside);
    // It is ours alone, and of no use any more.
    let _ = std::fs::remove_file(&aside);
    read.map_err(|e| RegistryError::Corrupt {
        path: format!("version {}: {LABELS_FILE}", version.version),
        reason: e.to_string(),
    })
}

fn read_kept(path: &Path) -> Result<LabelTable, LabelsError> {
    read_states(GzDecoder::new(File::open(path)?))
}

/// The column of each category's parent.
fn parents(categories: &[Category]) -> Vec<Option<usize>> {
    let columns = categories.iter().enumerate();
    let columns: HashMap<&str, usize> = columns.map(|(at, c)| (c.name.as_str(), at)).collect();
    let of = |c: &Category| columns.get(c.tags.parent.as_deref()?).copied();
    categories.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagstream_core::events::{LabelEvent, LabelState};

    fn table(images: usize) -> LabelTable {
        let events: Vec<LabelEvent> = (0..images)
            .map(|i| LabelEvent {
                image_id: format!("img-{i}"),
                uri: if i == 0 {
                    String::new()
                } else {
                    format!("file:///{i}.jpg")
                },
                present: vec!["cat".into(), "new".into()],
                absent: vec!["dog".into()],
                retract: Vec::new(),
                annotator: String::new(),
                event_time: None,
            })
            .collect();
        LabelTable::of_events(&events)
    }

    fn category(name: &str) -> Category {
        Category::named(name, name, 0.5)
    }

    #[test]
    fn new_categories_join_at_the_end_once_enough_is_known() {
        let inputs = Inputs::new(table(20), vec![category("dog"), category("cat")], 10);
        let names: Vec<_> = inputs.categories.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["dog", "cat", "new"]);
        assert_eq!((inputs.champion_categories, inputs.without_uri), (2, 1));
        assert_eq!(inputs.labelled().flat()[..3], [-1, 1, 1]);
        assert_eq!(inputs.labelled().images().len(), 19);
        let inputs = Inputs::new(table(20), vec![category("dog")], 0);
        assert_eq!(inputs.categories.len(), 1);
        assert_eq!(inputs.unknown_category_labels, 40);
    }

    #[test]
    fn a_label_of_a_child_is_a_presence_of_its_parent() {
        let (mut child, parent) = (category("cat"), category("animal"));
        child.tags.parent = Some("animal".into());
        let alone = Inputs::new(table(20), vec![category("cat"), parent.clone()], 0);
        let related = Inputs::new(table(20), vec![child, parent], 0);
        let present = |inputs: &Inputs, column: usize| {
            let labels = inputs.labelled();
            labels
                .states()
                .column(column)
                .iter()
                .filter(|s| **s > 0)
                .count()
        };
        assert!(present(&alone, 0) > 0);
        assert_eq!(present(&alone, 1), 0);
        assert_eq!(present(&related, 1), present(&related, 0));
    }

    #[test]
    fn labels_are_kept_and_repeat_to_the_byte() {
        let folder = tempfile::TempDir::new().unwrap();
        let inputs = Inputs::new(table(20), vec![category("dog")], 0);
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        inputs.write_labels(&a).unwrap();
        inputs.write_labels(&b).unwrap();
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        let kept = read_kept(&a).unwrap();
        assert_eq!(kept.state("img-3", "dog"), Some(LabelState::Absent));
        assert_eq!(kept.known().count(), 60);
    }
}
