//! The inference engine as the pipeline sees it.

use super::images::{ImageModel, PixelSlot, TagError, Tagged};
use crate::stage::infer::{Engine, InferError, LoadedModel, Slot};
use crate::stage::sink::predictions::{ModelStamp, PredictionLayout, RowTag};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tagstream_image::decode::ImageSize;
use tagstream_image::preprocessing::Preprocessing;
use tagstream_model::bundle::Category;

/// What rows of one model share.
#[derive(Debug, Clone)]
struct Shape {
    model: Arc<LoadedModel>,
    layout: Arc<PredictionLayout>,
    stamp: Arc<ModelStamp>,
}

/// The engine, and the shapes of rows that its models make.
pub struct EngineModel {
    engine: Engine,
    region_embeddings: bool,
    /// The shape of the model that served last, so that its rows share it.
    last: Arc<Mutex<Option<Shape>>>,
}

impl EngineModel {
    /// Rows carry region embeddings if so asked.
    pub fn new(engine: Engine, region_embeddings: bool) -> Self {
        EngineModel {
            engine,
            region_embeddings,
            last: Arc::default(),
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

fn shape(last: &Mutex<Option<Shape>>, model: &Arc<LoadedModel>, region_embeddings: bool) -> Shape {
    let mut last = last.lock().expect("no panic while locked");
    if let Some(shape) = last.as_ref().filter(|s| Arc::ptr_eq(&s.model, model)) {
        return shape.clone();
    }
    let manifest = &model.manifest;
    let shape = Shape {
        model: Arc::clone(model),
        layout: Arc::new(PredictionLayout {
            categories: manifest.categories.iter().map(|c| c.name.clone()).collect(),
            display: display_names(&manifest.categories),
            embedding: manifest.dims.embedding,
            region_embeddings,
            records: false,
        }),
        stamp: Arc::new(ModelStamp {
            version: manifest.id.clone(),
            preprocessing_hash: manifest.preprocessing_hash.clone(),
        }),
    };
    *last = Some(shape.clone());
    shape
}

fn display_names(categories: &[Category]) -> BTreeMap<String, String> {
    let other = categories.iter().filter(|c| c.shown() != c.name);
    other
        .map(|c| (c.name.clone(), c.shown().to_owned()))
        .collect()
}

/// A place in a batch of the engine.
pub struct EngineSlot {
    slot: Slot,
    region_embeddings: bool,
    last: Arc<Mutex<Option<Shape>>>,
}

impl ImageModel for EngineModel {
    type Slot = EngineSlot;

    async fn slot(&self) -> Result<EngineSlot, TagError> {
        let slot = self.engine.slot().await;
        Ok(EngineSlot {
            slot: slot.map_err(|e| TagError::Stopped(e.to_string()))?,
            region_embeddings: self.region_embeddings,
            last: Arc::clone(&self.last),
        })
    }

    fn layout(&self) -> Arc<PredictionLayout> {
        shape(&self.last, &self.engine.model(), self.region_embeddings).layout
    }
}

impl PixelSlot for EngineSlot {
    fn preprocessing(&self) -> &Preprocessing {
        self.slot.preprocessing()
    }

    fn pixels_mut(&mut self) -> &mut [u8] {
        self.slot.pixels_mut()
    }

    fn set_image_size(&mut self, size: ImageSize) {
        self.slot.set_image_size(size);
    }

    async fn infer(self) -> Result<Tagged, TagError> {
        let inference = self.slot.infer().await.map_err(|error| match error {
            InferError::Image { reason } => TagError::Image(reason),
            other => TagError::Stopped(other.to_string()),
        })?;
        let shape = shape(&self.last, &inference.model, self.region_embeddings);
        let with_regions = self.region_embeddings;
        let tags = inference.tags.into_iter().map(|tag| RowTag {
            category: tag.category,
            score: tag.score,
            bounding_box: tag.bounding_box,
            region: tag.region.filter(|_| with_regions),
        });
        Ok(Tagged {
            model: shape.stamp,
            layout: shape.layout,
            tags: tags.collect(),
            scores: inference.scores,
            embedding: inference.embedding,
        })
    }
}
