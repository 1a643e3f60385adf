//! What a model goes through before it serves: a trial, the size of its batches, warming.

use super::{
    Tagger,
    encoders::{Probe, three_times},
    lock,
};
use crate::model::session::{Encoded, SessionError};
use std::{thread, time::Duration};

/// Images that a batch holds even of a large model: weights that fit no cache are read from memory once for both, which is 4 % of a
/// ViT-B/16's time.
const LEAST_BATCH: usize = 2;

/// How large a batch may be on a processor, where it only spreads what a run costs beside the arithmetic: calls, caches that
/// others have filled meanwhile, the reading of the weights. Beyond that it makes images wait and takes memory for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchBounds {
    /// The longest it may take.
    pub time: Duration,
    /// The most images it may hold, unless it is a short one.
    pub images: usize,
    /// The most images of a short batch: one in which so many take no longer than [`BatchBounds::short_time`].
    pub short_images: usize,
    /// What counts as short.
    pub short_time: Duration,
}

impl BatchBounds {
    /// The largest useful batch of a model to which one image is so much processor time.
    fn useful(&self, image: Duration) -> usize {
        let fits = |time: Duration| time.as_secs_f64() / image.as_secs_f64().max(1e-6);
        let by_time = (fits(self.time).ceil() as usize).max(LEAST_BATCH);
        let short = fits(self.short_time) >= self.short_images as f64;
        by_time.min(match short {
            true => self.images.max(self.short_images),
            false => self.images,
        })
    }
}

impl Tagger {
    /// The trial that a model must pass before it serves: a batch of grey and noise gives finite numbers, the same as its
    /// images give alone. An encoder is run once; a further head is tried on what it said then.
    ///
    /// # Errors
    /// [`SessionError::Contract`] says what the numbers were like.
    pub fn canary(&self) -> Result<(), SessionError> {
        let flaw = |reason: String| SessionError::Contract {
            graph: self.model.id().to_owned(),
            reason: format!("canary batch: {reason}"),
        };
        let Probe {
            together, alone, ..
        } = self.encoders.probe()?;
        let mut head = lock(&self.heads[0]);
        let together = head.score_encoded(together, true)?;
        let all = [
            &together.logits,
            &together.saliency,
            &together.region,
            &together.embedding,
        ];
        if all
            .iter()
            .any(|values| values.iter().any(|v| !v.is_finite()))
        {
            return Err(flaw("outputs are not finite".into()));
        }
        let c = self.model.categories();
        for (i, image) in alone.iter().enumerate() {
            let alone = head.score_encoded(image, false)?;
            for (a, b) in alone.logits.iter().zip(&together.logits[i * c..]) {
                if (a - b).abs() > 0.1 + 0.05 * a.abs() {
                    return Err(flaw(format!(
                        "an image scores {a} alone and {b} in a batch: the graph mixes images"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Finds [`Tagger::useful_batch`]. A GPU wants all it can get; a processor's is within `bounds`, but two where one alone takes all the time.
    ///
    /// # Errors
    /// A run that failed.
    pub fn settle_batch(&mut self, bounds: &BatchBounds) -> Result<(), SessionError> {
        if self.model.device.is_gpu() {
            return Ok(());
        }
        let probe = self.encoders.probe()?;
        let [grey, noise] = &probe.alone;
        let (_, head_time) = three_times([grey, noise, grey], |image| {
            lock(&self.heads[0]).score_encoded(image, false)
        })?;
        let useful = bounds.useful(probe.image_time + head_time);
        self.useful_batch = useful.min(self.options.session.max_batch).max(1);
        Ok(())
    }

    /// Runs every batch size of `sizes` on every worker's sessions, so that their memory is there: the first run of a shape is
    /// slow. An encoder that was kept has had its turn, so only the head runs then. `at_once` is for when nothing else runs:
    /// all workers at the same time, and not one after another on this thread.
    ///
    /// # Errors
    /// The first run that failed.
    pub fn warm(&self, sizes: &[usize], at_once: bool) -> Result<(), SessionError> {
        let cold = self.encoders.cold(sizes);
        if at_once {
            thread::scope(|scope| {
                let cold = &cold;
                let runs: Vec<_> = (0..self.workers())
                    .map(|worker| scope.spawn(move || self.warm_worker(worker, sizes, cold)))
                    .collect();
                runs.into_iter()
                    .try_for_each(|run| run.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
            })?;
        } else {
            (0..self.workers()).try_for_each(|worker| self.warm_worker(worker, sizes, &cold))?;
        }
        self.encoders.set_warm(&cold);
        Ok(())
    }

    fn warm_worker(
        &self,
        worker: usize,
        sizes: &[usize],
        cold: &[usize],
    ) -> Result<(), SessionError> {
        for size in sizes {
            if cold.contains(size) {
                let grey = vec![128u8; size * self.model.shape.image_bytes()];
                self.run(worker, &grey, *size, true)?;
            } else {
                let features = repeated(&self.encoders.probe()?.alone[0], *size);
                lock(&self.heads[worker]).score_encoded(&features, true)?;
            }
        }
        Ok(())
    }
}

/// A batch of `count` times the same image.
fn repeated(image: &Encoded, count: usize) -> Encoded {
    Encoded {
        batch: count,
        dense: image.dense.repeat(count),
        global: image.global.repeat(count),
        ..*image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_time_and_images_and_short_ones_may_hold_more() {
        let bounds = BatchBounds {
            time: Duration::from_millis(20),
            images: 4,
            short_images: 8,
            short_time: Duration::from_millis(4),
        };
        let useful = |milliseconds: f64| bounds.useful(Duration::from_secs_f64(milliseconds / 1e3));
        // However long an image takes, the weights are read for two at once.
        assert_eq!([400.0, 15.0].map(useful), [2, 2]);
        assert_eq!([8.0, 5.0, 3.0, 0.6].map(useful), [3, 4, 4, 4]);
        assert_eq!([0.49, 0.1, 0.0].map(useful), [8, 8, 8]);
        let one = BatchBounds {
            images: 1,
            ..bounds
        };
        assert_eq!(one.useful(Duration::from_secs(1)), 1);
    }
}
