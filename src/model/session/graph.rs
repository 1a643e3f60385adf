//! A graph that is read once and opened many times, and runs of it on a device.

use super::SessionError;
use crate::model::{
    onnx::proto,
    runtime::{Device, ProviderOptions, Runtime},
};
use bytes::Bytes;
use ort::{
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    session::{Session, builder::PrepackedWeights},
    value::{
        DynTensor, DynValue, Outlet, PrimitiveTensorElementType, Tensor, TensorElementType,
        ValueType,
    },
};
use prost::Message;
use std::{path::PathBuf, sync::Arc};

/// Where a graph is read from, each time a session of it is opened.
pub(super) enum Source {
    /// A file. ONNX Runtime reads it by itself, so that no second copy of the weights is held meanwhile.
    File(PathBuf),
    /// Bytes.
    Memory(Bytes),
}

/// A graph and what all sessions of it share.
pub(super) struct Graph {
    pub(super) name: GraphName,
    source: Source,
    /// Large weights, handed to every CPU session so that the prepacked copy is shared too.
    pub(super) shared: Vec<(String, Arc<DynValue>)>,
    /// Weights that the graph leaves outside.
    external: Vec<(String, Arc<DynValue>)>,
    prepacked: PrepackedWeights,
}

/// Weights smaller than this are left inside: sharing them saves nothing.
const SHARED_FROM_BYTES: usize = 16 * 1024;

impl Graph {
    /// `bytes` are the content of `source`.
    pub(super) fn new(
        name: String,
        source: Source,
        bytes: Bytes,
        external: Option<&[u8]>,
    ) -> Result<Self, SessionError> {
        let contract = |reason: String| SessionError::Contract {
            graph: name.clone(),
            reason,
        };
        // The weights in it are slices of `bytes`, not copies.
        let model = proto::ModelProto::decode(bytes)
            .map_err(|e| contract(format!("it is not an ONNX model ({e})")))?;
        let initializers = model.graph.map(|g| g.initializer).unwrap_or_default();
        let (outside, inside): (Vec<_>, Vec<_>) = initializers
            .iter()
            .partition(|t| t.data_location() == proto::tensor_proto::DataLocation::External);
        let mut shared = Vec::new();
        for tensor in inside {
            if tensor.data_type() == proto::tensor_proto::DataType::Float as i32
                && tensor.raw_data().len() >= SHARED_FROM_BYTES
            {
                let values = floats(tensor.raw_data());
                let value = Tensor::from_array((tensor.dims.clone(), values))
                    .map_err(|e| contract(format!("weight {}: {e}", tensor.name())))?;
                shared.push((tensor.name().to_owned(), Arc::new(value.into_dyn())));
            }
        }
        let external = match external {
            Some(weights) => external_weights(&outside, weights).map_err(contract)?,
            None if outside.is_empty() => Vec::new(),
            None => {
                return Err(contract(format!(
                    "weight {} lies outside the file; only head.onnx may leave weights outside",
                    outside[0].name()
                )));
            }
        };
        Ok(Graph {
            name: GraphName(name.into()),
            source,
            shared,
            external,
            prepacked: PrepackedWeights::new(),
        })
    }

    pub(super) fn open(
        &self,
        runtime: &Runtime,
        device: Device,
        options: &ProviderOptions,
    ) -> Result<Session, SessionError> {
        let build = || -> ort::Result<Session> {
            let mut builder = runtime.builder(device, options)?;
            for (name, value) in &self.external {
                builder = builder.with_external_initializer(name, Arc::clone(value))?;
            }
            if !device.is_gpu() {
                for (name, value) in &self.shared {
                    builder = builder.with_initializer(name, Arc::clone(value))?;
                }
                builder = builder.with_prepacked_weights(&self.prepacked)?;
            }
            match &self.source {
                Source::File(path) => builder.commit_from_file(path),
                Source::Memory(bytes) => builder.commit_from_memory(bytes),
            }
        };
        build().map_err(|e| SessionError::Open {
            graph: self.name.0.to_string(),
            device,
            reason: e.to_string(),
        })
    }
}

/// A graph's name, and the errors that carry it. Sessions keep this and not the graph, whose bytes can then be freed.
#[derive(Clone)]
pub(super) struct GraphName(Arc<str>);

impl GraphName {
    pub(super) fn contract(&self, reason: impl Into<String>) -> SessionError {
        SessionError::Contract {
            graph: self.0.to_string(),
            reason: reason.into(),
        }
    }

    /// Finds `name` among `outlets` and checks element type and rank; returns the dimensions, `None` where dynamic.
    pub(super) fn outlet(
        &self,
        outlets: &[Outlet],
        name: &str,
        element: TensorElementType,
        rank: usize,
    ) -> Result<Vec<Option<usize>>, SessionError> {
        let outlet = outlets.iter().find(|o| o.name() == name).ok_or_else(|| {
            let names: Vec<_> = outlets.iter().map(Outlet::name).collect();
            self.contract(format!(
                "`{name}` is missing (there is: {})",
                names.join(", ")
            ))
        })?;
        match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } if *ty == element && shape.len() == rank => {
                let dims: Vec<_> = shape.iter().map(|d| usize::try_from(*d).ok()).collect();
                if let Some(fixed) = dims[0] {
                    return Err(self.contract(format!(
                        "the batch axis of `{name}` is fixed to {fixed}; export it with a dynamic batch axis"
                    )));
                }
                Ok(dims)
            }
            other => Err(self.contract(format!(
                "`{name}` must be a tensor of {element:?} with {rank} axes, but is {other:?}"
            ))),
        }
    }

    pub(super) fn run_error(&self, error: ort::Error) -> SessionError {
        SessionError::Run {
            graph: self.0.to_string(),
            reason: error.to_string(),
        }
    }

    pub(super) fn input(&self, reason: String) -> SessionError {
        SessionError::Input {
            graph: self.0.to_string(),
            reason,
        }
    }
}

/// Little-endian f32 from bytes of any alignment.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

/// The tensors that a graph declares as external, taken by name from a safetensors file.
fn external_weights(
    declared: &[&proto::TensorProto],
    file: &[u8],
) -> Result<Vec<(String, Arc<DynValue>)>, String> {
    let weights = safetensors::SafeTensors::deserialize(file)
        .map_err(|e| format!("its weights are not a safetensors file ({e})"))?;
    declared
        .iter()
        .map(|tensor| {
            let name = tensor.name();
            let stored = weights
                .tensor(name)
                .map_err(|_| format!("weight {name} is missing in its safetensors file"))?;
            let dims: Vec<i64> = stored.shape().iter().map(|d| *d as i64).collect();
            if dims != tensor.dims || stored.dtype() != safetensors::Dtype::F32 {
                return Err(format!(
                    "weight {name} must be F32 {:?} but is {:?} {dims:?}",
                    tensor.dims,
                    stored.dtype()
                ));
            }
            let value = Tensor::from_array((dims, floats(stored.data())))
                .map_err(|e| format!("weight {name}: {e}"))?;
            Ok((name.to_owned(), Arc::new(value.into_dyn())))
        })
        .collect()
}

pub(super) fn dims(value: &DynTensor) -> Vec<usize> {
    match value.dtype() {
        ValueType::Tensor { shape, .. } => shape.iter().map(|d| *d as usize).collect(),
        _ => Vec::new(),
    }
}

/// Runs a session and returns the named outputs, in the memory of `to`. On a GPU inputs and outputs are bound, so that
/// nothing crosses to the host that does not have to.
pub(super) fn run_on(
    session: &mut Session,
    device: Device,
    inputs: &[(&str, &DynTensor)],
    names: &[&str],
    to: Device,
) -> ort::Result<Vec<DynTensor>> {
    let missing = |name: &str| ort::Error::new(format!("output `{name}` is missing"));
    if !device.is_gpu() {
        let inputs: Vec<_> = inputs
            .iter()
            .map(|(name, value)| (*name, value.view()))
            .collect();
        let mut outputs = session.run(inputs)?;
        return names
            .iter()
            .map(|name| {
                outputs
                    .remove(name)
                    .ok_or_else(|| missing(name))?
                    .downcast()
            })
            .collect();
    }
    let memory = match to {
        Device::Cpu => MemoryInfo::new(
            AllocationDevice::CPU,
            0,
            AllocatorType::Device,
            MemoryType::CPUOutput,
        )?,
        Device::Cuda(index) | Device::Tensorrt(index) => MemoryInfo::new(
            AllocationDevice::CUDA,
            index as i32,
            AllocatorType::Device,
            MemoryType::Default,
        )?,
    };
    let mut binding = session.create_binding()?;
    for (name, value) in inputs {
        binding.bind_input(*name, value)?;
    }
    for name in names {
        binding.bind_output_to_device(*name, &memory)?;
    }
    let mut outputs = session.run_binding(&binding)?;
    names
        .iter()
        .map(|name| {
            outputs
                .remove(name)
                .ok_or_else(|| missing(name))?
                .downcast()
        })
        .collect()
}

/// Copies a float tensor to the host, from wherever it lies.
pub(super) fn host_floats(value: &DynTensor) -> ort::Result<Vec<f32>> {
    host_values(value)
}

/// As [`host_floats`], of any plain element type.
pub(super) fn host_values<T: PrimitiveTensorElementType + Copy>(
    value: &DynTensor,
) -> ort::Result<Vec<T>> {
    if value.memory_info().is_cpu_accessible() {
        return Ok(value.try_extract_tensor::<T>()?.1.to_vec());
    }
    let host = value.to(AllocationDevice::CPU, 0)?;
    Ok(host.try_extract_tensor::<T>()?.1.to_vec())
}
