//! The machine that a run was made on.

use serde::Serialize;
use std::fs;

/// What a figure depends on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Host {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The system's kernel.
    pub kernel: String,
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
        let kernel = text("/proc/sys/kernel/osrelease").trim().to_owned();
        Host {
            cpu: value(&text("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory_mib: memory.unwrap_or(0) / 1024,
            kernel: if kernel.is_empty() {
                "unknown".into()
            } else {
                kernel
            },
        }
    }
}
