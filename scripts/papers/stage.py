"""The stage: `tagstream bench` (stage.jsonl, scale.jsonl) and the soak."""

import re

from . import mix
from .rows import MIB, fixed, jsonl, markdown, median, rate, span, spread, table

# The order of the tables.
CASES = ["decode-bound", "small-model", "lab-clip", "model-bound"]


def newest_day(rows: list[dict]) -> list[dict]:
    """Of every case the rows of the last day that it was measured on."""
    last = {row["case"]: row["time"][:10] for row in sorted(rows, key=lambda row: row["time"])}
    return [row for row in rows if row["time"][:10] == last[row["case"]]]


def case_rows() -> dict[str, list[dict]]:
    """The rows of each case, the one with the most repetitions first."""
    rows = newest_day([row for row in jsonl("stage.jsonl") if row["case"] in CASES])
    rows.sort(key=lambda row: -len(row["stage"]["repetitions"]))
    return {case: [row for row in rows if row["case"] == case] for case in CASES}


def label(row: dict) -> str:
    seconds = re.search(r"--seconds (\d+)", row["command"])[1]
    return f"{row['case']}, {len(row['stage']['repetitions'])} x {seconds} s"


def of_spread(spreads: dict, write=rate) -> str:
    return spread(spreads["median"], spreads["least"], spreads["most"], write)


def ratio(value: float) -> str:
    return fixed(value, 3)


def processor(row: dict) -> tuple[float, float]:
    """Milliseconds of processor time an image: in the model, and in all else."""
    cpu = row["stage"]["cpu_ms_per_image"]
    return cpu.get("infer", 0.0), sum(cpu.values()) - cpu.get("infer", 0.0)


def milliseconds(value: float) -> str:
    return fixed(value, 0 if value >= 100 else 2)


def case_table() -> str:
    head = [
        "case",
        "(a) model alone",
        "(b) decoding, per core",
        "(c) stage",
        "c/min(a, b x cores)",
        "c/shared ceiling",
        "peak MiB",
        "model, ms CPU",
        "rest, ms CPU",
        "p50, p99 ms",
    ]
    lines = []
    for row in (row for rows in case_rows().values() for row in rows):
        ceiling, stage, latency = row["ceiling"], row["stage"], row["latency"]
        lines.append(
            [
                label(row),
                rate(ceiling["model_images_per_second"]["median"]),
                rate(ceiling["decode_images_per_second_per_core"]["median"]),
                of_spread(stage["images_per_second"]),
                of_spread(row["stage_over_ceiling_spread"], ratio),
                ratio(row["stage_over_shared_ceiling"]),
                fixed(stage["peak_memory_bytes"]["median"] / MIB),
                *map(milliseconds, processor(row)),
                f"{fixed(latency['p50_ms'])}, {fixed(latency['p99_ms'])}" if latency else "",
            ]
        )
    return markdown(head, lines)


def decoder(row: dict) -> str:
    """What the peer decoded with; until there was a choice, with Pillow."""
    return mix.NAMES[row["overrides"].get("TAGSTREAM_PEER_DECODER", "pillow")]


def peer_table() -> str:
    head = [
        "case",
        "stage",
        "Python peer",
        "it decodes with",
        "stage / peer",
        "stage, peak MiB",
        "peer, peak MiB",
    ]
    lines = []
    for row in (row for rows in case_rows().values() for row in rows):
        stage, peer = row["stage"], row["peer"]
        lines.append(
            [
                label(row),
                of_spread(stage["images_per_second"]),
                of_spread(peer["images_per_second"]),
                decoder(row),
                of_spread(row["stage_over_peer"], lambda value: fixed(value, 2)),
                fixed(stage["peak_memory_bytes"]["median"] / MIB),
                fixed(peer["peak_memory_bytes"]["median"] / MIB),
            ]
        )
    return markdown(head, lines)


def repetition_ratios(row: dict) -> list[float]:
    """The stage over its slower part, repetition by repetition."""
    measured = zip(row["stage"]["repetitions"], row["ceiling"]["repetitions"])
    return [
        run["images_per_second"] / min(alone["model"], alone["decode"]) for run, alone in measured
    ]


def figures() -> dict[str, str]:
    out = {}
    for case, rows in case_rows().items():
        for number, row in enumerate(rows, 1):
            name = f"stage.{case.replace('-', '_')}" + (f"_{number}" if number > 1 else "")
            stage, latency = row["stage"], row["latency"]
            per_second = stage["images_per_second"]["median"]
            out[f"{name}.images_per_second"] = rate(per_second)
            out[f"{name}.images_per_second_short"] = fixed(
                per_second, 0 if per_second >= 100 else 1
            )
            out[f"{name}.ratio"] = ratio(row["stage_over_ceiling"])
            out[f"{name}.ratio_short"] = fixed(row["stage_over_ceiling"], 2)
            out[f"{name}.over_peer"] = fixed(row["stage_over_peer"]["median"], 2)
            out[f"{name}.over_peer_short"] = fixed(row["stage_over_peer"]["median"], 1)
            out[f"{name}.peer_decoder"] = decoder(row)
            out[f"{name}.peak_mib"] = fixed(stage["peak_memory_bytes"]["median"] / MIB)
            out[f"{name}.model_ms"], out[f"{name}.rest_ms"] = map(milliseconds, processor(row))
            out[f"{name}.all_ms"] = fixed(sum(processor(row)), 1)
            cpu = stage["cpu_ms_per_image"]
            kafka = ("rdk:", "source-", "producer")
            out[f"{name}.decode_ms"] = milliseconds(cpu["decode"])
            out[f"{name}.tasks_ms"] = milliseconds(cpu["tokio-rt-worker"])
            out[f"{name}.kafka_ms"] = milliseconds(
                sum(cpu[thread] for thread in cpu if thread.startswith(kafka))
            )
            out[f"{name}.cores_busy"] = fixed(stage["cpu_cores_busy"]["median"], 2)
            shared, least = (
                row["ceiling"][f"{what}_images_per_second"] for what in ("shared", "least")
            )
            out[f"{name}.highest_ratio"] = ratio(shared["median"] / least["median"])
            if latency:
                out[f"{name}.p50_ms"] = fixed(latency["p50_ms"])
                out[f"{name}.p99_ms"] = fixed(latency["p99_ms"])
    decode_bound = [r for row in case_rows()["decode-bound"] for r in repetition_ratios(row)]
    out["stage.decode_bound.repetitions"] = str(len(decode_bound))
    out["stage.decode_bound.repetitions_from_0_90"] = str(sum(r >= 0.9 for r in decode_bound))
    peers = [row["peer"]["images_per_second"] for row in case_rows()["decode-bound"]]
    out["stage.decode_bound.peer_span"] = span(
        [peer[end] for peer in peers for end in ("least", "most")]
    )
    out |= scale_figures()
    out |= soak_figures("soak", table("runs/soak-1m.csv"))
    out |= soak_figures("soak_before", table("runs/soak-1m-before.csv"))
    return out


SCALE_HEAD = ["", "images/s", "model, ms CPU an image", "the rest, ms CPU", "peak MiB", "rounds"]


def scale_line(title: str, rows: list[dict]) -> list[str]:
    """The medians of a point's rounds."""
    if not rows:
        raise SystemExit(f"figures: benches/runs/scale.jsonl has no row for {title}")
    model, rest = (median(processor(row)[part] for row in rows) for part in (0, 1))
    return [
        title,
        fixed(median(row["stage"]["images_per_second"]["median"] for row in rows)),
        fixed(model, 1 if model >= 10 else 2),
        fixed(rest, 2),
        fixed(median(row["stage"]["peak_memory_bytes"]["median"] for row in rows) / MIB),
        str(len(rows)),
    ]


def scale_rows(case: str) -> list[dict]:
    return [row for row in newest_day(jsonl("scale.jsonl")) if row["case"] == case]


def scale_table() -> str:
    points = [
        *((f"{c:,} categories (D = 256)", f"categories={c}") for c in (20, 80, 1000, 10000)),
        *((f"embedding {d:,} (80 categories)", f"embedding={d}") for d in (64, 256, 512, 1024)),
        *(
            (f"{p} partition{'s' * (p > 1)} (80 categories)", f"partitions={p}")
            for p in (1, 64, 512)
        ),
    ]
    return markdown(SCALE_HEAD, [scale_line(title, scale_rows(case)) for title, case in points])


def scale_tiny_table() -> str:
    lines = []
    for seconds in (3, 12, 48):
        rows = scale_rows(f"images-for={seconds}")
        images = fixed(round(median(row["images"] for row in rows), -3))
        lines.append(scale_line(f"{images} images in one run", rows))
    for age in (2, 20, 200, 4000):
        rows = scale_rows(f"file-age-ms={age}")
        runs = [run for row in rows for run in row["stage"]["repetitions"]]
        files, images = (median(run[what] for run in runs) for what in ("files", "images"))
        title = f"files of {fixed(age)} ms: {fixed(files)} for {fixed(round(images, -2))} images"
        lines.append(scale_line(title, rows))
    return markdown(SCALE_HEAD, lines)


def scale_figures() -> dict[str, str]:
    of = scale_rows
    model = lambda case: median(processor(row)[0] for row in of(case))  # noqa: E731

    def mib(case: str) -> float:
        return median(row["stage"]["peak_memory_bytes"]["median"] for row in of(case)) / MIB

    return {
        "scale.categories_80.model_ms": fixed(model("categories=80"), 1),
        "scale.categories_10000.model_ms": fixed(model("categories=10000"), 1),
        "scale.categories_10000.peak_mib": fixed(mib("categories=10000")),
        "scale.most_images.peak_mib": fixed(mib("images-for=48")),
        "scale.partitions_1.images_per_second": fixed(
            median(row["stage"]["images_per_second"]["median"] for row in of("partitions=1"))
        ),
        "scale.partitions_512.images_per_second": fixed(
            median(row["stage"]["images_per_second"]["median"] for row in of("partitions=512"))
        ),
    }


def soak_figures(name: str, rows: list[dict]) -> dict[str, str]:
    last = rows[-1]
    at = lambda count: next(row for row in rows if int(row["rows"]) >= count)  # noqa: E731
    mib = lambda row: fixed(float(row["rss_mib"]))  # noqa: E731
    threads = max(int(row["threads"]) for row in rows)
    return {
        f"{name}.rows": fixed(int(last["rows"])),
        f"{name}.dead_letters": fixed(int(last["dead_letters"])),
        f"{name}.files": fixed(int(last["files"])),
        f"{name}.seconds": fixed(float(last["seconds"])),
        f"{name}.rows_per_second": fixed(int(last["rows"]) / float(last["seconds"])),
        f"{name}.end_mib": mib(last),
        f"{name}.most_mib": fixed(max(float(row["rss_mib"]) for row in rows)),
        f"{name}.growth_mib": fixed(float(last["rss_mib"]) - float(at(250_000)["rss_mib"])),
        f"{name}.handles": span([int(row["handles"]) for row in rows]),
        f"{name}.threads_first": rows[0]["threads"],
        f"{name}.threads_most": str(threads),
        f"{name}.threads_most_from": fixed(
            next(int(r["rows"]) for r in rows if int(r["threads"]) == threads)
        ),
        **{
            f"{name}.mib_at_{count // 1000}k": mib(at(count))
            for count in (97_000, 124_000, 250_000, 577_000, 761_000)
        },
    }


def soak_table() -> str:
    said = soak_figures("soak", table("runs/soak-1m.csv"))
    of = {name.removeprefix("soak."): value for name, value in said.items()}
    at = [("124,000", "124k"), ("250,000", "250k"), ("577,000", "577k"), ("761,000", "761k")]
    memory = ", ".join(f"{of[f'mib_at_{short}']} at {rows} rows" for rows, short in at)
    threads = f"{of['threads_first']} at the start, {of['threads_most']} from row "
    return markdown(["", ""], [
        ["rows, dead letters, files", f"{of['rows']}, {of['dead_letters']}, {of['files']}"],
        ["time", f"{of['seconds']} s, {of['rows_per_second']} rows/s"],
        ["file handles", of["handles"]],
        ["threads", threads + of["threads_most_from"] + " on"],
        ["resident memory, MiB", f"{memory}, {of['end_mib']} at the end"],
    ])  # fmt: skip


TABLES = {
    "soak": soak_table,
    "stage.cases": case_table,
    "stage.peer": peer_table,
    "scale": scale_table,
    "scale.tiny": scale_tiny_table,
}
