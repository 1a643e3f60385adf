"""Latency and fetching on a real Kafka: benches/stream, latency.jsonl and fetching.jsonl."""

from .rows import conditions, fixed, jsonl, markdown, rate, spread, unmeasured

SUBJECTS = {
    "stage": "stage",
    "stage-ready": "stage, `predictions_order = \"ready\"`",
    "peer": "Python peer",
}
SCHEMES = {"file": "local files", "http": "HTTP", "s3": "S3"}
MISSING = {"latency": "make bench-latency", "fetching": "make bench-fetching"}


def newest(rows: list[dict], *keys: str) -> list[dict]:
    """Of every case the last row."""
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def three(times: dict) -> str:
    return ", ".join(fixed(times[name]) for name in ("p50_ms", "p99_ms", "p999_ms"))


def latency_table(rows: list[dict]) -> str:
    head = [
        "load",
        "subject",
        "images/s",
        "quick fetches: p50, p99, p99.9 ms",
        "all: p50, p99, p99.9 ms",
        "references",
    ]
    lines = []
    for row in sorted(rows, key=lambda row: (row["load"], list(SUBJECTS).index(row["subject"]))):
        lines.append(
            [
                f"{fixed(row['load'] * 100)} %",
                SUBJECTS[row["subject"]],
                rate(row["images_per_second"]),
                three(row["quick"]),
                three(row),
                fixed(row["references"]),
            ]
        )
    return markdown(head, lines)


def fetching_table(rows: list[dict]) -> str:
    subjects = [name for name in SUBJECTS if any(row["subject"] == name for row in rows)]
    head = ["from", "answer time, ms"]
    for name in subjects:
        head += [f"{SUBJECTS[name]}, images/s", "ms CPU an image"]
    lines = []
    for scheme, answer in sorted(
        {(row["scheme"], row["answer_ms"]) for row in rows},
        key=lambda case: (list(SCHEMES).index(case[0]), case[1]),
    ):
        line = [SCHEMES[scheme], fixed(answer)]
        for name in subjects:
            case = (name, scheme, answer)
            row = next(
                (r for r in rows if (r["subject"], r["scheme"], r["answer_ms"]) == case), None
            )
            if row is None:
                line += ["", ""]
                continue
            line.append(spread(row["images_per_second"], row["least"], row["most"]))
            line.append(fixed(row["cpu_ms"], 2))
        lines.append(line)
    return markdown(head, lines)


def latencies() -> list[dict]:
    return newest(jsonl("latency.jsonl"), "subject", "load")


def fetches() -> list[dict]:
    return newest(jsonl("fetching.jsonl"), "subject", "scheme", "answer_ms")


def figures() -> dict[str, str]:
    out = {}
    for what, rows in (("latency", latencies()), ("fetching", fetches())):
        last = max(rows, key=lambda row: row["time"], default=None)
        out[f"{what}.host"] = conditions(last) if last else unmeasured(MISSING[what])
    return out


def of(rows: list[dict], make, what: str) -> str:
    return make(rows) if rows else unmeasured(MISSING[what])


TABLES = {
    "latency": lambda: of(latencies(), latency_table, "latency"),
    "fetching": lambda: of(fetches(), fetching_table, "fetching"),
}
