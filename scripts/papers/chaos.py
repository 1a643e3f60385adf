"""Faults on real servers: chaos.jsonl and chaos-matrix.jsonl."""

from .rows import fixed, jsonl

WRONG = ("lost", "doubled", "misordered", "unexpected")


def figures() -> dict[str, str]:
    rows = jsonl("chaos.jsonl")
    rounds = [row for row in rows if not row.get("summary")]
    # Counts go on from round to round: the last of a seed has them all.
    ends = list({(row["brokers"], row["seed"]): row for row in rounds}.values())
    cells = jsonl("chaos-matrix.jsonl")
    found = {what: sum(row[what] for row in ends) for what in WRONG}
    return {
        "chaos.rounds": fixed(len(rounds)),
        "chaos.seeds": fixed(len(ends)),
        "chaos.messages": fixed(sum(row["messages"] for row in ends)),
        "chaos.result": " ".join(f"{what}={count}" for what, count in found.items()),
        "chaos.result_in_words": ", ".join(f"{count} {what}" for what, count in found.items()),
        "chaos.seconds_a_round": fixed(sum(row["seconds"] for row in rounds) / len(rounds)),
        "matrix.cells": fixed(len(cells)),
        "matrix.clean": fixed(
            sum(not any(cell[what] for what in (*WRONG[:3], "wrong")) for cell in cells)
        ),
        "matrix.places": fixed(len({cell["cell"].split("=")[0] for cell in cells})),
        "matrix.seconds": fixed(sum(cell["seconds"] for cell in cells)),
        "matrix.minutes": fixed(sum(cell["seconds"] for cell in cells) / 60),
    }


TABLES = {}
