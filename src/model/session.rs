//! Sessions of ONNX Runtime for the two graphs of a bundle, with their contracts checked when they are opened.
//!
//! A graph is read once ([`EncoderModel`], [`HeadModel`]) and opened any number of times; on a CPU every session has one
//! thread and all share one copy of the prepared weights, so N workers are N sessions and not N times the memory.
//! What the encoder says of an image ([`Features`]) stays on the device for the head.

mod graph;
mod head;

pub use head::{HeadModel, HeadOutputs, HeadSession};

use super::runtime::{Device, ProviderOptions, Runtime, RuntimeError};
use crate::config::Provider;
use bytes::Bytes;
use graph::{Graph, GraphName, Source, dims, host_floats, run_on};
use ort::{
    session::Session,
    value::{DynTensor, TensorElementType, TensorRef},
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why a graph could not be opened or run.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The library or the provider.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The graph is not what a bundle's graph must be.
    #[error("{graph} does not meet the contract: {reason}")]
    Contract {
        /// `encoder.onnx` or `head.onnx`, or its path.
        graph: String,
        /// What is missing or different.
        reason: String,
    },
    /// ONNX Runtime refused the graph.
    #[error("cannot open {graph} on {device}: {reason}")]
    Open {
        /// The graph.
        graph: String,
        /// The device.
        device: Device,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A batch of the wrong size.
    #[error("{graph}: {reason}")]
    Input {
        /// The graph.
        graph: String,
        /// What is wrong with the batch.
        reason: String,
    },
    /// A run failed.
    #[error("{graph} failed: {reason}")]
    Run {
        /// The graph.
        graph: String,
        /// What ONNX Runtime said.
        reason: String,
    },
}

/// Where and how sessions are opened.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// The device, from [`Runtime::resolve`].
    pub device: Device,
    /// Threads inside one run, on a CPU. One is best where there are several workers.
    pub threads: usize,
    /// Largest batch that will be run; TensorRT builds its engines for it.
    pub max_batch: usize,
    /// Where TensorRT keeps its engines.
    pub engine_cache: Option<PathBuf>,
}

impl SessionOptions {
    /// One thread on the processor.
    pub fn cpu() -> Self {
        Self::on(Device::Cpu)
    }

    /// The defaults for `device`.
    pub fn on(device: Device) -> Self {
        SessionOptions {
            device,
            threads: 1,
            max_batch: 16,
            engine_cache: None,
        }
    }

    fn provider(&self, profile: impl Fn(usize) -> String) -> ProviderOptions {
        ProviderOptions {
            threads: self.threads,
            engine_cache: self.engine_cache.clone(),
            profile: Some([profile(1), profile(self.max_batch), profile(self.max_batch)]),
        }
    }
}

/// Sizes of the encoder's tensors: `pixels` uint8 `[B, height, width, 3]`, `dense` f32 `[B, locations, dim]`, `global` f32
/// `[B, dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderShape {
    /// Rows of the input, pixels.
    pub height: usize,
    /// Columns of the input, pixels.
    pub width: usize,
    /// N: locations of the dense feature map.
    pub locations: usize,
    /// D: width of the joint space.
    pub dim: usize,
}

impl EncoderShape {
    /// Bytes of one image's pixels.
    pub fn image_bytes(&self) -> usize {
        self.height * self.width * 3
    }
}

/// Features of a batch, where the encoder left them: in host memory or on the device.
pub struct Features {
    dense: DynTensor,
    global: DynTensor,
    batch: usize,
}

/// Features of a batch in host memory, neither of them normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// B.
    pub batch: usize,
    /// N.
    pub locations: usize,
    /// D.
    pub dim: usize,
    /// `[B, N, D]`, row-major.
    pub dense: Vec<f32>,
    /// `[B, D]`, row-major.
    pub global: Vec<f32>,
}

impl Encoded {
    /// The dense features of one image, `[N, D]`.
    pub fn dense_of(&self, image: usize) -> &[f32] {
        let size = self.locations * self.dim;
        &self.dense[image * size..(image + 1) * size]
    }

    /// The global feature of one image, `[D]`.
    pub fn global_of(&self, image: usize) -> &[f32] {
        &self.global[image * self.dim..(image + 1) * self.dim]
    }
}

/// `encoder.onnx`, read once.
#[derive(Clone)]
pub struct EncoderModel {
    graph: Arc<Graph>,
    sha256: String,
}

fn read(path: &Path) -> Result<Vec<u8>, SessionError> {
    fs::read(path).map_err(|source| SessionError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

impl EncoderModel {
    /// Reads `encoder.onnx`. The runtime must be loaded for tensors to exist, hence the argument.
    ///
    /// # Errors
    /// [`SessionError`] names the file and what is wrong.
    pub fn read(runtime: &Runtime, path: &Path) -> Result<Self, SessionError> {
        let name = path.display().to_string();
        Self::from_source(
            runtime,
            name,
            Source::File(path.to_owned()),
            read(path)?.into(),
        )
    }

    /// As [`EncoderModel::read`], from bytes; `name` stands in errors.
    ///
    /// # Errors
    /// [`SessionError::Contract`] if it is not an ONNX model.
    pub fn from_bytes(
        runtime: &Runtime,
        name: String,
        bytes: Vec<u8>,
    ) -> Result<Self, SessionError> {
        let bytes = Bytes::from(bytes);
        Self::from_source(runtime, name, Source::Memory(bytes.clone()), bytes)
    }

    fn from_source(
        _: &Runtime,
        name: String,
        source: Source,
        bytes: Bytes,
    ) -> Result<Self, SessionError> {
        let sha256 = hex(&Sha256::digest(&bytes));
        Ok(EncoderModel {
            graph: Arc::new(Graph::new(name, source, bytes, None)?),
            sha256,
        })
    }

    /// SHA-256 of the file, hex: equal hashes are equal encoders.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Opens a session and checks the contract, running one grey image to learn what the graph does not declare.
    ///
    /// # Errors
    /// [`SessionError`] names the graph and what is wrong.
    pub fn open(
        &self,
        runtime: &Runtime,
        options: &SessionOptions,
    ) -> Result<EncoderSession, SessionError> {
        let graph = &self.graph;
        // The shape of the input is needed for TensorRT's profile, and is found by a session on the CPU.
        let cpu = graph.open(runtime, Device::Cpu, &ProviderOptions::default())?;
        let pixels = graph
            .name
            .outlet(cpu.inputs(), "pixels", TensorElementType::Uint8, 4)?;
        let [_, Some(height), Some(width), Some(3)] = pixels[..] else {
            return Err(graph.name.contract(format!(
                "`pixels` must be [B, height, width, 3] with fixed height and width, but is {pixels:?}"
            )));
        };
        graph
            .name
            .outlet(cpu.outputs(), "dense", TensorElementType::Float32, 3)?;
        graph
            .name
            .outlet(cpu.outputs(), "global", TensorElementType::Float32, 2)?;
        let session = if options.device.is_gpu() {
            let profile = |batch| format!("pixels:{batch}x{height}x{width}x3");
            graph.open(runtime, options.device, &options.provider(profile))?
        } else {
            cpu
        };
        let mut encoder = EncoderSession {
            session,
            device: options.device,
            shape: EncoderShape {
                height,
                width,
                locations: 0,
                dim: 0,
            },
            name: graph.name.clone(),
        };
        let grey = vec![128u8; encoder.shape.image_bytes()];
        let features = encoder.features(&grey, 1)?;
        let (dense, global) = (dims(&features.dense), dims(&features.global));
        match (&dense[..], &global[..]) {
            ([1, locations, dim], [1, same]) if same == dim && *locations > 0 && *dim > 0 => {
                encoder.shape.locations = *locations;
                encoder.shape.dim = *dim;
                Ok(encoder)
            }
            _ => Err(encoder.name.contract(format!(
                "`dense` must be [B, N, D] and `global` [B, D], but one image gives {dense:?} and {global:?}"
            ))),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// One worker's encoder. Runs are exclusive: one session a worker.
pub struct EncoderSession {
    session: Session,
    device: Device,
    shape: EncoderShape,
    name: GraphName,
}

impl EncoderSession {
    /// Opens one session with `threads` threads: for tools that need no workers.
    ///
    /// # Errors
    /// [`SessionError`] names the library, the provider or the graph and what is wrong.
    pub fn open(path: &Path, provider: Provider, threads: usize) -> Result<Self, SessionError> {
        let runtime = Runtime::load()?;
        let mut options = SessionOptions::on(runtime.resolve(provider, 0)?);
        options.threads = threads;
        EncoderModel::read(&runtime, path)?.open(&runtime, &options)
    }

    /// Sizes of its tensors.
    pub fn shape(&self) -> EncoderShape {
        self.shape
    }

    /// Encodes a batch into host memory.
    ///
    /// # Errors
    /// [`SessionError`] if `pixels` is not `batch` images or the run fails.
    pub fn encode(&mut self, pixels: &[u8], batch: usize) -> Result<Encoded, SessionError> {
        let features = self.features(pixels, batch)?;
        let host = |value: &DynTensor| self.host(value);
        Ok(Encoded {
            batch,
            locations: self.shape.locations,
            dim: self.shape.dim,
            dense: host(&features.dense)?,
            global: host(&features.global)?,
        })
    }

    fn host(&self, value: &DynTensor) -> Result<Vec<f32>, SessionError> {
        host_floats(value).map_err(|e| self.name.run_error(e))
    }

    /// Encodes a batch and leaves the features where they are computed.
    ///
    /// # Errors
    /// [`SessionError`] if `pixels` is not `batch` images or the run fails.
    pub fn features(&mut self, pixels: &[u8], batch: usize) -> Result<Features, SessionError> {
        let EncoderShape { height, width, .. } = self.shape;
        if batch == 0 || pixels.len() != batch * self.shape.image_bytes() {
            return Err(self.name.input(format!(
                "{} bytes are not {batch} images of {height}x{width}x3",
                pixels.len()
            )));
        }
        let (device, session) = (self.device, &mut self.session);
        let mut run = || -> ort::Result<Features> {
            let input = TensorRef::from_array_view(([batch, height, width, 3], pixels))?;
            let names = ["dense", "global"];
            let mut outputs = run_on(
                session,
                device,
                &[("pixels", &input.upcast_ref())],
                &names,
                device,
            )?;
            let global = outputs.pop().expect("two names, two values");
            let dense = outputs.pop().expect("two names, two values");
            Ok(Features {
                dense,
                global,
                batch,
            })
        };
        run().map_err(|e| self.name.run_error(e))
    }
}

#[cfg(test)]
mod tests;
