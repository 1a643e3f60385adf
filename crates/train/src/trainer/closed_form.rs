//! What is fitted in closed form before the first step: the kernel ridge regressions, and how much
//! they count.

use crate::arrays::{rows, to_matrix};
use crate::trainer::data::{TrainingSet, branch_sum};
use crate::trainer::error::TrainError;
use crate::trainer::random::shuffled;
use crate::trainer::ranking::{centred, clearly_better, weighed};
use crate::trm::blend::{Blend, fit_blend};
use crate::trm::export::KernelRidges;
use crate::trm::kernel_ridge::aims::{Aims, SoftConfig};
use crate::trm::kernel_ridge::images::{ImageExamples, ImageRidge, ImageSystem};
use crate::trm::kernel_ridge::regions::{KnownRegions, RegionFit, RegionRidge};
use crate::trm::kernel_ridge::targets::{Targets, folds};
use crate::trm::kernel_ridge::words::VisualWords;
use crate::trm::matching::spatial_keys;
use crate::trm::region::Pooled;
use crate::trm::weights::{Weights, values};
use candle_core::Tensor;
use ndarray::{Array1, Array2, Axis, s};
use tagstream_kernels::l2_normalize;

/// Without any known absence, this many images a remembered region stand for what is absent.
const ASSUMED_ABSENT: usize = 8;

/// Images that a pass takes at once.
const BATCH: usize = 64;

/// Local features among which the visual words are found.
const LOCAL_FEATURES: usize = 20_000;

/// Shares of the zero-shot probability that a known absence may aim at.
const ABSENT_SHARES: [f64; 3] = [0.6, 0.3, 0.0];

/// The regressions, and what they say of the training images.
pub(super) struct ClosedForm {
    pub(super) ridges: KernelRidges,
    /// Logits of all images from the folds that left each out, the regressions already weighed
    /// against each other and multiplied by their shares: `[n, C]`. None without a regression.
    pub(super) out_of_fold: Option<Array2<f32>>,
    /// Logits of the start, `[n, C]`, where there is a regression.
    start: Option<Array2<f32>>,
}

/// A regression and its out-of-fold logits of the training images, `[n, C]`.
type Fitted<T> = Option<(T, Array2<f32>)>;

impl ClosedForm {
    /// Fits the regressions that the method has. `start` are the weights of the calibrated start.
    pub(super) fn fit(set: &TrainingSet, start: &Weights, seed: u64) -> Result<Self, TrainError> {
        let config = set.model.config();
        let (memory, regional) = (&config.memory, &config.regional);
        if !memory.enabled && !regional.enabled {
            return Ok(Self {
                ridges: KernelRidges::NONE,
                out_of_fold: None,
                start: None,
            });
        }
        let targets = set.targets();
        let order = shuffled(set.images(), seed, u64::MAX);
        let fold_of = folds(&order, memory.size, &set.groups.folds(memory.folds));
        let seen = pass(set, start, &targets, &order)?;
        let images = if memory.enabled {
            Some(fit_images(set, &targets, &seen, &fold_of)?)
        } else {
            None
        };
        let regions = if regional.enabled {
            Some(fit_regions(set, &targets, &seen.known, &fold_of)?)
        } else {
            None
        };
        let blend = blend(set, &targets, &seen.start, &images, &regions, &fold_of);
        let mut out_of_fold = Array2::zeros(seen.start.dim());
        let images = images.map(|(ridge, logits)| {
            out_of_fold.scaled_add(blend.memory as f32, &logits);
            ridge
        });
        let regions = regions.map(|(ridge, logits)| {
            out_of_fold.scaled_add(blend.regional as f32, &logits);
            ridge
        });
        Ok(Self {
            ridges: KernelRidges {
                images,
                regions,
                blend,
            },
            out_of_fold: Some(out_of_fold),
            start: Some(seen.start),
        })
    }

    /// What the untrained head says of the training images, each from the folds that left it out.
    pub(super) fn left_out(&self) -> Option<Array2<f32>> {
        let (ridges, start) = (self.out_of_fold.as_ref()?, self.start.as_ref()?);
        Some(ridges + &(start * self.ridges.blend.network as f32))
    }
}

/// The regression on images, with the strongest softening of absences unless its left-out
/// predictions clearly prefer a weaker one.
fn fit_images(
    set: &TrainingSet,
    targets: &Targets,
    seen: &Seen,
    fold_of: &[Option<usize>],
) -> Result<(ImageRidge, Array2<f32>), TrainError> {
    let config = &set.model.config().memory;
    let examples = ImageExamples {
        global: set.global.view(),
        mean: seen.mean.view(),
        words: seen
            .words
            .as_ref()
            .map(|(words, roots)| (words, roots.view())),
    };
    let system = ImageSystem::new(&examples, fold_of, config)?;
    if config.soft.unknown_weight == 0.0 {
        let aims = Aims::known(targets);
        let left_out = system.left_out(&aims)?;
        return Ok(system.fit(&aims, targets, left_out)?);
    }
    let guesses = seen.start.mapv(|logit| 1.0 / (1.0 + (-logit).exp()));
    let groups = set.groups.indices();
    let none_absent = !targets.labels.iter().any(|label| *label < 0);
    let shares: &[f64] = if config.soft.automatic && !none_absent {
        &ABSENT_SHARES
    } else {
        std::slice::from_ref(&config.soft.absent_share)
    };
    let mut best: Option<(Aims, Array2<f32>)> = None;
    for share in shares {
        let soft = SoftConfig {
            absent_share: *share,
            ..config.soft
        };
        let aims = Aims::soft(targets, guesses.view(), groups, &soft);
        let left_out = system.left_out(&aims)?;
        let better =
            |(_, known): &(Aims, Array2<f32>)| clearly_better(&left_out, known, targets, fold_of);
        if best.as_ref().is_none_or(better) {
            best = Some((aims, left_out));
        }
    }
    let Some((aims, left_out)) = best else {
        return Err(TrainError::Data(
            "no softening of absences to choose from".into(),
        ));
    };
    Ok(system.fit(&aims, targets, left_out)?)
}

/// The regressions on regions.
fn fit_regions(
    set: &TrainingSet,
    targets: &Targets,
    known: &[KnownRegions],
    fold_of: &[Option<usize>],
) -> Result<(RegionRidge, Array2<f32>), TrainError> {
    let config = set.model.config();
    let (dim, parts) = (set.model.dim(), (fold_of, config.memory.folds));
    let fit = RegionFit::new(known, targets, dim, parts, &config.regional)?;
    let mut scores = Array2::zeros(set.labels.dim());
    for images in set.in_order() {
        let batch = set.dense_batch(&images.clone().collect::<Vec<_>>())?;
        let regions = first_regions(set, &batch.positions)?;
        let found = fit.out_of_fold(&regions, &fold_of[images.clone()])?;
        scores.slice_mut(s![images, ..]).assign(&found);
    }
    let ridge = fit.finish(targets, &mut scores, dim);
    Ok((ridge, scores))
}

/// The settings' shares, or those that the known labels of the folds' images say.
fn blend(
    set: &TrainingSet,
    targets: &Targets,
    start: &Array2<f32>,
    images: &Fitted<ImageRidge>,
    regions: &Fitted<RegionRidge>,
    fold_of: &[Option<usize>],
) -> Blend {
    let shares = &set.model.config().shares;
    if !shares.automatic {
        let branches = set.model.branch_shares();
        return Blend::fixed(shares, branches, images.is_some(), regions.is_some());
    }
    let mut columns = vec![start.view()];
    let mut offsets = &Array1::zeros(targets.categories());
    if let Some((ridge, logits)) = images {
        columns.push(logits.view());
        offsets = &ridge.bias;
    }
    if let Some((ridge, logits)) = regions {
        columns.push(logits.view());
        offsets = &ridge.bias;
    }
    let rows: Vec<usize> = (0..fold_of.len())
        .filter(|image| fold_of[*image].is_some())
        .collect();
    // Levels of different folds' heads cannot be compared (see `ranking`).
    let centred: Vec<Array2<f32>> = columns.iter().map(|c| centred(*c, fold_of)).collect();
    let centred: Vec<_> = centred.iter().map(|column| column.view()).collect();
    let Some(found) = fit_blend(targets, &rows, &centred, offsets) else {
        // Smoothed zero-shot where there are no labels to say more.
        let smoothed = images.is_some() && set.model.config().learns_without_labels();
        return Blend::new(0.0, f64::from(u8::from(smoothed)), 0.0);
    };
    if let Some((_, alone)) = images
        && set.model.config().learns_without_labels()
        && !clearly_better(&weighed(&columns, &found), alone, targets, fold_of)
    {
        return Blend::new(0.0, 1.0, 0.0);
    }
    let mut found = found.into_iter();
    let mut next = |there: bool| there.then(|| found.next()).flatten().unwrap_or(0.0);
    Blend::new(next(true), next(images.is_some()), next(regions.is_some()))
}

/// R0^ of images, `[B, C, D]`: regions as the template's text features see them.
fn first_regions(set: &TrainingSet, positions: &Tensor) -> Result<Tensor, TrainError> {
    let keys = spatial_keys(set.model.template())?;
    let region = Pooled::new(&keys, positions, 1)?.region()?;
    Ok(l2_normalize(&region)?)
}

/// What a pass over the images finds.
struct Seen {
    /// Means of V^ over positions, `[n, D]`.
    mean: Array2<f32>,
    /// Visual words, and the roots of the images' histograms, `[n, K]`.
    words: Option<(VisualWords, Array2<f32>)>,
    /// Logits of the start, the branches by their shares: `[n, C]`.
    start: Array2<f32>,
    /// The regions of known entries, in the order of the pass.
    known: Vec<KnownRegions>,
}

/// The codebook, from some of the images in `order`.
fn visual_words(set: &TrainingSet, order: &[usize]) -> Result<Option<VisualWords>, TrainError> {
    let config = &set.model.config().memory;
    if !config.enabled || config.words == 0 {
        return Ok(None);
    }
    let mut local: Vec<f32> = Vec::new();
    let d = set.model.dim();
    for images in order.chunks(BATCH) {
        local.extend(values(&set.dense_batch(images)?.positions)?);
        if local.len() >= LOCAL_FEATURES * d {
            break;
        }
    }
    // Neighbouring positions of a picture are alike: the first words come from all pictures.
    let local = rows(&local, d)?;
    let mut mixed = shuffled(local.nrows(), 0, u64::MAX);
    mixed.truncate(LOCAL_FEATURES);
    let local = local.select(Axis(0), &mixed);
    let words = VisualWords::find(local.view(), config.words, config.word_sharpness)?;
    Ok(Some(words))
}

/// One pass over the images, in `order`.
fn pass(
    set: &TrainingSet,
    start: &Weights,
    targets: &Targets,
    order: &[usize],
) -> Result<Seen, TrainError> {
    let config = set.model.config();
    let (d, c) = (set.model.dim(), set.model.categories());
    let words = visual_words(set, order)?;
    let mut seen = Seen {
        mean: Array2::zeros((set.images(), d)),
        words: words.map(|words| {
            let roots = Array2::zeros((set.images(), words.count()));
            (words, roots)
        }),
        start: Array2::zeros((set.images(), c)),
        known: vec![KnownRegions::default(); c],
    };
    let text = set.text(start)?;
    let assumed = ASSUMED_ABSENT * config.regional.regions;
    for (block, images) in order.chunks(BATCH).enumerate() {
        let first = block * BATCH;
        let batch = set.dense_batch(images)?;
        let forward = set.model.forward(start, &text, &batch)?;
        let logits = branch_sum(set.model, &forward, images.len(), &Blend::NETWORK)?;
        put(&mut seen.start, images, &logits);
        put(
            &mut seen.mean,
            images,
            &to_matrix(&batch.positions.mean(1)?)?,
        );
        if let Some((words, roots)) = &mut seen.words {
            put(roots, images, &words.roots(&batch.positions)?);
        }
        if !config.regional.enabled || first >= config.memory.size {
            continue;
        }
        let regions = values(&first_regions(set, &batch.positions)?)?;
        let regions = regions.chunks(c * d);
        for ((rank, &image), regions) in (first..config.memory.size).zip(images).zip(regions) {
            let regions = seen.known.iter_mut().zip(regions.chunks(d));
            for (category, (known, region)) in regions.enumerate() {
                let (target, weight) = targets.of(image, category);
                let guess = set.labels[[image, category]] == 0;
                if weight == 0.0 || guess && rank >= assumed {
                    continue;
                }
                known.images.push(image);
                known.targets.push(target);
                known.weights.push(weight);
                known.regions.extend_from_slice(region);
            }
        }
    }
    Ok(seen)
}

/// Rows of `found` as the rows `images` of `all`.
fn put(all: &mut Array2<f32>, images: &[usize], found: &Array2<f32>) {
    for (image, found) in images.iter().zip(found.rows()) {
        all.row_mut(*image).assign(&found);
    }
}
