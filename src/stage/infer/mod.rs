//! The engine: images in, [`Inference`]s out, in batches, on as many workers as the device wants,
//! with the model exchanged between batches.
//!
//! The queue stands behind a lock; workers take complete batches from it. A [`Slot`] is a place in
//! the batch that is being filled: claim it just before decoding, decode into it, then
//! [`Slot::infer`] it. While a worker runs one batch the next is filled, so the device does not
//! wait.

mod batcher;
mod jobs;
mod old_models;
mod tallies;
#[cfg(test)]
mod tests;
mod worker;

pub use tagstream_model::tagger::{Inference, LoadedModel, TagHit};

use super::batch::{BatchLayout, PieceId};
use batcher::Batcher;
use old_models::OldModels;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};
use std::{io, thread};
use tagstream_core::config::ModelConfig;
use tagstream_core::events::DeadLetterKind;
use tagstream_core::process::heartbeat::Heartbeats;
use tagstream_core::process::thread_cost::ThreadCost;
use tagstream_core::process::{arenas, priority};
use tagstream_image::decode::ImageSize;
use tagstream_image::preprocessing::Preprocessing;
use tagstream_model::bundle::Bundle;
use tagstream_model::runtime::{Device, Runtime, RuntimeError};
use tagstream_model::session::{PixelBuffer, SessionError, SessionOptions};
use tagstream_model::tagger::{BatchBounds, HeadRows, Tagger, TaggerOptions};
use tallies::Tallies;
use tokio::sync::oneshot;

/// Why an image got no inference, or an engine or a swap did not come about.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InferError {
    /// The library or the provider.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The model cannot be opened or failed its trial; whatever served before goes on.
    #[error("model {model}: {reason}")]
    Model {
        /// The bundle's id.
        model: String,
        /// What is wrong.
        reason: String,
    },
    /// The model failed on this image, also when it ran alone.
    #[error("inference: {reason}")]
    Image {
        /// What ONNX Runtime said, or which output is not finite.
        reason: String,
    },
    /// The engine has stopped.
    #[error("the inference engine has stopped")]
    Stopped,
}

impl InferError {
    /// The kind of dead letter that an image with this error becomes.
    pub fn kind(&self) -> DeadLetterKind {
        DeadLetterKind::Inference
    }

    fn model(id: &str, error: SessionError) -> Self {
        match error {
            SessionError::Runtime(e) => InferError::Runtime(e),
            other => InferError::Model {
                model: id.to_owned(),
                reason: other.to_string(),
            },
        }
    }
}

/// What waits for one image's result.
struct Waiting {
    size: Option<(u32, u32)>,
    /// The category whose saliency is wanted.
    category: Option<usize>,
    reply: oneshot::Sender<Result<Answer, InferError>>,
}

/// An image's inference, and the saliency `[N]` of the category that was asked for, if the head
/// has it.
type Answer = (Inference, Option<Vec<f32>>);

/// The engine. Clones are the same engine; it stops when the last clone and the last slot are gone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<EngineInner>,
}

struct EngineInner {
    batcher: Arc<Batcher>,
    runtime: Runtime,
    device: Device,
    config: ModelConfig,
    regions: bool,
    serving: RwLock<Arc<Tagger>>,
    heartbeats: Heartbeats,
    /// Held while a swap is made: one at a time.
    swapping: Mutex<()>,
    old_models: OldModels<Tagger>,
}

/// A place in the batch that is being filled. Dropping it without [`Slot::infer`] gives the place
/// back.
pub struct Slot {
    id: PieceId,
    pixels: Option<PixelBuffer>,
    model: Arc<LoadedModel>,
    size: Option<(u32, u32)>,
    engine: Arc<EngineInner>,
}

/// What a swap did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// The model that served before.
    pub from: String,
    /// The model that serves now.
    pub to: String,
    /// Whether the encoder's sessions were kept.
    pub encoder_kept: bool,
}

impl Engine {
    /// Opens the model on the configured provider, tries it, warms every batch shape and starts the
    /// workers. Blocks; region features are computed for tags.
    ///
    /// # Errors
    /// [`InferError`] names the library, the provider or the model and what is wrong.
    pub fn start(config: &ModelConfig, bundle: &Bundle) -> Result<Self, InferError> {
        Self::start_with(config, bundle, true)
    }

    /// As [`Engine::start`]; `regions` says whether tags carry region features (they cost a
    /// transfer per batch).
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_with(
        config: &ModelConfig,
        bundle: &Bundle,
        regions: bool,
    ) -> Result<Self, InferError> {
        let runtime = Runtime::load()?;
        let device = runtime.resolve(config.provider, config.device)?;
        let tagger = prepared(&runtime, device, config, regions, bundle, None)?;
        // Opening has left a copy or two of the weights there.
        arenas::release();
        let old_models =
            OldModels::start(REST, give_back).map_err(|e| no_thread(bundle.id(), &e))?;
        let workers = tagger.workers();
        tracing::info!(model = tagger.model().id(), %device, workers, "model is warm");
        let heartbeats = Heartbeats::default();
        let heartbeat = heartbeats.register("infer-queue");
        let tallies = Arc::new(Tallies::new(config.metric_categories));
        let work = move |jobs: &_, batcher: &_| worker::run(jobs, regions, batcher, &tallies);
        let batcher = Batcher::start(Arc::clone(&tagger), config, heartbeat, work)
            .map_err(|e| no_thread(bundle.id(), &e))?;
        let shared = Arc::new(EngineInner {
            batcher,
            runtime,
            device,
            config: config.clone(),
            regions,
            serving: RwLock::new(tagger),
            heartbeats,
            swapping: Mutex::new(()),
            old_models,
        });
        publish_model(None, shared.serving().model());
        Ok(Engine { shared })
    }

    /// Waits for a place in a batch. Claim it just before decoding: a batch runs only when every
    /// claimed place in it is filled or given back.
    ///
    /// # Errors
    /// [`InferError::Stopped`] if all workers have panicked.
    pub async fn slot(&self) -> Result<Slot, InferError> {
        match self.shared.batcher.claim(&self.shared) {
            Ok(slot) => Ok(slot),
            Err(claimed) => claimed.await.map_err(|_| InferError::Stopped),
        }
    }

    /// The model that serves new images.
    pub fn model(&self) -> Arc<LoadedModel> {
        Arc::clone(self.shared.serving().model())
    }

    /// Where it runs, after `auto` was resolved.
    pub fn device(&self) -> Device {
        self.shared.device
    }

    /// The heartbeats of its loops.
    pub fn heartbeats(&self) -> &Heartbeats {
        &self.shared.heartbeats
    }

    /// Exchanges the model between batches: builds, tries and warms the new one beside the old,
    /// then new images go to the new one and batches that were begun finish on the old one. On an
    /// error the old one goes on serving.
    ///
    /// # Errors
    /// [`InferError::Model`] says why the new model was not taken.
    pub async fn swap(&self, bundle: Bundle) -> Result<Swap, InferError> {
        let engine = self.clone();
        let (done, swapped) = oneshot::channel();
        let id = bundle.id().to_owned();
        // A thread that ends: a lowered priority cannot be raised again.
        thread::Builder::new()
            .name("model-loader".into())
            .spawn(move || {
                priority::lower();
                let _ = done.send(engine.swap_blocking(&bundle));
            })
            .map_err(|e| no_thread(&id, &e))?;
        swapped.await.map_err(|_| InferError::Stopped)?
    }

    /// As [`Engine::swap`], on this thread.
    ///
    /// # Errors
    /// As [`Engine::swap`].
    pub fn swap_blocking(&self, bundle: &Bundle) -> Result<Swap, InferError> {
        let shared = &self.shared;
        let _one_at_a_time = shared.swapping.lock().unwrap_or_else(|e| e.into_inner());
        let old = shared.serving();
        // Two models at a time, whatever the rate of swaps.
        shared.old_models.clear();
        let new = prepared(
            &shared.runtime,
            shared.device,
            &shared.config,
            shared.regions,
            bundle,
            Some(&old),
        )
        .inspect_err(|e| {
            metrics::counter!("tagstream_model_swaps_total", "result" => "refused").increment(1);
            tracing::error!(model = bundle.id(), error = %e, "new model refused, the old one goes \
                on");
            shared.old_models.release_memory();
        })?;
        shared.batcher.exchange(Arc::clone(&new));
        *shared.serving.write().unwrap_or_else(|e| e.into_inner()) = Arc::clone(&new);
        metrics::counter!("tagstream_model_swaps_total", "result" => "done").increment(1);
        publish_model(Some(old.model()), new.model());
        let swap = Swap {
            from: old.model().id().to_owned(),
            to: new.model().id().to_owned(),
            encoder_kept: new.shares_encoder_with(&old),
        };
        shared.old_models.keep(old);
        tracing::info!(
            from = swap.from,
            to = swap.to,
            encoder_kept = swap.encoder_kept,
            "model swapped"
        );
        Ok(swap)
    }
}

impl Drop for EngineInner {
    fn drop(&mut self) {
        self.batcher.stop();
    }
}

impl EngineInner {
    fn serving(&self) -> Arc<Tagger> {
        Arc::clone(&self.serving.read().unwrap_or_else(|e| e.into_inner()))
    }
}

impl Slot {
    /// Exactly one image of the model's input, RGB, row-major; the content is left over from an
    /// earlier image.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        self.pixels
            .as_mut()
            .expect("present until the slot is used")
    }

    /// How pixels must be prepared.
    pub fn preprocessing(&self) -> &Preprocessing {
        self.model.preprocessing()
    }

    /// The model that will run.
    pub fn model(&self) -> &Arc<LoadedModel> {
        &self.model
    }

    /// Tells the upright image's size, so that boxes are fractions of the image and not of the
    /// model's input (the same thing unless the preprocessing crops).
    pub fn set_image_size(&mut self, size: ImageSize) {
        self.size = Some((size.width, size.height));
    }

    /// Hands the image to its batch and waits for the result.
    ///
    /// # Errors
    /// [`InferError::Image`] if the model fails on this image even alone.
    pub async fn infer(self) -> Result<Inference, InferError> {
        self.answer(None).await.map(|(inference, _)| inference)
    }

    /// As [`Slot::infer`], and where the evidence for `category`, an index among the model's, lies:
    /// its saliency `[N]`, which is `None` where the head has it of tags only.
    ///
    /// # Errors
    /// As [`Slot::infer`].
    pub async fn infer_with_saliency(
        self,
        category: usize,
    ) -> Result<(Inference, Option<Vec<f32>>), InferError> {
        self.answer(Some(category)).await
    }

    async fn answer(mut self, category: Option<usize>) -> Result<Answer, InferError> {
        let (reply, result) = oneshot::channel();
        let pixels = self.pixels.take().expect("present until the slot is used");
        let size = self.size;
        let waiting = Waiting {
            size,
            category,
            reply,
        };
        self.engine.batcher.fill(self.id, pixels, waiting);
        result.await.unwrap_or(Err(InferError::Stopped))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(pixels) = self.pixels.take() {
            self.engine.batcher.release(self.id, pixels);
        }
    }
}

/// Sizes of runs that are warmed. A GPU compiles and plans per shape, so it sees only these and
/// smaller runs are padded. A CPU runs any size as it is, and what a run of the largest leaves is
/// enough memory for all others; nothing else is remembered of a shape (the session's builder turns
/// memory patterns off).
fn bucket_sizes(device: Device, largest: usize) -> Vec<usize> {
    if !device.is_gpu() {
        return vec![largest];
    }
    let mut sizes: Vec<usize> = std::iter::successors(Some(1usize), |n| n.checked_mul(2))
        .take_while(|n| *n < largest)
        .collect();
    sizes.push(largest);
    sizes
}

/// Batches on a processor. Every image of a run takes some megabytes of activations in every
/// worker, and from four on small models run no faster by themselves. What the first run of a batch
/// finds of caches and cores between decoding threads costs it half a millisecond, which counts
/// where a run takes no more than one or two.
const CPU_BATCH: BatchBounds = BatchBounds {
    run_time: Duration::from_millis(20),
    run_images: 4,
    batch_time: Duration::from_millis(8),
    batch_runs: 4,
};

/// How long a model that was exchanged is kept. Its last batches and the first of the next model
/// are over long before.
const REST: Duration = Duration::from_secs(1);

/// Images that are decoded ahead for every worker. On a busy processor each hand-over (fetched,
/// decoded, batched) may wait for a turn of the scheduler, so a worker that ends a small batch must
/// find more than one other.
const IMAGES_AHEAD: usize = 4;

fn layout(config: &ModelConfig, tagger: &Tagger) -> BatchLayout {
    let image_bytes = tagger.model().shape.image_bytes();
    let (workers, capacity) = (tagger.workers(), tagger.batch_sizes().batch);
    BatchLayout {
        image_bytes,
        capacity,
        // Every worker runs one; at least one is complete and one is being filled.
        buffers: workers + (IMAGES_AHEAD * workers).div_ceil(capacity).max(2),
        max_delay: Duration::from_millis(config.max_delay_ms),
    }
}

/// The bound on an arena in bytes, if there is one.
fn device_memory(config: &ModelConfig) -> Option<usize> {
    let bytes = config.device_memory_mib.saturating_mul(1 << 20);
    (bytes > 0).then(|| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Opens, tries and warms.
fn prepared(
    runtime: &Runtime,
    device: Device,
    config: &ModelConfig,
    regions: bool,
    bundle: &Bundle,
    reuse: Option<&Tagger>,
) -> Result<Arc<Tagger>, InferError> {
    let (started, before) = (Instant::now(), ThreadCost::now());
    let mut options = TaggerOptions::on(device);
    if config.workers > 0 {
        options.workers = config.workers;
    }
    options.rows = HeadRows::Best {
        count: config.max_tags,
        regions,
    };
    let input = &bundle.manifest().preprocessing;
    options.session = SessionOptions {
        max_batch: BatchLayout::capacity_for(
            config.max_batch,
            config.max_batch_mib << 20,
            input.height * input.width * 3,
        ),
        engine_cache: (!config.engine_cache.is_empty())
            .then(|| PathBuf::from(&config.engine_cache)),
        device_memory: device_memory(config),
        tensorrt_fp16: config.tensorrt_fp16,
        ..options.session
    };
    let open = || {
        let mut tagger = Tagger::open(runtime, bundle, options, reuse)?;
        tagger.canary()?;
        tagger.settle_batches(&CPU_BATCH)?;
        let sizes = bucket_sizes(device, tagger.batch_sizes().run);
        tagger.warm(&sizes, reuse.is_none())?;
        Ok(Arc::new(tagger))
    };
    let tagger = open().map_err(|e| InferError::model(bundle.id(), e))?;
    let seconds = started.elapsed().as_secs_f64();
    metrics::gauge!("tagstream_model_load_seconds").set(seconds);
    if let (Some(before), Some(now)) = (before, ThreadCost::now()) {
        let cost = now.since(before);
        tracing::debug!(
            model = bundle.id(),
            seconds,
            processor_seconds = cost.processor.as_secs_f64(),
            page_faults = cost.page_faults,
            "model prepared"
        );
    }
    Ok(tagger)
}

/// After a model was dropped: its memory goes back to the system.
fn give_back() {
    let started = Instant::now();
    arenas::release();
    let seconds = started.elapsed().as_secs_f64();
    tracing::debug!(seconds, "memory given back");
}

fn no_thread(id: &str, error: &io::Error) -> InferError {
    InferError::Model {
        model: id.to_owned(),
        reason: format!("no thread for it: {error}"),
    }
}

fn publish_model(old: Option<&Arc<LoadedModel>>, new: &Arc<LoadedModel>) {
    let info = |model: &LoadedModel, value: f64| {
        metrics::gauge!(
            "tagstream_model_info",
            "model_version" => model.id().to_owned(),
            "provider" => model.device.provider()
        )
        .set(value);
    };
    if let Some(old) = old {
        info(old, 0.0);
    }
    info(new, 1.0);
}
