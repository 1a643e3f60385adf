//! What a training run fits in closed form before its first step: the memories, and how much they
//! count.

use super::run::{Run, shuffled};
use crate::trainer::error::TrainError;
use crate::trm::blend::{Blend, fit_blend};
use crate::trm::export::Memories;
use crate::trm::matching::spatial_keys;
use crate::trm::memory::{Memory, MemoryData};
use crate::trm::region::Pooled;
use crate::trm::regional::{KnownRegions, Regional, RegionalFit};
use crate::trm::targets::{Targets, folds};
use crate::trm::weights::{Weights, values};
use candle_core::Tensor;

/// Without any known absence, this many images a remembered region stand for what is absent.
const ASSUMED_ABSENT: usize = 8;

/// The memories, and what they say of the training images.
pub(super) struct Remembered {
    pub(super) memories: Memories,
    /// Logits of all images from the folds that left each out, memories already weighed against
    /// each other and multiplied by their shares: `[n, C]`. None without a memory.
    pub(super) unseen: Option<Vec<f32>>,
}

impl Run<'_> {
    /// Fits the memories that the method has. `start` are the weights of the calibrated start.
    pub(super) fn remember(&self, start: &Weights, seed: u64) -> Result<Remembered, TrainError> {
        let config = self.model.config();
        let (memory, regional) = (&config.memory, &config.regional);
        if !memory.enabled && !regional.enabled {
            return Ok(Remembered {
                memories: Memories::NONE,
                unseen: None,
            });
        }
        let (d, c) = (self.model.dim(), self.model.categories());
        let targets = Targets {
            labels: self.labels,
            assume_negative: self.assume_negative,
            categories: c,
        };
        let order = shuffled(self.features.len(), seed, u64::MAX);
        let fold_of = folds(&order, memory.size, memory.folds);
        let (mean, known) = self.look(&targets, &order)?;

        let whole = if memory.enabled {
            let data = MemoryData {
                global: self.features.global(),
                mean: &mean,
                labels: self.labels,
                assume_negative: self.assume_negative,
                dim: d,
                categories: c,
            };
            Some(Memory::fit(&data, &order, memory)?)
        } else {
            None
        };
        let fit = regional
            .enabled
            .then(|| {
                let parts = (fold_of.as_slice(), memory.folds);
                RegionalFit::new(&known, &targets, d, parts, regional)
            })
            .transpose()?;
        let (begun, mut by_region) = self.start_logits(start, fit.as_ref(), &fold_of)?;
        let of_regions: Option<Regional> = fit
            .map(|fit| fit.finish(&targets, &mut by_region, d))
            .transpose()?;

        let blend = if config.shares.automatic {
            let mut columns: Vec<&[f32]> = vec![&begun];
            let mut offsets = &vec![0.0; c];
            if let Some((memory, unseen)) = &whole {
                columns.push(unseen);
                offsets = &memory.bias;
            }
            if let Some(regional) = &of_regions {
                columns.push(&by_region);
                offsets = &regional.bias;
            }
            let rows: Vec<usize> = (0..fold_of.len())
                .filter(|image| fold_of[*image].is_some())
                .collect();
            let found = fit_blend(&targets, &rows, &columns, offsets);
            found.map_or(Blend::NETWORK, |found| {
                let mut found = found.into_iter();
                let mut next = |there: bool| there.then(|| found.next()).flatten().unwrap_or(0.0);
                Blend::new(
                    next(true),
                    next(whole.is_some()),
                    next(of_regions.is_some()),
                )
            })
        } else {
            Blend::fixed(
                &config.shares,
                self.model.branch_shares(),
                whole.is_some(),
                of_regions.is_some(),
            )
        };
        let mut unseen = vec![0.0f32; begun.len()];
        let mut add = |logits: &[f32], share: f64| {
            let pairs = unseen.iter_mut().zip(logits);
            pairs.for_each(|(sum, x)| *sum += share as f32 * x);
        };
        let memory = whole.map(|(memory, logits)| {
            add(&logits, blend.memory);
            memory
        });
        if of_regions.is_some() {
            add(&by_region, blend.regional);
        }
        Ok(Remembered {
            memories: Memories {
                memory,
                regional: of_regions,
                blend,
            },
            unseen: Some(unseen),
        })
    }

    /// R0^ of images, `[B, C, D]`: regions as the template's text features see them.
    fn first_regions(&self, positions: &Tensor) -> Result<Tensor, TrainError> {
        let keys = spatial_keys(self.model.template())?;
        let region = Pooled::new(&keys, positions, 1)?.region()?;
        Ok(tagstream_kernels::l2_normalize(&region)?)
    }

    /// One pass over the images: means of V^ over positions (`[n, D]`), and the regions of known
    /// entries, in `order`.
    fn look(
        &self,
        targets: &Targets,
        order: &[usize],
    ) -> Result<(Vec<f32>, Vec<KnownRegions>), TrainError> {
        let config = self.model.config();
        let (d, c) = (self.model.dim(), self.model.categories());
        let mut mean = vec![0.0f32; self.features.len() * d];
        let mut known = vec![KnownRegions::default(); c];
        let assumed = ASSUMED_ABSENT * config.regional.regions;
        let places: Vec<usize> = (0..order.len()).collect();
        for places in places.chunks(config.optimizer.batch) {
            let rows = &order[places[0]..places[0] + places.len()];
            let dense = self.features.dense(rows).map_err(TrainError::Features)?;
            let positions = self.prepared(dense, rows, None)?.positions;
            let means = values(&positions.mean(1)?)?;
            for (row, means) in rows.iter().zip(means.chunks(d)) {
                mean[row * d..(row + 1) * d].copy_from_slice(means);
            }
            if !config.regional.enabled || places[0] >= config.memory.size {
                continue;
            }
            let regions = values(&self.first_regions(&positions)?)?;
            for (at, &image) in rows.iter().enumerate() {
                for (category, known) in known.iter_mut().enumerate() {
                    let (target, weight) = targets.of(image, category);
                    let guess = self.labels[image * c + category] == 0;
                    let place = places[at];
                    let enough = guess && place >= assumed;
                    if weight == 0.0 || enough || place >= config.memory.size {
                        continue;
                    }
                    known.images.push(image);
                    known.targets.push(target);
                    known.weights.push(weight);
                    let region = at * c + category;
                    known
                        .regions
                        .extend_from_slice(&regions[region * d..(region + 1) * d]);
                }
            }
        }
        Ok((mean, known))
    }

    /// Another pass: logits of the start (branches by their shares) and k of the regional memory,
    /// `[n, C]` each.
    fn start_logits(
        &self,
        start: &Weights,
        fit: Option<&RegionalFit>,
        fold_of: &[Option<usize>],
    ) -> Result<(Vec<f32>, Vec<f32>), TrainError> {
        let text = self.model.text(start, self.encoder)?;
        let (mut begun, mut by_region) = (Vec::new(), Vec::new());
        for rows in self.in_order() {
            let dense = self.features.dense(&rows).map_err(TrainError::Features)?;
            let batch = self.prepared(dense, &rows, None)?;
            let forward = self.model.forward(start, &text, &batch)?;
            let mut logits = vec![0.0f32; rows.len() * self.model.categories()];
            for branch in &forward.branches {
                let share = self.model.share(branch.name, &Blend::NETWORK) as f32;
                let pairs = logits.iter_mut().zip(values(&branch.logits)?);
                pairs.for_each(|(sum, x)| *sum += share * x);
            }
            begun.extend(logits);
            if let Some(fit) = fit {
                let regions = self.first_regions(&batch.positions)?;
                let parts = &fold_of[rows[0]..rows[0] + rows.len()];
                by_region.extend(fit.unseen(&regions, parts)?);
            }
        }
        Ok((begun, by_region))
    }
}
