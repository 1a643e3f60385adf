//! `bundle.json`: its types, its hashes and what must hold between its fields.

use super::{BundleError, ENCODER_FILE, HEAD_FILE, HEAD_WEIGHTS_FILE};
use crate::categories::{CategoryWords, TagForm, check_relations};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tagstream_core::digest;
use tagstream_image::preprocessing::Preprocessing;

/// The newest bundle format that this code writes and reads. Version 1 knows of a category its
/// name, prompt and threshold; version 2 also words and how it becomes a tag.
pub const FORMAT_VERSION: u32 = 2;

/// The oldest bundle format that is read, and what is written where no category needs more: older
/// builds read it.
const PLAIN_FORMAT: u32 = 1;

/// `bundle.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format, at most [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The model version that rows carry: a name, `-`, and the first 12 hex digits of
    /// [`Manifest::content_hash`].
    pub id: String,
    /// The bundle this one was trained from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// When the bundle was made.
    pub created: DateTime<Utc>,
    /// Categories in the order of the score vector.
    pub categories: Vec<Category>,
    /// Sizes of the tensors.
    pub dims: Dims,
    /// How pixels are prepared before the encoder.
    pub preprocessing: Preprocessing,
    /// SHA-256 (hex) of the canonical JSON of `preprocessing`.
    pub preprocessing_hash: String,
    /// What turns logits into probabilities.
    pub calibration: Calibration,
    /// Every other file of the bundle, by path relative to it.
    pub files: BTreeMap<String, FileEntry>,
    /// Quality figures, by name.
    pub metrics: BTreeMap<String, f64>,
    /// Where the bundle comes from.
    pub lineage: Lineage,
}

/// What a model can say of a picture, with the words that it is looked for by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// The name that labels and tags use.
    pub name: String,
    /// The words that stand for it in prompts (underscores as spaces, or a better name).
    pub prompt: String,
    /// A tag is written where the calibrated probability is at least this.
    pub threshold: f32,
    /// What it is looked for with, if that is more than `prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<CategoryWords>,
    /// How it becomes a tag, beside the threshold.
    #[serde(default, skip_serializing_if = "TagForm::is_usual")]
    pub tags: TagForm,
}

impl Category {
    /// A category of which nothing else is said.
    pub fn named(name: &str, prompt: &str, threshold: f32) -> Self {
        Category {
            name: name.to_owned(),
            prompt: prompt.to_owned(),
            threshold,
            words: None,
            tags: TagForm::default(),
        }
    }

    /// What people are shown for it.
    pub fn shown(&self) -> &str {
        self.tags.display.as_deref().unwrap_or(&self.name)
    }

    fn format(&self) -> u32 {
        match self.words.is_none() && self.tags.is_usual() {
            true => PLAIN_FORMAT,
            false => FORMAT_VERSION,
        }
    }
}

/// The oldest format that says all of these categories.
pub(super) fn format_of(categories: &[Category]) -> u32 {
    let formats = categories.iter().map(Category::format);
    formats.max().unwrap_or(PLAIN_FORMAT)
}

/// Whether this build reads bundles of this version.
pub fn is_read_format(version: u64) -> bool {
    (u64::from(PLAIN_FORMAT)..=u64::from(FORMAT_VERSION)).contains(&version)
}

/// Sizes of the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dims {
    /// D: width of the joint image-text space.
    pub embedding: usize,
    /// Rows of the dense feature map; N = `grid_height * grid_width`.
    pub grid_height: usize,
    /// Columns of the dense feature map.
    pub grid_width: usize,
}

/// probability = sigmoid(logit / temperature).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Greater than 0; 1 leaves logits as they are.
    pub temperature: f32,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// SHA-256 of the content, hex.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// Where a bundle comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// How the head was made (`zero-shot`, `trm-ml`, ...).
    pub method: String,
    /// What the encoder was made from, for people.
    pub source: String,
    /// Hash of the label snapshot the head was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_snapshot: Option<String>,
    /// Seed of the training run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Version of the code that made it.
    pub code_version: String,
}

/// Hex digits of the content hash that an id ends with.
const ID_DIGITS: usize = 12;

impl Manifest {
    /// SHA-256 (hex) of the canonical JSON of everything in here but `id` and `created`: the same
    /// content made twice has the same id.
    pub fn content_hash(&self) -> String {
        let mut content = serde_json::to_value(self).expect("a manifest is plain data");
        let fields = content.as_object_mut().expect("a struct is an object");
        fields.remove("id");
        fields.remove("created");
        digest::sha256(canonical_json(&content).as_bytes())
    }

    /// The id that `name` and the content give.
    pub fn id_for(&self, name: &str) -> String {
        format!("{name}-{}", &self.content_hash()[..ID_DIGITS])
    }

    /// N: positions of the dense feature map.
    pub fn positions(&self) -> usize {
        self.dims.grid_height * self.dims.grid_width
    }

    /// Checks what must hold between the fields; says nothing about files.
    pub(super) fn check(&self) -> Result<(), BundleError> {
        let flaw = |what: String| Err(BundleError::Manifest { what });
        if self.categories.is_empty() {
            return flaw("there is no category".to_owned());
        }
        let mut names = BTreeSet::new();
        for category in &self.categories {
            if category.name.trim().is_empty() {
                return flaw("a category has no name".to_owned());
            }
            if !names.insert(category.name.as_str()) {
                return flaw(format!("the category `{}` is there twice", category.name));
            }
            if !(0.0..=1.0).contains(&category.threshold) {
                return flaw(format!(
                    "the threshold of `{}` is {}, not a probability",
                    category.name, category.threshold
                ));
            }
        }
        self.check_words()?;
        let Dims {
            embedding,
            grid_height,
            grid_width,
        } = self.dims;
        if embedding == 0 || grid_height == 0 || grid_width == 0 {
            return flaw(format!("sizes must not be 0: {:?}", self.dims));
        }
        if self.preprocessing.height == 0 || self.preprocessing.width == 0 {
            return flaw(format!("sizes must not be 0: {:?}", self.preprocessing));
        }
        let temperature = self.calibration.temperature;
        if !(temperature.is_finite() && temperature > 0.0) {
            return flaw(format!("the temperature is {temperature}, not above 0"));
        }
        for required in [ENCODER_FILE, HEAD_FILE, HEAD_WEIGHTS_FILE] {
            if !self.files.contains_key(required) {
                return flaw(format!("`files` does not list `{required}`"));
            }
        }
        let hash = preprocessing_hash(&self.preprocessing);
        if self.preprocessing_hash != hash {
            return flaw(format!(
                "`preprocessing_hash` is {}, but the preprocessing hashes to {hash}",
                self.preprocessing_hash
            ));
        }
        let hash = self.content_hash();
        let Some((name, digits)) = self.id.rsplit_once('-') else {
            return flaw(format!("the id `{}` is not `<name>-<hash>`", self.id));
        };
        if name.is_empty() || digits != &hash[..ID_DIGITS] {
            return flaw(format!(
                "the id `{}` does not belong to this content, whose id would end in `{}`; a \
                 changed bundle is a new \
                 model and needs its own id",
                self.id,
                &hash[..ID_DIGITS]
            ));
        }
        Ok(())
    }
}

impl Manifest {
    /// What must hold of words and relations of categories.
    fn check_words(&self) -> Result<(), BundleError> {
        let flaw = |what: String| Err(BundleError::Manifest { what });
        let needed = format_of(&self.categories);
        if self.format_version < needed {
            return flaw(format!(
                "its categories have words or relations, which format version {} does not know",
                self.format_version
            ));
        }
        for category in &self.categories {
            let Some(words) = &category.words else {
                continue;
            };
            let name = &category.name;
            let first = words.phrases.first();
            if first.is_none_or(|phrase| phrase.text != category.prompt) {
                return flaw(format!("the prompt of `{name}` is not its first phrase"));
            }
            if words.templates.count() == 0 {
                return flaw(format!("`{name}` has no template"));
            }
            let all = words.phrases.iter().chain(&words.negative);
            let bad = |weight: f32| !(weight > 0.0 && weight.is_finite());
            if all.into_iter().any(|phrase| bad(phrase.weight)) {
                return flaw(format!(
                    "a phrase of `{name}` has a weight that is not above 0"
                ));
            }
        }
        match check_relations(&self.categories) {
            Ok(()) => Ok(()),
            Err((at, what)) => flaw(format!("`{}`: {what}", self.categories[at].name)),
        }
    }
}

/// SHA-256 (hex) of the canonical JSON of `preprocessing`; files that hold embeddings carry it.
pub fn preprocessing_hash(preprocessing: &Preprocessing) -> String {
    let value = serde_json::to_value(preprocessing).expect("plain data");
    digest::sha256(canonical_json(&value).as_bytes())
}

/// JSON with sorted keys and without spaces.
pub(super) fn canonical_json(value: &serde_json::Value) -> String {
    use serde_json::Value;
    let text = |value: &Value| serde_json::to_string(value).expect("plain data");
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical_json).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            let fields: Vec<String> = sorted
                .into_iter()
                .map(|(key, value)| {
                    format!(
                        "{}:{}",
                        text(&Value::String(key.clone())),
                        canonical_json(value)
                    )
                })
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        plain => text(plain),
    }
}
