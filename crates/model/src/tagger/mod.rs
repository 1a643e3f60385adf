//! A bundle opened for tagging: one encoder and one head session a worker, and what turns their
//! numbers into tags.
//!
//! The stage's engine drives one of these from its threads; `tagstream tag` and evaluation use
//! [`Tagger::tag_each`].

mod batch_sizes;
mod decision;
mod encoders;
mod rows;
mod trial;

pub use batch_sizes::{BatchBounds, BatchSizes};
pub use decision::TagDecision;
pub use rows::HeadRows;

use super::bundle::{Bundle, Manifest};
use super::runtime::{Device, Runtime};
use super::saliency;
use super::saliency::Region;
use super::session::{
    EncoderShape, HeadOutputs, HeadSession, PixelBuffer, Pixels, SessionError, SessionOptions,
};
use super::trained_on::{TRAINED_ON_FILE, TrainedOn};
use encoders::Encoders;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use tagstream_core::events::{BoundingBox, TagBox};
use tagstream_image::preprocessing::Preprocessing;

/// What is known of a model that is loaded: no sessions in here, so results may keep it as long as
/// they like.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedModel {
    /// The bundle's manifest: id, categories, thresholds, preprocessing.
    pub manifest: Manifest,
    /// Sizes of the encoder's tensors.
    pub shape: EncoderShape,
    /// Where it runs.
    pub device: Device,
    /// What decides, beside thresholds, which categories become tags.
    pub decision: TagDecision,
    /// What the head's training images are like, where the bundle says so.
    pub trained_on: Option<TrainedOn>,
}

impl LoadedModel {
    /// The model version that rows carry.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// C.
    pub fn categories(&self) -> usize {
        self.manifest.categories.len()
    }

    /// How pixels are prepared.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.manifest.preprocessing
    }

    /// Turns the head's outputs for one image of a batch into an [`Inference`]. `size` is the
    /// upright image's width and height; boxes are fractions of the image, or of the model's input
    /// without it.
    ///
    /// # Errors
    /// The text says which output is not finite.
    pub fn interpret(
        self: &Arc<Self>,
        outputs: &HeadOutputs,
        image: usize,
        size: Option<(u32, u32)>,
    ) -> Result<Inference, String> {
        let (c, n, d) = (self.categories(), self.shape.locations, self.shape.dim);
        let part = |values: &[f32], size: usize| values[image * size..(image + 1) * size].to_vec();
        let (logits, embedding) = (part(&outputs.logits, c), part(&outputs.embedding, d));
        for (name, values) in [("logits", &logits), ("embedding", &embedding)] {
            if values.iter().any(|v| !v.is_finite()) {
                return Err(format!("the model's {name} are not finite numbers"));
            }
        }
        let temperature = self.manifest.calibration.temperature;
        let mut scores: Vec<f32> = logits
            .iter()
            .map(|logit| 1.0 / (1.0 + (-logit / temperature).exp()))
            .collect();
        self.decision.raise(&mut scores);
        let hits = self.hits(outputs, image, &scores);
        let tags = hits
            .into_iter()
            .map(|(category, row)| {
                let map = &outputs.saliency[row * n..(row + 1) * n];
                TagHit {
                    category,
                    score: scores[category],
                    regions: self.regions(map, size),
                    region: (!outputs.region.is_empty())
                        .then(|| outputs.region[row * d..(row + 1) * d].to_vec()),
                }
            })
            .collect();
        Ok(Inference {
            model: Arc::clone(self),
            scores,
            tags,
            embedding,
        })
    }
}

impl LoadedModel {
    /// The regions of a saliency map, in fractions of the image.
    fn regions(&self, map: &[f32], size: Option<(u32, u32)>) -> Vec<Region> {
        let mut regions = saliency::regions(map, self.manifest.dims.grid_width);
        for region in &mut regions {
            if let Some(size) = size {
                let inside = region.bounding_box;
                region.bounding_box = saliency::to_image(inside, self.preprocessing(), size);
            }
        }
        regions
    }

    /// Where the evidence for a category lies in one image of a batch, `[N]`; it sums to 1. `None`
    /// where the head gives rows to tags only and the category is none. `inference` is the image's.
    pub fn saliency(
        &self,
        outputs: &HeadOutputs,
        image: usize,
        category: usize,
        inference: &Inference,
    ) -> Option<Vec<f32>> {
        let (c, n) = (self.categories(), self.shape.locations);
        let evidence = self.decision.evidence(category, &inference.scores);
        let row = match outputs.own_rows(image) {
            None => image * c + evidence,
            Some(own) => *own.get(&evidence)?,
        };
        Some(outputs.saliency[row * n..(row + 1) * n].to_vec())
    }

    /// The categories that become tags of an image, best first, each with the row of its evidence.
    fn hits(&self, outputs: &HeadOutputs, image: usize, scores: &[f32]) -> Vec<(usize, usize)> {
        let c = self.categories();
        let reached = |i: &usize| scores[*i] >= self.manifest.categories[*i].threshold;
        let own = outputs.own_rows(image);
        let most = own.as_ref().map_or(c, HashMap::len);
        let row = |category: usize| match &own {
            None => Some(image * c + category),
            Some(own) => own.get(&category).copied(),
        };
        let mut hits: Vec<(usize, usize)> = (0..c)
            .filter(reached)
            .filter_map(|i| Some((i, row(self.decision.evidence(i, scores))?)))
            .collect();
        // By index where scores are equal, so that the order does not depend on where rows come
        // from.
        hits.sort_by(|(a, _), (b, _)| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        self.decision.keep(&mut hits, |(category, _)| *category);
        hits.truncate(most);
        hits
    }
}

/// A category found in an image.
#[derive(Debug, Clone, PartialEq)]
pub struct TagHit {
    /// Its index among the model's categories.
    pub category: usize,
    /// Calibrated probability, at least the category's threshold.
    pub score: f32,
    /// Where its evidence lies, the strongest first; none where no region supports the tag.
    pub regions: Vec<Region>,
    /// Its region feature `[D]`, L2-normalised, if regions were asked for.
    pub region: Option<Vec<f32>>,
}

impl TagHit {
    /// The box of its strongest region, the whole image if there is none.
    pub fn bounding_box(&self) -> BoundingBox {
        let best = self.regions.first();
        best.map_or(BoundingBox::WHOLE, |region| region.bounding_box)
    }

    /// The boxes of its regions, each with the score that it has of the tag's.
    pub fn boxes(&self) -> Vec<TagBox> {
        let boxes = self.regions.iter().map(|region| TagBox {
            bounding_box: region.bounding_box,
            score: self.score * region.strength,
        });
        boxes.collect()
    }
}

/// What a model says of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Inference {
    /// The model that said it.
    pub model: Arc<LoadedModel>,
    /// Calibrated probabilities `[C]`.
    pub scores: Vec<f32>,
    /// Categories at or above their thresholds, best first.
    pub tags: Vec<TagHit>,
    /// The image's embedding `[D]`, L2-normalised.
    pub embedding: Vec<f32>,
}

/// How a [`Tagger`] is opened.
#[derive(Debug, Clone)]
pub struct TaggerOptions {
    /// Device, threads inside one run, largest batch.
    pub session: SessionOptions,
    /// Sessions: one a worker.
    pub workers: usize,
    /// For which categories there are rows of evidence.
    pub rows: HeadRows,
}

impl TaggerOptions {
    /// As many workers as the device usually has ([`Device::usual_workers`]), on a processor of one
    /// thread each.
    pub fn on(device: Device) -> Self {
        TaggerOptions {
            session: SessionOptions::on(device),
            workers: device.usual_workers(),
            rows: HeadRows::All,
        }
    }
}

/// An opened bundle.
pub struct Tagger {
    model: Arc<LoadedModel>,
    /// Other models with the same encoder have them too.
    encoders: Arc<Encoders>,
    heads: Vec<Mutex<HeadSession>>,
    options: TaggerOptions,
    batch_sizes: BatchSizes,
}

/// The lock of a session whose last user panicked is as good as any: a run leaves no state behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The encoder takes and gives what the manifest says.
fn check_shape(bundle: &Bundle, shape: EncoderShape) -> Result<(), SessionError> {
    let manifest = bundle.manifest();
    let disagree = |what: String| SessionError::Contract {
        graph: bundle.encoder().display().to_string(),
        reason: format!("bundle.json disagrees with it: {what}"),
    };
    let Preprocessing { height, width, .. } = manifest.preprocessing;
    if (shape.height, shape.width) != (height, width) {
        return Err(disagree(format!(
            "input {height}x{width} against {}x{}",
            shape.height, shape.width
        )));
    }
    if (shape.locations, shape.dim) != (manifest.positions(), manifest.dims.embedding) {
        return Err(disagree(format!(
            "{} locations of {} numbers against {} of {}",
            manifest.positions(),
            manifest.dims.embedding,
            shape.locations,
            shape.dim
        )));
    }
    Ok(())
}

impl Tagger {
    /// Opens `bundle`. Where `reuse` has the same encoder, its sessions are kept and only heads are
    /// built.
    ///
    /// # Errors
    /// [`SessionError`] names the graph and what is wrong, also where graphs and manifest disagree.
    pub fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        options: TaggerOptions,
        reuse: Option<&Tagger>,
    ) -> Result<Self, SessionError> {
        let manifest = bundle.manifest().clone();
        let workers = options.workers.max(1);
        let kept = reuse.filter(|old| {
            old.encoders.hash() == bundle.encoder_hash()
                && old.encoders.len() == workers
                && old.options.session.device == options.session.device
                && old.options.session.max_batch == options.session.max_batch
        });
        let encoders = match kept {
            Some(old) => Arc::clone(&old.encoders),
            None => Arc::new(Encoders::open(runtime, bundle, workers, &options.session)?),
        };
        let shape = encoders.shape();
        check_shape(bundle, shape)?;
        let head = options.rows.open_head(runtime, bundle)?;
        let heads = (0..workers)
            .map(|_| Ok(Mutex::new(head.open(runtime, &options.session, shape)?)))
            .collect::<Result<Vec<_>, SessionError>>()?;
        let categories = lock(&heads[0]).categories();
        if categories != manifest.categories.len() {
            return Err(SessionError::Contract {
                graph: bundle.head_graph().display().to_string(),
                reason: format!(
                    "it scores {categories} categories, bundle.json names {}",
                    manifest.categories.len()
                ),
            });
        }
        let device = options.session.device;
        let trained_on = TrainedOn::of_bundle(bundle).map_err(|e| SessionError::Contract {
            graph: bundle.root().join(TRAINED_ON_FILE).display().to_string(),
            reason: e.to_string(),
        })?;
        Ok(Tagger {
            model: Arc::new(LoadedModel {
                decision: TagDecision::of(&manifest.categories),
                manifest,
                shape,
                device,
                trained_on,
            }),
            encoders,
            heads,
            batch_sizes: BatchSizes {
                run: options.session.max_batch,
                batch: options.session.max_batch,
            },
            options,
        })
    }

    /// What is known of the model.
    pub fn model(&self) -> &Arc<LoadedModel> {
        &self.model
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.heads.len()
    }

    /// Whether both use the same encoder sessions.
    pub fn shares_encoder_with(&self, other: &Tagger) -> bool {
        Arc::ptr_eq(&self.encoders, &other.encoders)
    }

    /// Runs a batch on one worker's sessions. Outputs cover `batch` images.
    ///
    /// # Errors
    /// [`SessionError`] if `pixels` is not `batch` images or a run fails.
    pub fn run<'a>(
        &self,
        worker: usize,
        pixels: impl Into<Pixels<'a>>,
        batch: usize,
        regions: bool,
    ) -> Result<HeadOutputs, SessionError> {
        let features = self.encoders.worker(worker).features(pixels, batch)?;
        lock(&self.heads[worker]).score(&features, regions)
    }

    /// Memory for images that [`Tagger::run`] will get: page-locked on a GPU.
    pub fn buffer(&self, bytes: usize) -> PixelBuffer {
        self.encoders.buffer(bytes)
    }

    /// How many images are worth running and handing over at a time; at most
    /// [`SessionOptions::max_batch`].
    pub fn batch_sizes(&self) -> BatchSizes {
        self.batch_sizes
    }

    /// Tags `count` images with all workers. `fill` prepares an image's pixels and returns the
    /// upright image's width and height; `take` gets each image's result with the head's outputs (a
    /// batch of one image's), in no particular order.
    ///
    /// # Errors
    /// What `fill` returned goes to `take`; a failing session ends the call.
    pub fn tag_each<E: Send>(
        &self,
        count: usize,
        regions: bool,
        fill: impl Fn(usize, &mut [u8]) -> Result<(u32, u32), E> + Sync,
        take: impl FnMut(usize, Result<(Inference, HeadOutputs), E>) + Send,
    ) -> Result<(), SessionError> {
        let image = self.model.shape.image_bytes();
        let (next, take) = (AtomicUsize::new(0), Mutex::new(take));
        let work = |worker: usize| -> Result<(), SessionError> {
            let mut pixels = self.buffer(image);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(());
                }
                let result = match fill(index, &mut pixels) {
                    Err(e) => Err(e),
                    Ok(size) => {
                        let outputs = self.run(worker, &pixels, 1, regions)?;
                        let inference = self.model.interpret(&outputs, 0, Some(size));
                        let inference = inference.map_err(|reason| SessionError::Run {
                            graph: self.model.id().to_owned(),
                            reason,
                        })?;
                        Ok((inference, outputs))
                    }
                };
                lock(&take)(index, result);
            }
        };
        thread::scope(|scope| {
            let work = &work;
            let runs: Vec<_> = (0..self.workers())
                .map(|worker| scope.spawn(move || work(worker)))
                .collect();
            runs.into_iter()
                .try_for_each(|run| run.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
        })
    }
}

#[cfg(test)]
mod tests;
