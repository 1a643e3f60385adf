//! What the stage is made of, each part alone and with every core: the model on ready tensors, and
//! decoding.

use super::pictures::Pictures;
use anyhow::Context;
use serde::Serialize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tagstream_image::decode::{DecodeLimits, decode_work};
use tagstream_image::decoders::Decoders;
use tagstream_model::session::PixelBuffer;
use tagstream_model::tagger::Tagger;

/// Batch sizes of which the best counts as the model's speed.
const BATCHES: [usize; 5] = [1, 2, 4, 8, 16];

/// The parts, ready to be measured.
pub(super) struct Bench<'a> {
    tagger: &'a Tagger,
    pictures: &'a Pictures,
    /// Pictures as the model wants them, one after the other: at least the largest batch for every
    /// worker.
    tensors: PixelBuffer,
    cores: usize,
}

/// On which side of the stage's own run the parts are measured. Decoding is its neighbour on both:
/// where files are large it is most of the stage's work, and there the machine's drift counts most.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Before,
    After,
}

/// What the parts do, images a second.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Ceiling {
    /// (a): encoder and head in a loop, all workers.
    pub model: f64,
    /// (b) times cores: decoding and resizing, a thread on every core.
    pub decode: f64,
}

impl Ceiling {
    /// min(a, b x cores): right where the two parts have cores of their own, or one of them costs
    /// next to nothing.
    pub(super) fn least(&self) -> f64 {
        self.model.min(self.decode)
    }

    /// The mean with another measurement of the same length.
    pub(super) fn mean(&self, other: &Ceiling) -> Ceiling {
        Ceiling {
            model: (self.model + other.model) / 2.0,
            decode: (self.decode + other.decode) / 2.0,
        }
    }

    /// 1 / (1/a + 1/(b x cores)): what the same cores can do of both.
    pub(super) fn shared(&self) -> f64 {
        1.0 / (1.0 / self.model + 1.0 / self.decode)
    }
}

/// Bytes that one image moves on its way, by what is written.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct BytesPerImage {
    /// The file, copied out of the page cache or a socket.
    pub file: f64,
    /// Decoded pixels, at the reduced size where the decoder reduces.
    pub decoded: f64,
    /// Pixels between the two passes of the resize.
    pub resampled: f64,
    /// The model's input, written where the model reads it.
    pub input: f64,
    /// Copies between the decoder's output and the model's input.
    pub copied_to_tensor: f64,
    /// The row's vectors, once for each step: out of ONNX Runtime, into the row, into a column,
    /// into a page.
    pub row: f64,
}

/// Copies of a row's vectors on their way to the file.
const ROW_COPIES: f64 = 4.0;

impl<'a> Bench<'a> {
    /// Decodes what the model is to be measured on.
    pub(super) fn new(tagger: &'a Tagger, pictures: &'a Pictures) -> anyhow::Result<Self> {
        let image = tagger.model().shape.image_bytes();
        let count = tagger.workers() * BATCHES[BATCHES.len() - 1];
        let mut tensors = tagger.buffer(image * count);
        let decoders = Decoders::default();
        for (i, pixels) in tensors.chunks_exact_mut(image).enumerate() {
            let picture = &pictures.all[i % pictures.all.len()];
            decoders
                .decode_into(&picture.bytes, tagger.model().preprocessing(), pixels)
                .with_context(|| picture.uri.clone())?;
        }
        Ok(Bench {
            tagger,
            pictures,
            tensors,
            cores: thread::available_parallelism()?.get(),
        })
    }

    /// The batch with which the model is fastest, all workers at once.
    pub(super) fn best_batch(&self, time: Duration) -> anyhow::Result<usize> {
        let mut best = (0.0, 1);
        for batch in BATCHES {
            // The first run of a shape is slow.
            self.model(batch, Duration::ZERO)?;
            let rate = self.model(batch, time)?;
            eprintln!("model alone, batch {batch}: {rate:.1} images/s");
            if rate > best.0 {
                best = (rate, batch);
            }
        }
        Ok(best.1)
    }

    /// Measures both parts, one after the other; decoding last before the stage is measured and
    /// first afterwards.
    pub(super) fn measure(
        &self,
        batch: usize,
        time: Duration,
        side: Side,
    ) -> anyhow::Result<Ceiling> {
        let (model, decode) = match side {
            Side::Before => {
                let model = self.model(batch, time)?;
                (model, self.decode(time)?)
            }
            Side::After => {
                let decode = self.decode(time)?;
                (self.model(batch, time)?, decode)
            }
        };
        Ok(Ceiling { model, decode })
    }

    /// Images a second of all workers. A worker's rate counts up to the end of its own last run, so
    /// that none waits for another.
    fn model(&self, batch: usize, time: Duration) -> anyhow::Result<f64> {
        let size = self.tagger.model().shape.image_bytes() * batch;
        let share = self.tensors.len() / self.tagger.workers();
        let work = |worker: usize| -> anyhow::Result<f64> {
            let pixels = self.tensors.part(worker * share..worker * share + size);
            let (started, mut images) = (Instant::now(), 0);
            loop {
                self.tagger.run(worker, pixels, batch, false)?;
                images += batch;
                let spent = started.elapsed();
                if spent >= time {
                    return Ok(images as f64 / spent.as_secs_f64());
                }
            }
        };
        in_parallel(self.tagger.workers(), &work)
    }

    /// Images a second of a decoding thread on every core.
    fn decode(&self, time: Duration) -> anyhow::Result<f64> {
        let model = self.tagger.model();
        let decoders = Decoders::default();
        let next = AtomicUsize::new(0);
        let work = |_| -> anyhow::Result<f64> {
            let mut pixels = vec![0u8; model.shape.image_bytes()];
            let (started, mut images) = (Instant::now(), 0);
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed) % self.pictures.all.len();
                let picture = &self.pictures.all[i];
                decoders
                    .decode_into(&picture.bytes, model.preprocessing(), &mut pixels)
                    .with_context(|| picture.uri.clone())?;
                images += 1;
                let spent = started.elapsed();
                if spent >= time {
                    return Ok(f64::from(images) / spent.as_secs_f64());
                }
            }
        };
        in_parallel(self.cores, &work)
    }

    /// What the pictures and the model make the stage move.
    pub(super) fn bytes_per_image(&self) -> anyhow::Result<BytesPerImage> {
        let model = self.tagger.model();
        let (mut decoded, mut resampled) = (0, 0);
        for picture in &self.pictures.all {
            let work = decode_work(
                &picture.bytes,
                model.preprocessing(),
                &DecodeLimits::default(),
            )
            .with_context(|| picture.uri.clone())?;
            decoded += work.decoded_bytes;
            resampled += work.resampled_bytes;
        }
        let count = self.pictures.all.len() as f64;
        Ok(BytesPerImage {
            file: self.pictures.mean_bytes(),
            decoded: decoded as f64 / count,
            resampled: resampled as f64 / count,
            input: model.shape.image_bytes() as f64,
            copied_to_tensor: 0.0,
            row: ROW_COPIES * 4.0 * (model.categories() + model.shape.dim) as f64,
        })
    }
}

/// The sum of what `work` returns on so many threads.
fn in_parallel(
    threads: usize,
    work: &(impl Fn(usize) -> anyhow::Result<f64> + Sync),
) -> anyhow::Result<f64> {
    thread::scope(|scope| {
        let runs: Vec<_> = (0..threads).map(|i| scope.spawn(move || work(i))).collect();
        runs.into_iter()
            .map(|run| {
                run.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_ceiling_is_below_both_parts() {
        let ceiling = Ceiling {
            model: 100.0,
            decode: 300.0,
        };
        assert_eq!(ceiling.least(), 100.0);
        assert!((ceiling.shared() - 75.0).abs() < 1e-9);
    }
}
