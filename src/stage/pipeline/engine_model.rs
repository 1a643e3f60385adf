//! The inference engine as the pipeline sees it.

use super::images::{ImageModel, PixelSlot, TagError, Tagged};
use crate::stage::infer::{Engine, InferError, LoadedModel, Slot};
use crate::stage::sink::predictions::{ModelStamp, PredictionLayout, RowTag};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tagstream_core::config::{BoxForm, OutputConfig};
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

/// What rows say of each tag, beside its name and score.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TagColumns {
    /// Whether there is an embedding of its region.
    pub region_embeddings: bool,
    /// What is said of where it was seen.
    pub boxes: BoxForm,
}

impl TagColumns {
    /// What a configuration asks for.
    pub fn of(output: &OutputConfig) -> Self {
        TagColumns {
            region_embeddings: output.region_embeddings,
            boxes: output.boxes,
        }
    }
}

/// The engine, and the shapes of rows that its models make.
pub struct EngineModel {
    engine: Engine,
    columns: TagColumns,
    /// The shape of the model that served last, so that its rows share it.
    last: Arc<Mutex<Option<Shape>>>,
}

impl EngineModel {
    /// Rows carry what `columns` asks for.
    pub fn new(engine: Engine, columns: TagColumns) -> Self {
        EngineModel {
            engine,
            columns,
            last: Arc::default(),
        }
    }

    /// What runs the model; pages ask it for its loops.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

fn shape(last: &Mutex<Option<Shape>>, model: &Arc<LoadedModel>, columns: TagColumns) -> Shape {
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
            region_embeddings: columns.region_embeddings,
            boxes: columns.boxes,
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
    columns: TagColumns,
    last: Arc<Mutex<Option<Shape>>>,
}

impl ImageModel for EngineModel {
    type Slot = EngineSlot;

    async fn slot(&self) -> Result<EngineSlot, TagError> {
        let slot = self.engine.slot().await;
        Ok(EngineSlot {
            slot: slot.map_err(|e| TagError::Stopped(e.to_string()))?,
            columns: self.columns,
            last: Arc::clone(&self.last),
        })
    }

    fn layout(&self) -> Arc<PredictionLayout> {
        shape(&self.last, &self.engine.model(), self.columns).layout
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
        let shape = shape(&self.last, &inference.model, self.columns);
        let columns = self.columns;
        let tags = inference.tags.into_iter().map(|tag| RowTag {
            category: tag.category,
            score: tag.score,
            bounding_box: tag.bounding_box(),
            boxes: tag.boxes(),
            masks: match columns.boxes {
                BoxForm::Masks => tag.regions.into_iter().map(|r| r.mask).collect(),
                BoxForm::One | BoxForm::All => Vec::new(),
            },
            region: tag.region.filter(|_| columns.region_embeddings),
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
