//! What sessions tell their execution provider.

use super::Device;
use ort::ep;
use ort::ep::ExecutionProviderDispatch;
use ort::ep::cuda::ConvAlgorithmSearch;
use std::path::PathBuf;

/// What sessions of one model tell their provider.
#[derive(Debug, Clone)]
pub(crate) struct ProviderOptions {
    /// Threads inside one run, on a CPU.
    pub threads: usize,
    /// Most that the session's arena may take on the GPU, bytes. `None`: what there is.
    pub device_memory: Option<usize>,
    /// Where TensorRT keeps what took it long.
    pub engine_cache: Option<EngineCache>,
    /// Smallest, usual and largest shapes of the inputs (`name:1x3,...`), for TensorRT.
    pub profile: Option<[String; 3]>,
    /// Whether TensorRT may compute in 16 bit.
    pub half: bool,
}

/// Folders of TensorRT's files, both existing.
#[derive(Debug, Clone)]
pub(crate) struct EngineCache {
    /// Engines of one graph with its weights: TensorRT does not tell by itself that weights have
    /// changed.
    pub engines: PathBuf,
    /// How fast single kernels are, whatever the graph.
    pub timings: PathBuf,
}

impl Default for ProviderOptions {
    fn default() -> Self {
        ProviderOptions {
            threads: 1,
            device_memory: None,
            engine_cache: None,
            profile: None,
            half: false,
        }
    }
}

impl ProviderOptions {
    pub(super) fn providers(&self, device: Device) -> Vec<ExecutionProviderDispatch> {
        let index = device.index() as i32;
        match device {
            Device::Cpu => Vec::new(),
            Device::Cuda(_) => vec![self.cuda(index).build().error_on_failure()],
            // CUDA for what TensorRT does not take.
            Device::Tensorrt(_) => vec![
                self.tensorrt(index).build().error_on_failure(),
                self.cuda(index).build().error_on_failure(),
            ],
        }
    }

    /// Copies need no option: each session's go to its own stream (the option
    /// `do_copy_in_default_stream` of older releases is read no more).
    fn cuda(&self, index: i32) -> ep::CUDA {
        let cuda = ep::CUDA::default()
            .with_device_id(index)
            // Batches come in a few sizes that are all tried at the start: doubling the arena each
            // time would only waste memory.
            .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
            // An exhaustive search is made anew for every batch size of every session.
            .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
            // ONNX Runtime's own default, said aloud: products of 32-bit floats take ten bits of
            // the mantissa, as 16-bit ones.
            .with_tf32(true);
        match self.device_memory {
            Some(bytes) => cuda.with_memory_limit(bytes),
            None => cuda,
        }
    }

    fn tensorrt(&self, index: i32) -> ep::TensorRT {
        let mut tensorrt = ep::TensorRT::default().with_device_id(index);
        if self.half {
            tensorrt = tensorrt.with_fp16(true).with_layer_norm_fp32_fallback(true);
        }
        if let Some(EngineCache { engines, timings }) = &self.engine_cache {
            tensorrt = tensorrt
                .with_engine_cache(true)
                .with_engine_cache_path(engines.display())
                .with_timing_cache(true)
                .with_timing_cache_path(timings.display());
        }
        if let Some([min, opt, max]) = &self.profile {
            tensorrt = tensorrt
                .with_profile_min_shapes(min)
                .with_profile_opt_shapes(opt)
                .with_profile_max_shapes(max);
        }
        tensorrt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_reach_the_providers() {
        let said = |options: &ProviderOptions| {
            format!("{:?} {:?}", options.cuda(3), options.tensorrt(3)).replace('\\', "")
        };
        let plain = said(&ProviderOptions::default());
        for key in ["device_id", "kSameAsRequested", "HEURISTIC", "use_tf32"] {
            assert!(plain.contains(key), "{key}: {plain}");
        }
        for key in ["gpu_mem_limit", "fp16", "cache", "profile"] {
            assert!(!plain.contains(key), "{key}: {plain}");
        }
        let all = said(&ProviderOptions {
            device_memory: Some(3 << 30),
            engine_cache: Some(EngineCache {
                engines: "cache/engines".into(),
                timings: "cache".into(),
            }),
            profile: Some(["x:1", "x:7", "x:8"].map(String::from)),
            half: true,
            ..ProviderOptions::default()
        });
        for key in [
            "gpu_mem_limit",
            "3221225472",
            "trt_fp16_enable",
            "trt_layer_norm_fp32_fallback",
            "trt_engine_cache_enable",
            "cache/engines",
            "trt_timing_cache_path",
            "x:1",
            "x:7",
            "x:8",
        ] {
            assert!(all.contains(key), "{key}: {all}");
        }
    }

    #[test]
    fn a_processor_has_no_provider_and_tensorrt_has_cuda_behind_it() {
        let options = ProviderOptions::default();
        let count = |device| options.providers(device).len();
        assert_eq!(
            [Device::Cpu, Device::Cuda(0), Device::Tensorrt(0)].map(count),
            [0, 1, 2]
        );
    }
}
