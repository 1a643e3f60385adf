#!/usr/bin/env python3
"""Processor time of an image from its file to the model's input, by kind: the stage's decoders
beside the libraries that Python programs use, in pairs.

    python benches/mix/run.py --mix PROGRAM --pictures DIR [--log FILE] [--rounds 7]

Every subject is a process that stays. In each round every kind is decoded by the stage, then by one
peer, then by the stage again, then by the next peer, so that a machine that gets slower does so for
both of a pair; what is compared is processor time, in user mode and in the kernel, of the process
and its helpers, the median of the rounds. One row a kind, peer and rule is appended to the log. How
far the results are from Pillow's full decode is measured too, because speed is easily had by
decoding less. Pictures that DIR does not have are drawn into it.

PROGRAM is what `cargo bench -p tagstream-image --bench mix --no-run` makes; run.sh does that and
installs the packages of requirements.txt.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from pictures import KINDS, draw
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE.parent.parent / "scripts")]

from host import host  # noqa: E402
from papers import mix  # noqa: E402

PEERS = ["opencv", "simplejpeg", "pyvips", "pillow"]
RULES = ["users", "ours"]


class Subject:
    """A process that decodes what it is told to."""

    def __init__(self, name: str, rule: str, command: list[str]) -> None:
        self.name, self.rule = name, rule
        environment = os.environ | {"VIPS_CONCURRENCY": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, what: str, argument: object, folder: pathlib.Path) -> dict:
        self.process.stdin.write(f"{what}\t{argument}\t{folder}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"run.py: {self.name} ended over {folder}")
        return json.loads(answer)

    def cost(self, passes: int, folder: pathlib.Path) -> dict:
        return self.ask("time", passes, folder)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def passes_for(subject: Subject, folder: pathlib.Path, seconds: float) -> int:
    """After which about so many seconds of processor time are spent; the second pass is timed, the
    first one warms."""
    subject.cost(1, folder)
    once = subject.cost(1, folder)["cpu_ms"] / 1e3 * len(list(folder.iterdir()))
    return max(1, round(seconds / max(once, 1e-3)))


def reference(folder: pathlib.Path, side: int) -> np.ndarray:
    """What Pillow makes of the pictures when it decodes all of them in full."""
    made = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            made.append(np.asarray(small, dtype=np.float32))
    return np.stack(made)


def apart(subject: Subject, folder: pathlib.Path, right: np.ndarray) -> float:
    """Mean difference of a sample from the reference, in levels of 255."""
    with tempfile.NamedTemporaryFile() as file:
        subject.ask("pixels", file.name, folder)
        found = np.fromfile(file.name, np.uint8).reshape(right.shape)
    return float(np.abs(found - right).mean())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mix", type=pathlib.Path, required=True)
    parser.add_argument("--pictures", type=pathlib.Path, required=True)
    parser.add_argument("--log", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--each", type=int, default=6, help="pictures of a kind")
    parser.add_argument("--side", type=int, default=224, help="of the model's input")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="processor time of one measurement, about"
    )
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.pictures /= str(args.each)
    absent = [kind for kind in args.kinds if not (args.pictures / kind).is_dir()]
    if absent:
        print(f"run.py: drawing {', '.join(absent)}", file=sys.stderr)
        draw(args.pictures, absent, args.each, 0)
    shape = [str(args.side), str(args.threads)]
    stage = Subject("stage", "ours", [str(args.mix), *shape])
    peers = [
        Subject(name, rule, [sys.executable, str(HERE / "decoder.py"), name, rule, *shape])
        for name in PEERS
        for rule in RULES
    ]
    measured_on, rows = host(), []
    for kind in args.kinds:
        print(f"run.py: {kind}", file=sys.stderr)
        rows += of_kind(kind, args, stage, peers, measured_on)
    for subject in [stage, *peers]:
        subject.end()
    if args.log:
        with args.log.open("a") as log:
            log.writelines(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    print(mix.every_peer_table(rows), mix.kinds_table(rows), sep="\n\n")


def of_kind(
    kind: str,
    args: argparse.Namespace,
    stage: Subject,
    peers: list[Subject],
    measured_on: dict,
) -> list[dict]:
    folder = args.pictures / kind
    right = reference(folder, args.side)
    sizes = [path.stat().st_size for path in folder.iterdir()]
    stage_passes, stage_apart = passes_for(stage, folder, args.seconds), apart(stage, folder, right)
    passes = [passes_for(peer, folder, args.seconds) for peer in peers]
    pairs: list[list[tuple[dict, dict]]] = [[] for _ in peers]
    for _ in range(args.rounds):
        for peer, count, found in zip(peers, passes, pairs):
            found.append((stage.cost(stage_passes, folder), peer.cost(count, folder)))
    of_all = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kind": kind,
        "share": KINDS[kind].share,
        "pictures": len(sizes),
        "mean_bytes": round(statistics.mean(sizes)),
        "side": args.side,
        "threads": args.threads,
        "rounds": args.rounds,
        "stage_apart": stage_apart,
        "host": measured_on,
    }
    return [
        of_all | of_pairs(found) | {
            "peer": peer.name,
            "rule": peer.rule,
            "peer_apart": apart(peer, folder, right),
        }
        for peer, found in zip(peers, pairs)
    ]  # fmt: skip


def of_pairs(pairs: list[tuple[dict, dict]]) -> dict:
    """Medians of the rounds, and of their ratios with the least and the most."""
    row = {}
    for side, costs in zip(("stage", "peer"), zip(*pairs)):
        row[f"{side}_ms"] = statistics.median(cost["cpu_ms"] for cost in costs)
        row[f"{side}_wall_ms"] = statistics.median(cost["wall_ms"] for cost in costs)
    ratios = [peer["cpu_ms"] / stage["cpu_ms"] for stage, peer in pairs]
    return row | {
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
    }


if __name__ == "__main__":
    main()
