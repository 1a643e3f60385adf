//! Sessions of `head.onnx`.

use super::binding::{Outputs, RunMode, host_values};
use super::graph::{Graph, GraphName, GraphSource};
use super::pixels::HostMemory;
use super::{Encoded, EncoderShape, Features, SessionError, SessionOptions, read};
use crate::runtime::Runtime;
use bytes::Bytes;
use ort::session::Session;
use ort::value::{DynTensor, Tensor, TensorElementType};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// What the head says of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadOutputs {
    /// B.
    pub batch: usize,
    /// `[B, C]`, before calibration.
    pub logits: Vec<f32>,
    /// `[B, K]`: the categories whose rows are in `saliency` and `region`, those that exceed their
    /// thresholds the furthest first; `None`: all of them in their order (K = C).
    pub rows: Option<Vec<i64>>,
    /// `[B, K, N]`: where each category's evidence lies; sums to 1 over N.
    pub saliency: Vec<f32>,
    /// `[B, K, D]`: each category's region feature; empty unless asked for.
    pub region: Vec<f32>,
    /// `[B, D]`, L2-normalised.
    pub embedding: Vec<f32>,
}

impl HeadOutputs {
    /// The categories that have a row of `saliency` and `region` for an image of the batch, and
    /// which; `None` where all have one, in their order.
    pub fn own_rows(&self, image: usize) -> Option<HashMap<usize, usize>> {
        let rows = self.rows.as_ref()?;
        let k = rows.len() / self.batch;
        let own = rows[image * k..(image + 1) * k].iter().zip(image * k..);
        Some(
            own.map(|(category, row)| (*category as usize, row))
                .collect(),
        )
    }
}

/// `head.onnx` with its weights, read once.
#[derive(Clone)]
pub struct HeadModel {
    graph: Arc<Graph>,
}

impl HeadModel {
    /// Reads `head.onnx` and the weights it leaves outside from `head.safetensors`.
    ///
    /// # Errors
    /// [`SessionError`] names the file, the weight and what is wrong.
    pub fn read(runtime: &Runtime, graph: &Path, weights: &Path) -> Result<Self, SessionError> {
        Self::from_bytes(
            runtime,
            graph.display().to_string(),
            read(graph)?,
            &read(weights)?,
        )
    }

    /// As [`HeadModel::read`], from bytes; `name` stands in errors.
    ///
    /// # Errors
    /// [`SessionError::Contract`] names the weight that is missing or has another shape.
    pub fn from_bytes(
        _: &Runtime,
        name: String,
        graph: Vec<u8>,
        weights: &[u8],
    ) -> Result<Self, SessionError> {
        let graph = Bytes::from(graph);
        let source = GraphSource::Memory(graph.clone());
        Ok(HeadModel {
            graph: Arc::new(Graph::new(name, source, graph, Some(weights))?),
        })
    }

    /// Opens a session for features of `encoder`'s shape and checks the contract on zeros.
    ///
    /// # Errors
    /// [`SessionError`] names the graph and what is wrong.
    pub fn open(
        &self,
        runtime: &Runtime,
        options: &SessionOptions,
        encoder: EncoderShape,
    ) -> Result<HeadSession, SessionError> {
        let graph = &self.graph;
        let EncoderShape { locations, dim, .. } = encoder;
        // Heads are small and each retraining makes a new one: TensorRT would build an engine at
        // every swap.
        let device = options.device.without_engines();
        let session = graph.open(runtime, device, &options.provider(), false)?;
        check_inputs(&graph.name, &session, locations, dim)?;
        let hands_out = |name: &str| session.outputs().iter().any(|o| o.name() == name);
        let form = Form {
            top: hands_out("tags"),
            regions: hands_out("region") || hands_out("tag_region"),
        };
        for (name, element, rank) in form.outputs() {
            graph.name.outlet(session.outputs(), name, element, rank)?;
        }
        let mode = RunMode::of(device, &HostMemory::of(&session, device))
            .map_err(|e| graph.name.run_error(e))?;
        let mut head = HeadSession {
            session,
            mode,
            encoder,
            form,
            categories: 0,
            name: graph.name.clone(),
        };
        let zeros = Encoded {
            batch: 1,
            locations,
            dim,
            dense: vec![0.0; locations * dim],
            global: vec![0.0; dim],
        };
        let outputs = head.score_encoded(&zeros, true)?;
        let categories = outputs.logits.len();
        let rows = outputs.rows.as_ref().map_or(categories, Vec::len);
        let region = if form.regions { rows * dim } else { 0 };
        let right = [
            ("saliency", outputs.saliency.len(), rows * locations),
            ("region", outputs.region.len(), region),
            ("embedding", outputs.embedding.len(), dim),
        ];
        for (name, got, want) in right {
            if got != want || rows == 0 {
                return Err(head.name.contract(format!(
                    "`{name}` of one image has {got} numbers instead of {want} (C = {categories}, \
                     rows = {rows}, \
                     N = {locations}, D = {dim})"
                )));
            }
        }
        head.categories = categories;
        Ok(head)
    }
}

/// What the encoder gives must be what the head takes.
fn check_inputs(
    graph: &GraphName,
    session: &Session,
    locations: usize,
    dim: usize,
) -> Result<(), SessionError> {
    for (name, rank, sizes) in [
        ("dense", 3, vec![None, Some(locations), Some(dim)]),
        ("global", 2, vec![None, Some(dim)]),
    ] {
        let declared = graph.outlet(session.inputs(), name, TensorElementType::Float32, rank)?;
        let fits = declared
            .iter()
            .zip(&sizes)
            .all(|(a, b)| a.is_none() || b.is_none() || a == b);
        if !fits {
            return Err(graph.contract(format!(
                "`{name}` is declared as {declared:?}, the encoder gives {sizes:?}"
            )));
        }
    }
    Ok(())
}

/// Which of the two forms of [`crate::head::GraphOutputs`] a graph has.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// Rows of the best categories only.
    top: bool,
    /// Whether it hands out region features.
    regions: bool,
}

impl Form {
    /// Names, element types and ranks, in the order in which they are read. The contract's form
    /// always has regions.
    fn outputs(self) -> Vec<(&'static str, TensorElementType, usize)> {
        use TensorElementType::{Float32, Int64};
        let mut all = vec![("logits", Float32, 2), ("embedding", Float32, 2)];
        if self.top {
            all.extend([("tags", Int64, 2), ("tag_saliency", Float32, 3)]);
            all.extend(self.regions.then_some(("tag_region", Float32, 3)));
        } else {
            all.extend([("saliency", Float32, 3), ("region", Float32, 3)]);
        }
        all
    }
}

/// One worker's head. Runs are exclusive: one session a worker.
pub struct HeadSession {
    session: Session,
    pub(super) mode: RunMode,
    encoder: EncoderShape,
    form: Form,
    categories: usize,
    name: GraphName,
}

impl HeadSession {
    /// C: length of an image's logits.
    pub fn categories(&self) -> usize {
        self.categories
    }

    /// Scores features where they are. `regions` says whether region features are wanted: they are
    /// large.
    ///
    /// # Errors
    /// [`SessionError::Run`] if the run fails.
    pub fn score(
        &mut self,
        features: &Features,
        regions: bool,
    ) -> Result<HeadOutputs, SessionError> {
        let mut names: Vec<&str> = self.form.outputs().iter().map(|o| o.0).collect();
        if self.form.regions && !regions {
            names.pop();
        }
        let top = self.form.top;
        let inputs = [
            ("dense", features.dense.view()),
            ("global", features.global.view()),
        ];
        let (mode, session) = (&self.mode, &mut self.session);
        let mut run = || -> ort::Result<HeadOutputs> {
            let outputs = mode.run(session, &inputs, &names, Outputs::ToHost)?;
            let mut outputs = outputs.iter();
            let mut next = || outputs.next().map_or_else(|| Ok(Vec::new()), host_values);
            let (logits, embedding) = (next()?, next()?);
            let rows = match top {
                true => outputs.next().map(host_values).transpose()?,
                false => None,
            };
            let mut next = || outputs.next().map_or_else(|| Ok(Vec::new()), host_values);
            Ok(HeadOutputs {
                batch: features.batch,
                logits,
                embedding,
                rows,
                saliency: next()?,
                region: next()?,
            })
        };
        run().map_err(|e| self.name.run_error(e))
    }

    /// Scores features from host memory (the feature cache of training and evaluation).
    ///
    /// # Errors
    /// [`SessionError`] if the sizes are not the encoder's or the run fails.
    pub fn score_encoded(
        &mut self,
        encoded: &Encoded,
        regions: bool,
    ) -> Result<HeadOutputs, SessionError> {
        let EncoderShape { locations, dim, .. } = self.encoder;
        let batch = encoded.batch;
        if encoded.dense.len() != batch * locations * dim || encoded.global.len() != batch * dim {
            return Err(self.name.input(format!(
                "features are not {batch} x [{locations}, {dim}] and {batch} x [{dim}]"
            )));
        }
        let tensor = |shape: &[usize], values: &[f32]| -> ort::Result<DynTensor> {
            Ok(Tensor::from_array((shape.to_vec(), values.to_vec()))?.upcast())
        };
        let features = || -> ort::Result<Features> {
            Ok(Features {
                dense: tensor(&[batch, locations, dim], &encoded.dense)?,
                global: tensor(&[batch, dim], &encoded.global)?,
                batch,
            })
        };
        let features = features().map_err(|e| self.name.run_error(e))?;
        self.score(&features, regions)
    }
}
