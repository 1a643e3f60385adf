"""What literature.sh measured: rows appended to a file, and a table for people."""

import json
import pathlib
import sys


def rows(work: pathlib.Path, head: dict) -> list[dict]:
    """A row a line of the comparison, then one of the boxes."""
    compared = json.loads((work / "compared.json").read_text())
    measured = json.loads((work / "boxes.json").read_text())
    ways = [
        head | {"kind": "tags", "taken": at == compared["take"], "ahead": compared["ahead"]} | way
        for at, way in enumerate(compared["ways"])
    ]
    served = {key: measured[key] for key in ("images", "map_plain", "tags", "boxes")}
    return [*ways, head | {"kind": "boxes"} | served]


def main() -> None:
    work, file, *values = sys.argv[1:]
    head = dict(zip(("time", "host", "commit", "set", "clip"), values, strict=True))
    made = rows(pathlib.Path(work), head)
    with open(file, "a", encoding="utf-8") as log:
        log.writelines(json.dumps(row) + "\n" for row in made)
    *ways, served = made
    print(f"\n{head['set']}, {served['images']} pictures, {head['clip']}: zero-shot mAP")
    print(f"{'locations':<18}{'templates':<12}{'scores':<14}{'mAP':>6}")
    for way in ways:
        scores = "standardised" if way["standardised"] else "as they are"
        mark = "  <- take" if way["taken"] else ""
        print(f"{way['dense']:<18}{way['templates']:<12}{scores:<14}{way['map']:6.1f}{mark}")
    print(f"boxes of the default: {json.dumps(served['boxes'])}")
    print(f"rows in {file}")


main()
