#!/usr/bin/env python3
"""Figures of the documents, made from the rows of benches/: one value stands in one place.

    scripts/figures.py            writes them into the documents, and the plot
    scripts/figures.py --check    fails if a document says anything else, and names file and line
    scripts/figures.py --list     every figure's and every table's name, with the figure

In Markdown a figure stands between `<!-- figure:NAME -->` and `<!-- /figure -->`, a table between
`<!-- table:NAME -->` and `<!-- /table -->` on lines of their own. scripts/papers/ makes them.
"""

import os
import re
import sys
from pathlib import Path

from papers import boxes, chaos, mix, pages, plot, quality, stage, stream, summary, swaps, training

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = [stage, mix, stream, swaps, training, quality, chaos, boxes, pages, summary]
MARKED = re.compile(
    r"<!-- (?P<kind>figure|table):(?P<name>\S+) -->(?P<said>.*?)<!-- /(?P=kind) -->", re.S
)


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def made() -> dict[str, dict[str, str]]:
    """What the rows say, by kind and name."""
    figures, tables = {}, {}
    for subject in SUBJECTS:
        figures |= subject.figures()
        tables |= {name: f"\n{make()}\n" for name, make in subject.TABLES.items()}
    return {"figure": figures, "table": tables}


def brought_up_to_date(path: Path, text: str, rows: dict, wrong: list[str]) -> str:
    """The document with the rows' figures; what was wrong in it goes into `wrong`."""

    def replaced(mark: re.Match) -> str:
        kind, name, said = mark["kind"], mark["name"], mark["said"]
        at = mark.start("said") if name in rows[kind] else mark.start()
        at += len(os.path.commonprefix([said, rows[kind].get(name, said)]))
        where = f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, at) + 1}"
        if name not in rows[kind]:
            sys.exit(f"{where}: there is no {kind} of the name {name} (scripts/figures.py --list)")
        right = rows[kind][name]
        if said != right:
            differs = f"says {said!r}, the rows say {right!r}" if kind == "figure" else "is stale"
            wrong.append(f"{where}: {kind} {name} {differs}")
        return f"<!-- {kind}:{name} -->{right}<!-- /{kind} -->"

    opened = len(re.findall(r"<!-- (?:figure|table):", text))
    if opened != len(MARKED.findall(text)):
        sys.exit(f"{path.relative_to(ROOT)}: a figure or table is opened and not closed")
    return MARKED.sub(replaced, text)


def main() -> None:
    arguments = sys.argv[1:]
    if arguments not in ([], ["--check"], ["--list"]):
        sys.exit(__doc__)
    rows = made()
    if arguments == ["--list"]:
        print("\n".join(f"{name}\t{value}" for name, value in rows["figure"].items()))
        print("\n".join(f"{name}\t(table)" for name in rows["table"]))
        return
    wrong: list[str] = []
    for path in documents():
        text = path.read_text()
        new = brought_up_to_date(path, text, rows, wrong)
        if new != text and not arguments:
            path.write_text(new)
    picture, drawn = ROOT / plot.PATH, plot.draw()
    if not picture.exists() or picture.read_text() != drawn:
        wrong.append(f"{plot.PATH}:1: the plot is stale")
        if not arguments:
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_text(drawn)
    if arguments and wrong:
        print("\n".join(wrong), file=sys.stderr)
        sys.exit("scripts/figures.py writes what benches/ says")
    for line in wrong:
        print(f"mended {line}")


if __name__ == "__main__":
    main()
