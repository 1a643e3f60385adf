//! The layouts in which CLIP weights come.

mod names;
mod plan;
mod refusals;

use super::InitError;
use crate::bundle::{BundleError, ENCODER_FILE};
use crate::clip::text::TextError;
use crate::clip::text_config::TextConfig;
use crate::clip::tokenizer::ClipTokenizer;
use crate::clip::vision::{PreprocessorFile, VisionConfig};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::clip::{byte_pairs, open_ai, word_pieces};
use crate::source::{EncoderFolder, OpenError};
use crate::text::{ClipTextEncoder, TextEncoderError};
use plan::{Family, Plan, PlannedTokenizer, PlannedWeights, TOKENIZER};
use refusals::Refusal;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A folder with CLIP weights.
#[derive(Debug, Clone)]
pub struct ClipFolder {
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    /// Weights of both towers, a configuration, a tokenizer.
    Weights { folder: PathBuf, plan: Plan },
    /// `encoder.onnx` with a text tower.
    Encoder(EncoderFolder),
}

/// Why a folder is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Nothing known is there.
    #[error(
        "{} holds no CLIP weights: looked for open_clip_config.json + open_clip_model.safetensors \
         (or open_clip_pytorch_model.bin), config.json + model.safetensors (or \
         pytorch_model.bin), one .pt of OpenAI, and encoder.onnx + text_encoder.safetensors",
        .0.display()
    )]
    Unknown(PathBuf),
    /// Something known is there that will not do.
    #[error("{} {reason}", .folder.display())]
    Refused {
        /// The folder.
        folder: PathBuf,
        /// What it is, and what would do.
        reason: String,
    },
    /// A file is missing.
    #[error("{} lacks {missing}; {hint}", .folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The file.
        missing: String,
        /// Where it is had.
        hint: &'static str,
    },
    /// A ready-made encoder cannot be used.
    #[error(transparent)]
    Encoder(#[from] OpenError),
    /// A file cannot be read.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

const TOKENIZER_HINT: &str = "CLIP's is part of openai/clip-vit-base-patch32 on the Hugging Face \
                              hub (vocab.json and merges.txt will do, too)";

impl ClipFolder {
    /// Finds out which layout `path` has: a folder, or one file of weights in a folder, where there
    /// are several.
    ///
    /// # Errors
    /// [`LayoutError`] says what was looked for, or what was found instead.
    pub fn open(path: &Path) -> Result<Self, LayoutError> {
        let chosen = path.file_name().filter(|_| path.is_file());
        let chosen = chosen.map(|name| name.to_string_lossy().into_owned());
        let folder = match (&chosen, path.parent()) {
            (Some(_), Some(parent)) if parent.as_os_str().is_empty() => Path::new("."),
            (Some(_), Some(parent)) => parent,
            _ => path,
        };
        let encoder = chosen.as_deref().is_none_or(|name| name == ENCODER_FILE);
        if encoder && folder.join(ENCODER_FILE).is_file() {
            let content = Content::Encoder(EncoderFolder::open(folder)?);
            return Ok(Self { content });
        }
        let names = listing(folder)?;
        let mut plan = plan::plan(&names, chosen.as_deref()).map_err(|refusal| {
            let folder = folder.to_path_buf();
            match refusal {
                Refusal::Unknown => LayoutError::Unknown(folder),
                Refusal::Known(reason) => LayoutError::Refused { folder, reason },
                Refusal::NoTokenizer => LayoutError::Missing {
                    folder,
                    missing: TOKENIZER.to_owned(),
                    hint: TOKENIZER_HINT,
                },
            }
        })?;
        check_modules(folder, &names)?;
        if let PlannedWeights::Pieces { index, pieces } = &mut plan.weights {
            *pieces = pieces_of(folder, index)?;
        }
        let folder = folder.to_path_buf();
        Ok(Self {
            content: Content::Weights { folder, plan },
        })
    }

    /// Of the files that a repository holds, those that a layout needs.
    ///
    /// # Errors
    /// Why they make no layout: what the repository is, or what it lacks.
    pub fn files_needed(available: &[String]) -> Result<Vec<String>, String> {
        // Names become paths and addresses: none may lead out of its folder, or be something else
        // there.
        let plain = |name: &&String| {
            let character = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let part = |part: &str| !part.starts_with('.') && part.chars().all(character);
            name.split('/').all(|each| !each.is_empty() && part(each))
        };
        let names: BTreeSet<String> = available.iter().filter(plain).cloned().collect();
        match plan::plan(&names, None) {
            Ok(plan) => Ok(plan.files().into_iter().map(str::to_owned).collect()),
            Err(Refusal::Known(reason)) => Err(reason),
            Err(Refusal::NoTokenizer) => Err(format!("lacks {TOKENIZER}; {TOKENIZER_HINT}")),
            Err(Refusal::Unknown) => {
                Err("has no CLIP's weights: it needs open_clip_config.json + \
                 open_clip_model.safetensors or config.json + model.safetensors (PyTorch's .bin \
                 will do, too), and tokenizer.json"
                    .to_owned())
            }
        }
    }

    /// The layout's name, for people; with the file of the weights where that is not the layout's
    /// usual one.
    pub fn kind(&self) -> String {
        let Content::Weights { plan, .. } = &self.content else {
            return "ready-made encoder".to_owned();
        };
        let kind = match plan.family {
            Family::HuggingFace => "Hugging Face layout",
            Family::OpenClip => "OpenCLIP layout",
            Family::OpenAi => "OpenAI's TorchScript",
        };
        let file = match &plan.weights {
            PlannedWeights::One(name) => name,
            PlannedWeights::Pieces { index, .. } => index,
        };
        match plan.unusual || file.contains('/') {
            true => format!("{kind}, {file}"),
            false => kind.to_owned(),
        }
    }

    /// Where the files were found.
    pub fn folder(&self) -> &Path {
        match &self.content {
            Content::Weights { folder, .. } => folder,
            Content::Encoder(folder) => folder.root(),
        }
    }

    /// The files that say how pictures get their size, of those that are there.
    pub(super) fn preprocessing_files(&self) -> PreprocessingFiles {
        let (folder, plan) = match &self.content {
            Content::Weights { folder, plan } => (folder, plan),
            Content::Encoder(encoder) => {
                let at = |name: &&str| encoder.root().join(name);
                let there = |path: &PathBuf| path.is_file();
                let open_clip = encoder.root().join(plan::OPEN_CLIP_CONFIG);
                let files: Vec<_> = plan::PREPROCESSORS.iter().map(at).filter(there).collect();
                return match files.is_empty() && open_clip.is_file() {
                    true => PreprocessingFiles::OpenClip(open_clip),
                    false => PreprocessingFiles::HuggingFace(files),
                };
            }
        };
        let at = |name: &String| folder.join(name);
        match (plan.family, &plan.config) {
            (Family::OpenClip, Some(config)) => PreprocessingFiles::OpenClip(at(config)),
            (Family::OpenAi, _) => PreprocessingFiles::OpenAi,
            _ => PreprocessingFiles::HuggingFace(plan.preprocessors.iter().map(at).collect()),
        }
    }

    /// Whether this is a ready-made encoder.
    pub fn is_encoder(&self) -> bool {
        matches!(self.content, Content::Encoder(_))
    }

    /// Opens the weights and reads what lies beside them.
    pub(super) fn parts(&self) -> Result<ClipSource<'_>, InitError> {
        let (folder, plan) = match &self.content {
            Content::Encoder(folder) => return Ok(ClipSource::Encoder(folder)),
            Content::Weights { folder, plan } => (folder, plan),
        };
        let read = |name: &String| {
            let path = folder.join(name);
            let content = std::fs::read_to_string(&path);
            content.map_err(|source| LayoutError::Io { path, source })
        };
        let names = match &plan.weights {
            PlannedWeights::One(name) => std::slice::from_ref(name),
            PlannedWeights::Pieces { pieces, .. } => pieces,
        };
        let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        let weights = WeightFiles::open(&paths)?;
        let config_path = plan.config.as_ref().map(|name| folder.join(name));
        let config = match &plan.config {
            Some(name) => read(name)?,
            None => open_ai::config(&weights)?,
        };
        let vision = match plan.family {
            Family::HuggingFace => {
                let files = plan
                    .preprocessors
                    .iter()
                    .map(|name| Ok((name, read(name)?)));
                let files = files.collect::<Result<Vec<_>, LayoutError>>()?;
                let files = files
                    .iter()
                    .map(|(name, json)| PreprocessorFile { name, json });
                VisionConfig::hugging_face(&config, &files.collect::<Vec<_>>())?
            }
            Family::OpenClip | Family::OpenAi => VisionConfig::open_clip_of(&config, &weights)?,
        };
        let text = TextConfig::from_json(&config).map_err(|source| {
            let path = config_path.unwrap_or_else(|| weights.path().to_path_buf());
            TextEncoderError::from(TextError::Config { path, source })
        })?;
        let (tokenizer_path, tokenizer_json) = match &plan.tokenizer {
            PlannedTokenizer::Json(name) => (folder.join(name), read(name)?.into_bytes()),
            PlannedTokenizer::Words(name) => {
                let path = folder.join(name);
                let made = word_pieces::tokenizer_json(&read(name)?);
                let made = made.map_err(|reason| LayoutError::Malformed {
                    path: path.clone(),
                    reason,
                })?;
                (path, made)
            }
            PlannedTokenizer::Pairs { vocabulary, merges } => {
                let path = folder.join(vocabulary);
                let made = byte_pairs::tokenizer_json(&read(vocabulary)?, &read(merges)?);
                let made = made.map_err(|reason| LayoutError::Malformed {
                    path: path.clone(),
                    reason,
                })?;
                (path, made)
            }
        };
        Ok(ClipSource::Weights(Box::new(ClipParts {
            tokenizer: ClipTokenizer::for_tower(&tokenizer_json, &tokenizer_path, &text)
                .map_err(TextEncoderError::from)?,
            tokenizer_json,
            vision,
            text,
            config,
            weights,
        })))
    }
}

/// Where it stands how a model's pictures get their size.
pub(super) enum PreprocessingFiles {
    /// In none, one or both of Hugging Face's two files.
    HuggingFace(Vec<PathBuf>),
    /// In OpenCLIP's configuration.
    OpenClip(PathBuf),
    /// In OpenAI's library, which knows one way only.
    OpenAi,
}

/// What a bundle is made from.
pub(super) enum ClipSource<'a> {
    /// A graph and a text tower, as they are.
    Encoder(&'a EncoderFolder),
    /// Weights of both towers.
    Weights(Box<ClipParts>),
}

/// A CLIP as its files have it.
pub(super) struct ClipParts {
    pub vision: VisionConfig,
    pub text: TextConfig,
    pub weights: WeightFiles,
    /// The content of the configuration's file, or of the one that the weights stand for.
    pub config: String,
    pub tokenizer: ClipTokenizer,
    /// The content of `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
}

impl ClipParts {
    /// What the weights say about logits: `logit_scale` (a logarithm) and `logit_bias`.
    pub(super) fn logit(&self) -> Result<(Option<f32>, Option<f32>), WeightsError> {
        Ok((
            self.weights.read_number("logit_scale")?,
            self.weights.read_number("logit_bias")?,
        ))
    }

    /// The text tower's tensors alone, as the content of a safetensors file, in the precision they
    /// come in.
    pub(super) fn text_weights(&self) -> Result<Vec<u8>, WeightsError> {
        of_the_text(&self.weights)
    }

    /// The text tower, loaded.
    pub(super) fn text_encoder(&self) -> Result<ClipTextEncoder, TextEncoderError> {
        let tower = ClipTextEncoder::new(&self.weights, self.text.clone(), self.tokenizer.clone());
        Ok(tower?)
    }
}

/// The same of one file.
pub(super) fn text_weights(path: &Path) -> Result<Vec<u8>, WeightsError> {
    of_the_text(&WeightFiles::open(&[path])?)
}

fn of_the_text(weights: &WeightFiles) -> Result<Vec<u8>, WeightsError> {
    let vision = ["visual.", "vision_model.", "visual_projection."];
    weights.subset(|name| !vision.iter().any(|prefix| name.starts_with(prefix)))
}

/// What the configuration of a ready-made encoder says about logits: `logit_scale_global` (a
/// logarithm) and `logit_bias_global`.
pub(super) fn encoder_logit(
    folder: &EncoderFolder,
) -> Result<(Option<f32>, Option<f32>), InitError> {
    let path = folder.text().config;
    let json = std::fs::read(&path).map_err(|source| LayoutError::Io {
        path: path.clone(),
        source,
    })?;
    let config: serde_json::Value =
        serde_json::from_slice(&json).map_err(|source| BundleError::Json { path, source })?;
    let number = |key: &str| config.get(key)?.as_f64().map(|x| x as f32);
    Ok((number("logit_scale_global"), number("logit_bias_global")))
}

/// The files of a folder, and of those inside it that a layout may lie in.
fn listing(folder: &Path) -> Result<BTreeSet<String>, LayoutError> {
    let mut names = BTreeSet::new();
    let mut read = |at: &Path, prefix: &str, folders: &mut Vec<String>| {
        let io = |source| LayoutError::Io {
            path: at.to_path_buf(),
            source,
        };
        for entry in std::fs::read_dir(at).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let Some(name) = name.to_str() else { continue };
            // The hub's cache holds links: what they lead to counts.
            let path = at.join(name);
            if path.is_file() {
                names.insert(format!("{prefix}{name}"));
            } else if path.is_dir() && (name == "onnx" || name.ends_with("_CLIPModel")) {
                folders.push(name.to_owned());
            }
        }
        Ok::<(), LayoutError>(())
    };
    let mut folders = Vec::new();
    read(folder, "", &mut folders)?;
    for name in std::mem::take(&mut folders) {
        read(&folder.join(&name), &format!("{name}/"), &mut folders)?;
    }
    Ok(names)
}

/// The pieces that an index names, in their order.
fn pieces_of(folder: &Path, index: &str) -> Result<Vec<String>, LayoutError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let path = folder.join(index);
    let content = std::fs::read(&path).map_err(|source| LayoutError::Io {
        path: path.clone(),
        source,
    })?;
    let malformed = |reason: String| LayoutError::Malformed {
        path: path.clone(),
        reason,
    };
    let read: Index =
        serde_json::from_slice(&content).map_err(|error| malformed(error.to_string()))?;
    let prefix = index.rsplit_once('/').map_or("", |(folder, _)| folder);
    let names: BTreeSet<String> = read.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(malformed("it names no files".to_owned()));
    }
    names
        .into_iter()
        .map(|name| {
            if name.contains(['/', '\\']) || name.starts_with('.') {
                return Err(malformed(format!("`{name}` is not beside it")));
            }
            let name = match prefix {
                "" => name,
                prefix => format!("{prefix}/{name}"),
            };
            match folder.join(&name).is_file() {
                true => Ok(name),
                false => Err(LayoutError::Missing {
                    folder: folder.to_path_buf(),
                    missing: name,
                    hint: "the index of the weights names it",
                }),
            }
        })
        .collect()
}

/// Refuses a sentence-transformers model that does more to a feature than its CLIP.
fn check_modules(folder: &Path, names: &BTreeSet<String>) -> Result<(), LayoutError> {
    const FILE: &str = "modules.json";
    if !names.contains(FILE) {
        return Ok(());
    }
    let path = folder.join(FILE);
    let content = std::fs::read(&path).map_err(|source| LayoutError::Io {
        path: path.clone(),
        source,
    })?;
    let modules: Vec<serde_json::Value> =
        serde_json::from_slice(&content).map_err(|error| LayoutError::Malformed {
            path,
            reason: error.to_string(),
        })?;
    let types = modules
        .iter()
        .filter_map(|module| module.get("type")?.as_str());
    // Features are normalised here anyway.
    let harmless = [".CLIPModel", ".Transformer", ".Normalize"];
    let mut others = types.filter(|kind| !harmless.iter().any(|end| kind.ends_with(end)));
    match others.next() {
        None => Ok(()),
        Some(kind) => Err(LayoutError::Refused {
            folder: folder.to_path_buf(),
            reason: format!("puts {kind} behind its CLIP (modules.json), which is not done here"),
        }),
    }
}

#[cfg(test)]
mod tests;
