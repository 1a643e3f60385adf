//! `tagstream init`: make a bundle from CLIP weights and a list of categories.

mod parity;

use super::guess::GuessArgs;
use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use parity::Comparison;
use std::path::{Path, PathBuf};
use tagstream_core::error::{Exit, usage};
use tagstream_image::preprocessing::{Filter, Fit};
use tagstream_model::bundle::{Bundle, BundleWriter};
use tagstream_model::clip::vision::{DenseMode, Precision, TowerOptions};
use tagstream_model::init::hub::Hub;
use tagstream_model::init::{
    CategoryList, ClipFolder, FitChoice, Init, InitError, InitStep, fit_in_words, own_fit,
};
use tagstream_model::onnx::IntegerRange;
use tagstream_model::views::Views;

/// Arguments of `tagstream init`.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// CLIP weights: a directory, one file of weights in a directory, or hf:owner/name[@revision]
    /// on the Hugging Face hub. Layouts: docs/models.md.
    #[arg(long)]
    pub clip: String,
    /// Categories: a file with one name a line, or a table of names, words, parents, groups and
    /// more (docs/categories.md).
    #[arg(long)]
    pub categories: PathBuf,
    /// Where to write the bundle; must not exist.
    #[arg(long)]
    pub out: PathBuf,
    /// Width of the vision tower's weights and products.
    #[arg(long, value_enum, default_value_t = PrecisionName::Fp32)]
    pub precision: PrecisionName,
    /// Input size in pixels; default: the size that the tower was made for.
    #[arg(long)]
    pub input_size: Option<usize>,
    /// How features of locations are made.
    #[arg(long, visible_alias = "dense", value_enum, default_value_t = DenseModeName::Value)]
    pub dense_mode: DenseModeName,
    /// Further views of each picture that the encoder takes beside the whole, e.g. mirror,middle.
    /// Each costs the encoder as much as the whole.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub views: Vec<ViewName>,
    /// How pictures are fitted to the input. Embeddings mix only with those of the same fit.
    #[arg(long, value_enum, default_value_t = FitName::Squash)]
    pub fit: FitName,
    #[command(flatten)]
    pub guess: GuessArgs,
}

/// `--fit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FitName {
    /// The whole picture, whatever its shape.
    Squash,
    /// The short side resized, the centre cropped, as CLIP was trained.
    Crop,
    /// As the model's own files say: preprocessor_config.json, processor_config.json or
    /// open_clip_config.json.
    Model,
}

/// `--views`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ViewName {
    /// Left and right exchanged.
    Mirror,
    /// The middle, enlarged.
    Middle,
}

/// `--precision`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PrecisionName {
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats, for GPUs.
    Fp16,
    /// 8-bit integers, for processors; of a reduced range if this one lacks VNNI. Compared with
    /// fp32 on --pictures, or on drawn ones.
    Int8,
    /// 8-bit integers of the reduced range: for processors without VNNI, and right on all.
    Int8Reduced,
}

/// `--dense-mode`.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum DenseModeName {
    /// Value path of the last attention.
    Value,
    /// Transformers: queries with queries and keys with keys in the last attention, without
    /// residual and MLP (SCLIP, ClearCLIP).
    #[value(name = "self")]
    SelfCorrelating,
    /// Transformers: keys with keys, and more of what is near, without residual and MLP (NACLIP).
    Neighbour,
    /// Transformers: the last block's own outputs.
    Plain,
    /// Transformers: the value path without residual and MLP.
    ValueBare,
    /// ResNets: the value path with the interpolated positional embedding.
    ValuePositional,
}

impl InitArgs {
    fn tower(&self) -> TowerOptions {
        TowerOptions {
            precision: match self.precision {
                PrecisionName::Fp32 => Precision::Fp32,
                PrecisionName::Fp16 => Precision::Fp16,
                PrecisionName::Int8 => Precision::Int8(IntegerRange::of_this_processor()),
                PrecisionName::Int8Reduced => Precision::Int8(IntegerRange::Reduced),
            },
            input_size: self.input_size,
            dense_mode: match self.dense_mode {
                DenseModeName::Value => DenseMode::Value,
                DenseModeName::SelfCorrelating => DenseMode::SelfCorrelating,
                DenseModeName::Neighbour => DenseMode::Neighbour,
                DenseModeName::Plain => DenseMode::Plain,
                DenseModeName::ValueBare => DenseMode::ValueBare,
                DenseModeName::ValuePositional => DenseMode::ValuePositional,
            },
        }
    }
}

/// Runs the command.
pub(super) fn run(args: InitArgs) -> anyhow::Result<Exit> {
    args.guess.check()?;
    let categories =
        CategoryList::read(&args.categories).map_err(|error| usage(error.to_string()))?;
    let clip = weights(&args.clip)?;
    let comparison = Comparison::prepare(&args)?;
    let name = match Path::new(&args.clip).parent() {
        // One file of weights: the directory says whose they are.
        Some(directory) if Path::new(&args.clip).is_file() => {
            source_name(&directory.to_string_lossy())
        }
        _ => source_name(&args.clip),
    };
    let bar = ProgressBar::new(categories.len() as u64);
    bar.set_style(ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}")?);
    let init = Init {
        clip: &clip,
        name: &name,
        source: if args.clip.starts_with("hf:") {
            &args.clip
        } else {
            &name
        },
        categories: &categories,
        tower: args.tower(),
        views: Views {
            mirror: args.views.contains(&ViewName::Mirror),
            middle: args.views.contains(&ViewName::Middle),
        },
        fit: match args.fit {
            FitName::Squash => FitChoice::Squash,
            FitName::Crop => FitChoice::Crop,
            FitName::Model => FitChoice::Model,
        },
    };
    let bundle = write(&init, &args, &bar)?;
    let manifest = bundle.manifest();
    let fit = (manifest.preprocessing.fit, manifest.preprocessing.filter);
    eprintln!(
        "{}: {} categories, {}x{} pixels ({}), {}x{} locations of {} numbers, in {}",
        bundle.id(),
        manifest.categories.len(),
        manifest.preprocessing.height,
        manifest.preprocessing.width,
        fit_in_words(fit),
        manifest.dims.grid_height,
        manifest.dims.grid_width,
        manifest.dims.embedding,
        args.out.display()
    );
    say_own_fit(&clip, args.fit, fit);
    if let Some(comparison) = comparison {
        comparison.run(&init, &bundle)?;
    }
    Ok(Exit::Success)
}

/// What the model's own files say of the fit, where that was taken, or where it is another.
fn say_own_fit(clip: &ClipFolder, asked: FitName, fit: (Fit, Filter)) {
    // Files that cannot be followed matter to nobody who did not ask for them.
    let Ok(own) = own_fit(clip) else { return };
    let words = fit_in_words(own.fit);
    if asked == FitName::Model {
        eprintln!("pictures are fitted as {} says: {words}", own.said_by);
    } else if own.fit != fit {
        eprintln!(
            "{} says: {words}; embeddings that are to be mixed with others of this model need \
             --fit model",
            own.said_by
        );
    }
}

/// Writes the bundle, with guessed thresholds if pictures are given.
fn write(init: &Init<'_>, args: &InitArgs, bar: &ProgressBar) -> anyhow::Result<Bundle> {
    let make = |out: &Path| {
        let made = init.run(out, |step| match step {
            InitStep::Vision => bar.set_message("vision tower"),
            InitStep::Text(done) => {
                bar.set_message("categories");
                bar.set_position(done as u64);
            }
            InitStep::Write => bar.set_message("writing"),
            InitStep::Parity(_) => {}
        });
        bar.finish_and_clear();
        made.map_err(|error| match error {
            InitError::Categories(_) | InitError::Fit(_) => usage(error.to_string()).into(),
            other => anyhow::Error::new(other).context(format!("making a bundle of {}", args.clip)),
        })
    };
    if !args.guess.is_wanted() {
        return make(&args.out);
    }
    // Before the work, not behind it: a place that is taken.
    drop(BundleWriter::new(&args.out)?);
    // What thresholds are guessed with is no model yet.
    let aside = Aside::beside(&args.out);
    args.guess.apply(&make(&aside.0)?, |_| true, &args.out)
}

/// A folder that goes when nobody needs it any more.
pub(super) struct Aside(PathBuf);

impl Aside {
    /// One among temporary files; it is not made here.
    pub(super) fn in_temporary(what: &str) -> Self {
        let number = std::process::id();
        Aside(std::env::temp_dir().join(format!("tagstream-{what}-{number}")))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn beside(out: &Path) -> Self {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let number = std::process::id();
        Aside(out.with_file_name(format!(".{name}.unguessed-{number}")))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Whatever came of it, and if it was never made: nothing to say.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The weights that an argument `--clip` names.
pub(super) fn weights(clip: &str) -> anyhow::Result<ClipFolder> {
    let folder = match clip.strip_prefix("hf:") {
        Some(repository) => fetch(repository)?,
        None => PathBuf::from(clip),
    };
    Ok(ClipFolder::open(&folder).map_err(|error| usage(error.to_string()))?)
}

fn fetch(repository: &str) -> anyhow::Result<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    let bar = ProgressBar::no_length();
    bar.set_style(ProgressStyle::with_template(
        "{msg} {bar:30} {bytes}/{total_bytes}",
    )?);
    let folder = runtime.block_on(Hub::from_environment().fetch(
        repository,
        &mut |file, done, total| {
            bar.set_message(file.to_owned());
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(done);
        },
    ));
    bar.finish_and_clear();
    folder.with_context(|| format!("fetching hf:{repository}"))
}

/// The last part of a path or repository, of characters that do in an id.
fn source_name(clip: &str) -> String {
    let bare = clip.strip_prefix("hf:").unwrap_or(clip);
    let bare = bare.split('@').next().unwrap_or(bare);
    let last = Path::new(bare).file_name().unwrap_or_default();
    let name: String = last
        .to_string_lossy()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() {
        "clip".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_begin_with_the_sources_name() {
        assert_eq!(
            source_name("hf:openai/clip-vit-base-patch32@main"),
            "clip-vit-base-patch32"
        );
        assert_eq!(source_name("hf:acme/clip@refs/pr/7"), "clip");
        assert_eq!(source_name("models/demo clip/"), "demo-clip");
        assert_eq!(source_name(".."), "clip");
    }
}
