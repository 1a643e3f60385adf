//! The candidate before the judge: both models' scores on images that they have not seen, the
//! canary, and pictures to look at.

use super::candidate::{Candidate, Labelled, raise_parents, unbiased_thresholds};
use super::images::UriImages;
use super::{Job, JobError, Prepared};
use crate::retrain::judge::{Check, Emitted, Judgement, Trial, TrialTags, judge};
use crate::retrain::report::{Confidence, Example, ExampleTag};
use ndarray::{Array2, ArrayView1, Axis, s};
use tagstream_image::decoders::Decoders;
use tagstream_model::bundle::{Bundle, Category};
use tagstream_model::runtime::{Device, Runtime};
use tagstream_model::tagger::{TagDecision, Tagger, TaggerOptions};
use tagstream_train::eval::tags::tagged;
use tagstream_train::features::ImageBytes;
use tagstream_train::labels::LabelMatrix;
use tagstream_train::trainer::left_out::LeftOut;

/// Longer side of an example picture, pixels.
const THUMBNAIL: u32 = 360;
/// Tags shown on a picture for each model.
const TAGS: usize = 5;

pub(super) struct Judged {
    pub(super) judgement: Judgement,
    pub(super) confidence: [Confidence; 2],
    /// Labels of the images that were judged on.
    pub(super) labels: LabelMatrix,
}

/// What both models say of the images that neither has learned from, over the categories that both
/// know.
struct BothUnseen {
    /// Logits and calibrated log-odds, of the candidate and of the champion.
    logits: [Array2<f32>; 2],
    odds: [Array2<f32>; 2],
    /// Thresholds of every image: the candidate's, the champion's, and those that the champion
    /// would have if they were chosen as the candidate's are.
    thresholds: [Array2<f32>; 3],
    /// The images' labels, of all categories.
    labels: LabelMatrix,
    groups: Vec<usize>,
    /// Which of the heads that judge left an image out.
    parts: Vec<usize>,
    categories: Vec<String>,
}

impl BothUnseen {
    fn of(
        job: &Job<'_>,
        work: &Prepared,
        candidate: &Candidate,
        images: &Labelled,
    ) -> Result<Self, JobError> {
        let champion = &work.champion;
        let ids = images.labels.images();
        let held_out = |id: &str| job.is_held_out(id);
        let mut before =
            work.unseen
                .score(champion, ids, &images.groups, &images.features, held_out)?;
        raise_parents(&mut before, &champion.manifest().categories);
        let both = |row: &usize| before.scored[*row] && candidate.left.scored[*row];
        let rows: Vec<usize> = (0..ids.len()).filter(both).collect();
        // The champion knows nothing of the categories behind its own.
        let common = before.logits.ncols();
        let of = |all: &Array2<f32>| all.slice(s![.., ..common]).select(Axis(0), &rows);
        let logits = [of(&candidate.left.logits), of(&before.logits)];
        let calibrated = |logits: &Array2<f32>, bundle: &Bundle| {
            logits / bundle.manifest().calibration.temperature
        };
        // By labels of images that both have not seen, or one would have more to choose by.
        let scored: Vec<bool> = (0..ids.len()).map(|row| both(&row)).collect();
        let chosen = |left: &LeftOut, bundle: &Bundle| {
            let left = LeftOut {
                logits: left.logits.clone(),
                scored: scored.clone(),
            };
            let temperature = bundle.manifest().calibration.temperature;
            let tags = &job.config.tags;
            of(&unbiased_thresholds(&left, temperature, images, tags))
        };
        let categories = &champion.manifest().categories[..common];
        let shape = (rows.len(), common);
        let own = Array2::from_shape_fn(shape, |(_, category)| categories[category].threshold);
        let odds = [
            calibrated(&logits[0], &candidate.bundle),
            calibrated(&logits[1], champion),
        ];
        let new = &candidate.bundle.manifest().categories;
        let emitted = |thresholds, of: usize, categories: &[Category]| {
            emitted_thresholds(thresholds, &odds[of], &categories[..common])
        };
        let thresholds = [
            emitted(chosen(&candidate.left, &candidate.bundle), 0, new),
            emitted(own, 1, categories),
            emitted(chosen(&before, champion), 1, categories),
        ];
        Ok(BothUnseen {
            odds,
            logits,
            thresholds,
            labels: images.labels.chosen(&rows),
            groups: rows.iter().map(|row| images.groups.of(*row)).collect(),
            parts: {
                let parts = images.groups.folds(work.folds);
                rows.iter().map(|row| parts[*row]).collect()
            },
            categories: categories.iter().map(|c| c.name.clone()).collect(),
        })
    }
}

/// The thresholds of every image, beyond reach where a category becomes no tag though it reaches
/// its own: what is judged are the tags that people get.
fn emitted_thresholds(
    mut thresholds: Array2<f32>,
    odds: &Array2<f32>,
    categories: &[Category],
) -> Array2<f32> {
    let decision = TagDecision::of(categories);
    for (mut own, odds) in thresholds.rows_mut().into_iter().zip(odds.rows()) {
        let (mut values, odds) = (own.to_vec(), odds.to_vec());
        decision.withhold(&odds, &mut values, tagged);
        own.assign(&ArrayView1::from(&values));
    }
    thresholds
}

/// Scores of both models on the images that neither has seen, and the verdict.
pub(super) fn judge_candidate(
    job: &Job<'_>,
    work: &Prepared,
    candidate: &Candidate,
    images: &Labelled,
) -> Result<Judged, JobError> {
    let champion = &work.champion;
    let mut checks = vec![
        contract(champion, &candidate.bundle),
        canary(&candidate.bundle),
    ];
    let both = BothUnseen::of(job, work, candidate, images)?;
    if both.logits[0].iter().any(|score| !score.is_finite()) {
        checks.push(Check {
            name: "scores".into(),
            passed: false,
            detail: "a head that judges gives scores that are not finite".into(),
        });
    }
    let emitted = |odds: usize, thresholds: usize| Emitted {
        odds: both.odds[odds].view(),
        thresholds: both.thresholds[thresholds].view(),
    };
    let tags = TrialTags {
        candidate: emitted(0, 0),
        champion: emitted(1, 1),
        champion_alike: emitted(1, 2),
        target: job.config.tags.target(),
    };
    let common = both.categories.len();
    let labels = both.labels.states().slice_move(s![.., ..common]);
    let trial = Trial {
        categories: &both.categories,
        candidate: both.logits[0].view(),
        champion: both.logits[1].view(),
        labels,
        groups: &both.groups,
        parts: &both.parts,
        tags: Some(tags),
        look: work.look,
    };
    let judgement = judge(&trial, &checks, &job.config.judge, job.config.train.seed);
    let confidence = [&both.odds[1], &both.odds[0]];
    let confidence = confidence.map(|odds| Confidence::measure(odds.view(), labels, 1.0));
    Ok(Judged {
        judgement,
        confidence,
        labels: both.labels,
    })
}

/// What must not change from version to version, or readers and the running stage would stumble.
fn contract(champion: &Bundle, candidate: &Bundle) -> Check {
    let (old, new) = (champion.manifest(), candidate.manifest());
    let mut flaws = Vec::new();
    if old.dims != new.dims {
        flaws.push("the sizes of the tensors differ".to_owned());
    }
    if old.preprocessing_hash != new.preprocessing_hash {
        flaws.push("the preprocessing differs".to_owned());
    }
    if champion.encoder_hash() != candidate.encoder_hash() {
        flaws.push("the encoder differs".to_owned());
    }
    let kept = new.categories.iter().map(|c| &c.name);
    if !old
        .categories
        .iter()
        .map(|c| &c.name)
        .eq(kept.take(old.categories.len()))
    {
        flaws.push("the champion's categories are not the candidate's first ones".to_owned());
    }
    Check {
        name: "contract".into(),
        passed: flaws.is_empty(),
        detail: if flaws.is_empty() {
            "same encoder, sizes, preprocessing and categories (new ones at the end)".into()
        } else {
            flaws.join("; ")
        },
    }
}

fn open(bundle: &Bundle) -> Result<Tagger, Box<dyn std::error::Error>> {
    let runtime = Runtime::load()?;
    let options = TaggerOptions {
        workers: 1,
        ..TaggerOptions::on(Device::Cpu)
    };
    Ok(Tagger::open(&runtime, bundle, options, None)?)
}

/// Loads the candidate as the stage would and runs a batch.
fn canary(candidate: &Bundle) -> Check {
    let result = Bundle::open(candidate.root())
        .map_err(Into::into)
        .and_then(|bundle| open(&bundle))
        .and_then(|tagger| Ok(tagger.canary()?));
    Check {
        name: "canary".into(),
        passed: result.is_ok(),
        detail: match result {
            Ok(()) => "loads, and a batch gives finite numbers".into(),
            Err(error) => error.to_string(),
        },
    }
}

/// Judged pictures with what both models say, spread over all. What cannot be shown is left out.
pub(super) fn examples(
    job: &Job<'_>,
    work: &Prepared,
    candidate: &Candidate,
    images: &UriImages,
    judged: &LabelMatrix,
) -> Vec<Example> {
    let wanted = job.config.report.examples.min(judged.images().len());
    let taggers = (open(&work.champion), open(&candidate.bundle));
    let (Ok(champion), Ok(candidate)) = taggers else {
        return Vec::new();
    };
    (0..wanted)
        .filter_map(|i| {
            let row = i * judged.images().len() / wanted;
            let id = &judged.images()[row];
            let bytes = images.read(id).ok()?;
            let decoders = images.decoders();
            let labels = judged.states().slice_move(s![row, ..]);
            let of = |state: i8| -> Vec<String> {
                let named = labels.iter().zip(judged.categories());
                let named = named.filter(|(l, _)| **l == state);
                named.map(|(_, name)| name.clone()).collect()
            };
            Some(Example {
                image_id: id.clone(),
                picture: thumbnail(&bytes, decoders)?,
                present: of(1),
                absent: of(-1),
                before: tags(&champion, &bytes, decoders)?,
                after: tags(&candidate, &bytes, decoders)?,
            })
        })
        .collect()
}

fn tags(tagger: &Tagger, bytes: &[u8], decoders: &Decoders) -> Option<Vec<ExampleTag>> {
    let model = tagger.model();
    let mut pixels = vec![0; model.shape.image_bytes()];
    let size = decoders
        .decode_into(bytes, model.preprocessing(), &mut pixels)
        .ok()?;
    let outputs = tagger.run(0, &pixels, 1, false).ok()?;
    let inference = model
        .interpret(&outputs, 0, Some((size.width, size.height)))
        .ok()?;
    let shown = inference.tags.into_iter().take(TAGS);
    let named = shown.map(|tag| ExampleTag {
        category: model.manifest.categories[tag.category].shown().to_owned(),
        score: tag.score,
        boxes: tag.regions.iter().map(|r| r.bounding_box).collect(),
    });
    Some(named.collect())
}

/// A small JPEG.
fn thumbnail(bytes: &[u8], decoders: &Decoders) -> Option<Vec<u8>> {
    let picture = decoders.decode_rgb(bytes).ok()?;
    let longest = picture.width().max(picture.height());
    let scale = f64::from(THUMBNAIL) / f64::from(longest.max(1));
    let side = |x: u32| ((f64::from(x) * scale).round() as u32).max(1);
    let (w, h) = (side(picture.width()), side(picture.height()));
    let small = image::imageops::thumbnail(&picture, w, h);
    let mut out = std::io::Cursor::new(Vec::new());
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, 85);
    small.write_with_encoder(encoder).ok()?;
    Some(out.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use tagstream_train::eval::tags::{measure_with, weights};

    /// Of a group only the best is a tag, and what is never shown is none: the judge counts those.
    #[test]
    fn judged_tags_are_those_that_people_get() {
        let mut categories = ["sun", "sunshine", "fog", "sea"]
            .map(|name| Category::named(name, name, 0.5))
            .to_vec();
        for near in [0, 1] {
            categories[near].tags.group = Some("sun".into());
        }
        categories[2].tags.hidden = true;
        let odds = array![[2.0, 1.0, 3.0, 1.0], [1.0, 2.0, -1.0, -1.0]];
        let labels = array![[1i8, -1, -1, 1], [-1, 1, -1, -1]];
        let measured = |thresholds: &Array2<f32>| {
            let weights = weights(odds.view(), labels.view());
            let of = |image: usize, category: usize| thresholds[[image, category]];
            measure_with(odds.view(), labels.view(), weights.view(), of).overall
        };
        let own = Array2::from_elem((2, 4), 0.5);
        let all = measured(&own);
        assert_eq!(all.per_image, 3.0);
        let emitted = measured(&emitted_thresholds(own, &odds, &categories));
        assert_eq!((emitted.per_image, emitted.right), (1.5, Some(1.0)));
        assert_eq!(emitted.found, Some(1.0));
        assert!(all.right < Some(1.0));
    }
}
