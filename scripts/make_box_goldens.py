#!/usr/bin/env python3
"""Draws maps of evidence and finds their regions with SciPy: tests/fixtures/goldens/regions.json.

Needs NumPy and SciPy. Enlarging is `scipy.ndimage.affine_transform` of order 1, the parts are
those of `scipy.ndimage.label`; `crates/model/src/saliency/regions` does both by itself.
"""

import json
import pathlib

import numpy as np
from scipy import ndimage

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "goldens"
FINER, EDGE, FURTHER = 8, 0.5, 0.75
# Two strengths nearer to each other than this could change places between 32 and 64 bits.
CLEAR = 1e-3


def enlarged(logs: np.ndarray) -> np.ndarray:
    shape = tuple(side * FINER for side in logs.shape)
    offset = (0.5 / FINER - 0.5,) * 2
    return ndimage.affine_transform(
        logs, (1 / FINER, 1 / FINER), offset, shape, order=1, mode="nearest"
    )


def runs(mask: np.ndarray) -> list[int]:
    lengths, value = [], False
    count = 0
    for cell in mask.ravel():
        if cell != value:
            lengths.append(count)
            count, value = 0, cell
        count += 1
    return [*lengths, count]


def regions(share: np.ndarray) -> list[dict] | None:
    """The regions, or None where rounding could decide about one."""
    logs = np.log(np.maximum(share, 1e-12))
    if logs.max() - logs.mean() < 1.5 * logs.std():
        return []
    cells = enlarged(logs)
    median, peak = np.median(cells), cells.max()
    if peak - median < 1:
        return []
    level = median + EDGE * (peak - median)
    if np.abs(cells - level).min() < 1e-5:
        return None
    labels, _ = ndimage.label(cells >= level)
    found = []
    for number, part in enumerate(ndimage.find_objects(labels), 1):
        mask = labels[part] == number
        strength = (cells[part][mask].max() - median) / (peak - median)
        if abs(strength - FURTHER) < CLEAR:
            return None
        if strength >= FURTHER:
            down, across = part
            found.append(
                {
                    "strength": strength,
                    "box": [
                        across.start / cells.shape[1],
                        down.start / cells.shape[0],
                        (across.stop - across.start) / cells.shape[1],
                        (down.stop - down.start) / cells.shape[0],
                    ],
                    "columns": mask.shape[1],
                    "runs": runs(mask),
                }
            )
    found.sort(key=lambda region: -region["strength"])
    strengths = [region["strength"] for region in found]
    if any(a - b < CLEAR for a, b in zip(strengths, strengths[1:])):
        return None
    return found


def drawn(random: np.random.Generator) -> np.ndarray:
    """Some blobs on noise, as a softmax of 32-bit numbers."""
    rows, columns = random.integers(4, 15, 2)
    y, x = np.mgrid[0:rows, 0:columns]
    logits = random.normal(0, random.uniform(0.05, 0.6), (rows, columns))
    for _ in range(random.integers(0, 4)):
        at = random.uniform(0, rows), random.uniform(0, columns)
        wide = random.uniform(0.7, 2.5, 2)
        near = ((y - at[0]) / wide[0]) ** 2 + ((x - at[1]) / wide[1]) ** 2
        logits += random.uniform(3, 9) * np.exp(-near / 2)
    share = np.exp(logits - logits.max())
    return (share / share.sum()).astype(np.float32)


def main() -> None:
    random = np.random.default_rng(18)
    cases = []
    while len(cases) < 24:
        share = drawn(random)
        found = regions(share.astype(np.float64))
        if found is not None:
            map_ = [float(f"{value:.9g}") for value in share.ravel()]
            cases.append({"columns": share.shape[1], "map": map_, "regions": found})
    several = sum(len(case["regions"]) > 1 for case in cases)
    print(f"{len(cases)} maps, {several} with several regions,",
          f"{sum(not case['regions'] for case in cases)} with none")
    (OUT / "regions.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
