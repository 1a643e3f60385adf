"""Decoding by kind of picture, beside other libraries: benches/mix, mix.jsonl."""

from .rows import conditions, fixed, jsonl, markdown, unmeasured

COMMAND = "make bench-mix"
# The order of the table.
KINDS = [
    "web-jpeg",
    "web-jpeg-progressive",
    "jpeg-3mp",
    "jpeg-3mp-progressive",
    "jpeg-3mp-444",
    "jpeg-12mp",
    "jpeg-12mp-progressive",
    "jpeg-12mp-444",
    "webp-lossy",
    "webp-lossless",
    "png",
    "png-alpha",
    "avif",
]
RULES = {"ours": "at the stage's rule", "users": "at its users' rule"}
NAMES = {"opencv": "OpenCV", "simplejpeg": "simplejpeg", "pyvips": "pyvips", "pillow": "Pillow"}

Rows = list[dict]


def newest(rows: Rows) -> Rows:
    """Of every kind, peer and rule the last row."""
    return list({(row["kind"], row["peer"], row["rule"]): row for row in rows}.values())


def measured() -> Rows:
    return newest(jsonl("mix.jsonl"))


def of_kinds(rows: Rows, rule: str) -> dict[str, Rows]:
    """The rows of each kind at a rule; kinds that were not measured are left out."""
    found = {
        kind: [row for row in rows if (row["kind"], row["rule"]) == (kind, rule)] for kind in KINDS
    }
    return {kind: of_kind for kind, of_kind in found.items() if of_kind}


def strongest(rows: Rows) -> dict:
    """The peer that the stage is the least ahead of."""
    return min(rows, key=lambda row: row["ratio"])


def mean(rows: Rows, key: str) -> float:
    return sum(row["share"] * row[key] for row in rows) / sum(row["share"] for row in rows)


def of_mix(rows: Rows, rule: str) -> tuple[str, float, float]:
    """The library that is best at the whole mix, its mean and the stage's beside it."""
    by_kind = of_kinds(rows, rule)

    def of_peer(peer: str) -> Rows:
        return [row for of_kind in by_kind.values() for row in of_kind if row["peer"] == peer]

    peers = {row["peer"] for of_kind in by_kind.values() for row in of_kind}
    best = min(peers, key=lambda peer: mean(of_peer(peer), "peer_ms"))
    return best, mean(of_peer(best), "peer_ms"), mean(of_peer(best), "stage_ms")


def best_of_each(rows: Rows, rule: str) -> tuple[float, float]:
    """A program that takes for each kind the library that is best at it, and the stage."""
    chosen = [strongest(of_kind) for of_kind in of_kinds(rows, rule).values()]
    return mean(chosen, "peer_ms"), mean(chosen, "stage_ms")


def kinds_table(rows: Rows) -> str:
    head = ["kind", "of 100", "stage, ms", "apart"]
    for rule in RULES.values():
        head += [f"strongest peer {rule}, ms", "apart", "stage is faster by"]
    by_rule = [of_kinds(rows, rule) for rule in RULES]
    lines = []
    for kind, first in by_rule[0].items():
        line = [kind, fixed(first[0]["share"]), milliseconds(strongest(first)["stage_ms"])]
        line.append(fixed(first[0]["stage_apart"], 2))
        for by_kind in by_rule:
            peer = strongest(by_kind[kind])
            line.append(f"{NAMES[peer['peer']]} {milliseconds(peer['peer_ms'])}")
            ratio = f"{fixed(peer['ratio'], 2)} ({fixed(peer['ratio_least'], 2)} to "
            line += [fixed(peer["peer_apart"], 2), f"{ratio}{fixed(peer['ratio_most'], 2)})"]
        lines.append(line)
    of_rules = [of_mix(rows, rule) for rule in RULES]
    line = ["**the mix, one library for all**", "", milliseconds(of_rules[0][2]), ""]
    for peer, theirs, mine in of_rules:
        ratio = f"**{fixed(theirs / mine, 2)}**"
        line += [f"{NAMES[peer]} {milliseconds(theirs)}", "", ratio]
    lines.append(line)
    of_rules = [best_of_each(rows, rule) for rule in RULES]
    line = ["the mix, for each kind the library best at it", "", milliseconds(of_rules[0][1]), ""]
    for theirs, mine in of_rules:
        line += [milliseconds(theirs), "", fixed(theirs / mine, 2)]
    return markdown(head, [*lines, line])


def every_peer_table(rows: Rows) -> str:
    """Milliseconds of every peer, for those who want to know how the others did."""
    columns = [(peer, rule) for rule in RULES for peer in NAMES]
    head = ["kind", "stage", *(f"{NAMES[peer]}, {rule}" for peer, rule in columns)]
    lines = []
    for kind, first in of_kinds(rows, "ours").items():
        of_kind = {(row["peer"], row["rule"]): row for row in rows if row["kind"] == kind}
        line = [kind, milliseconds(strongest(first)["stage_ms"])]
        line += [milliseconds(of_kind[column]["peer_ms"]) for column in columns]
        lines.append(line)
    return markdown(head, lines)


def milliseconds(value: float) -> str:
    return fixed(value, 2 if value < 10 else 1)


def figures() -> dict[str, str]:
    rows = measured()
    if not rows:
        return {"mix.host": unmeasured(COMMAND)}
    out = {}
    for rule in RULES:
        peer, theirs, mine = of_mix(rows, rule)
        out[f"mix.{rule}.ratio"] = fixed(theirs / mine, 2)
        out[f"mix.{rule}.peer"] = NAMES[peer]
        out[f"mix.{rule}.ms"] = milliseconds(mine)
        theirs, mine = best_of_each(rows, rule)
        out[f"mix.{rule}.ratio_best_of_each"] = fixed(theirs / mine, 2)
    out["mix.host"] = conditions(max(rows, key=lambda row: row["time"]))
    return out


def table(make) -> str:
    rows = measured()
    return make(rows) if rows else unmeasured(COMMAND)


TABLES = {
    "mix.kinds": lambda: table(kinds_table),
    "mix.peers": lambda: table(every_peer_table),
}
