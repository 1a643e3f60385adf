//! `tagstream tag`: tag images and print or draw what was found.

mod parquet;

use super::labels::NamingArgs;
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use tagstream::ops::tag_page::{PageImage, PageTag, render};
use tagstream::stage::budget::Budget;
use tagstream::stage::fetch::{FetchError, Fetcher};
use tagstream_core::config::{FetchConfig, ObjectStoreConfig};
use tagstream_core::error::Exit;
use tagstream_core::events::{BoundingBox, Tag};
use tagstream_core::redact::redact_place;
use tagstream_image::decode::ImageSize;
use tagstream_image::decoders::Decoders;
use tagstream_model::runtime::{Device, Runtime};
use tagstream_model::saliency::{levels, too_coarse, visible_part};
use tagstream_model::session::SessionError;
use tagstream_model::tagger::{Inference, LoadedModel, Tagger, TaggerOptions};

/// Arguments of `tagstream tag`.
#[derive(Debug, Args)]
pub(super) struct TagArgs {
    /// Model: bundle directory or registry-url[@version].
    #[arg(long)]
    pub model: String,
    /// Write a self-contained page with pictures, tags, boxes and saliency maps.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print a JSON line for each image.
    #[arg(long)]
    pub json: bool,
    /// Write the predictions table into this folder or object store instead, as the stage does, for
    /// one folder, list (a path or address a line) or prefix (s3://bucket/prefix). Broken off at
    /// any point and run again, it goes on: no row is lost or doubled. Exit code 1 if images came
    /// to nothing, 75 if it has to be run again.
    #[arg(long, value_name = "OUT", conflicts_with_all = ["html", "json"])]
    pub parquet: Option<String>,
    /// With --parquet: the stage's configuration, for all but what is read and where it goes.
    #[arg(long, value_name = "FILE", requires = "parquet")]
    pub config: Option<PathBuf>,
    /// With --parquet: what rows call the list (the column `topic`); another list in the same table
    /// needs a name of its own.
    #[arg(long, value_name = "NAME", requires = "parquet", default_value = "listing",
        value_parser = parquet::list_name)]
    pub name: String,
    /// With --parquet: what becomes of a list that is not the one that the table was begun with.
    #[arg(long, value_enum, requires = "parquet", default_value = "refuse")]
    pub changed: parquet::Changed,
    /// With --parquet: JSON lines of the images that came to nothing, and why. By default
    /// NAME-dead-letters.jsonl in OUT, or here if OUT is an object store.
    #[arg(long, value_name = "FILE", requires = "parquet")]
    pub dead_letters: Option<PathBuf>,
    #[command(flatten)]
    pub naming: NamingArgs,
    /// Images, folders or URIs.
    #[arg(required = true, value_name = "IMAGE|DIR|LIST|URI")]
    pub inputs: Vec<String>,
}

/// A JSON line of the output.
#[derive(Serialize)]
struct Line<'a> {
    input: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<Tag>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What became of one input.
enum Outcome {
    Tagged(Box<(Inference, Vec<f32>)>),
    Failed(String),
}

/// Runs the command. An input that cannot be read or decoded is named, the others are tagged, and
/// the exit code is 1.
pub(super) fn run(args: TagArgs) -> anyhow::Result<Exit> {
    if let Some(out) = &args.parquet {
        return parquet::run(&args, out);
    }
    let inputs = super::pictures::expand(&args.inputs)?;
    let bundle = super::open_model(&args.model, &ObjectStoreConfig::default())?.into_bundle()?;
    let runtime = Runtime::load()?;
    let tagger = Tagger::open(&runtime, &bundle, TaggerOptions::on(Device::Cpu), None)?;
    let model = tagger.model().clone();
    let sources = Sources::new()?;
    let decoders = Decoders::default();
    let outcomes = tag_all(&tagger, inputs.len(), |index, pixels| {
        let bytes = sources.read(&inputs[index])?;
        let size = decoders.decode_into(&bytes, tagger.model().preprocessing(), pixels);
        size.map_err(|e| e.to_string())
    })?;
    let load = |index: usize| -> Result<image::RgbImage, String> {
        let bytes = sources.read(&inputs[index])?;
        decoders.decode_rgb(&bytes).map_err(|e| e.to_string())
    };

    let mut out = std::io::stdout().lock();
    let mut page = Vec::new();
    let mut failed = 0;
    for (index, (input, outcome)) in inputs.iter().zip(&outcomes).enumerate() {
        match outcome {
            None => anyhow::bail!("{} was passed over", redact_place(input)),
            Some(Outcome::Failed(error)) => {
                failed += 1;
                if args.json {
                    print_line(&mut out, input, model.id(), None, Some(error.clone()))?;
                }
                eprintln!("{}: {error}", redact_place(input));
            }
            Some(Outcome::Tagged(tagged)) => {
                let tags = named(&model, &tagged.0);
                if args.html.is_some() {
                    let picture = load(index).map_err(anyhow::Error::msg)?;
                    let title = redact_place(input);
                    page.push(page_image(&model, title, picture, tagged, &tags));
                }
                if args.json {
                    print_line(&mut out, input, model.id(), Some(tags), None)?;
                } else {
                    print_human(&mut out, &redact_place(input), &tags)?;
                }
            }
        }
    }
    out.flush()?;
    if let Some(path) = &args.html {
        let html = render(model.id(), &page)?;
        std::fs::write(path, html).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("{} pictures in {}", page.len(), path.display());
    }
    Ok(if failed == 0 {
        Exit::Success
    } else {
        Exit::Failure
    })
}

/// What became of each of `count` inputs; one that cannot be loaded does not keep the others from
/// being tagged.
fn tag_all(
    tagger: &Tagger,
    count: usize,
    load: impl Fn(usize, &mut [u8]) -> Result<ImageSize, String> + Sync,
) -> Result<Vec<Option<Outcome>>, SessionError> {
    let mut outcomes: Vec<Option<Outcome>> = (0..count).map(|_| None).collect();
    tagger.tag_each(
        count,
        false,
        |index, pixels| {
            let size = load(index, pixels)?;
            Ok((size.width, size.height))
        },
        |index, result: Result<_, String>| {
            outcomes[index] = Some(match result {
                Ok((inference, outputs)) => {
                    Outcome::Tagged(Box::new((inference, outputs.saliency)))
                }
                Err(error) => Outcome::Failed(error),
            });
        },
    )?;
    Ok(outcomes)
}

/// The tags of an image as they are printed: by name, with the boxes.
fn named(model: &LoadedModel, inference: &Inference) -> Vec<Tag> {
    let categories = &model.manifest.categories;
    let hits = inference.tags.iter().map(|hit| Tag {
        category: categories[hit.category].name.clone(),
        display: categories[hit.category].tags.display.clone(),
        score: hit.score,
        bounding_box: hit.bounding_box(),
        boxes: Some(hit.boxes()),
    });
    hits.collect()
}

/// An image on the page: each tag with that part of the saliency which is its category's.
fn page_image(
    model: &LoadedModel,
    title: String,
    picture: image::RgbImage,
    (inference, saliency): &(Inference, Vec<f32>),
    tags: &[Tag],
) -> PageImage {
    let locations = model.shape.locations;
    let covered = visible_part(model.preprocessing(), picture.dimensions());
    let maps = inference.tags.iter().map(|hit| {
        let category = model.decision.evidence(hit.category, &inference.scores);
        saliency[category * locations..(category + 1) * locations].to_vec()
    });
    let columns = model.manifest.dims.grid_width;
    let tags = tags.iter().zip(maps).map(|(tag, saliency)| {
        let boxes = tag.shown_boxes();
        // Heat where no region supports the tag would point at a place all the same; of a grid
        // that is too coarse for boxes it is all there is.
        let heat = !boxes.is_empty() || too_coarse(locations, columns);
        PageTag {
            category: tag.shown().to_owned(),
            score: tag.score,
            boxes,
            heat: if heat { levels(&saliency) } else { Vec::new() },
        }
    });
    PageImage {
        title,
        picture,
        columns,
        covered,
        tags: tags.collect(),
    }
}

fn print_line(
    out: &mut impl Write,
    input: &str,
    model_version: &str,
    tags: Option<Vec<Tag>>,
    error: Option<String>,
) -> anyhow::Result<()> {
    let line = Line {
        input,
        model_version,
        tags,
        error,
    };
    serde_json::to_writer(&mut *out, &line)?;
    writeln!(out)?;
    Ok(())
}

fn print_human(out: &mut impl Write, input: &str, tags: &[Tag]) -> std::io::Result<()> {
    writeln!(out, "{input}")?;
    for tag in tags {
        let boxes = tag.shown_boxes();
        let places: Vec<String> = boxes.iter().map(place).collect();
        let places = match places.is_empty() {
            true => "whole picture".to_owned(),
            false => places.join(", "),
        };
        writeln!(out, "  {:<24} {:.2}   {places}", tag.shown(), tag.score)?;
    }
    if tags.is_empty() {
        writeln!(out, "  no tag reached its threshold")?;
    }
    Ok(())
}

fn place(b: &BoundingBox) -> String {
    let percent = |share: f32| (100.0 * share).round();
    format!(
        "at {}%,{}%  {}% x {}%",
        percent(b.x),
        percent(b.y),
        percent(b.w),
        percent(b.h)
    )
}

/// Reads paths directly and URIs through the stage's fetcher.
struct Sources {
    runtime: tokio::runtime::Runtime,
    fetcher: Fetcher,
    budget: Budget,
}

impl Sources {
    fn new() -> anyhow::Result<Sources> {
        // Whoever types an address on the command line may read it: what is allowed is not
        // restricted here.
        let config = FetchConfig {
            allow_schemes: ["s3", "gs", "az", "http", "https", "data"]
                .map(String::from)
                .to_vec(),
            allow_buckets: vec!["*".into()],
            allow_private_addresses: true,
            ..FetchConfig::default()
        };
        Ok(Sources {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?,
            fetcher: Fetcher::new(&config, &ObjectStoreConfig::default())?,
            budget: Budget::new(256 << 20),
        })
    }

    fn read(&self, input: &str) -> Result<Vec<u8>, String> {
        let path = input.strip_prefix("file://").unwrap_or(input);
        if !path.contains("://") && !path.starts_with("data:") {
            return std::fs::read(path).map_err(|e| e.to_string());
        }
        let fetched = self
            .runtime
            .block_on(self.fetcher.fetch(input, &self.budget))
            .map_err(|e| e.to_string())?;
        let loaded = fetched.body.load();
        loaded
            .map(|bytes| bytes.to_vec())
            .map_err(|e| FetchError::unreadable(input, &e).to_string())
    }
}
