"""Training: one step, a whole run, and a retraining from label events."""

from .rows import fixed, jsonl, markdown, median, span, spread, table

# Categories, positions, width of the joint space: the sizes of benches/training_step.sh.
SIZES = [(36, 49, 256), (80, 49, 256), (36, 196, 256), (36, 49, 512), (80, 196, 512)]


def step_table() -> str:
    rows = jsonl("training-step.jsonl")
    head = [
        "categories, positions, D",
        "tagstream",
        "PyTorch, same savings",
        "ratio within a round",
    ]
    lines = []
    for size in SIZES:
        of = [row for row in rows if (row["categories"], row["positions"], row["dim"]) == size]
        sides = [
            [r for r in of if (r["framework"] == "tagstream") == ours] for ours in (True, False)
        ]
        cells = []
        for side in sides:
            times = [row["median_ms"] for row in side]
            fastest = min(row["fastest_ms"] for row in side)
            cells.append(
                f"{spread(median(times), min(times), max(times), fixed)}, {fixed(fastest)}"
            )
        theirs = {row["round"]: row["median_ms"] for row in sides[1]}
        ratios = [row["median_ms"] / theirs[row["round"]] for row in sides[0]]
        two = lambda value: fixed(value, 2)  # noqa: E731
        cells.append(spread(median(ratios), min(ratios), max(ratios), two))
        lines.append([", ".join(map(str, size)), *cells])
    return markdown(head, lines)


def whole(calibrated: bool) -> list[dict]:
    rows = jsonl("training-whole.jsonl")
    return [row for row in rows if ("--no-calibration" not in row["command"]) == calibrated]


def retrainings() -> list[dict]:
    """The retrainings with the default settings, oldest first."""
    return [row for row in table("runs/retraining.csv") if row["changes"] == "[]"]


def retraining() -> dict:
    return retrainings()[-1]


def whole_table() -> str:
    head = ["", "wall time, s", "processor time, s", "peak MiB"]
    lines = []
    for what, calibrated in [
        ("`train --no-calibration`, features cached", False),
        (
            "`train` with calibration, which trains a second head without a fifth of the images",
            True,
        ),
    ]:
        rows = whole(calibrated)
        walls = ", ".join(fixed(wall, 1) for wall in sorted(row["wall_s"] for row in rows))
        works = span([row["user_s"] + row["system_s"] for row in rows])
        lines.append(
            [f"{what}, {len(rows)} runs", walls, works, span([row["peak_mib"] for row in rows])]
        )
    row = retraining()
    parts = ", ".join(
        f"{part} {row[f'retrain_{part}_s']}" for part in ("features", "training", "judging")
    )
    lines.append(
        [
            "`retrain` from label events, a fifth of the photos held out, no features cached, "
            "one run",
            f"{row['retrain_total_s']}: {parts}",
            "",
            row["retrain_peak_mib"],
        ]
    )
    return markdown(head, lines)


def retraining_table() -> str:
    head = [
        "known",
        "mask seed",
        "build",
        "zero-shot",
        "retrained",
        "trained",
        "retraining, s",
        "peak MiB",
        "load at the start",
        "exit code",
    ]
    lines = []
    for row in retrainings():
        maps = [fixed(float(row[f"map_{what}"]), 2) for what in ("zero_shot", "retrain", "train")]
        lines.append(
            [
                f"{float(row['known']):.0%}".replace("%", " %"),
                row["mask_seed"],
                f"`{row['commit']}`",
                *maps,
                row["retrain_total_s"],
                row["retrain_peak_mib"],
                fixed(float(row["load"])),
                row["exit_code"],
            ]
        )
    return markdown(head, lines)


def figures() -> dict[str, str]:
    row, older = retraining(), retrainings()[:-1]
    seconds = lambda what: fixed(float(row[f"retrain_{what}_s"]))  # noqa: E731
    changed = next(row for row in table("runs/retraining.csv") if row["changes"] != "[]")
    return {
        "retraining.seconds": seconds("total"),
        "retraining.features_s": seconds("features"),
        "retraining.training_s": seconds("training"),
        "retraining.judging_s": fixed(float(row["retrain_judging_s"]), 1),
        "retraining.peak_mib": row["retrain_peak_mib"],
        "retraining.build": row["commit"],
        "retraining.load": fixed(float(row["load"])),
        "retraining.before.seconds": span([float(r["retrain_total_s"]) for r in older]),
        "retraining.before.peak_mib": span([int(r["retrain_peak_mib"]) for r in older]),
        "retraining.before.load": span([float(r["load"]) for r in older]),
        "retraining.no_memory.retrained": fixed(float(changed["map_retrain"]), 2),
        "retraining.no_memory.trained": fixed(float(changed["map_train"]), 2),
        "retraining.no_memory.seconds": fixed(float(changed["retrain_total_s"])),
        "retraining.no_memory.load": fixed(float(changed["load"])),
        "train.map": fixed(median(r["map_plain_dev"] for r in jsonl("training-whole.jsonl")), 3),
        "train.slowest_s": fixed(max(r["wall_s"] for r in whole(True)), 1),
    }


TABLES = {
    "training.step": step_table,
    "training.whole": whole_table,
    "retraining": retraining_table,
}
