//! The heads that judge: one for each part of the labelled images, which has not seen it. They are
//! kept beside the version, never served, and score again when the version is champion.
//!
//! ```text
//! folds.json            format, number of parts, categories, which parts have a head
//! fold-<k>.safetensors  the head that learned from all parts but the k-th (one trained the way
//!                       the version was; it also carries the weights the next one starts from)
//! groups.csv.gz         which group an image belongs to, for ever: image_id,group
//! ```

use super::{Inputs, JobError};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use tagstream_core::storage::atomic;
use tagstream_model::add_category::{BY_WORDS, NEW_WORDS};
use tagstream_model::bundle::Bundle;
use tagstream_model::head::{ExportedHead, NamedTensor};
use tagstream_model::registry::{Registry, RegistryError, VersionRecord};
use tagstream_train::features::FeatureStore;
use tagstream_train::groups::{GroupPattern, Groups, fold_of};
use tagstream_train::trainer::left_out::LeftOut;
use tagstream_train::trainer::scoring::Scorer;

/// The record of the heads.
pub(super) const FOLDS_FILE: &str = "folds.json";
/// Every image's group.
pub(super) const GROUPS_FILE: &str = "groups.csv.gz";
/// The format this code writes and reads.
const FORMAT: u32 = 1;

/// `folds.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FoldRecord {
    pub(super) format_version: u32,
    /// Number of parts; a group belongs to [`fold_of`] its name among them.
    pub(super) folds: usize,
    /// The heads' categories, in the order of their scores.
    pub(super) categories: Vec<String>,
    /// File of every part's head; a part without which nothing was known has none.
    pub(super) heads: BTreeMap<usize, String>,
}

impl FoldRecord {
    pub(super) fn new(folds: usize, categories: Vec<String>) -> Self {
        FoldRecord {
            format_version: FORMAT,
            folds,
            categories,
            heads: BTreeMap::new(),
        }
    }

    /// Name of the file of a part's head.
    pub(super) fn head_file(fold: usize) -> String {
        format!("fold-{fold}.safetensors")
    }

    /// The record in `folder`; none without one.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, JobError> {
        let path = folder.join(FOLDS_FILE);
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(JobError::io(&path))?,
        };
        let bad = |reason: String| JobError::Io {
            path: path.clone(),
            source: std::io::Error::other(reason),
        };
        let format: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        let version = format["format_version"].as_u64();
        if version != Some(FORMAT.into()) {
            let found = version.map_or("none".into(), |v| v.to_string());
            return Err(bad(format!(
                "its format_version is {found}, this build reads {FORMAT}: upgrade tagstream, or \
                 set judge.folds = 1"
            )));
        }
        let record = serde_json::from_value(format).map_err(|e| bad(e.to_string()))?;
        Ok(Some(record))
    }

    /// Writes it to `folder`: last, so that what it names is there.
    pub(super) fn write(&self, folder: &Path) -> Result<(), JobError> {
        let path = folder.join(FOLDS_FILE);
        let text = serde_json::to_vec_pretty(self).map_err(JobError::work(FOLDS_FILE))?;
        atomic::write_file(&path, &text).map_err(JobError::io(&path))
    }

    /// A part's head, and the weights that the next one can start from.
    pub(super) fn head(
        &self,
        folder: &Path,
        fold: usize,
    ) -> Result<Option<(ExportedHead, Vec<NamedTensor>)>, JobError> {
        let Some(name) = self.heads.get(&fold) else {
            return Ok(None);
        };
        let path = folder.join(name);
        let content = std::fs::read(&path).map_err(JobError::io(&path))?;
        let head = ExportedHead::from_safetensors(&content);
        head.map(Some).map_err(JobError::work("a head that judges"))
    }

    /// The files to keep beside a version, by name.
    pub(super) fn attachments(&self, folder: &Path) -> Vec<(String, PathBuf)> {
        let names = self.heads.values().map(String::as_str).chain([FOLDS_FILE]);
        names
            .map(|name| (name.to_owned(), folder.join(name)))
            .collect()
    }
}

/// What scores images that the champion has not learned from.
#[derive(Debug)]
pub(super) enum Unseen {
    /// It never saw a label: itself, all images.
    Itself,
    /// Its heads that judge, all images.
    Folds { record: FoldRecord, folder: PathBuf },
    /// It was made without such heads: itself, the images that were held out from it or were
    /// labelled later.
    HeldOut {
        /// The images it was made with; none if nobody wrote them down.
        made_with: Option<HashSet<String>>,
    },
}

impl Unseen {
    /// Finds what the registry keeps beside the champion, and puts it into `folder`.
    pub(super) async fn of(
        champion: &Bundle,
        version: &VersionRecord,
        registry: &Registry,
        folder: &Path,
    ) -> Result<Self, JobError> {
        let lineage = &champion.manifest().lineage;
        if lineage.label_snapshot.is_none() {
            return Ok(Unseen::Itself);
        }
        let by_words = [BY_WORDS, NEW_WORDS];
        let added = by_words.map(|how| lineage.method.matches(how).count());
        let added = added.iter().sum();
        let version = &learned(version, added, registry).await?;
        if version.attachments.contains_key(FOLDS_FILE) {
            std::fs::create_dir_all(folder).map_err(JobError::io(folder))?;
            let fetch = |name: &str| {
                let to = folder.join(name);
                let name = name.to_owned();
                async move { registry.attachment(version, &name, &to).await }
            };
            fetch(FOLDS_FILE).await?;
            let record = FoldRecord::read(folder)?;
            if let Some(record) = record {
                for name in record.heads.values() {
                    fetch(name).await?;
                }
                let folder = folder.to_path_buf();
                return Ok(Unseen::Folds { record, folder });
            }
        }
        let kept = version.attachments.contains_key(super::inputs::LABELS_FILE);
        let made_with = match kept {
            true => Some(Inputs::images_of(registry, version).await?),
            false => None,
        };
        Ok(Unseen::HeldOut { made_with })
    }

    /// How many of the champion's categories are scored: the first ones.
    pub(super) fn categories(&self, champion: &Bundle) -> usize {
        let all = champion.manifest().categories.len();
        match self {
            Unseen::Folds { record, .. } => record.categories.len().min(all),
            _ => all,
        }
    }

    /// Scores of the images of `ids`, in groups `groups`, that the champion has not seen.
    pub(super) fn score(
        &self,
        champion: &Bundle,
        ids: &[String],
        groups: &Groups,
        features: &FeatureStore,
        was_held_out: impl Fn(&str) -> bool,
    ) -> Result<LeftOut, JobError> {
        let failed = "scoring by the champion";
        let mut left = LeftOut::nothing(ids.len(), self.categories(champion));
        if let Unseen::Folds { record, folder } = self {
            for fold in record.heads.keys() {
                let of = |image: &usize| fold_of(groups.name(*image), record.folds) == *fold;
                let images: Vec<usize> = (0..ids.len()).filter(of).collect();
                let head = record.head(folder, *fold)?;
                if let Some((head, _)) = head.filter(|_| !images.is_empty()) {
                    left.score(&head, features, &images)
                        .map_err(JobError::work(failed))?;
                }
            }
            return Ok(left);
        }
        let unseen = |id: &str| match self {
            Unseen::HeldOut { made_with } => {
                was_held_out(id) || made_with.as_ref().is_some_and(|made| !made.contains(id))
            }
            _ => true,
        };
        let images: Vec<usize> = (0..ids.len()).filter(|at| unseen(&ids[*at])).collect();
        if !images.is_empty() {
            let scored = Scorer::of_bundle(champion, features)
                .and_then(|mut scorer| scorer.logits_of(features, &images))
                .map_err(JobError::work(failed))?;
            left.take(&images, &scored, champion.manifest().categories.len());
        }
        Ok(left)
    }
}

/// The version that learned what `version` knows: behind it are versions, `added` of them, with
/// categories added by their words or with other words. Its heads that judge know the words that
/// they were trained with; new ones are not learnt yet, and are judged when they are.
async fn learned(
    version: &VersionRecord,
    added: usize,
    registry: &Registry,
) -> Result<VersionRecord, JobError> {
    let mut learned = version.clone();
    if added == 0 {
        return Ok(learned);
    }
    let versions = registry.versions().await?;
    for _ in 0..added {
        let parent = versions.iter().rev().find(|older| {
            older.version < learned.version && Some(&older.id) == learned.parent.as_ref()
        });
        match parent {
            Some(parent) => learned = parent.clone(),
            // It was made elsewhere: nobody here knows what it learned from.
            None => break,
        }
    }
    Ok(learned)
}

/// The groups that earlier runs settled: of the newest version that keeps them.
pub(super) async fn settled_groups(
    registry: &Registry,
) -> Result<HashMap<String, String>, JobError> {
    let versions = registry.versions().await?;
    let keeps = |version: &&VersionRecord| version.attachments.contains_key(GROUPS_FILE);
    let Some(version) = versions.iter().rev().find(keeps) else {
        return Ok(HashMap::new());
    };
    let aside = super::inputs::tempfile_path("groups");
    registry.attachment(version, GROUPS_FILE, &aside).await?;
    let read = read_groups(&aside);
    // It is ours alone, and of no use any more.
    let _ = std::fs::remove_file(&aside);
    read.map_err(|e| {
        let path = format!("version {}: {GROUPS_FILE}", version.version);
        JobError::Registry(RegistryError::Corrupt {
            path,
            reason: e.to_string(),
        })
    })
}

fn read_groups(path: &Path) -> Result<HashMap<String, String>, csv::Error> {
    let mut reader = csv::Reader::from_reader(GzDecoder::new(File::open(path)?));
    reader.deserialize::<(String, String)>().collect()
}

/// Writes every image's group; the same groups give the same bytes.
pub(super) fn write_groups(groups: &BTreeMap<String, String>, path: &Path) -> Result<(), JobError> {
    let write = || -> Result<(), csv::Error> {
        let zip = GzBuilder::new()
            .mtime(0)
            .write(File::create(path)?, Compression::default());
        let mut writer = csv::Writer::from_writer(zip);
        writer.write_record(["image_id", "group"])?;
        for (image, group) in groups {
            writer.write_record([image, group])?;
        }
        let zip = writer
            .into_inner()
            .map_err(|e| csv::Error::from(e.into_error()))?;
        zip.finish()?;
        Ok(())
    };
    write().map_err(|e| JobError::io(path)(std::io::Error::other(e)))
}

/// The group that the pattern names, of each image: by its address, else by its id.
pub(super) fn named_groups(
    ids: &[String],
    uris: &HashMap<String, String>,
    attributes: &HashMap<String, String>,
    pattern: Option<&GroupPattern>,
) -> Vec<Option<String>> {
    let name = |id: &String| {
        let named = attributes.get(id).cloned();
        named.or_else(|| {
            let pattern = pattern?;
            let uri = uris.get(id).map_or("", String::as_str);
            let group = pattern.group(uri).or_else(|| pattern.group(id));
            group.map(str::to_owned)
        })
    };
    ids.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_repeats_and_another_format_is_named() {
        let folder = tempfile::TempDir::new().unwrap();
        assert_eq!(FoldRecord::read(folder.path()).unwrap(), None);
        let mut record = FoldRecord::new(5, vec!["cat".into()]);
        record.heads.insert(3, FoldRecord::head_file(3));
        record.write(folder.path()).unwrap();
        assert_eq!(
            FoldRecord::read(folder.path()).unwrap(),
            Some(record.clone())
        );
        let names: Vec<_> = record
            .attachments(folder.path())
            .into_iter()
            .map(|a| a.0)
            .collect();
        assert_eq!(names, ["fold-3.safetensors", "folds.json"]);
        record.format_version = 2;
        record.write(folder.path()).unwrap();
        let error = FoldRecord::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("format_version is 2"), "{error}");
        assert!(error.contains("judge.folds = 1"), "{error}");
    }

    #[test]
    fn groups_are_kept_and_repeat_to_the_byte() {
        let folder = tempfile::TempDir::new().unwrap();
        let groups: BTreeMap<String, String> = [("b", "x,\"y"), ("a", "x")]
            .map(|(image, group)| (image.to_owned(), group.to_owned()))
            .into();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        write_groups(&groups, &a).unwrap();
        write_groups(&groups, &b).unwrap();
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        assert_eq!(read_groups(&a).unwrap(), groups.into_iter().collect());
    }

    #[test]
    fn an_attribute_goes_before_the_address_and_that_before_the_id() {
        let ids = ["a/1", "b/2", "c/3", "4"].map(str::to_owned);
        let uris = [("b/2", "file:///shoot7/2.jpg")];
        let uris = uris.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let attributes = [("a/1".to_owned(), "monday".to_owned())].into();
        let pattern = GroupPattern::new(r"(shoot\d+|^[a-z])/").unwrap();
        let named = named_groups(&ids, &uris, &attributes, Some(&pattern));
        let named: Vec<_> = named.iter().map(Option::as_deref).collect();
        assert_eq!(named, [Some("monday"), Some("shoot7"), Some("c"), None]);
    }
}
