#!/usr/bin/env python3
"""Draws the mix of pictures that platforms have, a folder for each kind.

    python benches/mix/pictures.py OUT [--each 6] [--seed 0]

Scenes are smooth noise with the spectrum of photographs, things with edges on it, and grain:
entropy decoding is a large part of the time and depends on what is in the picture. Needs NumPy and
Pillow. `SHARES` says how many of a hundred pictures are of a kind in the mean of the mix.
"""

import argparse
import pathlib
import typing

import numpy as np
from PIL import Image, ImageDraw


class Kind(typing.NamedTuple):
    """How many of a hundred pictures are of it, megapixels of the least and the most, and how they
    are saved."""

    share: int
    megapixels: tuple[float, float]
    suffix: str
    options: dict
    alpha: bool = False


WEB, FULL, LARGE = (0.3, 1.2), (2.8, 2.8), (12.0, 12.0)
PROGRESSIVE = {"progressive": True}
KINDS = {
    "web-jpeg": Kind(40, WEB, "jpg", {"quality": 82}),
    "web-jpeg-progressive": Kind(19, WEB, "jpg", {"quality": 82, **PROGRESSIVE}),
    "jpeg-3mp": Kind(8, FULL, "jpg", {"quality": 88}),
    "jpeg-3mp-progressive": Kind(4, FULL, "jpg", {"quality": 88, **PROGRESSIVE}),
    "jpeg-3mp-444": Kind(2, FULL, "jpg", {"quality": 88, "subsampling": 0}),
    "jpeg-12mp": Kind(5, LARGE, "jpg", {"quality": 92}),
    "jpeg-12mp-progressive": Kind(2, LARGE, "jpg", {"quality": 92, **PROGRESSIVE}),
    "jpeg-12mp-444": Kind(2, LARGE, "jpg", {"quality": 92, "subsampling": 0}),
    "webp-lossy": Kind(8, (0.3, 2.8), "webp", {"quality": 80}),
    "webp-lossless": Kind(2, WEB, "webp", {"lossless": True, "method": 2}),
    "png": Kind(3, WEB, "png", {}),
    "png-alpha": Kind(2, WEB, "png", {}, alpha=True),
    "avif": Kind(3, WEB, "avif", {"quality": 70, "speed": 8}),
}
SHARES = {name: kind.share for name, kind in KINDS.items()}
ASPECTS = [4 / 3, 3 / 2, 3 / 4, 1.0, 16 / 9, 2 / 3]


def smooth(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Octaves of noise, each half as strong as the next coarser one: `[height, width]`, -1 to 1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(2, 9):
        columns, rows = max(2, width >> octave), max(2, height >> octave)
        small = random.standard_normal((rows, columns), dtype=np.float32)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(picture) * 2.0 ** (octave - 9)
    return total


def scene(random: np.random.Generator, width: int, height: int) -> Image.Image:
    light = smooth(random, width, height)
    tints = [smooth(random, max(8, width // 8), max(8, height // 8)) for _ in range(3)]
    channels = []
    for tint in tints:
        tint = Image.fromarray(tint).resize((width, height), Image.Resampling.BICUBIC)
        channels.append(128 + 45 * light + 30 * np.asarray(tint))
    pixels = np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(6, 20))):
        x, y = random.integers(0, width), random.integers(0, height)
        w, h = random.integers(width // 40 + 2, width // 4 + 3, 2) * (1, height / width)
        colour = tuple(int(c) for c in random.integers(0, 256, 3))
        shape = draw.ellipse if random.integers(2) else draw.rectangle
        shape((x, y, x + w, y + h), fill=colour)
    grain = random.normal(0, 5, (height, width)).astype(np.float32)[..., None]
    pixels = (np.asarray(picture).astype(np.float32) + grain).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def draw_kind(folder: pathlib.Path, kind: Kind, each: int, random: np.random.Generator) -> None:
    aside = folder.with_name(f".{folder.name}.partial")
    aside.mkdir(parents=True, exist_ok=True)
    for number in range(each):
        least, most = kind.megapixels
        megapixels = least + (most - least) * number / max(1, each - 1)
        aspect = ASPECTS[number % len(ASPECTS)]
        height = round((megapixels * 1e6 / aspect) ** 0.5)
        picture = scene(random, round(height * aspect), height)
        if kind.alpha:
            alpha = (128 + 127 * smooth(random, *picture.size)).clip(0, 255).astype(np.uint8)
            picture.putalpha(Image.fromarray(alpha))
        picture.save(aside / f"{number:02}.{kind.suffix}", **kind.options)
    # Whole or not at all: run.py keeps what it finds.
    aside.rename(folder)


def draw(out: pathlib.Path, names: list[str], each: int, seed: int) -> None:
    """The kinds named, each the same whatever others are drawn."""
    for number, (name, kind) in enumerate(KINDS.items()):
        if name in names:
            draw_kind(out / name, kind, each, np.random.default_rng([seed, number]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--each", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw(args.out, list(KINDS), args.each, args.seed)


if __name__ == "__main__":
    main()
