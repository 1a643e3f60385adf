#!/usr/bin/env python3
"""Soak: many messages through one stage process on a real Kafka; memory, handles and throughput
over time.

    scripts/setup.sh build; cargo build --release
    python3 benches/soak.py --binary target/release/tagstream --messages 1000000 \\
        --out benches/runs/soak.csv

Needs what scripts/kafka.sh needs, and ORT_DYLIB_PATH. Prints a summary as JSON; the raw samples go
to --out. Fails if a message is missing at the end.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import tempfile
import time
import urllib.request
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = """
[kafka]
brokers = "{brokers}"
group_id = "{group}"
[source]
images_topic = "images"
[fetch]
allow_schemes = ["file"]
allow_path_prefixes = ["{folder}"]
[model]
path = "{model}"
workers = {workers}
watch_interval_ms = 0
[output]
url = "{folder}/tables"
predictions_topic = "predictions"
dead_letter_topic = "dead-letters"
max_file_age_ms = {file_age_ms}
[memory]
budget_mib = 256
[http]
bind = "127.0.0.1:{port}"
[log]
format = "text"
filter = "warn"
"""


def png(path, seed):
    """A 40x30 picture of noise-free colours, by hand: no image library needed."""
    rows = b"".join(
        b"\0"
        + bytes((x * 5 + seed * 7 + c * 60 + y * 3) % 250 for x in range(40) for c in range(3))
        for y in range(30)
    )
    chunk = lambda kind, data: (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 30, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def counter(text, name):
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if re.match(name + r"(\{|\s)", line)
    )


def kafka(*arguments):
    return subprocess.run(
        [ROOT / "scripts/kafka.sh", *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def sample(pid, port, started):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    kib = lambda key: int(re.search(key + r":\s+(\d+)", status)[1])
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    return {
        "seconds": round(time.monotonic() - started, 1),
        "rss_mib": round(kib("VmRSS") / 1024, 1),
        "threads": kib("Threads"),
        "handles": len(os.listdir(f"/proc/{pid}/fd")),
        "messages": int(counter(text, "tagstream_messages_total")),
        "rows": int(counter(text, "tagstream_rows_total")),
        "files": int(counter(text, "tagstream_files_total")),
        "dead_letters": int(counter(text, "tagstream_dead_letters_total")),
    }


def slope(rows, key):
    """Least squares, per million rows."""
    xs, ys = [r["rows"] / 1e6 for r in rows], [r[key] for r in rows]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / max(
        sum((x - mx) ** 2 for x in xs), 1e-12
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", required=True)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--model", default=str(ROOT / "tests/fixtures/tiny-model"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--port", type=int, default=19600)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument(
        "--limit", type=float, default=7200.0, help="seconds after which it has failed"
    )
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    binary = str(pathlib.Path(options.binary).resolve())
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for i in range(100):
            png(folder / f"{i:03}.png", i)
        (folder / "list.txt").write_text(
            "".join(f"{folder}/{i % 100:03}.png\n" for i in range(options.messages))
        )
        brokers = kafka("start")
        try:
            for topic, partitions in [("images", "6"), ("predictions", "6"), ("dead-letters", "1")]:
                kafka(
                    "tool", "TopicCommand", "--create", "--topic", topic, "--partitions", partitions
                )
            subprocess.run(
                [binary, "produce", "--brokers", brokers, "--topic", "images", folder / "list.txt"],
                check=True,
            )
            config = folder / "stage.toml"
            config.write_text(
                CONFIG.format(
                    group="soak",
                    file_age_ms=10000,
                    brokers=brokers,
                    folder=folder,
                    model=options.model,
                    workers=options.workers,
                    port=options.port,
                )
            )
            stage = subprocess.Popen([binary, "run", "--config", str(config)])
            rows, started = [], time.monotonic()
            columns = [
                "seconds",
                "rss_mib",
                "threads",
                "handles",
                "messages",
                "rows",
                "files",
                "dead_letters",
            ]
            with open(options.out, "w") as out:
                out.write(",".join(columns) + "\n")
                while not rows or rows[-1]["rows"] + rows[-1]["dead_letters"] < options.messages:
                    time.sleep(options.every)
                    if stage.poll() is not None:
                        raise SystemExit(f"the stage ended by itself: {stage.returncode}")
                    if time.monotonic() - started > options.limit:
                        raise SystemExit(f"not done after {options.limit} s: {rows[-1]}")
                    try:
                        rows.append(sample(stage.pid, options.port, started))
                    except OSError:
                        continue  # Not listening yet.
                    out.write(",".join(str(rows[-1][c]) for c in columns) + "\n")
                    out.flush()
            stage.send_signal(signal.SIGTERM)
            code = stage.wait(60)
        finally:
            kafka("stop")
    # The first tenth is warming up: caches, pools and buffers fill.
    steady = [r for r in rows if r["rows"] > options.messages / 10]
    last = rows[-1]
    print(
        json.dumps(
            {
                "messages": options.messages,
                "rows": last["rows"],
                "dead_letters": last["dead_letters"],
                "files": last["files"],
                "seconds": last["seconds"],
                "rows_per_second": round(last["rows"] / last["seconds"], 1),
                "rss_mib_first": steady[0]["rss_mib"],
                "rss_mib_last": last["rss_mib"],
                "rss_mib_most": max(r["rss_mib"] for r in rows),
                "rss_mib_slope_per_million_rows": round(slope(steady, "rss_mib"), 2),
                "handles_least_most": [
                    min(r["handles"] for r in steady),
                    max(r["handles"] for r in steady),
                ],
                "threads_least_most": [
                    min(r["threads"] for r in steady),
                    max(r["threads"] for r in steady),
                ],
                "exit_code": code,
            }
        )
    )
    if code != 0 or last["rows"] != options.messages or last["dead_letters"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
