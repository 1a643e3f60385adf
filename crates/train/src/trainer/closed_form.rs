//! What is fitted in closed form before the first step: the kernel ridge regressions, and how much
//! they count.

use crate::arrays::to_matrix;
use crate::trainer::data::{TrainingSet, branch_sum};
use crate::trainer::error::TrainError;
use crate::trainer::random::shuffled;
use crate::trm::blend::{Blend, fit_blend};
use crate::trm::export::KernelRidges;
use crate::trm::kernel_ridge::images::{ImageExamples, ImageRidge};
use crate::trm::kernel_ridge::regions::{KnownRegions, RegionFit, RegionRidge};
use crate::trm::kernel_ridge::targets::{Targets, folds};
use crate::trm::matching::spatial_keys;
use crate::trm::region::Pooled;
use crate::trm::weights::{Weights, values};
use candle_core::Tensor;
use ndarray::{Array1, Array2, s};
use tagstream_kernels::l2_normalize;

/// Without any known absence, this many images a remembered region stand for what is absent.
const ASSUMED_ABSENT: usize = 8;

/// The regressions, and what they say of the training images.
pub(super) struct ClosedForm {
    pub(super) ridges: KernelRidges,
    /// Logits of all images from the folds that left each out, the regressions already weighed
    /// against each other and multiplied by their shares: `[n, C]`. None without a regression.
    pub(super) out_of_fold: Option<Array2<f32>>,
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
            });
        }
        let targets = set.targets();
        let order = shuffled(set.images(), seed, u64::MAX);
        let fold_of = folds(&order, memory.size, memory.folds);
        let (mean, known) = examples(set, &targets, &order)?;
        let images = if memory.enabled {
            let examples = ImageExamples {
                global: set.global.view(),
                mean: mean.view(),
                targets: targets.reborrow(),
            };
            Some(ImageRidge::fit(&examples, &order, memory)?)
        } else {
            None
        };
        let dim = set.model.dim();
        let fit = if regional.enabled {
            let parts = (fold_of.as_slice(), memory.folds);
            Some(RegionFit::new(&known, &targets, dim, parts, regional)?)
        } else {
            None
        };
        let (start_logits, mut scores) = start_logits(set, start, fit.as_ref(), &fold_of)?;
        let regions = fit.map(|fit| {
            let ridge = fit.finish(&targets, &mut scores, dim);
            (ridge, scores)
        });
        let blend = blend(set, &targets, &start_logits, &images, &regions, &fold_of);
        let mut out_of_fold = Array2::zeros(start_logits.dim());
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
        })
    }
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
    let Some(found) = fit_blend(targets, &rows, &columns, offsets) else {
        return Blend::NETWORK;
    };
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

/// One pass over the images: means of V^ over positions (`[n, D]`), and the regions of known
/// entries, in `order`.
fn examples(
    set: &TrainingSet,
    targets: &Targets,
    order: &[usize],
) -> Result<(Array2<f32>, Vec<KnownRegions>), TrainError> {
    let config = set.model.config();
    let (d, c) = (set.model.dim(), set.model.categories());
    let mut mean = Array2::zeros((set.images(), d));
    let mut known = vec![KnownRegions::default(); c];
    let assumed = ASSUMED_ABSENT * config.regional.regions;
    for (block, images) in order.chunks(config.optimizer.batch).enumerate() {
        let first = block * config.optimizer.batch;
        let positions = set.dense_batch(images)?.positions;
        let means = to_matrix(&positions.mean(1)?)?;
        for (image, found) in images.iter().zip(means.rows()) {
            mean.row_mut(*image).assign(&found);
        }
        if !config.regional.enabled || first >= config.memory.size {
            continue;
        }
        let regions = values(&first_regions(set, &positions)?)?;
        let regions = regions.chunks(c * d);
        for ((rank, &image), regions) in (first..config.memory.size).zip(images).zip(regions) {
            let regions = known.iter_mut().zip(regions.chunks(d));
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
    Ok((mean, known))
}

/// Another pass: logits of the start (branches by their shares) and k of the regressions on
/// regions, `[n, C]` each.
fn start_logits(
    set: &TrainingSet,
    start: &Weights,
    fit: Option<&RegionFit>,
    fold_of: &[Option<usize>],
) -> Result<(Array2<f32>, Array2<f32>), TrainError> {
    let text = set.text(start)?;
    let size = (set.images(), set.model.categories());
    let (mut logits, mut scores) = (Array2::zeros(size), Array2::zeros(size));
    for images in set.in_order() {
        let batch = set.dense_batch(&images.clone().collect::<Vec<_>>())?;
        let forward = set.model.forward(start, &text, &batch)?;
        let sum = branch_sum(set.model, &forward, images.len(), &Blend::NETWORK)?;
        logits.slice_mut(s![images.clone(), ..]).assign(&sum);
        if let Some(fit) = fit {
            let regions = first_regions(set, &batch.positions)?;
            let found = fit.out_of_fold(&regions, &fold_of[images.clone()])?;
            scores.slice_mut(s![images, ..]).assign(&found);
        }
    }
    Ok((logits, scores))
}
