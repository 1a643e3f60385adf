//! A new head on the towers of a model that is there: the bundle that training, retraining and
//! adding a category write.

use crate::bundle::{
    Bundle, BundleError, BundleWriter, Calibration, Category, Dims, Draft, ENCODER_FILE, HEAD_FILE,
    HEAD_WEIGHTS_FILE, Lineage, TEXT_CONFIG_FILE, TEXT_WEIGHTS_FILE, TOKENIZER_FILE,
};
use crate::head::HeadFiles;
use crate::source::OpenedModel;
use crate::trained_on::{TRAINED_ON_FILE, TrainedOn};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tagstream_core::build;
use tagstream_image::preprocessing::Preprocessing;

/// All of a model but its head.
#[derive(Debug, Clone)]
pub struct Towers {
    /// Names in a bundle, and where the files are.
    files: Vec<(String, PathBuf)>,
    parent: Option<String>,
    source: String,
    dims: Dims,
    preprocessing: Preprocessing,
}

/// What a bundle says beside its towers.
#[derive(Debug, Clone)]
pub struct NewHead<'a> {
    /// First part of the bundle's id.
    pub name: &'a str,
    /// The head.
    pub files: &'a HeadFiles,
    /// Its categories, with their thresholds.
    pub categories: Vec<Category>,
    /// What turns its logits into probabilities.
    pub calibration: Calibration,
    /// Quality figures.
    pub metrics: BTreeMap<String, f64>,
    /// How it was made.
    pub method: String,
    /// Hash of the labels it was trained on.
    pub label_snapshot: Option<String>,
    /// Seed of the training.
    pub seed: Option<u64>,
    /// What its training images are like; `None`: nothing is said of them.
    pub trained_on: Option<TrainedOn>,
}

impl From<&Bundle> for Towers {
    fn from(bundle: &Bundle) -> Self {
        let manifest = bundle.manifest();
        let others = manifest.files.keys();
        let of_head = [HEAD_FILE, HEAD_WEIGHTS_FILE, TRAINED_ON_FILE];
        let others = others.filter(|name| !of_head.contains(&name.as_str()));
        Towers {
            files: others
                .map(|name| (name.clone(), bundle.root().join(name)))
                .collect(),
            parent: Some(bundle.id().to_owned()),
            source: manifest.lineage.source.clone(),
            dims: manifest.dims,
            preprocessing: manifest.preprocessing.clone(),
        }
    }
}

impl From<&OpenedModel> for Towers {
    fn from(model: &OpenedModel) -> Self {
        let folder = match model {
            OpenedModel::Bundle(bundle) => return Towers::from(bundle.as_ref()),
            OpenedModel::Encoder(folder) => folder,
        };
        let text = folder.text();
        let name = model.root().file_name();
        let files = [
            (ENCODER_FILE, folder.encoder()),
            (TEXT_WEIGHTS_FILE, text.weights),
            (TEXT_CONFIG_FILE, text.config),
            (TOKENIZER_FILE, text.tokenizer),
        ];
        Towers {
            files: files.map(|(name, path)| (name.to_owned(), path)).into(),
            parent: None,
            source: name.map_or("encoder folder".into(), |n| {
                n.to_string_lossy().into_owned()
            }),
            dims: model.dims(),
            preprocessing: model.preprocessing().clone(),
        }
    }
}

impl Towers {
    /// D: width of an embedding.
    pub fn dim(&self) -> usize {
        self.dims.embedding
    }

    /// N: positions of the dense feature map.
    pub fn positions(&self) -> usize {
        self.dims.grid_height * self.dims.grid_width
    }

    /// Writes these towers and `head` as a bundle to `out`, which must not exist.
    ///
    /// # Errors
    /// If a file cannot be read or written; nothing is left at `out` then.
    pub fn with_head(&self, head: NewHead<'_>, out: &Path) -> Result<Bundle, BundleError> {
        let mut writer = BundleWriter::new(out)?;
        for (name, path) in &self.files {
            writer.add_copy(name, path)?;
        }
        if let Some(trained_on) = &head.trained_on {
            writer.add(TRAINED_ON_FILE, &trained_on.to_json())?;
        }
        writer.add(HEAD_FILE, &head.files.onnx)?;
        writer.add(HEAD_WEIGHTS_FILE, &head.files.safetensors)?;
        writer.finish(Draft {
            name: head.name.to_owned(),
            parent: self.parent.clone(),
            created: chrono::Utc::now(),
            categories: head.categories,
            dims: self.dims,
            preprocessing: self.preprocessing.clone(),
            calibration: head.calibration,
            metrics: head.metrics,
            lineage: Lineage {
                method: head.method,
                source: self.source.clone(),
                label_snapshot: head.label_snapshot,
                seed: head.seed,
                code_version: build::name().to_owned(),
            },
        })
    }
}

/// Writes `bundle` once more to `out`, which must not exist, with other thresholds or relations of
/// its categories: the same towers and head, the same parent.
///
/// # Errors
/// If a file cannot be read or written; nothing is left at `out` then.
pub fn with_categories(
    bundle: &Bundle,
    categories: Vec<Category>,
    out: &Path,
) -> Result<Bundle, BundleError> {
    let manifest = bundle.manifest();
    let mut writer = BundleWriter::new(out)?;
    for name in manifest.files.keys() {
        writer.add_copy(name, &bundle.root().join(name))?;
    }
    writer.finish(Draft {
        // The id is this name and a hash of the content.
        name: bundle
            .id()
            .rsplit_once('-')
            .map_or("model", |(name, _)| name)
            .to_owned(),
        parent: manifest.parent.clone(),
        created: chrono::Utc::now(),
        categories,
        dims: manifest.dims,
        preprocessing: manifest.preprocessing.clone(),
        calibration: manifest.calibration,
        metrics: manifest.metrics.clone(),
        lineage: manifest.lineage.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{CategoryList, ClipFolder, Init};
    use crate::trained_on::LEAST_IMAGES;

    #[test]
    fn the_towers_stay_and_the_parent_is_named() {
        let folder = tempfile::TempDir::new().unwrap();
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo-clip");
        let clip = ClipFolder::open(&clip).unwrap();
        let list = folder.path().join("names.txt");
        std::fs::write(&list, "cat\ndog\n").unwrap();
        let init = Init {
            clip: &clip,
            name: "first",
            source: "the demo's weights",
            categories: &CategoryList::read(&list).unwrap(),
            tower: Default::default(),
            views: crate::views::Views::default(),
            fit: Default::default(),
        };
        let first = init.run(&folder.path().join("first"), |_| ()).unwrap();
        let (head, _) = first.head().unwrap();
        let towers = Towers::from(&first);
        let dim = first.manifest().dims.embedding;
        let embeddings = vec![1.0; dim * LEAST_IMAGES];
        assert_eq!(TrainedOn::of_bundle(&first).unwrap(), None);
        let mut categories = first.manifest().categories.clone();
        categories[1].threshold = 0.25;
        let head = NewHead {
            name: "second",
            files: &head.to_files(Some(towers.positions()), &[]).unwrap(),
            categories: categories.clone(),
            calibration: Calibration { temperature: 2.0 },
            metrics: BTreeMap::new(),
            method: "by hand".into(),
            label_snapshot: Some("labels".into()),
            seed: None,
            trained_on: TrainedOn::of(&embeddings, dim),
        };
        let second = towers.with_head(head, &folder.path().join("second"));
        let second = second.unwrap();
        let (old, new) = (first.manifest(), second.manifest());
        assert_eq!(
            TrainedOn::of_bundle(&second).unwrap(),
            TrainedOn::of(&embeddings, dim)
        );
        assert_eq!(new.parent.as_deref(), Some(first.id()));
        assert_eq!(new.lineage.source, old.lineage.source);
        assert_eq!((&new.categories, new.dims), (&categories, old.dims));
        let same = |name: &&String| old.files[*name] == new.files[*name];
        let changed: Vec<_> = old.files.keys().filter(|name| !same(name)).collect();
        assert!(
            changed.iter().all(|name| name.starts_with("head.")),
            "{changed:?}"
        );
        assert_eq!(old.files.len() + 1, new.files.len(), "{TRAINED_ON_FILE}");
        // Which is not a tower's: the next head was trained on others.
        let towers = Towers::from(&second).files;
        assert!(towers.iter().all(|(name, _)| name != TRAINED_ON_FILE));
    }
}
