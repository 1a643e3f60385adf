//! The encoder that features come from.

use super::FeatureError;
use std::path::Path;
use tagstream_core::config::Provider;
use tagstream_image::preprocessing::Preprocessing;
use tagstream_model::runtime::{Device, Runtime};
use tagstream_model::session::{EncoderModel, EncoderSession, SessionOptions};

/// Images encoded at once.
pub(super) const BATCH: usize = 8;

/// An encoder with the preprocessing that belongs to it.
pub struct Encoder {
    runtime: Runtime,
    model: EncoderModel,
    device: Device,
    pub(super) preprocessing: Preprocessing,
    pub(super) workers: usize,
}

impl Encoder {
    /// Reads `encoder.onnx`. `workers` sessions run at once (0: one a core on a CPU, two on a GPU).
    ///
    /// # Errors
    /// If ONNX Runtime, the provider or the graph is not usable.
    pub fn open(
        graph: &Path,
        preprocessing: Preprocessing,
        provider: Provider,
        workers: usize,
    ) -> Result<Self, FeatureError> {
        let runtime = Runtime::load()?;
        let device = runtime.resolve(provider, 0)?;
        Ok(Self {
            model: EncoderModel::read(&runtime, graph)?,
            workers: match workers {
                0 => device.usual_workers(),
                workers => workers,
            },
            runtime,
            device,
            preprocessing,
        })
    }

    /// SHA-256 of the graph, hex.
    pub fn hash(&self) -> &str {
        self.model.sha256()
    }

    pub(super) fn session(&self) -> Result<EncoderSession, FeatureError> {
        let mut options = SessionOptions::on(self.device);
        options.max_batch = BATCH;
        options.many = self.workers > 1;
        let session = self.model.open(&self.runtime, &options)?;
        let shape = session.shape();
        let made = &self.preprocessing;
        if (shape.height, shape.width) != (made.height, made.width) {
            return Err(FeatureError::InputSize {
                encoder: format!("{} x {}", shape.height, shape.width),
                preprocessing: format!("{} x {}", made.height, made.width),
            });
        }
        Ok(session)
    }
}
