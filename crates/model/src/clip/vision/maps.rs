//! What towers made of convolutions share: maps `[B, C, h, w]`, norms over their channels, and
//! their places as rows.

use super::base::Norm;
use super::convolution::{Convolution, Steps};
use super::{DenseMode, TowerError, TowerGraph};
use crate::clip::weights::{WeightFiles, WeightsError};
use crate::onnx::{Attribute, Value};

/// Where the weights of such a tower come from.
pub(super) struct Maps<'a> {
    pub weights: &'a WeightFiles,
    /// What the names of its tensors begin with.
    pub prefix: &'static str,
    /// Added to the variance in every layer norm.
    pub epsilon: f32,
}

impl Maps<'_> {
    /// The whole name of a tensor.
    pub(super) fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.prefix)
    }

    /// Whether there is such a tensor.
    pub(super) fn has(&self, part: &str) -> bool {
        self.weights.contains(&self.name(part))
    }

    /// The first side of a tensor.
    pub(super) fn outputs(&self, part: &str) -> Result<usize, WeightsError> {
        let shape = self.weights.shape(&self.name(part))?;
        Ok(*shape.first().unwrap_or(&0))
    }

    pub(super) fn read_norm(&self, name: &str, width: usize) -> Result<Norm, WeightsError> {
        let name = self.name(name);
        Ok((
            self.weights.read(&format!("{name}.weight"), &[width])?,
            self.weights.read(&format!("{name}.bias"), &[width])?,
        ))
    }

    /// Over the last axis.
    pub(super) fn norm(
        &self,
        graph: &mut TowerGraph,
        name: &str,
        width: usize,
        x: &Value,
    ) -> Result<Value, WeightsError> {
        let norm = self.read_norm(name, width)?;
        let weight = graph.weight(&format!("{name}.weight"), &[width], &norm.0);
        let bias = graph.weight(&format!("{name}.bias"), &[width], &norm.1);
        Ok(graph.g.layer_norm(x, &weight, &bias, self.epsilon))
    }

    /// Over the channels of a map.
    pub(super) fn map_norm(
        &self,
        graph: &mut TowerGraph,
        name: &str,
        width: usize,
        x: &Value,
    ) -> Result<Value, WeightsError> {
        let x = graph.g.transpose(x, &[0, 2, 3, 1]);
        let x = self.norm(graph, name, width, &x)?;
        Ok(graph.g.transpose(&x, &[0, 3, 1, 2]))
    }

    pub(super) fn convolution(
        &self,
        graph: &mut TowerGraph,
        name: &str,
        dims: [usize; 4],
        (x, steps): (&Value, Steps),
    ) -> Result<Value, WeightsError> {
        let read = Convolution::read(self.weights, &self.name(name), dims)?;
        Ok(read.write(graph, name, x, steps))
    }
}

/// A map's places as rows: `[B, N, C]`.
pub(super) fn rows(graph: &mut TowerGraph, x: &Value, channels: usize) -> Value {
    let rows = graph.g.reshape(x, &[0, channels as i64, -1]);
    graph.g.transpose(&rows, &[0, 2, 1])
}

/// Rows behind their mean, which is the whole picture: `[B, 1 + N, C]`.
pub(super) fn behind_their_mean(graph: &mut TowerGraph, rows: &Value) -> Value {
    let mean = graph.g.mean(rows, 1, true);
    let join = [("axis", Attribute::Int(1))];
    graph.g.node("Concat", &[&mean, rows], &join)
}

/// Refuses modes of attention: what such a tower says of a place is there in one way.
pub(super) fn value_only(mode: DenseMode) -> Result<(), TowerError> {
    match mode {
        DenseMode::Value => Ok(()),
        _ => Err(TowerError::DenseMode {
            mode,
            available: "value",
        }),
    }
}

/// How many parts have a number behind `prefix`.
pub(super) fn counted(weights: &WeightFiles, prefix: &str) -> usize {
    let numbers = weights.names().filter_map(|name| {
        let number = name.strip_prefix(prefix)?.split('.').next()?;
        number.parse::<usize>().ok()
    });
    numbers.max().map_or(0, |last| last + 1)
}
