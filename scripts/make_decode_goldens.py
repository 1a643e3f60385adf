#!/usr/bin/env python3
"""Draws the pictures of tests/fixtures/decode and what Pillow makes of them.
 Each picture is asymmetric in both axes and in its channels, so that a wrong orientation, channel
order or polarity is far outside every tolerance. The reference is Pillow's: exif_transpose,
convert("RGB"), resize (BICUBIC or BILINEAR, antialiased), centre crop as torchvision does it.
16-bit grey is the exception: Pillow clips it to white, the reference keeps the high byte.

Needs Pillow and NumPy. Writes pictures, NAME.<case>.npy (uint8, [H, W, 3]) and cases.json.
"""

import io
import json
import pathlib
import struct
import sys
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageOps

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "decode"
SIDE = 36


def scene(width, height):
    """Smooth gradients that differ by channel, plus shapes that break every symmetry."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x /= max(width - 1, 1)
    y /= max(height - 1, 1)
    rgb = np.stack([40 + 200 * x, 30 + 180 * y, 220 - 160 * x * y], axis=2)
    picture = Image.fromarray(rgb.round().astype(np.uint8), "RGB")
    draw = ImageDraw.Draw(picture)
    draw.rectangle([width * 0.06, height * 0.08, width * 0.36, height * 0.3], fill=(230, 20, 30))
    draw.ellipse([width * 0.6, height * 0.12, width * 0.92, height * 0.45], fill=(20, 200, 60))
    draw.polygon(
        [(width * 0.1, height * 0.9), (width * 0.3, height * 0.55), (width * 0.45, height * 0.85)],
        fill=(30, 60, 240),
    )
    draw.line(
        [width * 0.5, height * 0.95, width * 0.95, height * 0.6],
        fill=(250, 240, 60),
        width=max(2, width // 24),
    )
    return picture


def exif(orientation):
    e = Image.Exif()
    e[0x0112] = orientation
    return e


def stored_for(picture, orientation):
    """The stored form that `orientation` turns upright into `picture`."""
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    return picture if inverse is None else picture.transpose(inverse)


def resized(picture, fit, side, filter_name):
    resample = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[
        filter_name
    ]
    if fit == "squash":
        return picture.resize((side, side), resample)
    w, h = picture.size
    if w <= h:
        picture = picture.resize((side, int(side * h / w)), resample)
    else:
        picture = picture.resize((int(side * w / h), side), resample)
    w, h = picture.size
    left, top = int(round((w - side) / 2.0)), int(round((h - side) / 2.0))
    return picture.crop((left, top, left + side, top + side))


def rgb16_png(array):
    """A 16-bit RGB PNG, which Pillow cannot write."""
    h, w, _ = array.shape
    raw = b"".join(b"\0" + array[y].astype(">u2").tobytes() for y in range(h))

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(raw, 9))
        + chunk(b"IEND", b"")
    )


def save(picture, format_, **options):
    data = io.BytesIO()
    picture.save(data, format_, **options)
    return data.getvalue()


def files():
    """(name, bytes, tolerance on the mean absolute difference, on the largest) of every picture."""
    base = scene(96, 64)
    same = (0.1, 2)
    for o in range(1, 9):
        yield (
            f"jpeg-orientation-{o}.jpg",
            save(stored_for(base, o), "JPEG", quality=90, exif=exif(o)),
            *same,
        )
    yield "jpeg-444.jpg", save(base, "JPEG", quality=92, subsampling=0), *same
    yield "jpeg-422.jpg", save(base, "JPEG", quality=92, subsampling=1), *same
    yield "jpeg-progressive.jpg", save(base, "JPEG", quality=85, progressive=True), *same
    yield "jpeg-grey.jpg", save(base.convert("L"), "JPEG", quality=90), *same
    yield "jpeg-cmyk.jpg", save(base.convert("CMYK"), "JPEG", quality=92), *same
    # Reduced decoding: half, quarter and eighth of the size, and an upright and a turned one.
    yield "jpeg-reduced-half.jpg", save(scene(300, 220), "JPEG", quality=85), 0.35, 6
    yield (
        "jpeg-reduced-quarter-6.jpg",
        save(stored_for(scene(500, 438), 6), "JPEG", quality=80, exif=exif(6)),
        0.35,
        6,
    )
    yield "jpeg-reduced-eighth.jpg", save(scene(1040, 802), "JPEG", quality=60), 0.35, 6
    small = scene(181, 131)
    yield (
        "jpeg-reduced-restarts.jpg",
        save(small, "JPEG", quality=85, restart_marker_blocks=5),
        0.6,
        10,
    )
    yield (
        "jpeg-reduced-422-optimised.jpg",
        save(small, "JPEG", quality=95, subsampling=1, optimize=True),
        0.6,
        10,
    )
    yield "jpeg-reduced-444.jpg", save(small, "JPEG", quality=75, subsampling=0), 0.35, 6
    yield (
        "jpeg-reduced-grey.jpg",
        save(small.convert("L"), "JPEG", quality=85, restart_marker_rows=1),
        0.35,
        6,
    )
    yield "png-rgb.png", save(base, "PNG", optimize=True), *same
    yield "png-palette.png", save(base.quantize(64), "PNG", optimize=True), *same
    alpha = base.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(base.size))
    yield "png-alpha.png", save(alpha, "PNG", optimize=True), *same
    yield "png-grey-alpha.png", save(alpha.convert("LA"), "PNG", optimize=True), *same
    yield "png-exif-8.png", save(stored_for(base, 8), "PNG", exif=exif(8), optimize=True), *same
    yield "png-1-bit.png", save(base.convert("1"), "PNG", optimize=True), *same
    wide = np.asarray(base).astype(np.uint16) * 256 + 77
    yield "png-rgb-16-bit.png", rgb16_png(wide), *same
    grey = np.asarray(base.convert("L")).astype(np.uint16) * 256 + 77
    yield "png-grey-16-bit.png", save(Image.fromarray(grey), "PNG", optimize=True), *same
    yield "webp-lossy-3.webp", save(stored_for(base, 3), "WEBP", quality=80, exif=exif(3)), 0.5, 4
    yield "webp-lossless-alpha.webp", save(alpha, "WEBP", lossless=True, exact=True), *same
    frames = [base.quantize(64), Image.new("RGB", base.size, (255, 0, 255)).quantize(4)]
    yield (
        "gif-animated.gif",
        save(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100),
        *same,
    )
    yield "bmp-rgb.bmp", save(scene(60, 40), "BMP"), *same
    yield "bmp-palette.bmp", save(scene(60, 40).quantize(32), "BMP"), *same
    yield (
        "tiff-lzw-6.tiff",
        save(stored_for(base, 6), "TIFF", compression="tiff_lzw", exif=exif(6)),
        *same,
    )
    yield "tiff-cmyk.tiff", save(base.convert("CMYK"), "TIFF", compression="tiff_deflate"), *same
    yield (
        "tiff-grey-16-bit.tiff",
        save(Image.fromarray(grey), "TIFF", compression="tiff_deflate"),
        *same,
    )


def upright_rgb(data):
    picture = Image.open(io.BytesIO(data))
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8), "L")
    return ImageOps.exif_transpose(picture).convert("RGB")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    cases, total = [], 0
    for name, data, mean, largest in files():
        (OUT / name).write_bytes(data)
        total += len(data)
        picture = upright_rgb(data)
        wanted = [("squash", "bicubic")]
        if name in (
            "jpeg-orientation-1.jpg",
            "jpeg-orientation-6.jpg",
            "png-rgb.png",
            "jpeg-reduced-half.jpg",
        ):
            wanted += [("center_crop", "bicubic"), ("squash", "bilinear")]
        for fit, filter_name in wanted:
            reference = np.asarray(resized(picture, fit, SIDE, filter_name))
            stem = f"{name}.{fit}-{filter_name}.npy"
            np.save(OUT / stem, reference)
            total += (OUT / stem).stat().st_size
            cases.append(
                {
                    "file": name,
                    "reference": stem,
                    "width": picture.width,
                    "height": picture.height,
                    "side": SIDE,
                    "fit": fit,
                    "filter": filter_name,
                    "mean_tolerance": mean,
                    "largest_tolerance": largest,
                }
            )
    (OUT / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    print(f"{len(cases)} cases, {total / 1024:.0f} KiB", file=sys.stderr)


if __name__ == "__main__":
    main()
