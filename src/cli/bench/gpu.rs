//! Memory that processes hold on GPUs, as the driver's `nvidia-smi` tells it.

use std::collections::BTreeSet;
use std::process::Command;

/// A point in time to compare with, where the driver does not tell processes apart.
pub(super) struct DeviceMemory {
    before: u64,
}

impl DeviceMemory {
    /// Looks at the GPUs before a process starts; `None` where the driver cannot be asked.
    pub(super) fn before() -> Option<Self> {
        let before = sum(&ask("--query-gpu=memory.used")?)?;
        Some(DeviceMemory { before })
    }

    /// Bytes that `family` holds on all GPUs. In a container the driver may know processes by other
    /// numbers, or not list them: then what all GPUs hold beyond what they held before.
    pub(super) fn of(&self, family: &BTreeSet<u32>) -> Option<u64> {
        let listed = ask("--query-compute-apps=pid,used_memory")?;
        let mebibytes = match of_processes(&listed, family) {
            Some(mebibytes) => mebibytes,
            None => sum(&ask("--query-gpu=memory.used")?)?.saturating_sub(self.before),
        };
        Some(mebibytes << 20)
    }
}

fn ask(query: &str) -> Option<String> {
    let mut command = Command::new("nvidia-smi");
    let output = command
        .args([query, "--format=csv,noheader,nounits"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// Of lines with one number each, MiB; nothing if one is no number.
fn sum(lines: &str) -> Option<u64> {
    let mut numbers = lines.lines().map(|line| line.trim().parse::<u64>().ok());
    numbers.try_fold(0, |sum, number| Some(sum + number?))
}

/// Of lines `process, MiB`: those of `family`; nothing if none is.
fn of_processes(lines: &str, family: &BTreeSet<u32>) -> Option<u64> {
    let own = lines.lines().filter_map(|line| {
        let (process, memory) = line.split_once(',')?;
        let process: u32 = process.trim().parse().ok()?;
        family.contains(&process).then_some(memory)?;
        memory.trim().parse::<u64>().ok()
    });
    own.reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_says_is_read() {
        assert_eq!(sum("512\n 40960 \n"), Some(41_472));
        assert_eq!(sum("[N/A]\n"), None);
        let family = BTreeSet::from([17, 18]);
        assert_eq!(
            of_processes("17, 1024\n99, 4096\n18, 256\n", &family),
            Some(1_280)
        );
        // Not listed, or listed without a figure: not zero.
        assert_eq!(of_processes("99, 4096\n", &family), None);
        assert_eq!(of_processes("17, [N/A]\n", &family), None);
        assert_eq!(of_processes("", &family), None);
    }
}
