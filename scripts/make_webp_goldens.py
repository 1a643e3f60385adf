#!/usr/bin/env python3
"""Draws the pictures of tests/fixtures/webp and what Pillow makes of them: NAME.webp, and NAME.rgb
with the bytes of `convert("RGB")`. Needs Pillow and NumPy.

Both sides are odd, so that the last sample of chroma stands for one pixel only.
"""

import io
import pathlib

import numpy as np
from PIL import Image

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "webp"
WIDTH, HEIGHT = 45, 31


def scene() -> Image.Image:
    """Gradients that differ by channel, an edge, and grain."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    rgb = np.stack([5 * x, 255 - 7 * y, 90 + 2 * x + y], axis=2)
    rgb[8:20, 12:30] = (230, 20, 30)
    rgb += np.random.default_rng(0).normal(0, 6, (HEIGHT, WIDTH))[..., None]
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def save(name: str, picture: Image.Image) -> None:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80)
    (OUT / f"{name}.webp").write_bytes(file.getvalue())
    with Image.open(file) as read:
        (OUT / f"{name}.rgb").write_bytes(read.convert("RGB").tobytes())


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    picture = scene()
    save("lossy", picture)
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    picture.putalpha(Image.fromarray(alpha))
    save("lossy-alpha", picture)


if __name__ == "__main__":
    main()
