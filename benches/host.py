"""The machine that a row was measured on: what a figure depends on."""

import os
import pathlib
import re

# Instructions that decoders, resizing and encoders choose their loops by.
FLAGS = (
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "sve",
)


def host() -> dict:
    """Processor with family, flags and clock, cores, memory, kernel, and the load before the run;
    `unknown` or 0 where the system does not tell."""
    text = pathlib.Path("/proc/cpuinfo").read_text()

    def value(key: str) -> str:
        found = re.search(rf"^{key}\s*: (.*)$", text, re.M)
        return found[1].strip() if found else "unknown"

    flags = set(f"{value('flags')} {value('Features')}".split())
    memory = re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())
    clock = value("cpu MHz")
    return {
        "cpu": value("model name"),
        "family": value("cpu family"),
        "model": value("model"),
        "mhz": 0 if clock == "unknown" else round(float(clock)),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": int(memory[1]) // 1024 if memory else 0,
        "kernel": os.uname().release,
        "load": os.getloadavg()[0],
    }
