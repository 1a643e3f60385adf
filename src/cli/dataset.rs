//! What `train` and `eval` share: labels, images and features from arguments, with a progress bar.

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use tagstream_core::config::{ObjectStoreConfig, Provider};
use tagstream_core::error::usage;
use tagstream_model::text::ClipTextEncoder;
use tagstream_model::{OpenedModel, open};
use tagstream_train::arrays;
use tagstream_train::features::{Encoder, Extraction, ExtractionProgress, FeatureStore};
use tagstream_train::groups::{Candidates, GroupConfig, GroupPattern, Groups};
use tagstream_train::images::ImageSource;
use tagstream_train::labels::{LabelMatrix, read_split};

/// Where labelled images come from.
#[derive(Debug, Clone, Args)]
pub(super) struct DataArgs {
    /// Labels: CSV (or .gz) with image_id,label,state; what is not mentioned is unknown.
    #[arg(long)]
    pub labels: PathBuf,
    /// Images: a folder or a tar, found by <image_id>.<ext>.
    #[arg(long)]
    pub images: PathBuf,
    /// Only the images of one split: a CSV with image_id,split and the split's name, as FILE:NAME.
    #[arg(long, value_name = "FILE:NAME")]
    pub split: Option<String>,
    /// Leave missing and unreadable images out instead of stopping.
    #[arg(long)]
    pub skip_bad_images: bool,
    /// Compute features anew and keep none.
    #[arg(long)]
    pub no_cache: bool,
    /// Most disk space of the feature cache, GiB.
    #[arg(long, value_name = "GIB", default_value_t = 20)]
    pub cache_limit_gib: u64,
    /// Most memory for features, GiB; more are read from the cache batch by batch.
    #[arg(long, value_name = "GIB", default_value_t = 4)]
    pub feature_memory_gib: u64,
    /// cpu, cuda, tensorrt or auto.
    #[arg(long, default_value = "cpu")]
    pub provider: String,
}

/// Labelled images with their features, row by row.
pub(super) struct LabelledFeatures {
    /// What is known of each image, in the order of the images.
    pub labels: LabelMatrix,
    /// Features, in the order of the labels' images.
    pub features: FeatureStore,
    /// Images left out.
    pub skipped: usize,
    /// SHA-256 of the encoder, hex.
    pub encoder_hash: String,
}

impl LabelledFeatures {
    /// Which images are relatives: those whose ids `pattern` gives the same name, the others by
    /// near-duplicates.
    pub(super) fn groups(&self, pattern: Option<&str>) -> anyhow::Result<Groups> {
        let ids = self.labels.images();
        let pattern = pattern.map(GroupPattern::new).transpose();
        let pattern = pattern.map_err(|error| usage(error.to_string()))?;
        let name = |id: &String| pattern.as_ref()?.group(id).map(str::to_owned);
        let named: Vec<Option<String>> = ids.iter().map(name).collect();
        let candidates = Candidates {
            ids,
            named: &named,
            settled: &HashMap::new(),
            embeddings: arrays::rows(self.features.global(), self.features.dim())?,
        };
        Ok(Groups::find(&candidates, &GroupConfig::default()))
    }
}

impl DataArgs {
    /// Reads the labels (of `categories`, if given) and the features of their images.
    pub(super) fn load(
        &self,
        model: &OpenedModel,
        categories: Option<&[String]>,
    ) -> anyhow::Result<LabelledFeatures> {
        let labels = LabelMatrix::read(&self.labels, categories);
        let mut labels = labels.map_err(|error| usage(error.to_string()))?;
        if labels.ignored() > 0 {
            eprintln!(
                "{} labels name other categories and are ignored",
                labels.ignored()
            );
        }
        if let Some(split) = &self.split {
            let (file, name) = split.rsplit_once(':').ok_or_else(|| {
                usage(format!(
                    "--split {split} is not FILE:NAME, such as splits.csv:train"
                ))
            })?;
            labels = labels.select(
                &read_split(Path::new(file), name).map_err(|error| usage(error.to_string()))?,
            );
        }
        let encoder = self.encoder(model)?;
        let (features, skipped) = self.features(&encoder, labels.images(), false)?;
        let rows: Vec<usize> = skipped.iter().map(|skipped| skipped.row).collect();
        for skipped in skipped.iter().take(10) {
            eprintln!("left out: {} {}", skipped.id, skipped.error);
        }
        if !rows.is_empty() {
            labels = labels.without(&rows);
        }
        Ok(LabelledFeatures {
            labels,
            features,
            skipped: rows.len(),
            encoder_hash: encoder.hash().to_owned(),
        })
    }

    /// Opens the model's encoder.
    pub(super) fn encoder(&self, model: &OpenedModel) -> anyhow::Result<Encoder> {
        Ok(Encoder::open(
            &model.encoder(),
            model.preprocessing().clone(),
            provider(&self.provider)?,
            0,
        )?)
    }

    /// The features of `ids`, of their mirror images if `mirror`.
    pub(super) fn features(
        &self,
        encoder: &Encoder,
        ids: &[String],
        mirror: bool,
    ) -> anyhow::Result<(FeatureStore, Vec<tagstream_train::features::Skipped>)> {
        let images = ImageSource::open(&self.images).map_err(|error| usage(error.to_string()))?;
        if images.left_out().count() > 0 {
            eprintln!("{}: {}", self.images.display(), images.left_out());
        }
        let bar = bar(
            ids.len() as u64,
            "features {bar:30} {pos}/{len} images, {eta} left {msg}",
        );
        let defaults = Extraction::default();
        let extraction = Extraction {
            cache: if self.no_cache {
                None
            } else {
                defaults.cache.clone()
            },
            cache_limit: self.cache_limit_gib << 30,
            memory_limit: self.feature_memory_gib << 30,
            mirror,
            skip_bad: self.skip_bad_images,
            progress: &|progress: ExtractionProgress| {
                bar.set_position(progress.done as u64);
                if progress.cached > 0 {
                    bar.set_message(format!("({} from the cache)", progress.cached));
                }
            },
            ..defaults
        };
        let extracted = extraction.extract(encoder, &images, ids).context(
            "features cannot be had (--skip-bad-images leaves missing and unreadable images out)",
        );
        bar.finish_and_clear();
        let extracted = extracted?;
        Ok((extracted.features, extracted.skipped))
    }
}

/// Opens a `--model` argument: a bundle, a folder with encoder and text tower, or a registry's
/// address.
pub(super) fn open_model(argument: &str) -> anyhow::Result<OpenedModel> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let opened = runtime.block_on(open(argument, &ObjectStoreConfig::default()));
    Ok(opened.map_err(|error| usage(error.to_string()))?)
}

/// Parses a `--provider` argument.
pub(super) fn provider(name: &str) -> anyhow::Result<Provider> {
    let quoted = serde_json::Value::String(name.to_owned());
    Ok(serde_json::from_value(quoted).map_err(|_| {
        usage(format!(
            "--provider {name} is none of cpu, cuda, tensorrt, auto"
        ))
    })?)
}

/// A progress bar on a terminal, nothing elsewhere.
pub(super) fn bar(length: u64, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).expect("the templates are ours");
    ProgressBar::new(length).with_style(style)
}

/// The zero-shot text features of category words, `[C, D]`, L2-normalised rows.
pub(super) fn text_features(
    model: &OpenedModel,
    prompts: &[String],
) -> anyhow::Result<(Vec<f32>, usize)> {
    let files = model
        .text()
        .ok_or_else(|| usage(format!("{} has no text tower", model.root().display())))?;
    let encoder = ClipTextEncoder::open(&files)?;
    Ok((encoder.embed(prompts, |_| ())?, encoder.dim()))
}
