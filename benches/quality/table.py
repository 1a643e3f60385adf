#!/usr/bin/env python3
"""Rows of benches/quality/corel5k.csv as Markdown: mean and spread over mask seeds. Of repeated
runs the newest counts."""

import csv
import pathlib
import statistics
import sys

path = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "corel5k.csv"
runs: dict[tuple, dict[tuple, dict[str, float]]] = {}
known_shares = set()
for row in csv.DictReader(open(path)):
    line = (row["set"], row["split"], row["method"], row["variant"])
    known_shares.add(row["known"])
    runs.setdefault(line, {}).setdefault(row["known"], {})[row["mask_seed"]] = float(
        row["map_plain"]
    )
shares = sorted(known_shares, key=float)
for group in sorted({line[:2] for line in runs}):
    print(f"\n{group[0]} categories, `{group[1]}` split, plain mAP\n")
    print("| method | " + " | ".join(f"{float(share):.0%} known" for share in shares) + " |")
    print("|---|" + "---|" * len(shares))
    for line in runs:
        if line[:2] != group:
            continue
        cells = []
        for share in shares:
            values = list(runs[line].get(share, {}).values())
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread} ({len(values)})" if values else "")
        print(f"| {line[2]}{' ' + line[3] if line[3] else ''} | " + " | ".join(cells) + " |")
