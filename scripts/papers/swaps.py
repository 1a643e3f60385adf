"""Models swapped under load: swaps.jsonl, and swaps-before.jsonl of the build before."""

from .rows import fixed, jsonl, markdown, span

KINDS = {
    "head": "another head, same encoder (what retraining makes)",
    "categories": "a category more: files end",
    "encoder": "another encoder",
}
SWAPS = 20


def summaries(name: str = "swaps.jsonl") -> list[dict]:
    return [row for row in jsonl(name) if row.get("summary")]


def build_with_all() -> str:
    """The newest build of which all three kinds were run."""
    rows = summaries()
    whole = [
        r["commit"]
        for r in rows
        if {o["case"] for o in rows if o["commit"] == r["commit"]} == set(KINDS)
    ]
    return whole[-1]


def runs() -> dict[str, list[dict]]:
    of = [r for r in summaries() if r["commit"] == build_with_all() and r["swaps"] == SWAPS]
    return {kind: [row for row in of if row["case"] == kind] for kind in KINDS}


def before(kind: str) -> dict:
    return next(row for row in summaries("swaps-before.jsonl") if row["case"] == kind)


def percent(share: float, digits: int = 0) -> str:
    return fixed(100 * share, digits) + " %"


def each(rows: list[dict], write) -> str:
    return ", ".join(write(row) for row in rows)


def two(value: float) -> str:
    return fixed(value, 2)


def worst(rows: list[dict], batches: str) -> str:
    """The median of a batch's time over the median, and the largest of all runs."""
    middle = max(row[batches]["median"] for row in rows)
    return f"{two(middle)}, {two(max(row[batches]['largest'] for row in rows))}"


def seconds(rows: list[dict]) -> str:
    middle = max(row["pointer_to_swap_s"]["median"] for row in rows)
    return f"{two(middle)}, {two(max(row['pointer_to_swap_s']['largest'] for row in rows))} s"


def loading(rows: list[dict]) -> str:
    middle = 1000 * max(row["loading_processor_s"]["median"] for row in rows)
    return fixed(middle, 1 if middle < 100 else 0) + " ms"


def above_two(rows: list[dict]) -> str:
    batches = [row["first_batch_over_median"] for row in rows]
    return f"{sum(b['above_2'] for b in batches)} of {sum(b['batches'] for b in batches)}"


def ordinary(rows: list[dict]) -> str:
    batches = [row["ordinary_batch_over_median"] for row in rows]
    count = sum(b["batches"] for b in batches)
    return f"{percent(sum(b['above_2'] for b in batches) / count, 1)} of {fixed(count)}"


def messages(rows: list[dict]) -> str:
    wrong = [sum(row[what] for row in rows) for what in ("lost", "doubled", "misordered")]
    sent = {row["messages"] for row in rows}
    many = (
        f"{len(rows)} x {fixed(sent.pop())}"
        if len(sent) == 1
        else each(rows, lambda r: fixed(r["messages"]))
    )
    return f"{many}; {', '.join(map(str, wrong))}"


def resident(row: dict) -> str:
    return ", ".join(fixed(row[f"rss_mib_{what}"]) for what in ("before", "after_last", "most"))


def faults(row: dict) -> str:
    return fixed(row["page_faults"]["first_batch_median"])


# What is said of the runs of one kind, and of the run of the build before (none where it has no
# row).
LINES = [
    ("messages; lost, doubled, misordered", messages, None),
    (
        "images a second in seconds without a swap (median)",
        lambda rows: each(rows, lambda row: fixed(row["images_per_second"])),
        None,
    ),
    (
        "images a second: fewer from the pointer's move to 0.25 s after the exchange",
        lambda rows: each(rows, lambda row: percent(row["around_swaps"]["dip"])),
        lambda row: percent(row["around_swaps"]["dip"]),
    ),
    (
        "images a second: fewer in the worst second with a swap",
        lambda rows: each(rows, lambda row: percent(row["dip_worst_second"])),
        lambda row: percent(row["dip_worst_second"]),
    ),
    (
        "longest gap between two rows around a swap",
        lambda rows: (
            each(rows, lambda row: fixed(1000 * row["longest_gap_between_rows_s"])) + " ms"
        ),
        lambda row: fixed(1000 * row["longest_gap_between_rows_s"]),
    ),
    ("processor time to load, try and warm (median)", loading, None),
    (
        "pointer moved to model exchanged: median, longest",
        seconds,
        lambda row: seconds([row]).removesuffix(" s"),
    ),
    (
        "a worker's first batch / median of its size and model: median, largest",
        lambda rows: worst(rows, "first_batch_over_median"),
        lambda row: worst([row], "first_batch_over_median"),
    ),
    (
        "a worker's first batches that took more than twice the median",
        above_two,
        lambda row: above_two([row]),
    ),
    (
        "all batches that took more than twice the median",
        ordinary,
        lambda row: ordinary([row]).split(" of")[0],
    ),
    (
        "a swap's first batches, median of the four workers: largest",
        lambda rows: two(
            max(row["swaps_median_first_batch_over_median"]["largest"] for row in rows)
        ),
        lambda row: two(row["swaps_median_first_batch_over_median"]["largest"]),
    ),
    (
        "the same batches' processor time / median: median, largest",
        lambda rows: worst(rows, "first_batch_processor_over_median"),
        lambda row: worst([row], "first_batch_processor_over_median"),
    ),
    (
        "page faults of a first batch (median)",
        lambda rows: span([row["page_faults"]["first_batch_median"] for row in rows]),
        faults,
    ),
    (
        "resident MiB before, after the last swap, most",
        lambda rows: " and ".join(map(resident, rows)),
        resident,
    ),
    (
        "slope over the swaps, MiB a swap",
        lambda rows: each(rows, lambda row: fixed(row["rss_mib_slope_per_swap"], 1)),
        lambda row: fixed(row["rss_mib_slope_per_swap"], 1),
    ),
]
SHORT = [
    "messages;",
    "images a second: fewer from",
    "longest gap",
    "pointer moved",
    "a worker's first batches that",
    "resident MiB",
]


def lines(with_before: bool) -> list[list[str]]:
    of = runs()
    out = []
    for title, now, then in LINES:
        cells = [
            now(of[kind]) + (f" ({then(before(kind))})" if then and with_before else "")
            for kind in KINDS
        ]
        out.append([title, *cells])
    return out


def whole_table() -> str:
    return markdown(["", *KINDS.values()], lines(with_before=True))


def short_table() -> str:
    chosen = [line for line in lines(with_before=False) if line[0].startswith(tuple(SHORT))]
    return markdown(["", *KINDS.values()], chosen)


def later_table() -> str:
    """All other runs of that build and of later ones."""
    head = [
        "build",
        "kind",
        "swaps",
        "messages; lost, doubled, misordered",
        "fewer around swaps",
        "longest gap, ms",
        "first batches above twice the median, largest",
        "all batches above",
        "resident MiB before, after the last, most",
    ]
    rows = summaries()
    first = min(i for i, row in enumerate(rows) if row["commit"] == build_with_all())
    known = [row for of in runs().values() for row in of]
    others = [row for row in rows[first:] if row not in known]
    return markdown(
        head,
        [
            [
                f"`{row['commit']}`",
                row["case"],
                str(row["swaps"]),
                messages([row]).removeprefix("1 x "),
                percent(row["around_swaps"]["dip"]),
                fixed(1000 * row["longest_gap_between_rows_s"]),
                f"{above_two([row])}, {two(row['first_batch_over_median']['largest'])}",
                ordinary([row]),
                resident(row),
            ]
            for row in others
        ],
    )


def figures() -> dict[str, str]:
    rows = [row for of in runs().values() for row in of]

    def largest(batches: str, what: str = "largest") -> str:
        return two(max(row[batches][what] for row in rows))

    return {
        "swaps.build": build_with_all(),
        "swaps.largest_of_a_swap": largest("swaps_median_first_batch_over_median"),
        "swaps.largest_work": largest("first_batch_processor_over_median"),
        "swaps.ordinary_work_p99": largest("ordinary_batch_processor_over_median", "p99"),
        "swaps.head.fewer": span([100 * r["around_swaps"]["dip"] for r in runs()["head"]]) + " %",
        "swaps.encoder.fewer": span([100 * r["around_swaps"]["dip"] for r in runs()["encoder"]])
        + " %",
    }


TABLES = {"swaps": whole_table, "swaps.short": short_table, "swaps.later": later_table}
