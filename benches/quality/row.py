#!/usr/bin/env python3
"""One row: what `train --json` and `eval --json` printed, behind the columns that name the run."""

import json
import sys

train, measured = (json.load(open(path)) for path in sys.argv[1:3])
figures = [f"{measured[key]:.3f}" for key in ("map_plain", "map_envelope", "cf1", "of1")]
print(
    sys.argv[3], *figures, f"{measured['ece']:.4f}", f"{train['seconds']['training']:.1f}", sep=","
)
