//! What a model goes through before it serves: a trial, the size of its batches, warming.

use super::{
    Tagger,
    encoders::{Probe, three_times},
    lock,
};
use crate::model::session::{Encoded, SessionError};
use std::{thread, time::Duration};

/// Images that a run holds even of a large model: weights that fit no cache are read from memory once for both, which is 4 % of a
/// ViT-B/16's time.
const LEAST_RUN: usize = 2;

/// How many images a model is given at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSizes {
    /// The most images of one run of the graphs.
    pub run: usize,
    /// The most images that are collected and handed to a worker at once, who takes them through one run after another: `run` or a
    /// multiple of it.
    pub batch: usize,
}

/// What bounds [`BatchSizes`] on a processor. Images that run together share what a run costs beside the arithmetic: calls and the
/// reading of weights. More of them than that takes make each other wait and hold memory for nothing. Runs that follow each other
/// share what the first finds: caches that other threads have filled meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchBounds {
    /// The longest that a run may take.
    pub run_time: Duration,
    /// The most images of a run.
    pub run_images: usize,
    /// The longest that the runs of a batch may take together, if it has several.
    pub batch_time: Duration,
    /// The most runs of a batch.
    pub batch_runs: usize,
}

impl BatchBounds {
    /// The sizes for a model to which one image is so much processor time, with at most `max_batch` images.
    fn sizes(&self, image: Duration, max_batch: usize) -> BatchSizes {
        let image = image.as_secs_f64().max(1e-6);
        let fits = |time: Duration| time.as_secs_f64() / image;
        let run = (fits(self.run_time).ceil() as usize).max(LEAST_RUN);
        let run = run.min(self.run_images).min(max_batch).max(1);
        let most = (fits(self.batch_time) as usize).min(max_batch);
        let runs = (most / run).min(self.batch_runs).max(1);
        BatchSizes {
            run,
            batch: run * runs,
        }
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

    /// Finds [`Tagger::batch_sizes`]. A GPU wants all it can get at once; a processor's are within `bounds`, but two images
    /// where one alone takes all the time.
    ///
    /// # Errors
    /// A run that failed.
    pub fn settle_batches(&mut self, bounds: &BatchBounds) -> Result<(), SessionError> {
        if self.model.device.is_gpu() {
            return Ok(());
        }
        let probe = self.encoders.probe()?;
        let [grey, noise] = &probe.alone;
        let (_, head_time) = three_times([grey, noise, grey], |image| {
            lock(&self.heads[0]).score_encoded(image, false)
        })?;
        let max_batch = self.options.session.max_batch;
        self.batch_sizes = bounds.sizes(probe.image_time + head_time, max_batch);
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

    const BOUNDS: BatchBounds = BatchBounds {
        run_time: Duration::from_millis(20),
        run_images: 4,
        batch_time: Duration::from_millis(8),
        batch_runs: 4,
    };

    /// Of a model to which an image is so many milliseconds: images of a run and of a batch.
    fn sizes(bounds: BatchBounds, milliseconds: f64, max_batch: usize) -> [usize; 2] {
        let sizes = bounds.sizes(Duration::from_secs_f64(milliseconds / 1e3), max_batch);
        [sizes.run, sizes.batch]
    }

    #[test]
    fn runs_are_bounded_by_time_and_images() {
        let run = |milliseconds| sizes(BOUNDS, milliseconds, 64)[0];
        // However long an image takes, the weights are read for two at once.
        assert_eq!([400.0, 15.0].map(run), [2, 2]);
        assert_eq!([8.0, 5.0, 3.0, 0.6, 0.0].map(run), [3, 4, 4, 4, 4]);
        let one = BatchBounds {
            run_images: 1,
            ..BOUNDS
        };
        assert_eq!(sizes(one, 1000.0, 64), [1, 1]);
    }

    #[test]
    fn batches_hold_as_many_whole_runs_as_are_short_together() {
        let batch = |milliseconds| sizes(BOUNDS, milliseconds, 64)[1];
        assert_eq!([400.0, 8.0, 3.0, 1.1].map(batch), [2, 3, 4, 4]);
        assert_eq!([0.9, 0.6, 0.4, 0.0].map(batch), [8, 12, 16, 16]);
    }

    #[test]
    fn neither_is_above_what_is_allowed() {
        let allowed = |max_batch| sizes(BOUNDS, 0.1, max_batch);
        assert_eq!(
            [1, 3, 4, 7, 15, 16].map(allowed),
            [[1, 1], [3, 3], [4, 4], [4, 4], [4, 12], [4, 16]]
        );
    }
}
