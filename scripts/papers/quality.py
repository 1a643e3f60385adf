"""How good the methods are: benches/quality/*.csv. Of repeated runs the newest counts."""

import statistics

from .rows import fixed, markdown, table

KNOWN = ["0.1", "0.5", "0.9"]
HEAD = ["10 % known", "50 % known", "90 % known"]
# Title, method, variant.
CORPUS_36 = [
    ("zero-shot (scale from labels, order not)", "zero-shot", ""),
    ("linear probe", "linear-probe", ""),
    ("linear probe fused with zero-shot", "linear-probe", "fused"),
    ("dualcoop", "dualcoop", ""),
    ("positive-coop", "positive-coop", ""),
    ("trm-ml-base, distillation at full weight", "trm-ml-base", "distillation-at-full-weight"),
    ("**trm-ml-base**", "trm-ml-base", ""),
    ("trm-ml, distillation at full weight", "trm-ml", "distillation-at-full-weight"),
    ("**trm-ml**", "trm-ml", ""),
]
CORPUS_74 = [
    ("zero-shot", "zero-shot", ""),
    ("linear probe", "linear-probe", ""),
    ("dualcoop", "dualcoop", ""),
    ("positive-coop", "positive-coop", ""),
    ("trm-ml-base, distillation at full weight", "trm-ml-base", "pseudo-labels-by-unknown-share"),
    ("trm-ml, distillation at full weight", "trm-ml", "distillation-at-full-weight"),
    ("**trm-ml**", "trm-ml", ""),
]
LADDER = [
    ("positive-coop (text-pixel matching)", "positive-coop", ""),
    ("regions in place of pixels", "trm-ml-base", "regions"),
    ("+ queries", "trm-ml-base", "regions+queries"),
    (
        "+ distillation, at full weight",
        "trm-ml-base",
        "+distillation (distillation at full weight)",
    ),
    ("+ contrastive loss", "trm-ml-base", "+contrastive (distillation at full weight)"),
    (
        "+ prototype pseudo-labels by (unknown share)^2",
        "trm-ml-base",
        "distillation-at-full-weight",
    ),
    ("the same, distillation by the unknown share: **trm-ml-base**", "trm-ml-base", ""),
    ("soft targets in place of pseudo-labels, + global branch", "trm-ml", "+global"),
    ("+ both memories: **trm-ml**", "trm-ml", ""),
]
SCENES = [
    ("zero-shot", "zero-shot", ""),
    ("dualcoop, negative prompts of 4 random tokens", "dualcoop", "negative-of-4-tokens"),
    ("**dualcoop**", "dualcoop", ""),
    ("trm-ml-base, pseudo-labels at full weight", "trm-ml-base", "pseudo-labels-at-full-weight"),
    ("trm-ml without memories", "trm-ml", "+global"),
    ("trm-ml, memories also in the soft targets", "trm-ml", "memories-in-targets"),
    (
        "trm-ml, fixed share of 2/3 for the image memory, no regional memory",
        "trm-ml",
        "fixed-memory-share",
    ),
    ("**trm-ml**", "trm-ml", ""),
]


def by_seed(file: str, group: str, method: str, variant: str, known: str) -> dict[str, float]:
    """Plain mAP by mask seed."""
    return {
        row["mask_seed"]: float(row["map_plain"])
        for row in table(f"quality/{file}.csv")
        if (row["set"], row["method"], row["variant"], row["known"])
        == (group, method, variant, known)
    }


def over_seeds(values: dict[str, float]) -> str:
    """Mean, standard deviation where there is one, and of how many."""
    if not values:
        return ""
    mean = fixed(statistics.mean(values.values()), 1)
    if len(values) == 1:
        return mean
    return f"{mean} ± {fixed(statistics.stdev(values.values()), 1)} ({len(values)})"


def of_seed_0(values: dict[str, float]) -> str:
    return fixed(values["0"], 1) if "0" in values else ""


def methods(title: str, file: str, group: str, lines, write, known=KNOWN, head=HEAD) -> str:
    return markdown(
        [title, *head],
        [
            [name, *(write(by_seed(file, group, method, variant, share)) for share in known)]
            for name, method, variant in lines
        ],
    )


SERIES = [
    ("zero-shot (scale from labels, order not)", "zero-shot", ""),
    ("zero-shot, three views", "zero-shot", "views"),
    ("**trm-ml**", "trm-ml", ""),
    ("trm-ml, three views", "trm-ml", "views"),
]


def series(method: str, variant: str, known: str) -> str:
    """Mean over folds of the means over mask seeds, and of how many runs."""
    folds: dict[str, dict[str, float]] = {}
    for row in table("quality/new_series.csv"):
        if (row["method"], row["variant"], row["known"]) == (method, variant, known):
            folds.setdefault(row["split"], {})[row["mask_seed"]] = float(row["map_plain"])
    if not folds:
        return ""
    mean = statistics.mean(statistics.mean(seeds.values()) for seeds in folds.values())
    return f"{fixed(mean, 1)} ({sum(len(seeds) for seeds in folds.values())})"


def emitted(method: str, variant: str, known: str) -> list[str]:
    """Share right, share found, F1 and tags a picture: means over folds and mask seeds."""
    rows = [
        row
        for row in table("quality/new_series.csv")
        if (row["method"], row["variant"], row["known"]) == (method, variant, known)
        and row["tags_f1"]
    ]
    newest = {(row["split"], row["mask_seed"]): row for row in rows}.values()
    if not newest:
        return []
    mean = {
        key: statistics.mean(float(row[f"tags_{key}"]) for row in newest)
        for key in ("right", "found", "f1", "per_image")
    }
    shares = [f"{fixed(100 * mean[key], 0)} %" for key in ("right", "found")]
    return [*shares, fixed(mean["f1"], 3), fixed(mean["per_image"], 2), str(len(newest))]


TABLES = {
    "quality.tags": lambda: markdown(
        ["emitted tags on new series", "known", "right", "found", "micro F1", "a picture", "runs"],
        [
            [name, share, *figures]
            for name, method, variant in SERIES
            for share in ["0.1", "0.5", "single"]
            if (figures := emitted(method, variant, share))
        ],
    ),
    "quality.series": lambda: markdown(
        [
            "new series, plain mAP",
            "no label",
            "10 % known",
            "50 % known",
            "single positive",
        ],
        [
            [name, *(series(method, variant, known) for known in ["none", "0.1", "0.5", "single"])]
            for name, method, variant in SERIES
        ],
    ),
    "quality.36": lambda: methods(
        "36 categories, dev, plain mAP", "corel5k", "36", CORPUS_36, over_seeds
    ),
    "quality.74": lambda: methods(
        "74 categories, dev, plain mAP, mask seed 0", "corel5k", "74", CORPUS_74, of_seed_0
    ),
    "quality.ladder": lambda: methods("", "corel5k", "36", LADDER, of_seed_0),
    "quality.scenes": lambda: methods(
        "plain mAP over 50 categories",
        "scenes",
        "pale-1500",
        SCENES,
        over_seeds,
        ["0.1"],
        ["10 % known"],
    ),
}


def figures() -> dict[str, str]:
    out = {}
    for name, method in [
        ("trm_ml", "trm-ml"),
        ("dualcoop", "dualcoop"),
        ("zero_shot", "zero-shot"),
    ]:
        means = [
            statistics.mean(by_seed("corel5k", "36", method, "", share).values()) for share in KNOWN
        ]
        out[f"quality.{name}"] = " / ".join(fixed(mean, 1) for mean in means)
        for share, mean in zip(("10", "50", "90"), means):
            out[f"quality.{name}.{share}"] = fixed(mean, 1)

    def seed_0(variant: str, share: str) -> str:
        return of_seed_0(by_seed("corel5k", "36", "trm-ml", variant, share))

    def scenes(variant: str) -> str:
        return of_seed_0(by_seed("scenes", "pale-1500", "trm-ml", variant, "0.1"))

    out["quality.memories_in_targets.10"] = seed_0("memories-in-targets", "0.1")
    out["quality.no_targets.10"] = seed_0("no-targets", "0.1")
    out["quality.trm_ml_seed_0.10"] = seed_0("", "0.1")
    out["quality.no_memories.10"] = seed_0("+global", "0.1")
    out["quality.scenes.no_memories"] = scenes("+global")
    out["quality.scenes.fixed_share"] = scenes("fixed-memory-share")
    return out
