"""Rows of benches/, and how a number is written."""

import csv
import json
import re
import statistics
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

BENCHES = Path(__file__).resolve().parent.parent.parent / "benches"
MIB = 1 << 20


def jsonl(name: str) -> list[dict]:
    """The rows of a file; none where nothing has been measured yet."""
    path = BENCHES / "runs" / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def unmeasured(command: str) -> str:
    """What stands in place of figures that there are no rows of."""
    return f"not measured yet: `{command}`"


def conditions(row: dict) -> str:
    """How often a row was measured, and on what; its flags are in the row, here is the newest."""
    on = row["host"]
    flag = next(reversed(on["flags"]), "no flags")
    return (
        f"{row['rounds']} rounds; {on['cores']} cores of {on['cpu']} (family {on['family']}, model "
        f"{on['model']}, {fixed(on['mhz'])} MHz, {flag}); load {fixed(on['load'], 1)} before"
    )


def table(name: str) -> list[dict]:
    with open(BENCHES / name, newline="") as file:
        return list(csv.DictReader(file))


def fixed(value: float, digits: int = 0) -> str:
    """With so many digits after the point, halves rounded up, thousands apart."""
    step = Decimal(1).scaleb(-digits)
    return f"{Decimal(repr(value)).quantize(step, ROUND_HALF_UP):,}"


def rate(value: float) -> str:
    """Images a second: whole ones from a thousand on, four digits below."""
    return fixed(value, 0 if value >= 1000 else 1 if value >= 100 else 2)


def spread(median: float, least: float, most: float, write=rate) -> str:
    return f"{write(median)} ({write(least)} to {write(most)})"


def span(values, write=fixed) -> str:
    """The least and the most of some values, or the one that they all are."""
    least, most = write(min(values)), write(max(values))
    return least if least == most else f"{least} to {most}"


def median(values) -> float:
    return statistics.median(list(values))


def markdown(head: list[str], lines: list[list[str]]) -> str:
    written = ["| " + " | ".join(cells) + " |" for cells in [head, *lines]]
    written[0] = re.sub(r"\|  (?=\|)", "| ", written[0])
    return "\n".join([written[0], "|" + "---|" * len(head), *written[1:]])
