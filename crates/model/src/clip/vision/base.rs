//! A vision transformer's sizes, the sources of its weights, and how its parts are named.

use super::rotary::Rotation;
use super::{Naming, TowerGraph, TransformerForm};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::Value;
use tagstream_kernels::Activation;

/// Weight and bias of a layer norm.
pub(super) type Norm = (Vec<f32>, Vec<f32>);

/// Sizes and the sources of the weights.
pub(super) struct Transformer<'a> {
    pub weights: &'a WeightFiles,
    pub naming: Naming,
    pub width: usize,
    pub heads: usize,
    /// Locations a side.
    pub grid: usize,
    pub form: TransformerForm,
    pub activation: Activation,
    pub rotation: Option<Rotation>,
    pub epsilon: f32,
}

impl Transformer<'_> {
    /// Tokens before the locations.
    pub(super) fn first(&self) -> usize {
        usize::from(self.form.class_token)
    }

    pub(super) fn name(&self, hugging_face: &str, open_clip: &str, timm: &str) -> String {
        match self.naming {
            Naming::HuggingFace => format!("vision_model.{hugging_face}"),
            Naming::OpenClip => format!("visual.{open_clip}"),
            Naming::Timm => format!("visual.trunk.{timm}"),
        }
    }

    pub(super) fn read_norm(&self, name: &str) -> Result<Norm, WeightsError> {
        self.read_norm_of(name, self.width)
    }

    pub(super) fn read_norm_of(&self, name: &str, width: usize) -> Result<Norm, WeightsError> {
        Ok((
            self.weights.read(&format!("{name}.weight"), &[width])?,
            self.weights.read(&format!("{name}.bias"), &[width])?,
        ))
    }

    pub(super) fn norm(&self, graph: &mut TowerGraph, x: &Value, name: &str, norm: &Norm) -> Value {
        let width = norm.0.len();
        let weight = graph.weight(&format!("{name}.weight"), &[width], &norm.0);
        let bias = graph.weight(&format!("{name}.bias"), &[width], &norm.1);
        graph.g.layer_norm(x, &weight, &bias, self.epsilon)
    }
}
