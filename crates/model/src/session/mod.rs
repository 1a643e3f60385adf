//! Sessions of ONNX Runtime for the two graphs of a bundle, with their contracts checked when they
//! are opened.
//!
//! A graph is read once ([`EncoderModel`], [`HeadModel`]) and opened any number of times; on a CPU
//! every session has one thread and all share one copy of the prepared weights, so N workers are N
//! sessions and not N times the memory. What the encoder says of an image ([`Features`]) stays on
//! the device for the head.

mod binding;
mod graph;
mod head;
mod pixels;

pub use head::{HeadModel, HeadOutputs, HeadSession};
pub use pixels::{HostMemory, PixelBuffer, Pixels};

use super::runtime::{Device, EngineCache, ProviderOptions, Runtime, RuntimeError};
use binding::{Outputs, RunMode, dims, host_values};
use bytes::Bytes;
use graph::{Graph, GraphName, GraphSource};
use ort::session::Session;
use ort::value::{DynTensor, TensorElementType};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tagstream_core::config::Provider;
use tagstream_core::digest;

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
    /// The folder for TensorRT's engines.
    #[error(
        "cannot make the folder for TensorRT's engines {path}: {source}",
        path = path.display()
    )]
    EngineCache {
        /// The folder.
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
    /// Whether more sessions of the same graph will be open at the same time: on a GPU they then
    /// hold the weights once.
    pub many: bool,
    /// Most that one session's arena may take on a GPU, bytes. `None`: what there is.
    pub device_memory: Option<usize>,
    /// Where TensorRT keeps its engines.
    pub engine_cache: Option<PathBuf>,
    /// Whether TensorRT may compute a graph of 32-bit floats in 16 bit. One of 16-bit floats is
    /// computed so in any case.
    pub tensorrt_fp16: bool,
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
            many: false,
            device_memory: None,
            engine_cache: None,
            tensorrt_fp16: false,
        }
    }

    fn provider(&self) -> ProviderOptions {
        ProviderOptions {
            threads: self.threads,
            device_memory: self.device_memory,
            ..ProviderOptions::default()
        }
    }

    /// The folders of a graph's engines, made if need be. A library of another version builds its
    /// own.
    fn engines(
        &self,
        runtime: &Runtime,
        sha256: &str,
    ) -> Result<Option<EngineCache>, SessionError> {
        let Some(folder) = &self.engine_cache else {
            return Ok(None);
        };
        let engines = folder.join(format!("{}-{}", &sha256[..16], runtime.version()));
        fs::create_dir_all(&engines).map_err(|source| SessionError::EngineCache {
            path: engines.clone(),
            source,
        })?;
        Ok(Some(EngineCache {
            engines,
            timings: folder.clone(),
        }))
    }
}

/// Sizes of the encoder's tensors: `pixels` uint8 `[B, height, width, 3]`, `dense` f32
/// `[B, locations, dim]`, `global` f32 `[B, dim]`.
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
            GraphSource::File(path.to_owned()),
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
        Self::from_source(runtime, name, GraphSource::Memory(bytes.clone()), bytes)
    }

    fn from_source(
        _: &Runtime,
        name: String,
        source: GraphSource,
        bytes: Bytes,
    ) -> Result<Self, SessionError> {
        let sha256 = digest::sha256(&bytes);
        Ok(EncoderModel {
            graph: Arc::new(Graph::new(name, source, bytes, None)?),
            sha256,
        })
    }

    /// SHA-256 of the file, hex: equal hashes are equal encoders.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Opens a session and checks the contract, running one grey image to learn what the graph does
    /// not declare.
    ///
    /// # Errors
    /// [`SessionError`] names the graph and what is wrong.
    pub fn open(
        &self,
        runtime: &Runtime,
        options: &SessionOptions,
    ) -> Result<EncoderSession, SessionError> {
        let (graph, device) = (&self.graph, options.device);
        let mut provider = options.provider();
        if let Device::Tensorrt(_) = device {
            provider.half = graph.half() || options.tensorrt_fp16;
            provider.engine_cache = options.engines(runtime, &self.sha256)?;
            if let Some([_, Some(height), Some(width), Some(3)]) =
                graph.declared("pixels").as_deref()
            {
                let most = options.max_batch;
                let shape = |batch| format!("pixels:{batch}x{height}x{width}x3");
                provider.profile = Some([1, most, most].map(shape));
            }
        }
        let session = graph.open(runtime, device, &provider, options.many)?;
        let pixels = graph
            .name
            .outlet(session.inputs(), "pixels", TensorElementType::Uint8, 4)?;
        let [_, Some(height), Some(width), Some(3)] = pixels[..] else {
            return Err(graph.name.contract(format!(
                "`pixels` must be [B, height, width, 3] with fixed height and width, but is \
                 {pixels:?}"
            )));
        };
        graph
            .name
            .outlet(session.outputs(), "dense", TensorElementType::Float32, 3)?;
        graph
            .name
            .outlet(session.outputs(), "global", TensorElementType::Float32, 2)?;
        let memory = Arc::new(HostMemory::of(&session, device));
        let mode = RunMode::of(device, &memory).map_err(|e| graph.name.run_error(e))?;
        let mut encoder = EncoderSession {
            session,
            mode,
            memory,
            shape: EncoderShape {
                height,
                width,
                locations: 0,
                dim: 0,
            },
            name: graph.name.clone(),
        };
        let image = encoder.shape.image_bytes();
        if let Device::Tensorrt(_) = device {
            // An engine without given shapes is built anew whenever a batch is larger or smaller
            // than all before: so the largest comes first, then the smallest.
            let grey = vec![128u8; options.max_batch * image];
            encoder.features(&grey, options.max_batch)?;
        }
        let grey = vec![128u8; image];
        let features = encoder.features(&grey, 1)?;
        let (dense, global) = (dims(&features.dense), dims(&features.global));
        match (&dense[..], &global[..]) {
            ([1, locations, dim], [1, same]) if same == dim && *locations > 0 && *dim > 0 => {
                encoder.shape.locations = *locations;
                encoder.shape.dim = *dim;
                Ok(encoder)
            }
            _ => Err(encoder.name.contract(format!(
                "`dense` must be [B, N, D] and `global` [B, D], but one image gives {dense:?} and \
                 {global:?}"
            ))),
        }
    }
}

/// One worker's encoder. Runs are exclusive: one session a worker.
pub struct EncoderSession {
    session: Session,
    mode: RunMode,
    memory: Arc<HostMemory>,
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

    /// Memory that its images are best kept in.
    pub fn memory(&self) -> &Arc<HostMemory> {
        &self.memory
    }

    /// Encodes a batch into host memory.
    ///
    /// # Errors
    /// [`SessionError`] if `pixels` is not `batch` images or the run fails.
    pub fn encode<'a>(
        &mut self,
        pixels: impl Into<Pixels<'a>>,
        batch: usize,
    ) -> Result<Encoded, SessionError> {
        let features = self.run(pixels.into(), batch, Outputs::ToHost)?;
        let host = |value| host_values(value).map_err(|e| self.name.run_error(e));
        Ok(Encoded {
            batch,
            locations: self.shape.locations,
            dim: self.shape.dim,
            dense: host(&features.dense)?,
            global: host(&features.global)?,
        })
    }

    /// Encodes a batch and leaves the features where they are computed.
    ///
    /// # Errors
    /// [`SessionError`] if `pixels` is not `batch` images or the run fails.
    pub fn features<'a>(
        &mut self,
        pixels: impl Into<Pixels<'a>>,
        batch: usize,
    ) -> Result<Features, SessionError> {
        self.run(pixels.into(), batch, Outputs::Stay)
    }

    fn run(
        &mut self,
        pixels: Pixels<'_>,
        batch: usize,
        outputs: Outputs,
    ) -> Result<Features, SessionError> {
        let EncoderShape { height, width, .. } = self.shape;
        if batch == 0 || pixels.len() != batch * self.shape.image_bytes() {
            return Err(self.name.input(format!(
                "{} bytes are not {batch} images of {height}x{width}x3",
                pixels.len()
            )));
        }
        let (mode, session) = (&self.mode, &mut self.session);
        let mut run = || -> ort::Result<Features> {
            let shape = [batch, height, width, 3];
            let (view, copy);
            // What is bound must not be borrowed, unless it is certain that the session computes
            // elsewhere and copies it: `ort` (2.0.0-rc.15) waits for itself when it clones a
            // borrowed tensor.
            let input = if mode.binds() && !pixels.are_pinned() {
                copy = pixels.copied(shape)?;
                copy.upcast_ref()
            } else {
                view = pixels.tensor(shape)?;
                view.upcast_ref()
            };
            let inputs = [("pixels", input)];
            let mut outputs = mode.run(session, &inputs, &["dense", "global"], outputs)?;
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
