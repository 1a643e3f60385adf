//! Sessions of `head.onnx`.

use super::{
    Encoded, EncoderShape, Features, SessionError, SessionOptions,
    graph::{Graph, GraphName, host_floats, run_on},
    read,
};
use crate::model::runtime::{Device, Runtime};
use ort::{
    session::Session,
    value::{DynTensor, Tensor, TensorElementType},
};
use std::{path::Path, sync::Arc};

/// What the head says of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadOutputs {
    /// B.
    pub batch: usize,
    /// `[B, C]`, before calibration.
    pub logits: Vec<f32>,
    /// `[B, C, N]`: where each category's evidence lies; sums to 1 over N.
    pub saliency: Vec<f32>,
    /// `[B, C, D]`: each category's region feature; empty unless asked for.
    pub region: Vec<f32>,
    /// `[B, D]`, L2-normalised.
    pub embedding: Vec<f32>,
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
        Ok(HeadModel {
            graph: Arc::new(Graph::new(name, graph, Some(weights))?),
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
        let profile = |batch| format!("dense:{batch}x{locations}x{dim},global:{batch}x{dim}");
        let session = graph.open(runtime, options.device, &options.provider(profile))?;
        for (name, rank, sizes) in [
            ("dense", 3, vec![None, Some(locations), Some(dim)]),
            ("global", 2, vec![None, Some(dim)]),
        ] {
            let declared =
                graph
                    .name
                    .outlet(session.inputs(), name, TensorElementType::Float32, rank)?;
            let fits = declared
                .iter()
                .zip(&sizes)
                .all(|(a, b)| a.is_none() || b.is_none() || a == b);
            if !fits {
                return Err(graph.name.contract(format!(
                    "`{name}` is declared as {declared:?}, the encoder gives {sizes:?}"
                )));
            }
        }
        for (name, rank) in [
            ("logits", 2),
            ("saliency", 3),
            ("region", 3),
            ("embedding", 2),
        ] {
            graph
                .name
                .outlet(session.outputs(), name, TensorElementType::Float32, rank)?;
        }
        let mut head = HeadSession {
            session,
            device: options.device,
            encoder,
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
        let right = [
            ("saliency", outputs.saliency.len(), categories * locations),
            ("region", outputs.region.len(), categories * dim),
            ("embedding", outputs.embedding.len(), dim),
        ];
        for (name, got, want) in right {
            if got != want || want == 0 {
                return Err(head.name.contract(format!(
                    "`{name}` of one image has {got} numbers instead of {want} (C = {categories}, N = {locations}, D = {dim})"
                )));
            }
        }
        head.categories = categories;
        Ok(head)
    }
}

/// One worker's head. Runs are exclusive: one session a worker.
pub struct HeadSession {
    session: Session,
    device: Device,
    encoder: EncoderShape,
    categories: usize,
    name: GraphName,
}

impl HeadSession {
    /// C: length of an image's logits.
    pub fn categories(&self) -> usize {
        self.categories
    }

    /// Scores features where they are. `regions` says whether region features are wanted: they are large.
    ///
    /// # Errors
    /// [`SessionError::Run`] if the run fails.
    pub fn score(
        &mut self,
        features: &Features,
        regions: bool,
    ) -> Result<HeadOutputs, SessionError> {
        let names = ["logits", "saliency", "embedding", "region"];
        let wanted = if regions { &names[..] } else { &names[..3] };
        let inputs = [("dense", &features.dense), ("global", &features.global)];
        let mut run = || -> ort::Result<HeadOutputs> {
            let outputs = run_on(&mut self.session, self.device, &inputs, wanted, Device::Cpu)?;
            let mut host = outputs.iter().map(host_floats);
            let mut next = || host.next().unwrap_or_else(|| Ok(Vec::new()));
            Ok(HeadOutputs {
                batch: features.batch,
                logits: next()?,
                saliency: next()?,
                embedding: next()?,
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
