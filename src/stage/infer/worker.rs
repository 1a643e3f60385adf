//! A worker: takes complete batches, runs them on its own sessions, answers every image.

use super::batcher::{Batcher, ReadyBatch};
use super::jobs::Worker;
use super::tallies::{ModelTally, Tallies};
use super::{Answer, InferError, Waiting, bucket_sizes};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use tagstream_core::process::thread_cost::ThreadCost;
use tagstream_model::session::{HeadOutputs, PixelBuffer};
use tagstream_model::tagger::Tagger;
use tracing::Level;

/// Runs until there are no more jobs.
pub(super) fn run(jobs: &Worker<ReadyBatch>, regions: bool, batcher: &Batcher, tallies: &Tallies) {
    let index = jobs.index();
    loop {
        if jobs.announce() {
            batcher.feed();
        }
        let Some(job) = jobs.next() else {
            return;
        };
        let ReadyBatch {
            model: tagger,
            mut pixels,
            replies,
            since,
        } = job;
        let (started, images) = (Instant::now(), replies.len());
        // For the log only: a system call.
        let before = tracing::enabled!(Level::DEBUG)
            .then(ThreadCost::now)
            .flatten();
        metrics::histogram!("tagstream_batch_wait_seconds")
            .record(started.duration_since(since).as_secs_f64());
        metrics::histogram!("tagstream_batch_images").record(images as f64);
        let sessions = Sessions {
            tagger: &tagger,
            tally: &tallies.of(tagger.model()),
            worker: index,
            regions,
        };
        let run = tagger.batch_sizes().run;
        let mut replies = replies.into_iter();
        for first in (0..images).step_by(run) {
            sessions.answer_run(&mut pixels, first, replies.by_ref().take(run).collect());
        }
        let seconds = started.elapsed().as_secs_f64();
        metrics::histogram!(
            "tagstream_inference_seconds",
            "provider" => tagger.model().device.provider()
        )
        .record(seconds);
        if let (Some(before), Some(now)) = (before, ThreadCost::now()) {
            let cost = now.since(before);
            tracing::debug!(
                model = tagger.model().id(),
                worker = index,
                images,
                seconds,
                processor_seconds = cost.processor.as_secs_f64(),
                page_faults = cost.page_faults,
                "batch"
            );
        }
        // Before the buffer is free again. The sessions of a model that was exchanged do not go
        // here: see `old_models`.
        drop(tagger);
        batcher.recycle(pixels);
    }
}

/// A model on one worker's sessions.
struct Sessions<'a> {
    tagger: &'a Arc<Tagger>,
    tally: &'a ModelTally,
    worker: usize,
    regions: bool,
}

impl Sessions<'_> {
    /// Runs the buffer's images from `first` on that `replies` wait for, and answers each of them.
    fn answer_run(&self, pixels: &mut PixelBuffer, first: usize, replies: Vec<Waiting>) {
        let images = first..first + replies.len();
        match self.run_together(pixels, images.clone()) {
            Ok(outputs) => {
                for (i, waiting) in replies.into_iter().enumerate() {
                    let result = self.answer(&outputs, i, &waiting);
                    self.finish(waiting, result);
                }
            }
            Err(reason) => {
                tracing::warn!(
                    images = images.len(),
                    reason,
                    "the model failed on several images, running them one by one"
                );
                metrics::counter!("tagstream_batch_failures_total").increment(1);
                for (image, waiting) in images.zip(replies) {
                    let outputs = self.run(pixels, image..image + 1);
                    let result = outputs.and_then(|outputs| self.answer(&outputs, 0, &waiting));
                    self.finish(waiting, result);
                }
            }
        }
    }

    /// One run of these images of the buffer, padded to a warmed size where the device wants that.
    fn run_together(
        &self,
        pixels: &mut PixelBuffer,
        images: Range<usize>,
    ) -> Result<HeadOutputs, String> {
        let model = self.tagger.model();
        if !model.device.is_gpu() {
            return self.run(pixels, images);
        }
        let largest = self.tagger.batch_sizes().run;
        let sizes = bucket_sizes(model.device, largest);
        let size = sizes.into_iter().find(|s| *s >= images.len());
        let end = images.start + size.unwrap_or(largest);
        let image = model.shape.image_bytes();
        pixels[images.end * image..end * image].fill(0);
        self.run(pixels, images.start..end)
    }

    /// One run of exactly these images of the buffer.
    fn run(&self, pixels: &PixelBuffer, images: Range<usize>) -> Result<HeadOutputs, String> {
        let image = self.tagger.model().shape.image_bytes();
        let part = pixels.part(images.start * image..images.end * image);
        self.tagger
            .run(self.worker, part, images.len(), self.regions)
            .map_err(|e| e.to_string())
    }

    /// What one image of a run's outputs says to whoever waits for it.
    fn answer(&self, of: &HeadOutputs, image: usize, to: &Waiting) -> Result<Answer, String> {
        let model = self.tagger.model();
        let inference = model.interpret(of, image, to.size)?;
        let saliency = to
            .category
            .and_then(|category| model.saliency(of, image, category, &inference));
        Ok((inference, saliency))
    }

    fn finish(&self, waiting: Waiting, result: Result<Answer, String>) {
        let outcome = if result.is_ok() { "ok" } else { "error" };
        metrics::counter!("tagstream_inference_images_total", "result" => outcome).increment(1);
        if let Ok((inference, _)) = &result {
            self.tally.count(inference);
        }
        // Nobody waits any more when the message's partition was revoked.
        let _ = waiting
            .reply
            .send(result.map_err(|reason| InferError::Image { reason }));
    }
}
