"""Faults on real servers: chaos-300.jsonl and chaos-matrix.jsonl."""

from .rows import fixed, jsonl

WRONG = ("lost", "doubled", "misordered")


def figures() -> dict[str, str]:
    rows = jsonl("chaos-300.jsonl")
    rounds = [row for row in rows if not row.get("summary")]
    ends = [row for row in rows if row.get("summary")]
    cells = jsonl("chaos-matrix.jsonl")
    found = {what: sum(row[what] for row in ends) for what in WRONG}
    return {
        "chaos.rounds": fixed(len(rounds)),
        "chaos.seeds": fixed(len({row["seed"] for row in ends})),
        "chaos.messages": fixed(sum(row["messages"] for row in ends)),
        "chaos.result": " ".join(f"{what}={count}" for what, count in found.items()),
        "chaos.result_in_words": ", ".join(f"{count} {what}" for what, count in found.items()),
        "chaos.seconds_a_round": fixed(sum(row["seconds"] for row in rounds) / len(rounds)),
        "matrix.cells": fixed(len(cells)),
        "matrix.clean": fixed(
            sum(not any(cell[what] for what in (*WRONG, "wrong")) for cell in cells)
        ),
        "matrix.places": fixed(len({cell["cell"].split("=")[0] for cell in cells})),
        "matrix.seconds": fixed(sum(cell["seconds"] for cell in cells)),
        "matrix.minutes": fixed(sum(cell["seconds"] for cell in cells) / 60),
    }


TABLES = {}
