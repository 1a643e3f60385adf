#!/usr/bin/env python3
"""Latency from a message's append to the received prediction message, with slow fetches in the
stream, of the stage and of the Python peer: run.sh latency.

First each subject is flooded, twice, in turns: what it can do. Then, a load after the other, the
subjects get references at that share of their own rate, in turns, `--rounds` times; pictures come
over HTTP in 5 ms, one in a hundred in 500 ms. The append is the broker's time stamp, the receipt is
a consumer's on the same machine. All subjects run all the time, and wait while another one works. A
row a subject and load is appended to the log: percentiles of all its references, and of those that
were fetched quickly.
"""

import argparse
import datetime
import json
import math
import random

from host import host
from subjects import PARTITIONS, Pictures, Subject, arguments_of, draw_pictures

SUBJECTS = ["stage", "stage-ready", "peer"]
LOADS = [0.05, 0.3, 0.7]
QUICK_MS, SLOW_MS, SLOW_SHARE = 5, 500, 0.01
PERCENTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[max(0, math.ceil(share * len(times)) - 1)]


class Sample:
    """References that were sent, and how long each took."""

    def __init__(self) -> None:
        self.quick: list[float] = []
        self.slow: list[float] = []

    def take(self, subject: Subject, pictures: Pictures, rate: float | None, count: int, seed: int):
        """Sends so many; returns the rate at which they were worked off."""
        draw = random.Random(seed)
        slow = [draw.random() < SLOW_SHARE for _ in range(count)]
        uris = [
            pictures.uri("http", SLOW_MS if is_slow else QUICK_MS, number)
            for number, is_slow in enumerate(slow)
        ]
        numbers = subject.clock.send(uris, rate, draw)
        subject.clock.wait(numbers, subject)
        for is_slow, took in zip(slow, subject.clock.latencies(numbers)):
            (self.slow if is_slow else self.quick).append(took)
        return subject.clock.rate(numbers)

    def percentiles(self) -> dict:
        of_all = self.quick + self.slow
        return {
            "references": len(of_all),
            "slow": len(self.slow),
            **{name: percentile(of_all, share) for name, share in PERCENTILES.items()},
            "quick": {name: percentile(self.quick, share) for name, share in PERCENTILES.items()},
        }


def capacities(subjects: list[Subject], pictures: Pictures, seconds: float) -> list[float]:
    """Images a second of each: the better of two floods, after a small one that warms."""
    found = [Sample().take(subject, pictures, None, 200, 0) for subject in subjects]
    guesses = list(found)
    found = [0.0] * len(subjects)
    for turn in range(2):
        for at, subject in enumerate(subjects):
            count = max(400, round(guesses[at] * seconds))
            rate = Sample().take(subject, pictures, None, count, turn + 1)
            print(f"{subject.kind}: {rate:.0f} images/s in a flood of {count}", flush=True)
            found[at] = max(found[at], rate)
    return found


def arguments() -> argparse.Namespace:
    parser = arguments_of(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=18.0, help="of a load in a round")
    parser.add_argument("--flood", type=float, default=6.0, help="seconds of a flood, about")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    measured_on = host()
    draw_pictures(args.work / "pictures", 24, (0.3, 1.2))
    pictures = Pictures(args.work / "pictures")
    subjects = [Subject(kind, args, pictures, args.work) for kind in SUBJECTS]
    rates = capacities(subjects, pictures, args.flood)
    samples = {(kind, load): Sample() for load in LOADS for kind in SUBJECTS}
    for load in LOADS:
        # A small load needs longer for as many references.
        seconds = args.seconds * (2 if load < 0.1 else 1)
        for turn in range(args.rounds):
            for subject, rate in zip(subjects, rates):
                count = max(20, round(seconds * rate * load))
                sample = samples[subject.kind, load]
                sample.take(subject, pictures, rate * load, count, 100 * turn + 10)
                print(subject.kind, load, json.dumps(sample.percentiles()), flush=True)
    for subject in subjects:
        subject.end()
    pictures.end()
    rows = [
        {
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "subject": subject.kind,
            "load": load,
            "capacity": rate,
            "images_per_second": rate * load,
            "rounds": args.rounds,
            "partitions": PARTITIONS,
            "quick_fetch_ms": QUICK_MS,
            "slow_fetch_ms": SLOW_MS,
            "slow_share": SLOW_SHARE,
            "broker": "kafka",
            **samples[subject.kind, load].percentiles(),
            "host": measured_on,
        }
        for subject, rate in zip(subjects, rates)
        for load in LOADS
    ]
    if args.log:
        with args.log.open("a") as log:
            log.writelines(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    from papers import stream

    print(stream.latency_table(rows))


if __name__ == "__main__":
    main()
