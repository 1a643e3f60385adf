//! The candidate before the judge: both models' scores on the held-out part, the canary, and
//! pictures to look at.

use super::candidate::Candidate;
use super::images::UriImages;
use super::{Inputs, Job, JobError};
use crate::retrain::judge::{Check, Judgement, Trial, judge};
use crate::retrain::report::{Confidence, Example, ExampleTag};
use ndarray::{Array2, s};
use tagstream_image::decoders::Decoders;
use tagstream_model::bundle::Bundle;
use tagstream_model::runtime::{Device, Runtime};
use tagstream_model::tagger::{Tagger, TaggerOptions};
use tagstream_train::features::{FeatureStore, ImageBytes};
use tagstream_train::labels::LabelMatrix;
use tagstream_train::trainer::scoring::Scorer;

/// Longer side of an example picture, pixels.
const THUMBNAIL: u32 = 360;
/// Tags shown on a picture for each model.
const TAGS: usize = 5;

pub(super) struct Judged {
    pub(super) judgement: Judgement,
    pub(super) confidence: [Confidence; 2],
}

/// A model's logits of `categories` categories, `[images, categories]`.
fn logits(
    bundle: &Bundle,
    features: &FeatureStore,
    categories: usize,
) -> Result<Array2<f32>, JobError> {
    let failed = "scoring the held-out part";
    if features.is_empty() {
        return Ok(Array2::zeros((0, categories)));
    }
    let scored = Scorer::of_bundle(bundle, features)
        .and_then(|mut scorer| scorer.logits(features))
        .map_err(JobError::work(failed))?;
    Array2::from_shape_vec((features.len(), categories), scored).map_err(JobError::work(failed))
}

pub(super) fn judge_candidate(
    job: &Job<'_>,
    champion: &Bundle,
    candidate: &Candidate,
    inputs: &Inputs,
    held_out: &LabelMatrix,
    features: &FeatureStore,
) -> Result<Judged, JobError> {
    let shape = held_out.states().dim();
    // The champion knows nothing of the categories behind its own.
    let common = inputs.champion_categories;
    let mut checks = vec![
        contract(champion, &candidate.bundle),
        canary(&candidate.bundle),
    ];
    let champion_scores = logits(champion, features, common)?;
    let scored = logits(&candidate.bundle, features, shape.1);
    let candidate_scores = match scored {
        Ok(scores) => scores,
        Err(error) => {
            // A head that cannot run is a flaw of the candidate, not of the job.
            checks.push(Check {
                name: "scores".into(),
                passed: false,
                detail: error.to_string(),
            });
            Array2::from_elem(shape, f32::NAN)
        }
    };
    let names: Vec<String> = inputs.categories.iter().map(|c| c.name.clone()).collect();
    let trial = Trial {
        categories: &names[..common],
        candidate: candidate_scores.slice(s![.., ..common]),
        champion: champion_scores.view(),
        labels: held_out.states().slice_move(s![.., ..common]),
    };
    let judgement = judge(&trial, &checks, &job.config.judge, job.config.train.seed);
    let confidence = [
        (champion, trial.champion),
        (&candidate.bundle, trial.candidate),
    ]
    .map(|(bundle, scores)| {
        let temperature = bundle.manifest().calibration.temperature;
        Confidence::measure(scores, trial.labels, temperature)
    });
    Ok(Judged {
        judgement,
        confidence,
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

/// Held-out pictures with what both models say, spread over the held-out part. What cannot be shown
/// is left out.
pub(super) fn examples(
    job: &Job<'_>,
    champion: &Bundle,
    candidate: &Candidate,
    images: &UriImages,
    held_out: &LabelMatrix,
) -> Vec<Example> {
    let wanted = job.config.report.examples.min(held_out.images().len());
    let taggers = (open(champion), open(&candidate.bundle));
    let (Ok(champion), Ok(candidate)) = taggers else {
        return Vec::new();
    };
    (0..wanted)
        .filter_map(|i| {
            let row = i * held_out.images().len() / wanted;
            let id = &held_out.images()[row];
            let bytes = images.read(id).ok()?;
            let decoders = images.decoders();
            let labels = held_out.states().slice_move(s![row, ..]);
            let of = |state: i8| -> Vec<String> {
                let named = labels.iter().zip(held_out.categories());
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
        category: model.manifest.categories[tag.category].name.clone(),
        score: tag.score,
        bounding_box: tag.bounding_box,
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
