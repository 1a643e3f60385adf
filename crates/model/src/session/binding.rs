//! Runs of a session, and where their outputs are left.

use super::pixels::{HostMemory, pinned};
use crate::runtime::Device;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::value::{DynTensor, DynTensorRef, PrimitiveTensorElementType, ValueType};

/// Which memory outputs go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outputs {
    /// Where the session computes: for another session on the same device.
    Stay,
    /// The host's.
    ToHost,
}

/// How a session is run.
pub(super) enum RunMode {
    /// On the processor. There is only one memory.
    Processor,
    /// On a GPU. Inputs and outputs are bound, so that nothing crosses that does not have to.
    Bound {
        /// The device's memory.
        device: MemoryInfo<'static>,
        /// The host's that outputs come back to: page-locked, so that the device writes there by
        /// itself.
        host: MemoryInfo<'static>,
    },
}

impl RunMode {
    /// How sessions on `device` are run; outputs come back to `host`.
    pub(super) fn of(device: Device, host: &HostMemory) -> ort::Result<Self> {
        let Some(pinned) = pinned(device) else {
            return Ok(RunMode::Processor);
        };
        let (index, plain) = (device.index() as i32, AllocatorType::Device);
        Ok(RunMode::Bound {
            device: MemoryInfo::new(AllocationDevice::CUDA, index, plain, MemoryType::Default)?,
            host: match host.is_pinned() {
                true => pinned?,
                false => MemoryInfo::new(AllocationDevice::CPU, 0, plain, MemoryType::CPUOutput)?,
            },
        })
    }

    /// Whether inputs and outputs are bound.
    pub(super) fn binds(&self) -> bool {
        matches!(self, RunMode::Bound { .. })
    }

    /// Runs `session` and returns the named outputs. They are complete: ONNX Runtime waits for the
    /// device at the end of a run, so the inputs' memory is free, too. An input that is borrowed
    /// must lie in page-locked memory if it is bound.
    pub(super) fn run(
        &self,
        session: &mut Session,
        inputs: &[(&str, DynTensorRef<'_>)],
        names: &[&str],
        outputs: Outputs,
    ) -> ort::Result<Vec<DynTensor>> {
        let binding;
        let mut found = match self {
            RunMode::Processor => {
                let inputs: Vec<_> = inputs
                    .iter()
                    .map(|(name, value)| (*name, value.view()))
                    .collect();
                session.run(inputs)?
            }
            RunMode::Bound { device, host } => {
                let to = match outputs {
                    Outputs::Stay => device,
                    Outputs::ToHost => host,
                };
                let mut bound = session.create_binding()?;
                for (name, value) in inputs {
                    bound.bind_input(*name, value)?;
                }
                for name in names {
                    bound.bind_output_to_device(*name, to)?;
                }
                binding = bound;
                session.run_binding(&binding)?
            }
        };
        names
            .iter()
            .map(|name| {
                found
                    .remove(name)
                    .ok_or_else(|| ort::Error::new(format!("output `{name}` is missing")))?
                    .downcast()
            })
            .collect()
    }
}

pub(super) fn dims(value: &DynTensor) -> Vec<usize> {
    match value.dtype() {
        ValueType::Tensor { shape, .. } => shape.iter().map(|d| *d as usize).collect(),
        _ => Vec::new(),
    }
}

/// Copies a tensor out of the host's memory.
pub(super) fn host_values<T: PrimitiveTensorElementType + Copy>(
    value: &DynTensor,
) -> ort::Result<Vec<T>> {
    Ok(value.try_extract_tensor::<T>()?.1.to_vec())
}
