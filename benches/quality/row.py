#!/usr/bin/env python3
"""One row: what `train --json` and `eval --json` printed, behind the columns that name the run."""

import json
import sys

train, measured = (json.load(open(path)) for path in sys.argv[1:3])
figures = [f"{measured[key]:.3f}" for key in ("map_plain", "map_envelope", "cf1", "of1")]
tags = measured["tags"]
emitted = [
    "" if tags[key] is None else f"{tags[key]:.4f}" for key in ("right", "found", "f1", "per_image")
]
seconds = f"{train['seconds']['training']:.1f}"
print(sys.argv[3], *figures, f"{measured['ece']:.4f}", seconds, *emitted, sep=",")
