//! The model that the registry says serves, in this process: fetched, warmed and exchanged like the
//! stage's, asked for one picture at a time, and run in batches.

use super::error::ApiError;
use crate::serve::config::ServeConfig;
use crate::serve::models::Catalogue;
use crate::stage::budget::Budget;
use crate::stage::decoding;
use crate::stage::fetch::Fetcher;
use crate::stage::infer::{Engine, Inference, Slot};
use crate::stage::watch::Watch;
use bytes::Bytes;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tagstream_core::config::{ConfigError, ModelConfig};
use tagstream_core::events::BoundingBox;
use tagstream_core::process::blocking;
use tagstream_image::decode::{DecodeError, ImageSize};
use tagstream_image::decoders::Decoders;
use tagstream_model::bundle::Bundle;
use tagstream_model::registry::Cache;
use tagstream_model::saliency::visible_part;
use tagstream_model::text::ClipTextEncoder;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How often the registry is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Longest text that is embedded, characters: a tower reads 77 tokens.
const LONGEST_TEXT: usize = 2_000;

/// The model, once there is one.
pub(crate) struct Predictor {
    engine: OnceLock<Engine>,
    trouble: Mutex<String>,
    text: tokio::sync::Mutex<Option<(String, Arc<ClipTextEncoder>)>>,
    catalogue: Arc<Catalogue>,
    fetcher: Fetcher,
    decoders: Decoders,
    budget: Budget,
    places: Semaphore,
    most_bytes: usize,
    settings: ModelConfig,
}

/// A picture's inference and the picture's size.
pub(crate) type Predicted = (Inference, ImageSize);

/// Where the evidence for a category lies in a picture.
pub(crate) struct Saliency {
    /// `[N]`, row by row; sums to 1.
    pub map: Vec<f32>,
    /// Locations in a row.
    pub columns: usize,
    /// The part of the picture that the model's input shows, in fractions of it.
    pub seen: BoundingBox,
    /// The upright picture's size.
    pub size: ImageSize,
}

impl Predictor {
    /// Begins to load the model in the background.
    ///
    /// # Errors
    /// [`ConfigError`] if the rules for fetching cannot be.
    pub(crate) fn start(
        config: &ServeConfig,
        catalogue: Arc<Catalogue>,
    ) -> Result<Arc<Self>, ConfigError> {
        let inference = &config.inference;
        let predictor = Arc::new(Predictor {
            engine: OnceLock::new(),
            trouble: Mutex::new("the model is being loaded".into()),
            text: tokio::sync::Mutex::default(),
            catalogue,
            fetcher: Fetcher::new(&config.fetch, &config.object_store)?,
            decoders: decoding::decoders(&config.decode),
            budget: Budget::new(inference.memory_mib << 20),
            places: Semaphore::new(inference.most_waiting.min(Semaphore::MAX_PERMITS)),
            most_bytes: (config.fetch.max_mib << 20) as usize,
            settings: ModelConfig {
                provider: inference.provider,
                device: inference.device,
                workers: inference.workers,
                max_batch: inference.max_batch,
                max_delay_ms: inference.max_delay_ms,
                ..ModelConfig::default()
            },
        });
        tokio::spawn(Arc::clone(&predictor).serve());
        Ok(predictor)
    }

    /// Loads the model that serves, however often it has to be tried, then follows the registry.
    async fn serve(self: Arc<Self>) {
        let engine = loop {
            match self.load().await {
                Ok(engine) => break engine,
                Err(reason) => {
                    let mut trouble = self.trouble.lock().unwrap_or_else(|e| e.into_inner());
                    if *trouble != reason {
                        tracing::warn!("no model over HTTP yet: {reason}");
                        *trouble = reason;
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        };
        let registry = self.catalogue.registry().await;
        // Set nowhere else.
        let _ = self.engine.set(engine.clone());
        if let Ok(registry) = registry {
            Watch::new(registry, Cache::default_location(), engine)
                .run(LOOK)
                .await;
        }
    }

    async fn load(&self) -> Result<Engine, String> {
        let bundle = self.serving().await?;
        let settings = self.settings.clone();
        let started = blocking::run(move || Engine::start_with(&settings, &bundle, false)).await;
        let started = started.map_err(|error| error.to_string())?;
        started.map_err(|error| error.to_string())
    }

    /// The bundle of the version that serves.
    async fn serving(&self) -> Result<Bundle, String> {
        let listing = self
            .catalogue
            .listing()
            .await
            .map_err(|error| error.to_string())?;
        let version = listing.serving().ok_or("no version serves yet")?;
        let registry = self
            .catalogue
            .registry()
            .await
            .map_err(|error| error.to_string())?;
        let folder = registry
            .materialise(version, &Cache::default_location())
            .await;
        let folder = folder.map_err(|error| error.to_string())?;
        let opened = blocking::run(move || Bundle::open(folder)).await;
        opened
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    /// The engine, if the model is warm.
    ///
    /// # Errors
    /// [`ApiError::NotReady`] says what is waited for.
    pub(crate) fn engine(&self) -> Result<&Engine, ApiError> {
        self.engine.get().ok_or_else(|| {
            let trouble = self.trouble.lock().unwrap_or_else(|e| e.into_inner());
            ApiError::NotReady(trouble.clone())
        })
    }

    /// Largest picture, bytes.
    pub(crate) fn most_bytes(&self) -> usize {
        self.most_bytes
    }

    /// A place for one request; none if too many wait already.
    ///
    /// # Errors
    /// [`ApiError::Busy`].
    pub(crate) fn place(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        self.places.try_acquire().map_err(|_| ApiError::Busy)
    }

    /// What the model says of the picture at an address, which must be allowed.
    ///
    /// # Errors
    /// [`ApiError`] names the kind, as a dead letter would.
    pub(crate) async fn fetched(&self, uri: &str) -> Result<Predicted, ApiError> {
        let fetched = self.fetcher.fetch(uri, &self.budget).await?;
        let loaded = fetched.body.load();
        let bytes = loaded.map_err(|error| ApiError::Internal(error.to_string()))?;
        let predicted = self.run(bytes).await;
        drop(fetched.reservation);
        predicted
    }

    /// What the model says of a picture that was sent.
    ///
    /// # Errors
    /// As [`Predictor::fetched`].
    pub(crate) async fn sent(&self, bytes: Bytes) -> Result<Predicted, ApiError> {
        let _held = self.budget.reserve(bytes.len() as u64).await;
        self.run(bytes).await
    }

    /// Where the model sees `category` in the picture at an address, which must be allowed.
    ///
    /// # Errors
    /// As [`Predictor::fetched`]; [`ApiError::BadRequest`] if the model does not know the category,
    /// or does not say where something is that is no tag of the picture.
    pub(crate) async fn saliency(&self, uri: &str, category: &str) -> Result<Saliency, ApiError> {
        let fetched = self.fetcher.fetch(uri, &self.budget).await?;
        let loaded = fetched.body.load();
        let bytes = loaded.map_err(|error| ApiError::Internal(error.to_string()))?;
        let (slot, size) = self.decoded(bytes).await?;
        let model = Arc::clone(slot.model());
        let mut categories = model.manifest.categories.iter();
        let category = categories.position(|own| own.name == category);
        let nowhere = |why: &str| ApiError::BadRequest(why.to_owned());
        let category = category.ok_or_else(|| nowhere("the model does not know this category"))?;
        let answer = slot.infer_with_saliency(category).await;
        let (_, map) = answer.map_err(|error| ApiError::Internal(error.to_string()))?;
        Ok(Saliency {
            map: map.ok_or_else(|| nowhere("the category is no tag of this picture"))?,
            columns: model.manifest.dims.grid_width,
            seen: visible_part(model.preprocessing(), (size.width, size.height)),
            size,
        })
    }

    async fn run(&self, bytes: Bytes) -> Result<Predicted, ApiError> {
        let (slot, size) = self.decoded(bytes).await?;
        let inference = slot.infer().await;
        let inference = inference.map_err(|error| ApiError::Internal(error.to_string()))?;
        Ok((inference, size))
    }

    /// A place in a batch with the picture in it, and the picture's size.
    async fn decoded(&self, bytes: Bytes) -> Result<(Slot, ImageSize), ApiError> {
        let stopped = |error: String| ApiError::Internal(error);
        let slot = self.engine()?.slot().await;
        let mut slot = slot.map_err(|error| stopped(error.to_string()))?;
        let decoders = self.decoders.clone();
        let decoded = blocking::run(move || {
            let preprocessing = slot.preprocessing().clone();
            let size = decoders.decode_into(&bytes, &preprocessing, slot.pixels_mut())?;
            slot.set_image_size(size);
            Ok::<_, DecodeError>((slot, size))
        });
        Ok(decoded.await.map_err(|e| stopped(e.to_string()))??)
    }

    /// A text as a unit vector in the space of the pictures, and the model's id.
    ///
    /// # Errors
    /// [`ApiError::NoText`] if the model has no text tower.
    pub(crate) async fn text(&self, text: &str) -> Result<(String, Vec<f32>), ApiError> {
        if text.trim().is_empty() || text.chars().count() > LONGEST_TEXT {
            return Err(ApiError::BadRequest("the text is empty or too long".into()));
        }
        let id = self.engine()?.model().id().to_owned();
        let encoder = self.tower(&id).await?;
        let texts = [text.to_owned()];
        let embedded = blocking::run(move || encoder.embed(&texts, |_| ())).await;
        let embedded = embedded.map_err(|error| ApiError::Internal(error.to_string()))?;
        let embedded = embedded.map_err(|error| ApiError::BadRequest(error.to_string()))?;
        Ok((id, embedded))
    }

    async fn tower(&self, id: &str) -> Result<Arc<ClipTextEncoder>, ApiError> {
        let mut held = self.text.lock().await;
        if let Some((of, encoder)) = held.as_ref()
            && of == id
        {
            return Ok(Arc::clone(encoder));
        }
        let bundle = self.serving().await.map_err(ApiError::NotReady)?;
        let files = bundle.text_files().ok_or(ApiError::NoText)?;
        let opened = blocking::run(move || ClipTextEncoder::open(&files)).await;
        let opened = opened.map_err(|error| ApiError::Internal(error.to_string()))?;
        let encoder = Arc::new(opened.map_err(|error| ApiError::Internal(error.to_string()))?);
        *held = Some((id.to_owned(), Arc::clone(&encoder)));
        Ok(encoder)
    }
}
