#!/usr/bin/env python3
"""Two builds of tagstream measured at the same time on the same cores, so that both see the same
machine.
 On a machine whose speed drifts, rates taken one after the other differ by more than a change is
worth. Here both builds run `tagstream bench` at once, and what is compared is the processor time of
an image: it leaves out that they share the cores.

    python3 benches/pairs.py --rounds 4 OLD/tagstream NEW/tagstream -- \\
        --model MODEL --megapixels 4 --pictures 32 --seconds 8

Prints both builds' milliseconds of processor time an image, by thread name, and the ratio of the
second to the first.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile


def start(build: pathlib.Path, log: pathlib.Path, bench: list[str]) -> subprocess.Popen:
    command = [
        str(build),
        "bench",
        "--repeat",
        "1",
        "--latency-load",
        "0",
        "--log",
        str(log),
        *bench,
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def cost(build: pathlib.Path, log: pathlib.Path, running: subprocess.Popen) -> dict[str, float]:
    _, errors = running.communicate()
    if running.returncode != 0:
        sys.exit(f"pairs.py: {build} bench failed:\n{errors}")
    return json.loads(log.read_text().splitlines()[-1])["stage"]["cpu_ms_per_image"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument(
        "bench", nargs=argparse.REMAINDER, help="after `--`: arguments of `tagstream bench`"
    )
    args = parser.parse_args()
    bench = args.bench[1:] if args.bench[:1] == ["--"] else args.bench
    builds = [args.old, args.new]
    ratios = []
    for turn in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            logs = [pathlib.Path(folder) / f"{i}.jsonl" for i in range(2)]
            # Who starts first changes with every round.
            order = [0, 1] if turn % 2 == 0 else [1, 0]
            running = {i: start(builds[i], logs[i], bench) for i in order}
            costs = [cost(builds[i], logs[i], running[i]) for i in range(2)]
        totals = [sum(c.values()) for c in costs]
        ratios.append(totals[1] / totals[0])
        for name, total, threads in zip(("old", "new"), totals, costs):
            parts = ", ".join(
                f"{n} {v:.3f}" for n, v in sorted(threads.items(), key=lambda t: -t[1]) if v >= 0.01
            )
            print(f"round {turn + 1}: {name} {total:.3f} ms an image ({parts})", flush=True)
        print(f"round {turn + 1}: new / old {ratios[-1]:.4f}", flush=True)
    print(f"new / old: {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})")


if __name__ == "__main__":
    main()
