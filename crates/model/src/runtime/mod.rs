//! ONNX Runtime itself: where its library is found, and which execution provider can be used.
//!
//! The library is loaded at run time and never fetched by itself. An explicit request
//! (`ORT_DYLIB_PATH`, a named provider) that cannot be met is an error: nothing here falls back in
//! silence.

mod library;
mod provider;

pub use library::cache_folder;
pub(crate) use provider::{EngineCache, ProviderOptions};

use crate::onnx::proto;
use library::{Places, find_library};
use ort::environment::Environment;
use ort::ep;
use ort::ep::ExecutionProvider;
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use ort::value::Tensor;
use prost::Message;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{fmt, fs};
use tagstream_core::config::Provider;

/// The release that `scripts/onnxruntime.sh` installs and that this code is tested with.
pub const ONNXRUNTIME_VERSION: &str = "1.31.1";

/// Why ONNX Runtime or one of its execution providers cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// No library at any of the places.
    #[error(
        "the ONNX Runtime library was not found; tried {}; run `scripts/onnxruntime.sh`, or set \
         ORT_DYLIB_PATH to a libonnxruntime.so",
        list(tried)
    )]
    LibraryNotFound {
        /// Where it was looked for, in order.
        tried: Vec<PathBuf>,
    },
    /// A library that cannot be loaded or is too old.
    #[error(
        "the ONNX Runtime library at {} cannot be used: {reason}; run `scripts/onnxruntime.sh` \
         for version {ONNXRUNTIME_VERSION}",
        path.display()
    )]
    LibraryUnusable {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// An execution provider that was asked for by name and is not usable.
    #[error("execution provider `{provider}` (device {device}) is not usable: {reason}; {advice}")]
    ProviderUnusable {
        /// Its name in the configuration.
        provider: &'static str,
        /// Device number.
        device: u32,
        /// What ONNX Runtime said.
        reason: String,
        /// What to do about it; names the missing library where one is missing.
        advice: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    names.join(", ")
}

/// The device that sessions run on, after `auto` was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
    Cpu,
    /// A CUDA device by number.
    Cuda(u32),
    /// A CUDA device by number, through TensorRT (with CUDA for what TensorRT does not take).
    Tensorrt(u32),
}

impl Device {
    /// `cpu`, `cuda` or `tensorrt`: the label in metrics and `/info`.
    pub fn provider(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Tensorrt(_) => "tensorrt",
        }
    }

    /// The device's number, where there are several.
    pub fn index(self) -> u32 {
        match self {
            Device::Cpu => 0,
            Device::Cuda(index) | Device::Tensorrt(index) => index,
        }
    }

    /// Sessions that run at the same time where nobody says how many: one a core on the processor.
    /// Two on a GPU, each with a stream of its own: while one computes, the other's images go to
    /// the device and its results come back.
    pub fn usual_workers(self) -> usize {
        match self {
            Device::Cpu => std::thread::available_parallelism().map_or(1, |n| n.get()),
            Device::Cuda(_) | Device::Tensorrt(_) => 2,
        }
    }

    /// The same GPU without TensorRT: for graphs that change often, since an engine takes long to
    /// build.
    pub fn without_engines(self) -> Self {
        match self {
            Device::Tensorrt(index) => Device::Cuda(index),
            other => other,
        }
    }

    /// Whether tensors live in another memory than the host's.
    pub fn is_gpu(self) -> bool {
        self != Device::Cpu
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            other => write!(f, "{}:{}", other.provider(), other.index()),
        }
    }
}

/// The loaded library; there is one a process, and clones share it.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: Environment,
    library: PathBuf,
}

static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Loads the library (once a process): from `ORT_DYLIB_PATH` if that is set, else beside the
    /// executable, else from the cache that `scripts/onnxruntime.sh` fills (`TAGSTREAM_CACHE`, or
    /// `~/.cache/tagstream`).
    ///
    /// # Errors
    /// [`RuntimeError`] names the places tried, or the file and what is wrong with it.
    pub fn load() -> Result<Self, RuntimeError> {
        let mut loaded = LOADED.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(runtime) = &*loaded {
            return Ok(runtime.clone());
        }
        let library = find_library(&Places::of_this_process())?;
        let unusable = |reason: String| RuntimeError::LibraryUnusable {
            path: library.clone(),
            reason,
        };
        let environment = ort::init_from(&library)
            .map_err(|e| unusable(e.to_string()))?
            .with_name("tagstream")
            .with_telemetry(false)
            .build()
            .map_err(|e| unusable(e.to_string()))?;
        let runtime = Runtime {
            environment,
            library,
        };
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// The process's one environment, for tests that open sessions by themselves.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The library's file.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The library's version, as far as its build information or its file name tell.
    pub fn version(&self) -> String {
        let from_build = ort::info()
            .split([',', ' '])
            .find_map(|word| word.strip_prefix("git-branch=rel-"))
            .map(str::to_owned);
        let from_name = || {
            let real = fs::canonicalize(&self.library).ok()?;
            let (_, version) = real.file_name()?.to_str()?.split_once(".so.")?;
            Some(version.to_owned())
        };
        from_build
            .or_else(from_name)
            .unwrap_or_else(|| "unknown".into())
    }

    /// Turns a configured provider into the device to use. A named one is proven by running a graph
    /// on it; `auto` is CUDA where that works, else the processor.
    ///
    /// # Errors
    /// [`RuntimeError::ProviderUnusable`] says why and names the missing library.
    pub fn resolve(&self, provider: Provider, index: u32) -> Result<Device, RuntimeError> {
        match provider {
            Provider::Cpu => Ok(Device::Cpu),
            Provider::Cuda => self.proven(Device::Cuda(index)),
            Provider::Tensorrt => self.proven(Device::Tensorrt(index)),
            Provider::Auto => match self.proven(Device::Cuda(index)) {
                Ok(device) => Ok(device),
                Err(why) => {
                    tracing::info!(%why, "provider `auto` uses the cpu");
                    Ok(Device::Cpu)
                }
            },
        }
    }

    fn proven(&self, device: Device) -> Result<Device, RuntimeError> {
        let unusable = |reason: String| RuntimeError::ProviderUnusable {
            provider: device.provider(),
            device: device.index(),
            advice: advice(&reason, device),
            reason: plain(&reason),
        };
        let compiled_in = match device {
            Device::Cpu => Ok(true),
            Device::Cuda(_) => ep::CUDA::is_available(),
            Device::Tensorrt(_) => ep::TensorRT::is_available(),
        };
        if !compiled_in.map_err(|e| unusable(e.to_string()))? {
            return Err(unusable(format!(
                "the library {} was built without it",
                self.library.display()
            )));
        }
        preload_beside(&self.library);
        self.probe(device).map_err(|e| unusable(e.to_string()))?;
        Ok(device)
    }

    /// Runs a one-node graph on the device: registration alone does not notice a missing driver.
    fn probe(&self, device: Device) -> ort::Result<()> {
        let mut session = self
            .builder(device, &ProviderOptions::default())?
            .commit_from_memory(&identity_graph())?;
        let input = Tensor::<f32>::from_array(([1usize], vec![1.0f32]))?;
        session.run(ort::inputs!["x" => input])?;
        Ok(())
    }

    /// A session builder for `device`: one thread, no spinning, the provider registered so that
    /// failure is an error. On a CPU without memory patterns: they make no run faster, but the
    /// second run of every shape slower, and hold 5 MB a session more (docs/performance.md).
    pub(crate) fn builder(
        &self,
        device: Device,
        options: &ProviderOptions,
    ) -> ort::Result<SessionBuilder> {
        // PreferCPU keeps ONNX Runtime from registering a provider by itself.
        let builder = Session::builder(&self.environment)?
            .with_auto_device(AutoDevicePolicy::PreferCPU)?
            .with_intra_threads(options.threads.max(1))?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .with_memory_pattern(device.is_gpu())?;
        let providers = options.providers(device);
        if providers.is_empty() {
            return Ok(builder);
        }
        Ok(builder.with_execution_providers(providers)?)
    }
}

/// Loads the CUDA and cuDNN libraries that lie beside ONNX Runtime, so that they are found without
/// `LD_LIBRARY_PATH`. They depend on each other, so the folder is gone through until a pass loads
/// nothing more.
fn preload_beside(library: &Path) {
    let Some(entries) = library.parent().and_then(|dir| fs::read_dir(dir).ok()) else {
        return;
    };
    let mut waiting: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            ["libcu", "libnv", "libcudnn"]
                .iter()
                .any(|p| name.starts_with(p))
                && name.contains(".so")
        })
        .collect();
    waiting.sort();
    loop {
        let before = waiting.len();
        waiting.retain(|path| ort::util::preload_dylib(path.as_os_str()).is_err());
        if waiting.is_empty() || waiting.len() == before {
            return;
        }
    }
}

/// One line of what ONNX Runtime said, without where in its source it said so.
fn plain(reason: &str) -> String {
    let words: Vec<&str> = reason.split_whitespace().collect();
    let line = words.join(" ");
    match line.find("Failed to load") {
        Some(at) => line[at..].to_owned(),
        None => line,
    }
}

/// What to do about a provider that does not work: the missing library, if the loader named one.
fn advice(reason: &str, device: Device) -> String {
    const CUDA: &str = "`scripts/onnxruntime.sh --cuda` installs ONNX Runtime for CUDA with the \
        CUDA and cuDNN libraries";
    let missing = reason
        .split(|c: char| c.is_whitespace() || matches!(c, ':' | ',' | '\'' | '"'))
        .map(|word| word.rsplit('/').next().unwrap_or(word))
        .rfind(|word| word.starts_with("lib") && word.contains(".so"))
        .filter(|_| reason.contains("cannot open shared object file"));
    match (missing, device) {
        (Some(driver), _) if driver.starts_with("libcuda.so") => format!(
            "the NVIDIA driver's library {driver} is missing: install the driver, or give the \
             container access to the GPU"
        ),
        (Some(tensorrt), _)
            if tensorrt.starts_with("libnvinfer") || tensorrt.starts_with("libnvonnx") =>
        {
            format!(
                "TensorRT's library {tensorrt} is missing: install TensorRT on the loader's path, \
                 or choose provider `cuda`"
            )
        }
        (Some(library), _) => format!("the library {library} is missing; {CUDA}"),
        (None, Device::Tensorrt(_)) => format!(
            "TensorRT's libraries must be on the loader's path; {CUDA}; or choose provider `cuda` \
             or `cpu`"
        ),
        (None, _) => format!("{CUDA}; or choose provider `cpu`"),
    }
}

/// `y = Identity(x)` over one float.
fn identity_graph() -> Vec<u8> {
    let float = |name: &str| proto::ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(proto::TypeProto {
            value: Some(proto::type_proto::Value::TensorType(
                proto::type_proto::Tensor {
                    elem_type: Some(proto::tensor_proto::DataType::Float as i32),
                    shape: Some(proto::TensorShapeProto {
                        dim: vec![proto::tensor_shape_proto::Dimension {
                            value: Some(proto::tensor_shape_proto::dimension::Value::DimValue(1)),
                            ..Default::default()
                        }],
                    }),
                },
            )),
            ..Default::default()
        }),
        ..Default::default()
    };
    proto::ModelProto {
        ir_version: Some(8),
        opset_import: vec![proto::OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        graph: Some(proto::GraphProto {
            name: Some("probe".into()),
            node: vec![proto::NodeProto {
                op_type: Some("Identity".into()),
                input: vec!["x".into()],
                output: vec!["y".into()],
                ..Default::default()
            }],
            input: vec![float("x")],
            output: vec![float("y")],
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_library_is_named() {
        let reason = |library: &str| {
            format!(
                "/src/bridge.cc:2043 Get() FAIL :\nFailed to load library \
                 /opt/libonnxruntime_providers_cuda.so with error: \
                 {library}: cannot open shared object file: No such file or directory\n"
            )
        };
        let text = advice(&reason("libcublasLt.so.13"), Device::Cuda(0));
        assert!(
            text.starts_with("the library libcublasLt.so.13 is missing"),
            "{text}"
        );
        let text = advice(&reason("libcuda.so.1"), Device::Cuda(0));
        assert!(text.contains("driver's library libcuda.so.1"), "{text}");
        let text = advice(&reason("libnvinfer.so.10"), Device::Tensorrt(0));
        assert!(
            text.contains("TensorRT's library libnvinfer.so.10"),
            "{text}"
        );
        let line = plain(&reason("libcuda.so.1"));
        assert!(
            line.starts_with("Failed to load library /opt/") && !line.contains('\n'),
            "{line}"
        );
    }

    #[test]
    fn a_named_provider_that_is_not_there_is_an_error_and_auto_is_not() {
        let runtime = Runtime::load().unwrap();
        assert_eq!(runtime.resolve(Provider::Cpu, 0).unwrap(), Device::Cpu);
        runtime.probe(Device::Cpu).unwrap();
        if !ep::CUDA::is_available().unwrap() {
            let error = runtime.resolve(Provider::Cuda, 0).unwrap_err().to_string();
            assert!(
                error.contains("`cuda`") && error.contains("built without"),
                "{error}"
            );
            assert_eq!(runtime.resolve(Provider::Auto, 0).unwrap(), Device::Cpu);
        }
    }
}
