//! What a model goes through before it serves: a trial, the size of its batches, warming.

use super::encoders::{Probe, three_times};
use super::{BatchBounds, Tagger, lock};
use crate::session::{Encoded, SessionError};
use std::thread;

impl Tagger {
    /// The trial that a model must pass before it serves: a batch of grey and noise gives finite
    /// numbers, the same as its images give alone. An encoder is run once; a further head is tried
    /// on what it said then.
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

    /// Finds [`Tagger::batch_sizes`]. A GPU wants all it can get at once; a processor's are within
    /// `bounds`, but two images where one alone takes all the time.
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

    /// Runs every batch size of `sizes` on every worker's sessions, so that their memory is there:
    /// the first run of a shape is slow. An encoder that was kept has had its turn, so only the
    /// head runs then. `at_once` is for when nothing else runs: all workers at the same time, and
    /// not one after another on this thread.
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
