//! For which categories the stage computes evidence.

use super::decision::TagDecision;
use crate::bundle::{Bundle, HEAD_WEIGHTS_FILE};
use crate::head;
use crate::head::{ExportedHead, HeadError, WeightStorage};
use crate::runtime::Runtime;
use crate::session::{HeadModel, SessionError};
use std::fs;
use std::path::Path;

/// For which categories the head hands out rows of evidence (`saliency` and, if wanted, `region`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadRows {
    /// For all of them: the bundle's own `head.onnx`. For looking at maps, and for heads of unknown
    /// make.
    All,
    /// For the `count` categories that exceed their thresholds the furthest: an image has at most
    /// so many tags. Built from `head.safetensors`; a head that was not written by [`crate::head`]
    /// is run as it is.
    Best {
        /// K.
        count: usize,
        /// Whether region features are wanted.
        regions: bool,
    },
}

/// The logit at which a category's calibrated probability reaches its threshold.
pub(super) fn floor(threshold: f32, temperature: f32) -> f32 {
    // Thresholds of 0 and 1 are infinitely far away; what is compared with them must stay a number.
    (temperature * (threshold / (1.0 - threshold)).ln()).clamp(-1e30, 1e30)
}

impl HeadRows {
    /// The head of `bundle`, in the form that hands out these rows.
    pub(super) fn open_head(
        self,
        runtime: &Runtime,
        bundle: &Bundle,
    ) -> Result<HeadModel, SessionError> {
        let path = bundle.root().join(HEAD_WEIGHTS_FILE);
        let HeadRows::Best { count, regions } = self else {
            return HeadModel::read(runtime, &bundle.head_graph(), &path);
        };
        let weights = fs::read(&path).map_err(|source| SessionError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let head = match ExportedHead::from_safetensors(&weights) {
            Ok((head, _)) => head,
            Err(HeadError::Format(reason)) => {
                tracing::info!(
                    reason,
                    "head.safetensors is of another make: head.onnx is run as it is"
                );
                return HeadModel::read(runtime, &bundle.head_graph(), &path);
            }
            Err(other) => return Err(bad_head(&path, other)),
        };
        let manifest = bundle.manifest();
        let temperature = manifest.calibration.temperature;
        let thresholds = manifest.categories.iter().map(|c| c.threshold);
        let floors: Vec<f32> = thresholds.map(|t| floor(t, temperature)).collect();
        let outputs = head::GraphOutputs::Top {
            count,
            floors: TagDecision::of(&manifest.categories).evidence_floors(&floors),
            regions,
        };
        let graph = WeightStorage::beside(HEAD_WEIGHTS_FILE, &weights)
            .and_then(|storage| head.to_onnx(&outputs, Some(manifest.positions()), &storage))
            .map_err(|e| bad_head(&path, e))?;
        HeadModel::from_bytes(runtime, path.display().to_string(), graph, &weights)
    }
}

fn bad_head(path: &Path, error: HeadError) -> SessionError {
    SessionError::Contract {
        graph: path.display().to_string(),
        reason: error.to_string(),
    }
}
