#!/usr/bin/env python3
"""Images a second from a server with an answer time, over HTTP and as S3: run.sh fetching.

Small drawn pictures in the memory of a server on loopback, which waits before it answers; a stage,
and the Python peer for those schemes that it knows, are flooded with references. The cases take
turns, `--rounds` times. A row a subject and case is appended to the log.
"""

import argparse
import datetime
import json
import random
import statistics

from host import host
from subjects import PARTITIONS, Pictures, Subject, arguments_of, draw_pictures

SUBJECTS = {"stage": ("file", "http", "s3"), "peer": ("file", "http")}
DELAYS = [5, 20, 100]


def cases(subject: str) -> list[tuple[str, int]]:
    """Scheme and answer time; files have none."""
    found = []
    for scheme in SUBJECTS[subject]:
        found += [(scheme, delay) for delay in ([0] if scheme == "file" else DELAYS)]
    return found


def flood(subject: Subject, pictures: Pictures, case: tuple[str, int], count: int) -> dict:
    scheme, delay = case
    uris = [pictures.uri(scheme, delay, number) for number in range(count)]
    before = subject.processor_seconds()
    numbers = subject.clock.send(uris, None, random.Random(0))
    subject.clock.wait(numbers, subject)
    used = subject.processor_seconds() - before
    return {"images_per_second": subject.clock.rate(numbers), "cpu_ms": used * 1e3 / count}


def arguments() -> argparse.Namespace:
    parser = arguments_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a flood, about")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    measured_on = host()
    draw_pictures(args.work / "pictures", 48, (0.05, 0.1))
    pictures = Pictures(args.work / "pictures")
    mean_bytes = statistics.mean(path.stat().st_size for path in pictures.folder.iterdir())
    subjects = [Subject(kind, args, pictures, args.work) for kind in SUBJECTS]
    # The small flood warms, connections too, and says how many references fill the time.
    guesses = {}
    for subject in subjects:
        for case in cases(subject.kind):
            guesses[subject.kind, case] = flood(subject, pictures, case, 300)["images_per_second"]
    found: dict[tuple, list[dict]] = {key: [] for key in guesses}
    for _ in range(args.rounds):
        for subject in subjects:
            for case in cases(subject.kind):
                count = max(300, round(guesses[subject.kind, case] * args.seconds))
                found[subject.kind, case].append(flood(subject, pictures, case, count))
                print(subject.kind, *case, found[subject.kind, case][-1], flush=True)
    for subject in subjects:
        subject.end()
    pictures.end()
    rows = []
    for (kind, (scheme, delay)), runs in found.items():
        rates = [run["images_per_second"] for run in runs]
        rows.append(
            {
                "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "subject": kind,
                "scheme": scheme,
                "answer_ms": delay,
                "images_per_second": statistics.median(rates),
                "least": min(rates),
                "most": max(rates),
                "cpu_ms": statistics.median(run["cpu_ms"] for run in runs),
                "rounds": args.rounds,
                "partitions": PARTITIONS,
                "mean_bytes": round(mean_bytes),
                "broker": "kafka",
                "host": measured_on,
            }
        )
    if args.log:
        with args.log.open("a") as log:
            log.writelines(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    from papers import stream

    print(stream.fetching_table(rows))


if __name__ == "__main__":
    main()
