//! A worker: takes complete batches, runs them on its own sessions, answers every image.

use super::{
    InferError, Waiting, bucket_sizes,
    intake::{Intake, Job},
    jobs::Worker,
};
use crate::{
    model::{
        session::{HeadOutputs, PixelBuffer},
        tagger::Tagger,
    },
    ops::thread_cost::ThreadCost,
};
use std::{ops::Range, sync::Arc, time::Instant};
use tracing::Level;

/// Runs until there are no more jobs.
pub(super) fn run(jobs: &Worker<Job>, regions: bool, intake: &Intake) {
    let index = jobs.index();
    while let Some(job) = jobs.next() {
        let Job {
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
        let run = tagger.batch_sizes().run;
        let mut replies = replies.into_iter();
        for first in (0..images).step_by(run) {
            let replies = replies.by_ref().take(run).collect();
            run_together(&tagger, index, &mut pixels, first, replies, regions);
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
        // Before the buffer is free again. The sessions of a model that was exchanged do not go here: see `retired`.
        drop(tagger);
        intake.recycle(pixels);
    }
}

/// Runs the images of the buffer from `first` on that `replies` wait for, and answers each.
fn run_together(
    tagger: &Arc<Tagger>,
    index: usize,
    pixels: &mut PixelBuffer,
    first: usize,
    replies: Vec<Waiting>,
    regions: bool,
) {
    let images = first..first + replies.len();
    match outputs(tagger, index, pixels, images.clone(), regions) {
        Ok(outputs) => answer(tagger, &outputs, replies),
        Err(reason) => {
            tracing::warn!(
                images = images.len(),
                reason,
                "batch failed, running its images one by one"
            );
            metrics::counter!("tagstream_batch_failures_total").increment(1);
            one_by_one(tagger, index, pixels, first, replies, regions);
        }
    }
}

/// What the graphs say of these images of the buffer, padded to a warmed size where the device wants that.
fn outputs(
    tagger: &Tagger,
    index: usize,
    pixels: &mut PixelBuffer,
    images: Range<usize>,
    regions: bool,
) -> Result<HeadOutputs, String> {
    let image = tagger.model().shape.image_bytes();
    let device = tagger.model().device;
    let size = if device.is_gpu() {
        let run = tagger.batch_sizes().run;
        let sizes = bucket_sizes(device, run);
        sizes
            .into_iter()
            .find(|s| *s >= images.len())
            .unwrap_or(run)
    } else {
        images.len()
    };
    let end = images.start + size;
    pixels[images.end * image..end * image].fill(0);
    tagger
        .run(
            index,
            pixels.part(images.start * image..end * image),
            size,
            regions,
        )
        .map_err(|e| e.to_string())
}

fn answer(tagger: &Arc<Tagger>, outputs: &HeadOutputs, replies: Vec<Waiting>) {
    for (i, waiting) in replies.into_iter().enumerate() {
        let result = tagger.model().interpret(outputs, i, waiting.size);
        finish(waiting, result);
    }
}

fn one_by_one(
    tagger: &Arc<Tagger>,
    index: usize,
    pixels: &PixelBuffer,
    first: usize,
    replies: Vec<Waiting>,
    regions: bool,
) {
    let image = tagger.model().shape.image_bytes();
    for (i, waiting) in (first..).zip(replies) {
        let pixels = pixels.part(i * image..(i + 1) * image);
        let result = tagger
            .run(index, pixels, 1, regions)
            .map_err(|e| e.to_string())
            .and_then(|outputs| tagger.model().interpret(&outputs, 0, waiting.size));
        finish(waiting, result);
    }
}

fn finish(waiting: Waiting, result: Result<super::Inference, String>) {
    let outcome = if result.is_ok() { "ok" } else { "error" };
    metrics::counter!("tagstream_inference_images_total", "result" => outcome).increment(1);
    // Nobody waits any more when the message's partition was revoked.
    let _ = waiting
        .reply
        .send(result.map_err(|reason| InferError::Image { reason }));
}
