//! The machine that a run was made on.

use serde::Serialize;
use std::fs;

/// Instructions that decoders, resizing and ONNX Runtime choose their loops by (benches/host.py has
/// the same).
const FLAGS: [&str; 9] = [
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "sve",
];

/// What a figure depends on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Host {
    /// The processor's name.
    pub cpu: String,
    /// Its family, which tells generations of one name apart.
    pub family: String,
    /// Its model within the family.
    pub model: String,
    /// Its clock now, MHz.
    pub mhz: u64,
    /// Those of the instructions that figures depend on which it has.
    pub flags: Vec<&'static str>,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The system's kernel.
    pub kernel: String,
    /// Programs that wanted to run, mean of the last minute.
    pub load: f64,
}

impl Host {
    /// This machine; what the system does not tell is `unknown` or 0.
    pub(super) fn this() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = value(&text("/proc/meminfo"), "MemTotal")
            .and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
        let processor = text("/proc/cpuinfo");
        let of_processor =
            |key: &str| value(&processor, key).unwrap_or_else(|| "unknown".to_owned());
        let has = format!("{} {}", of_processor("flags"), of_processor("Features"));
        let has: Vec<&str> = has.split_whitespace().collect();
        let load = text("/proc/loadavg");
        let load = load
            .split_whitespace()
            .next()
            .and_then(|load| load.parse().ok());
        let kernel = text("/proc/sys/kernel/osrelease").trim().to_owned();
        Host {
            cpu: of_processor("model name"),
            family: of_processor("cpu family"),
            // `model name` comes after it.
            model: of_processor("model\t"),
            mhz: of_processor("cpu MHz")
                .parse::<f64>()
                .map_or(0, |mhz| mhz.round() as u64),
            flags: FLAGS
                .into_iter()
                .filter(|flag| has.contains(flag))
                .collect(),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory_mib: memory.unwrap_or(0) / 1024,
            kernel: if kernel.is_empty() {
                "unknown".into()
            } else {
                kernel
            },
            load: load.unwrap_or(0.0),
        }
    }
}

/// What was typed, for a row: of a path from the root its last name, which says enough elsewhere.
pub(super) fn command() -> String {
    let typed = std::env::args().skip(1).map(|argument| {
        let path = std::path::Path::new(&argument);
        let name = path.is_absolute().then(|| path.file_name()).flatten();
        name.map_or_else(
            || argument.clone(),
            |name| name.to_string_lossy().into_owned(),
        )
    });
    typed.collect::<Vec<_>>().join(" ")
}
