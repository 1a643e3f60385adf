//! A graph that is read once and opened many times.

use super::SessionError;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::{IntegerRange, proto};
use crate::runtime::{Device, ProviderOptions, Runtime};
use bytes::Bytes;
use half::f16;
use ort::memory::AllocationDevice;
use ort::session::Session;
use ort::session::builder::PrepackedWeights;
use ort::value::{DynTensorValueType, DynValue, Outlet, Tensor, TensorElementType, ValueType};
use prost::Message;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Where a graph is read from, each time a session of it is opened.
pub(super) enum GraphSource {
    /// A file. ONNX Runtime reads it by itself, so that no second copy of the weights is held
    /// meanwhile.
    File(PathBuf),
    /// Bytes.
    Memory(Bytes),
}

/// Weights by name, for sessions to share.
type Weights = Vec<(String, Arc<DynValue>)>;

/// A graph and what all sessions of it share.
pub(super) struct Graph {
    pub(super) name: GraphName,
    source: GraphSource,
    /// Large weights, handed to every CPU session so that the prepacked copy is shared too.
    pub(super) shared: Weights,
    /// Large weights of 16 bits, which sessions on a GPU share. On a CPU they stay with the graph:
    /// some kernels there keep such weights in a form that cannot be shared.
    shared_halves: Weights,
    /// The large weights on a GPU, as its first session left them there.
    on_device: Mutex<Option<(u32, Weights)>>,
    /// Weights that the graph leaves outside.
    external: Weights,
    prepacked: PrepackedWeights,
    inputs: Vec<proto::ValueInfoProto>,
    half: bool,
}

/// Weights smaller than this are left inside: sharing them saves nothing.
const SHARED_FROM_BYTES: usize = 16 * 1024;

fn of_type(tensor: &proto::TensorProto, element: DataType) -> bool {
    tensor.data_type() == element as i32
}

/// Weights that stand inside the file and are worth sharing between sessions.
struct SharedWeights {
    shared: Weights,
    /// Those of 16 bits.
    shared_halves: Weights,
    /// Some 8-bit weight lies beyond what processors without VNNI can multiply.
    overflows: bool,
}

impl SharedWeights {
    /// Copies them out of `inside`; an error names the weight.
    fn of(inside: &[&proto::TensorProto]) -> Result<Self, String> {
        let (mut shared, mut shared_halves) = (Vec::new(), Vec::new());
        let mut overflows = false;
        for tensor in inside {
            if tensor.raw_data().len() < SHARED_FROM_BYTES {
                continue;
            }
            let (dims, raw) = (tensor.dims.clone(), tensor.raw_data());
            let (list, value) = if of_type(tensor, DataType::Float) {
                let value = Tensor::from_array((dims, floats(raw)));
                (&mut shared, value.map(Tensor::into_dyn))
            } else if of_type(tensor, DataType::Int8) {
                let integers: Vec<i8> = raw.iter().map(|byte| byte.cast_signed()).collect();
                overflows |= integers
                    .iter()
                    .any(|integer| beyond_reduced_range(*integer));
                let value = Tensor::from_array((dims, integers));
                (&mut shared, value.map(Tensor::into_dyn))
            } else if of_type(tensor, DataType::Float16) {
                let value = Tensor::from_array((dims, halves(raw)));
                (&mut shared_halves, value.map(Tensor::into_dyn))
            } else {
                continue;
            };
            let value = value.map_err(|e| format!("weight {}: {e}", tensor.name()))?;
            list.push((tensor.name().to_owned(), Arc::new(value)));
        }
        Ok(SharedWeights {
            shared,
            shared_halves,
            overflows,
        })
    }
}

impl Graph {
    /// `bytes` are the content of `source`.
    pub(super) fn new(
        name: String,
        source: GraphSource,
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
        let proto::GraphProto {
            initializer: initializers,
            input: inputs,
            ..
        } = model.graph.unwrap_or_default();
        let half = initializers.iter().any(|t| of_type(t, DataType::Float16));
        let (outside, inside): (Vec<_>, Vec<_>) = initializers
            .iter()
            .partition(|t| t.data_location() == proto::tensor_proto::DataLocation::External);
        let SharedWeights {
            shared,
            shared_halves,
            overflows,
        } = SharedWeights::of(&inside).map_err(contract)?;
        if overflows && IntegerRange::of_this_processor() == IntegerRange::Reduced {
            tracing::warn!(
                graph = name,
                "its 8-bit weights are for processors with VNNI, which this one lacks: products \
                 overflow here; make it anew with `tagstream init --precision int8-reduced`"
            );
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
            shared_halves,
            on_device: Mutex::default(),
            external,
            prepacked: PrepackedWeights::new(),
            inputs,
            half,
        })
    }

    /// Whether it has weights of 16 bits.
    pub(super) fn half(&self) -> bool {
        self.half
    }

    /// The dimensions that the file declares for an input, `None` where dynamic; of an input that
    /// is not there, nothing.
    pub(super) fn declared(&self, input: &str) -> Option<Vec<Option<usize>>> {
        use proto::tensor_shape_proto::dimension::Value::DimValue;
        use proto::type_proto::Value;
        let info = self.inputs.iter().find(|i| i.name() == input)?;
        let Value::TensorType(tensor) = info.r#type.as_ref()?.value.as_ref()? else {
            return None;
        };
        let dims = tensor.shape.as_ref()?.dim.iter();
        Some(
            dims.map(|dim| match dim.value {
                Some(DimValue(size)) => usize::try_from(size).ok(),
                _ => None,
            })
            .collect(),
        )
    }

    /// The large weights in the memory of a GPU. ONNX Runtime takes a weight that lies on the
    /// device where it is wanted as it is, so that sessions there hold one copy. Without that every
    /// session has its own; a warning says why.
    fn on_device(&self, index: u32) -> Weights {
        let mut there = self.on_device.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, weights)) = there.as_ref().filter(|(i, _)| *i == index) {
            return weights.clone();
        }
        let copied = self.shared.iter().chain(&self.shared_halves);
        let copied: ort::Result<Weights> = copied
            .map(|(name, value)| {
                let value = value.view().downcast::<DynTensorValueType>()?;
                let value = value.to(AllocationDevice::CUDA, index as i32)?;
                Ok((name.clone(), Arc::new(value.into_dyn())))
            })
            .collect();
        let weights = copied.unwrap_or_else(|error| {
            self.not_shared(&error);
            Weights::new()
        });
        *there = Some((index, weights.clone()));
        weights
    }

    fn not_shared(&self, error: &ort::Error) {
        tracing::warn!(
            graph = %self.name.0, %error,
            "weights cannot be shared on the GPU: every worker holds its own"
        );
    }

    /// Opens a session. `many` says that there will be more of them on this device: then those on a
    /// GPU share weights, too (not with TensorRT, whose engines have their own).
    pub(super) fn open(
        &self,
        runtime: &Runtime,
        device: Device,
        options: &ProviderOptions,
        many: bool,
    ) -> Result<Session, SessionError> {
        let opened = match device {
            Device::Cpu => self.build(runtime, device, options, &self.shared),
            Device::Cuda(index) if many => {
                let weights = self.on_device(index);
                self.build(runtime, device, options, &weights)
                    .or_else(|error| {
                        if weights.is_empty() {
                            return Err(error);
                        }
                        self.not_shared(&error);
                        *self.on_device.lock().unwrap_or_else(|e| e.into_inner()) =
                            Some((index, Weights::new()));
                        self.build(runtime, device, options, &[])
                    })
            }
            Device::Cuda(_) => self.build(runtime, device, options, &[]),
            Device::Tensorrt(_) => {
                let opened = self.build(runtime, device, options, &[]);
                opened.or_else(|error| {
                    if options.profile.is_none() || !wants_other_shapes(&error.to_string()) {
                        return Err(error);
                    }
                    tracing::info!(
                        graph = %self.name.0, %error,
                        "TensorRT takes only a part of the graph: its engine is built for the \
                         batches that it sees"
                    );
                    let options = ProviderOptions {
                        profile: None,
                        ..options.clone()
                    };
                    self.build(runtime, device, &options, &[])
                })
            }
        };
        opened.map_err(|e| SessionError::Open {
            graph: self.name.0.to_string(),
            device,
            reason: e.to_string(),
        })
    }

    fn build(
        &self,
        runtime: &Runtime,
        device: Device,
        options: &ProviderOptions,
        shared: &[(String, Arc<DynValue>)],
    ) -> ort::Result<Session> {
        let mut builder = runtime.builder(device, options)?;
        for (name, value) in &self.external {
            builder = builder.with_external_initializer(name, Arc::clone(value))?;
        }
        for (name, value) in shared {
            builder = builder.with_initializer(name, Arc::clone(value))?;
        }
        if !device.is_gpu() {
            builder = builder.with_prepacked_weights(&self.prepacked)?;
        }
        match &self.source {
            GraphSource::File(path) => builder.commit_from_file(path),
            GraphSource::Memory(bytes) => builder.commit_from_memory(bytes),
        }
    }
}

/// A graph's name, and the errors that carry it. Sessions keep this and not the graph, whose bytes
/// can then be freed.
#[derive(Clone)]
pub(super) struct GraphName(Arc<str>);

impl GraphName {
    pub(super) fn contract(&self, reason: impl Into<String>) -> SessionError {
        SessionError::Contract {
            graph: self.0.to_string(),
            reason: reason.into(),
        }
    }

    /// Finds `name` among `outlets` and checks element type and rank; returns the dimensions,
    /// `None` where dynamic.
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
                        "the batch axis of `{name}` is fixed to {fixed}; export it with a dynamic \
                         batch axis"
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

/// Whether TensorRT misses shapes for an input of the part of the graph that it takes. They can be
/// given only for inputs whose names are known.
fn wants_other_shapes(reason: &str) -> bool {
    reason.contains("shape profiles")
}

/// Whether two products with such a weight may overflow 16 bit.
fn beyond_reduced_range(integer: i8) -> bool {
    integer.unsigned_abs() > IntegerRange::Reduced.largest().unsigned_abs()
}

/// Little-endian f16 from bytes of any alignment.
fn halves(bytes: &[u8]) -> Vec<f16> {
    bytes
        .chunks_exact(2)
        .map(|b| f16::from_le_bytes([b[0], b[1]]))
        .collect()
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

#[cfg(test)]
mod tests {
    use crate::session::graph::wants_other_shapes;

    #[test]
    fn a_part_of_the_graph_without_shapes_is_told_from_other_errors() {
        assert!(wants_other_shapes(
            "Following input(s) has no associated shape profiles provided: Cast_1/out"
        ));
        assert!(!wants_other_shapes("CUDA failure 2: out of memory"));
    }
}
