//! `eval --compare`: what a model without labels would gain by other prompts, other features of
//! locations and normalised scores, on a user's own few labels.

use super::EvalArgs;
use crate::cli::dataset::{DataArgs, LabelledFeatures};
use crate::cli::init::{Aside, weights};
use anyhow::Context as _;
use ndarray::{Array2, ArrayView2, Axis};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use tagstream_core::error::{Exit, usage};
use tagstream_image::preprocessing::Fit;
use tagstream_model::OpenedModel;
use tagstream_model::bundle::{Bundle, Category};
use tagstream_model::categories::{CategoryWords, TemplateSet, Templates, text_features};
use tagstream_model::clip::vision::{DenseMode, TowerOptions};
use tagstream_model::head::{ExportedHead, ZeroShot};
use tagstream_model::init::{CategoryList, ClipFolder, FitChoice, Init};
use tagstream_model::text::ClipTextEncoder;
use tagstream_model::views::Views;
use tagstream_train::eval::metrics;
use tagstream_train::trainer::scoring::Scorer;

/// Resamples of the pictures.
const RESAMPLES: usize = 200;
/// The share of resamples in which a way must be ahead to be taken.
const SURE: f64 = 0.95;
/// Modes that may be compared, if the tower has them.
const MODES: [(&str, DenseMode); 3] = [
    ("value", DenseMode::Value),
    ("self", DenseMode::SelfCorrelating),
    ("neighbour", DenseMode::Neighbour),
];

/// One way to tag without labels, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Way {
    /// How features of locations are made.
    dense: String,
    /// The set of templates.
    templates: &'static str,
    /// Whether every picture's scores were standardised over the categories.
    standardised: bool,
    /// Mean average precision, percent.
    map: f64,
    #[serde(skip)]
    logits: Array2<f32>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Compared<'a> {
    ways: &'a [Way],
    /// Which of them to take.
    take: usize,
    /// The share of resampled pictures on which it is ahead of the usual way.
    ahead: f64,
}

/// Runs the comparison for a bundle.
pub(super) fn run(
    args: &EvalArgs,
    model: &OpenedModel,
    bundle: &Bundle,
    data: &LabelledFeatures,
) -> anyhow::Result<Exit> {
    let text = ClipTextEncoder::open(
        &model
            .text()
            .ok_or_else(|| usage(format!("{} has no text tower", args.model)))?,
    )?;
    let categories = &bundle.manifest().categories;
    let sets = TemplateSet::NAMES
        .iter()
        .map(|(name, set)| Ok((*name, in_templates(categories, *set, &text)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut ways = Vec::new();
    match &args.clip {
        None => ways_of(&mut ways, "the bundle's", &sets, (data, text.dim()))?,
        Some(clip) => {
            let clip = weights(clip)?;
            for (name, mode) in MODES {
                let Some(features) = features_in(mode, &clip, &args.data, bundle)? else {
                    eprintln!("--dense {name}: not of this tower");
                    continue;
                };
                ways_of(&mut ways, name, &sets, (&features, text.dim()))?;
            }
        }
    }
    let chosen = choose(&ways, data.labels.states(), data.labels.categories())?;
    told(args, &ways, chosen)
}

/// The text features of the categories' own words in other templates.
fn in_templates(
    categories: &[Category],
    set: TemplateSet,
    text: &ClipTextEncoder,
) -> anyhow::Result<Vec<f32>> {
    let changed: Vec<Category> = categories
        .iter()
        .map(|category| {
            let mut category = category.clone();
            let words = category.words.take();
            let mut words = words.unwrap_or_else(|| CategoryWords::plain(&category.prompt));
            words.templates = Templates::Named(set);
            category.words = Some(words);
            category
        })
        .collect();
    let changed: Vec<&Category> = changed.iter().collect();
    Ok(text_features(&changed, text, |_| ())?)
}

/// The features of the labelled pictures with locations read in another way; `None` if the tower
/// has no such way.
fn features_in(
    mode: DenseMode,
    clip: &ClipFolder,
    data: &DataArgs,
    bundle: &Bundle,
) -> anyhow::Result<Option<LabelledFeatures>> {
    let manifest = bundle.manifest();
    let (categories, own) = (&manifest.categories, &manifest.preprocessing);
    let folder = Aside::in_temporary("compare");
    std::fs::create_dir_all(folder.path())?;
    let (list, out) = (
        folder.path().join("categories.txt"),
        folder.path().join("model"),
    );
    std::fs::write(&list, format!("{}\n", categories[0].name))?;
    let list = CategoryList::read(&list)?;
    let init = Init {
        clip,
        name: "compared",
        source: "compared",
        categories: &list,
        tower: TowerOptions {
            dense_mode: mode,
            input_size: Some(own.height),
            ..TowerOptions::default()
        },
        views: Views::default(),
        fit: match own.fit {
            Fit::Squash => FitChoice::Squash,
            Fit::CenterCrop => FitChoice::Crop,
        },
    };
    match init.run(&out, |_| ()) {
        Ok(_) => {}
        // ResNets and ConvNeXt have the first mode only, and say so.
        Err(error) if mode != DenseMode::Value => {
            tracing::debug!(%error, "no such mode");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    }
    let names: Vec<String> = categories.iter().map(|c| c.name.clone()).collect();
    let opened = crate::cli::dataset::open_model(&out.to_string_lossy())?;
    data.load(&opened, Some(&names)).map(Some)
}

fn ways_of(
    ways: &mut Vec<Way>,
    dense: &str,
    sets: &[(&'static str, Vec<f32>)],
    (data, dim): (&LabelledFeatures, usize),
) -> anyhow::Result<()> {
    for (templates, features) in sets {
        let head = ExportedHead::zero_shot(features, dim, ZeroShot::default());
        let logits = Scorer::of_head(&head, &data.features)?.logits(&data.features)?;
        let raw = Array2::from_shape_vec(data.labels.states().dim(), logits)?;
        let normalised = standardised(raw.clone());
        for (standardised, logits) in [(false, raw), (true, normalised)] {
            let map = map(
                logits.view(),
                data.labels.states(),
                data.labels.categories(),
            )?;
            ways.push(Way {
                dense: dense.to_owned(),
                templates,
                standardised,
                map,
                logits,
            });
        }
    }
    Ok(())
}

fn map(
    logits: ArrayView2<'_, f32>,
    labels: ArrayView2<'_, i8>,
    names: &[String],
) -> anyhow::Result<f64> {
    let report = metrics::report(logits, labels, names).context("measuring")?;
    Ok(report.map_plain)
}

/// Every picture's scores with mean 0 and deviation 1 over the categories: what makes one picture
/// score high in everything goes (SPARC's standardisation; the one over pictures that follows there
/// changes no order within a category).
fn standardised(mut logits: Array2<f32>) -> Array2<f32> {
    for mut row in logits.rows_mut() {
        let mean = row.mean().unwrap_or(0.0);
        let deviation = row.std(0.0).max(f32::MIN_POSITIVE);
        row.mapv_inplace(|logit| (logit - mean) / deviation);
    }
    logits
}

/// The best way, and the share of resampled pictures on which it is ahead of the first.
fn choose(
    ways: &[Way],
    labels: ArrayView2<'_, i8>,
    names: &[String],
) -> anyhow::Result<(usize, f64)> {
    let better = |a: &usize, b: &usize| ways[*a].map.total_cmp(&ways[*b].map);
    // Of equals the first: the least change.
    let best = (0..ways.len()).rev().max_by(better).unwrap_or(0);
    if best == 0 {
        return Ok((0, 1.0));
    }
    let mut random = StdRng::seed_from_u64(0);
    let pictures = labels.nrows();
    let mut ahead = 0;
    for _ in 0..RESAMPLES {
        let drawn: Vec<usize> = (0..pictures)
            .map(|_| random.random_range(0..pictures))
            .collect();
        let labels = labels.select(Axis(0), &drawn);
        let of = |way: usize| {
            let logits = ways[way].logits.select(Axis(0), &drawn);
            map(logits.view(), labels.view(), names)
        };
        ahead += usize::from(of(best)? > of(0)?);
    }
    Ok((best, ahead as f64 / RESAMPLES as f64))
}

fn told(args: &EvalArgs, ways: &[Way], (best, ahead): (usize, f64)) -> anyhow::Result<Exit> {
    if args.json {
        let take = if ahead >= SURE { best } else { 0 };
        let compared = Compared { ways, take, ahead };
        println!("{}", serde_json::to_string(&compared)?);
        return Ok(Exit::Success);
    }
    eprintln!(
        "{:<14} {:<10} {:<14} {:>7}",
        "dense", "templates", "scores", "mAP"
    );
    for way in ways {
        let scores = if way.standardised {
            "standardised"
        } else {
            "as they are"
        };
        eprintln!(
            "{:<14} {:<10} {scores:<14} {:>7.2}",
            way.dense, way.templates, way.map
        );
    }
    let way = &ways[best];
    let said = format!(
        "--dense {}, templates `{}`, scores {}",
        way.dense,
        way.templates,
        if way.standardised {
            "standardised"
        } else {
            "as they are"
        }
    );
    match ahead >= SURE {
        true => eprintln!("take {said}"),
        false => eprintln!(
            "stay with the first: {said} is best here, but ahead of it on {:.0} % of resampled \
             pictures only; more labels would tell",
            100.0 * ahead
        ),
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn way(logits: Array2<f32>, labels: &Array2<i8>, names: &[String]) -> Way {
        Way {
            dense: "value".into(),
            templates: "one",
            standardised: false,
            map: map(logits.view(), labels.view(), names).unwrap(),
            logits,
        }
    }

    /// Pictures that score high in everything hide what the others hold.
    #[test]
    fn standardising_takes_away_what_a_picture_adds_to_all() {
        let truth = Array2::from_shape_fn((40, 4), |(row, column)| row % 4 == column);
        let labels = truth.mapv(|present| if present { 1i8 } else { -1 });
        let plain = truth.mapv(|present| if present { 1.0f32 } else { 0.0 });
        let shifted = Array2::from_shape_fn((40, 4), |at| plain[at] + 3.0 * (at.0 % 7) as f32);
        let names: Vec<String> = (0..4).map(|at| format!("c{at}")).collect();
        let ways = [
            way(shifted.clone(), &labels, &names),
            way(standardised(shifted), &labels, &names),
        ];
        assert!(ways[0].map < 60.0 && ways[1].map > 99.9);
        let (best, ahead) = choose(&ways, labels.view(), &names).unwrap();
        assert_eq!((best, ahead), (1, 1.0));
    }

    #[test]
    fn of_equal_ways_the_first_is_taken() {
        let labels = array![[1i8, -1], [-1, 1], [1, -1]];
        let names = ["a".to_owned(), "b".to_owned()];
        let logits = array![[2.0f32, 0.0], [0.0, 2.0], [2.0, 0.0]];
        let ways = [
            way(logits.clone(), &labels, &names),
            way(logits, &labels, &names),
        ];
        assert_eq!(choose(&ways, labels.view(), &names).unwrap(), (0, 1.0));
    }

    #[test]
    fn a_picture_without_differences_stays_finite() {
        let flat = standardised(array![[1.0f32, 1.0, 1.0]]);
        assert!(flat.iter().all(|value| *value == 0.0));
    }
}
