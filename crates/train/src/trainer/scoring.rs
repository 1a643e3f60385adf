//! Scores of images from their features, by a bundle's own head in ONNX Runtime or by a head in
//! memory.

use crate::features::{FeatureError, FeatureStore};
use tagstream_model::bundle::Bundle;
use tagstream_model::head::{ExportedHead, HeadError};
use tagstream_model::runtime::{Device, Runtime, RuntimeError};
use tagstream_model::session::{
    Encoded, EncoderShape, HeadModel, HeadSession, SessionError, SessionOptions,
};

/// Why images could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoringError {
    /// ONNX Runtime is missing.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The head's graph is broken.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The features cannot be read.
    #[error(transparent)]
    Features(#[from] FeatureError),
    /// The head is broken.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The bundle's files.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Images scored at once.
const BATCH: usize = 32;

/// A head ready to score features.
pub struct Scorer {
    session: HeadSession,
}

impl Scorer {
    /// The head of a bundle, for features like those of `store`.
    ///
    /// # Errors
    /// If the graph or its weights are not usable.
    pub fn of_bundle(bundle: &Bundle, store: &FeatureStore) -> Result<Self, ScoringError> {
        let read = |path: std::path::PathBuf| {
            std::fs::read(&path).map_err(|source| ScoringError::Unreadable { path, source })
        };
        let weights = read(
            bundle
                .root()
                .join(tagstream_model::bundle::HEAD_WEIGHTS_FILE),
        )?;
        Self::open(read(bundle.head_graph())?, &weights, store)
    }

    /// A head in memory.
    ///
    /// # Errors
    /// If its sizes do not fit each other or the features.
    pub fn of_head(head: &ExportedHead, store: &FeatureStore) -> Result<Self, ScoringError> {
        let files = head.to_files(Some(store.locations()), &[])?;
        Self::open(files.onnx, &files.safetensors, store)
    }

    fn open(graph: Vec<u8>, weights: &[u8], store: &FeatureStore) -> Result<Self, ScoringError> {
        let runtime = Runtime::load()?;
        let shape = EncoderShape {
            height: 0,
            width: 0,
            locations: store.locations(),
            dim: store.dim(),
        };
        let mut options = SessionOptions::on(Device::Cpu);
        options.threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let model = HeadModel::from_bytes(&runtime, "head.onnx".to_owned(), graph, weights)?;
        Ok(Self {
            session: model.open(&runtime, &options, shape)?,
        })
    }

    /// Logits of every image of the store, `[n, C]`, not calibrated.
    ///
    /// # Errors
    /// If a run fails or the features cannot be read.
    pub fn logits(&mut self, store: &FeatureStore) -> Result<Vec<f32>, ScoringError> {
        let rows: Vec<usize> = (0..store.len()).collect();
        self.logits_of(store, &rows)
    }

    /// Logits of the images `rows` of the store, in that order.
    ///
    /// # Errors
    /// As [`Scorer::logits`].
    pub fn logits_of(
        &mut self,
        store: &FeatureStore,
        rows: &[usize],
    ) -> Result<Vec<f32>, ScoringError> {
        let mut logits = Vec::new();
        for rows in rows.chunks(BATCH) {
            let encoded = Encoded {
                batch: rows.len(),
                locations: store.locations(),
                dim: store.dim(),
                dense: store.dense(rows)?,
                global: rows
                    .iter()
                    .flat_map(|row| &store.global()[row * store.dim()..(row + 1) * store.dim()])
                    .copied()
                    .collect(),
            };
            logits.extend(self.session.score_encoded(&encoded, false)?.logits);
        }
        Ok(logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::protocol::RandomState;
    use half::f16;
    use tagstream_model::head::ZeroShot;

    #[test]
    fn the_session_scores_as_the_head_s_equations_do() {
        let mut random = RandomState::new(1);
        let mut noise = |count: usize| -> Vec<f32> {
            (0..count).map(|_| random.uniform() as f32 - 0.5).collect()
        };
        let (images, locations, dim, categories) = (35, 9, 8, 5);
        let dense: Vec<f16> = noise(images * locations * dim)
            .into_iter()
            .map(f16::from_f32)
            .collect();
        let store = FeatureStore::from_memory(images, locations, dim, dense, noise(images * dim));
        let mut text = noise(categories * dim);
        for row in text.chunks_mut(dim) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        let head = ExportedHead::zero_shot(&text, dim, ZeroShot::default());
        let logits = Scorer::of_head(&head, &store)
            .unwrap()
            .logits(&store)
            .unwrap();
        let rows: Vec<usize> = (0..images).collect();
        let expected = head
            .evaluate(&store.dense(&rows).unwrap(), store.global(), images)
            .logits;
        assert_eq!(logits.len(), images * categories);
        for (found, expected) in logits.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }
}
