//! Which files of a folder or a repository make a layout, by their names alone.

use super::names::Names;
use super::refusals::{Refusal, refusal};
use std::collections::BTreeSet;

pub(super) const TOKENIZER: &str = "tokenizer.json";
/// What Hugging Face's libraries say about pixels: those of before transformers 5, and since.
pub(super) const PREPROCESSORS: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];
/// OpenCLIP's configuration.
pub(super) const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
/// What transformers calls the precisions in which it saves; the first of these is taken.
const VARIANTS: [&str; 3] = ["fp32", "fp16", "bf16"];

/// The names of tensors and configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// `config.json`.
    HuggingFace,
    /// `open_clip_config.json`.
    OpenClip,
    /// A TorchScript program as OpenAI published them, which says its sizes itself.
    OpenAi,
}

impl Family {
    /// The configuration's file.
    fn config(self) -> Option<&'static str> {
        match self {
            Self::HuggingFace => Some("config.json"),
            Self::OpenClip => Some(OPEN_CLIP_CONFIG),
            Self::OpenAi => None,
        }
    }

    /// What weights are called before their ending.
    fn stems(self) -> &'static [&'static str] {
        match self {
            Self::HuggingFace => &["model", "pytorch_model"],
            // The second is the name that the hub's converting robot leaves.
            Self::OpenClip => &["open_clip_model", "open_clip_pytorch_model"],
            Self::OpenAi => &[],
        }
    }
}

/// A checkpoint's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlannedWeights {
    /// One file.
    One(String),
    /// An index, and what is named like its pieces.
    Pieces { index: String, pieces: Vec<String> },
}

/// A tokenizer's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlannedTokenizer {
    /// `tokenizer.json`.
    Json(String),
    /// BERT's `vocab.txt`.
    Words(String),
    /// `vocab.json` and `merges.txt`.
    Pairs { vocabulary: String, merges: String },
}

/// The files of a layout, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub family: Family,
    pub config: Option<String>,
    pub weights: PlannedWeights,
    pub tokenizer: PlannedTokenizer,
    pub preprocessors: Vec<String>,
    /// Whether the weights have another name than the layout's first.
    pub unusual: bool,
}

impl Plan {
    /// All files of the layout, small ones first.
    pub(super) fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = self.config.iter().map(String::as_str).collect();
        match &self.tokenizer {
            PlannedTokenizer::Json(name) | PlannedTokenizer::Words(name) => files.push(name),
            PlannedTokenizer::Pairs { vocabulary, merges } => files.extend([&**vocabulary, merges]),
        }
        files.extend(self.preprocessors.iter().map(String::as_str));
        match &self.weights {
            PlannedWeights::One(name) => files.push(name),
            PlannedWeights::Pieces { index, pieces } => {
                files.push(index);
                files.extend(pieces.iter().map(String::as_str));
            }
        }
        files
    }
}

/// The layout that `names` make. `chosen` is the file of weights that somebody asked for.
pub(super) fn plan(names: &BTreeSet<String>, chosen: Option<&str>) -> Result<Plan, Refusal> {
    let folder = sentence_transformers(names).unwrap_or_default();
    let inside = Names {
        names,
        folder: folder.clone(),
    };
    if inside.has("adapter_config.json") || names.contains("adapter_config.json") {
        return Err(Refusal::Known(
            "is an adapter (adapter_config.json), which is nothing without its base model: merge \
             it (merge_and_unload of peft) and save the whole"
                .to_owned(),
        ));
    }
    let found = match chosen {
        Some(name) => inside.chosen(name),
        None => inside.weights(),
    };
    let Some((family, weights, unusual)) = found else {
        return Err(refusal(names, &inside));
    };
    let at = |name: &str| format!("{folder}{name}");
    Ok(Plan {
        family,
        config: family.config().map(at),
        weights,
        unusual,
        tokenizer: inside.tokenizer().ok_or(Refusal::NoTokenizer)?,
        preprocessors: match family {
            Family::HuggingFace => PREPROCESSORS
                .iter()
                .filter(|name| inside.has(name))
                .map(|name| at(name))
                .collect(),
            _ => Vec::new(),
        },
    })
}

/// The folder in which sentence-transformers keeps a CLIP, as in `0_CLIPModel/config.json`.
fn sentence_transformers(names: &BTreeSet<String>) -> Option<String> {
    if names.contains("config.json") || names.contains("open_clip_config.json") {
        return None;
    }
    names.iter().find_map(|name| {
        let (folder, file) = name.split_once('/')?;
        (file == "config.json" && folder.ends_with("_CLIPModel")).then(|| format!("{folder}/"))
    })
}

type Found = (Family, PlannedWeights, bool);

impl Names<'_> {
    /// Whole precision before what was narrowed, safetensors before pickles, OpenCLIP's files
    /// before Hugging Face's.
    fn weights(&self) -> Option<Found> {
        let families = [Family::OpenClip, Family::HuggingFace];
        let there = families
            .into_iter()
            .filter(|family| family.config().is_some_and(|config| self.has(config)));
        let there: Vec<Family> = there.collect();
        for variants in [false, true] {
            for ending in ["safetensors", "bin"] {
                for &family in &there {
                    for (i, stem) in family.stems().iter().enumerate() {
                        if let Some(weights) = self.named(stem, ending, variants) {
                            let usual = !variants && i == 0 && ending == "safetensors";
                            let whole = matches!(weights, PlannedWeights::One(_));
                            return Some((family, weights, !(usual && whole)));
                        }
                    }
                }
            }
        }
        let family = there.first().copied().unwrap_or(Family::OpenAi);
        let one = self.only(match family {
            Family::OpenAi => &[".pt"],
            _ => &[".pt", ".pth", ".ckpt"],
        })?;
        Some((family, PlannedWeights::One(self.at(one)), true))
    }

    /// The one file with one of these endings.
    fn only(&self, endings: &[&str]) -> Option<&str> {
        let mut all = self
            .here()
            .filter(|name| endings.iter().any(|ending| name.ends_with(ending)));
        let first = all.next()?;
        all.next().is_none().then_some(first)
    }

    fn named(&self, stem: &str, ending: &str, variants: bool) -> Option<PlannedWeights> {
        if !variants {
            let (name, index) = (
                format!("{stem}.{ending}"),
                format!("{stem}.{ending}.index.json"),
            );
            return if self.has(&name) {
                Some(PlannedWeights::One(self.at(&name)))
            } else {
                self.has(&index).then(|| self.pieces(&index))
            };
        }
        let of = |name: &str, before: &str, behind: &str| {
            let variant = name.strip_prefix(before)?.strip_suffix(behind)?;
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            (!variant.is_empty() && variant.chars().all(plain)).then(|| variant.to_owned())
        };
        let mut found: Vec<(String, bool, &str)> = Vec::new();
        for name in self.here() {
            let whole = of(name, &format!("{stem}."), &format!(".{ending}"));
            let index = of(name, &format!("{stem}.{ending}.index."), ".json");
            found.extend(whole.map(|variant| (variant, false, name)));
            found.extend(index.map(|variant| (variant, true, name)));
        }
        let rank = |variant: &str| VARIANTS.iter().position(|known| *known == variant);
        found.sort_by_key(|(variant, in_pieces, _)| {
            (
                rank(variant).unwrap_or(VARIANTS.len()),
                variant.clone(),
                *in_pieces,
            )
        });
        let (_, in_pieces, name) = found.into_iter().next()?;
        Some(match in_pieces {
            true => self.pieces(name),
            false => PlannedWeights::One(self.at(name)),
        })
    }

    /// An index and the files that are named like its pieces: `model-00001-of-00002.safetensors`,
    /// with a variant before or behind the number.
    fn pieces(&self, index: &str) -> PlannedWeights {
        let (name, variant) = index.split_once(".index.").unwrap_or((index, "json"));
        let (stem, ending) = name.split_once('.').unwrap_or((name, ""));
        let variant = variant
            .strip_suffix("json")
            .unwrap_or("")
            .trim_end_matches('.');
        let is_piece = |name: &&str| {
            let rest = name
                .strip_prefix(stem)
                .and_then(|rest| rest.strip_suffix(ending));
            rest.is_some_and(|rest| {
                let rest = rest.trim_end_matches('.');
                let number = match variant {
                    "" => Some(rest),
                    v => rest
                        .strip_prefix(&format!(".{v}"))
                        .or_else(|| rest.strip_suffix(&format!(".{v}"))),
                };
                number.is_some_and(|number| {
                    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
                    let number = number.strip_prefix('-').unwrap_or("?");
                    number
                        .split_once("-of-")
                        .is_some_and(|(a, b)| digits(a) && digits(b))
                })
            })
        };
        PlannedWeights::Pieces {
            pieces: self
                .here()
                .filter(is_piece)
                .map(|name| self.at(name))
                .collect(),
            index: self.at(index),
        }
    }

    /// The family that a file of weights belongs to which somebody chose.
    fn chosen(&self, name: &str) -> Option<Found> {
        let has = |family: Family| family.config().is_some_and(|config| self.has(config));
        let family = if has(Family::OpenClip)
            && (name.starts_with("open_clip") || !has(Family::HuggingFace))
        {
            Family::OpenClip
        } else if has(Family::HuggingFace) {
            Family::HuggingFace
        } else if name.ends_with(".pt") {
            Family::OpenAi
        } else {
            return None;
        };
        if [".onnx", ".gguf", ".h5", ".msgpack"]
            .iter()
            .any(|ending| name.ends_with(ending))
        {
            return None;
        }
        let weights = match name.ends_with(".json") {
            true => self.pieces(name),
            false => PlannedWeights::One(self.at(name)),
        };
        Some((family, weights, true))
    }

    /// In the folder, or beside it.
    fn tokenizer(&self) -> Option<PlannedTokenizer> {
        let folders = [self.folder.as_str(), ""];
        for folder in folders {
            let at = |name: &str| {
                let name = format!("{folder}{name}");
                self.names.contains(&name).then_some(name)
            };
            if let Some(json) = at(TOKENIZER) {
                return Some(PlannedTokenizer::Json(json));
            }
            if let (Some(vocabulary), Some(merges)) = (at("vocab.json"), at("merges.txt")) {
                return Some(PlannedTokenizer::Pairs { vocabulary, merges });
            }
            if let Some(words) = at("vocab.txt") {
                return Some(PlannedTokenizer::Words(words));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    fn weights(all: &[&str]) -> Vec<String> {
        let mut all = all.to_vec();
        all.push("tokenizer.json");
        let plan = plan(&names(&all), None).unwrap();
        match plan.weights {
            PlannedWeights::One(name) => vec![name],
            PlannedWeights::Pieces { index, pieces } => {
                std::iter::once(index).chain(pieces).collect()
            }
        }
    }

    #[test]
    fn whole_precision_then_safetensors_then_open_clip() {
        let (hf, oc) = ("config.json", "open_clip_config.json");
        for (files, first) in [
            (
                vec![hf, oc, "open_clip_model.safetensors", "model.safetensors"],
                2,
            ),
            (
                vec![hf, oc, "open_clip_pytorch_model.bin", "model.safetensors"],
                3,
            ),
            (
                vec![hf, oc, "open_clip_pytorch_model.bin", "pytorch_model.bin"],
                2,
            ),
            (vec![hf, "pytorch_model.bin", "model.fp16.safetensors"], 1),
            (
                vec![hf, "model.fp16.safetensors", "model.fp32.safetensors"],
                2,
            ),
            (
                vec![hf, "model.int8.safetensors", "model.bf16.safetensors"],
                2,
            ),
            (vec![oc, "open_clip_pytorch_model.safetensors"], 1),
            (vec![oc, "epoch_32.pt", "notes.txt"], 1),
            (vec!["ViT-B-32.pt"], 0),
        ] {
            assert_eq!(weights(&files), [files[first]], "{files:?}");
        }
    }

    #[test]
    fn pieces_are_those_of_their_index() {
        let plain = [
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.fp16-00001-of-00001.safetensors",
            "model-card.safetensors",
        ];
        assert_eq!(weights(&plain), plain[1..4]);
        let narrow = [
            "config.json",
            "pytorch_model.bin.index.fp16.json",
            "pytorch_model.fp16-00001-of-00002.bin",
            "pytorch_model-00002-of-00002.fp16.bin",
            "pytorch_model-00001-of-00002.bin",
        ];
        let found = weights(&narrow);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().all(|name| name.contains("fp16")), "{found:?}");
    }

    #[test]
    fn a_folder_of_sentence_transformers_is_looked_into() {
        let all = names(&[
            "modules.json",
            "0_CLIPModel/config.json",
            "0_CLIPModel/pytorch_model.bin",
            "0_CLIPModel/vocab.json",
            "0_CLIPModel/merges.txt",
            "0_CLIPModel/preprocessor_config.json",
        ]);
        let plan = plan(&all, None).unwrap();
        let expected = [
            "config.json",
            "vocab.json",
            "merges.txt",
            "preprocessor_config.json",
            "pytorch_model.bin",
        ];
        assert_eq!(
            plan.files(),
            expected.map(|name| format!("0_CLIPModel/{name}"))
        );
    }
}
