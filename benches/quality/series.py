#!/usr/bin/env python3
"""Splits by whole series, and the means of their rows.

    series.py split DATA FOLD OUT    OUT/FOLD.csv (image_id,split) and OUT/FOLD.counted.csv: the
                                     labels of the categories that are counted
    series.py means ROWS             mean over folds of the means over mask seeds, as Markdown
"""

import collections
import csv
import pathlib
import statistics
import sys

LEAST_TEST, LEAST_POOL = 5, 20


def split(data: pathlib.Path, fold: str, out: pathlib.Path) -> None:
    with open(data / "new_series.csv", newline="") as file:
        side = {row["image_id"]: row[fold] for row in csv.DictReader(file)}
    with open(out / f"{fold}.csv", "w") as file:
        file.write("image_id,split\n")
        file.writelines(f"{image},{part}\n" for image, part in side.items())
    with open(data / "labels.csv", newline="") as file:
        labels = [row for row in csv.DictReader(file) if row["image_id"] in side]
    present = collections.Counter(
        (row["label"], side[row["image_id"]]) for row in labels if row["state"] == "present"
    )
    counted = {
        label
        for label in {row["label"] for row in labels}
        if present[label, "test"] >= LEAST_TEST and present[label, "train"] >= LEAST_POOL
    }
    with open(out / f"{fold}.counted.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["image_id", "label", "state"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {key: row[key] for key in writer.fieldnames}
            for row in labels
            if row["label"] in counted
        )


def means(path: pathlib.Path) -> None:
    # Of repeated runs the newest counts.
    found: dict = {}
    for row in csv.DictReader(open(path)):
        line = (row["method"], row["variant"])
        seeds = found.setdefault(line, {}).setdefault(row["known"], {})
        seeds.setdefault(row["split"], {})[row["mask_seed"]] = float(row["map_plain"])
    shares = list(dict.fromkeys(known for line in found.values() for known in line))
    print("| new series, plain mAP | " + " | ".join(shares) + " |")
    print("|---|" + "---|" * len(shares))
    for (method, variant), line in found.items():
        cells = []
        for known in shares:
            folds = [statistics.mean(seeds.values()) for seeds in line.get(known, {}).values()]
            cells.append(f"{statistics.mean(folds):.1f} ({len(folds)} folds)" if folds else "")
        print(f"| {method}{' ' + variant if variant else ''} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    if sys.argv[1] == "split":
        split(pathlib.Path(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4]))
    else:
        means(pathlib.Path(sys.argv[2]))
