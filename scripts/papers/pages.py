"""The pages: the model over HTTP (http.jsonl), and a flood of garbage (flood.jsonl)."""

from .rows import BENCHES, fixed, jsonl, markdown, rate, span, spread

HTTP_CASES = ["demo", "decode-bound", "small-model", "lab-clip", "model-bound"]


def rows(name: str) -> list[dict]:
    """None where nobody has measured yet."""
    return jsonl(name) if (BENCHES / "runs" / name).exists() else []


def newest(of: list[dict], key: str) -> dict[str, dict]:
    """The last row of each value of `key`."""
    return {row[key]: row for row in sorted(of, key=lambda row: row["time"])}


def of_spread(spreads: dict, write=rate) -> str:
    return spread(spreads["median"], spreads["least"], spreads["most"], write)


def milliseconds(latency: dict) -> str:
    return f"{fixed(latency['p50_ms'], 1)}, {fixed(latency['p99_ms'], 1)}"


def http_line(row: dict) -> list[str]:
    http, paced = row["http"], row["paced"]
    flooded = {name: http[name]["median"] for name in ("p50_ms", "p99_ms")}
    return [
        f"{row['case']}, {len(http['repetitions'])} repetitions, {http['clients']} clients",
        of_spread(row["ceiling"]["model_images_per_second"]),
        of_spread(http["images_per_second"]),
        of_spread(row["http_over_model"], lambda share: fixed(share, 3)),
        milliseconds(flooded),
        milliseconds(row["alone"]),
        milliseconds(paced["latency"]) if paced else "-",
    ]


def http_table() -> str:
    cases = newest([row for row in rows("http.jsonl") if row.get("kind") == "http"], "case")
    lines = [http_line(cases[case]) for case in HTTP_CASES if case in cases]
    if not lines:
        return "Not measured yet: `make bench-http`."
    head = ["case", "model alone, images/s", "over HTTP", "share"]
    head += [f"p50, p99 ms: {load}" for load in ("flooded", "one client", "at 70 %")]
    return markdown(head, lines)


def percent(share: float) -> str:
    return fixed(100 * share, 2) + " %"


def flood_table() -> str:
    runs = rows("flood.jsonl")
    if not runs:
        return "Not measured yet: `make bench-flood`."
    head = ["run", "garbage a second", "stage, images/s without", "with", "change"]
    head += ["processor time an image"]
    lines = []
    for row in runs:
        of = {
            side: span([pair[side]["images_per_second"] for pair in row["pairs"]], rate)
            for side in ("quiet", "flooded")
        }
        lines.append(
            [
                f"{row['time'][:10]}, {len(row['pairs'])} pairs, {row['cores']} cores",
                rate(row["rate"]),
                of["quiet"],
                of["flooded"],
                of_spread(row["throughput_change"], percent),
                of_spread(row["cpu_change"], percent),
            ]
        )
    return markdown(head, lines)


def figures() -> dict[str, str]:
    return {}


TABLES = {"http": http_table, "flood": flood_table}
