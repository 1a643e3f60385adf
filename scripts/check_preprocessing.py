#!/usr/bin/env python3
"""Embeddings of pictures prepared by tagstream against the same pictures prepared by Pillow.

    scripts/check_preprocessing.py --images DIR_OR_TAR --encoder encoder.onnx [--count 40]

The pictures are used as they are, enlarged to 1 and 4 megapixels with grain added, and tiled into
mosaics of 1 and 4 megapixels that are as detailed as the originals: the larger ones make the JPEG
decoder reduce. Ends with 1 if a cosine is below 0.999. Needs Pillow, NumPy and onnxruntime; the
encoder takes uint8 [B, H, W, 3] and gives `global` and `dense`.
"""

import argparse
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

ROOT = pathlib.Path(__file__).resolve().parent.parent


def read_images(place, count):
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
        blobs = [p.read_bytes() for p in files]
    else:
        with tarfile.open(place) as tar:
            members = sorted((m for m in tar if m.isfile()), key=lambda m: m.name)
            step = max(1, len(members) // count)
            blobs = [tar.extractfile(m).read() for m in members[::step]]
    return blobs[:count]


def grain(picture, rng, strength=4.0):
    array = np.asarray(picture).astype(np.float32)
    array += rng.normal(0, strength, array.shape[:2])[..., None]
    return Image.fromarray(array.clip(0, 255).astype(np.uint8))


def groups(blobs):
    rng = np.random.default_rng(0)
    opened = [Image.open(io.BytesIO(b)).convert("RGB") for b in blobs]
    yield "original", blobs
    for name, size in (("1 MP", (1224, 816)), ("4 MP", (2448, 1632))):
        out = []
        for p in opened:
            size_of = size if p.width >= p.height else size[::-1]
            big = grain(p.resize(size_of, Image.Resampling.LANCZOS), rng)
            data = io.BytesIO()
            big.save(data, "JPEG", quality=90)
            out.append(data.getvalue())
        yield f"enlarged to {name}", out
    for name, size in (("1 MP", (1200, 850)), ("4 MP", (2350, 1700))):
        out = []
        for n in range(max(4, len(opened) // 4)):
            mosaic = Image.new("RGB", size)
            k = n
            for y in range(0, size[1], 126):
                for x in range(0, size[0], 186):
                    mosaic.paste(opened[k % len(opened)].resize((190, 128)), (x, y))
                    k += 1
            data = io.BytesIO()
            mosaic.save(data, "JPEG", quality=90)
            out.append(data.getvalue())
        yield f"mosaic of {name}", out


def prepared_by_tagstream(blobs, side, binary):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "out").mkdir()
        names = []
        for i, blob in enumerate(blobs):
            names.append(folder / f"{i:05}.jpg")
            names[-1].write_bytes(blob)
        subprocess.run(
            [*binary, str(side), str(folder / "out"), *map(str, names)], check=True, cwd=ROOT
        )
        return np.stack([np.asarray(Image.open(folder / "out" / f"{n.stem}.ppm")) for n in names])


def prepared_by_pillow(blobs, side):
    out = []
    for blob in blobs:
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(blob))).convert("RGB")
        out.append(np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)))
    return np.stack(out)


def cosines(a, b):
    a = a.reshape(len(a), -1, a.shape[-1])
    b = b.reshape(len(b), -1, b.shape[-1])
    return ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).reshape(-1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=pathlib.Path, required=True)
    parser.add_argument("--encoder", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--binary", help="a built `preprocess` example; default: cargo run")
    args = parser.parse_args()
    binary = (
        [args.binary] if args.binary else ["cargo", "run", "-q", "--example", "preprocess", "--"]
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(
        args.encoder, options, providers=["CPUExecutionProvider"]
    )
    shape = session.get_inputs()[0].shape
    side = shape[1] if isinstance(shape[1], int) else 224
    worst = 1.0
    print(
        f"{'pictures':22} {'n':>4} {'mean diff':>9} {'largest':>8} {'global: mean':>12} "
        f"{'lowest':>8} {'dense: mean':>12} {'lowest':>8}"
    )
    for name, blobs in groups(read_images(args.images, args.count)):
        ours, reference = (
            prepared_by_tagstream(blobs, side, binary),
            prepared_by_pillow(blobs, side),
        )
        difference = np.abs(ours.astype(int) - reference)
        features = [
            session.run(["global", "dense"], {session.get_inputs()[0].name: pixels})
            for pixels in (ours, reference)
        ]
        whole = cosines(features[0][0], features[1][0])
        dense = cosines(features[0][1], features[1][1])
        worst = min(worst, whole.min())
        print(
            f"{name:22} {len(blobs):4} {difference.mean():9.3f} {difference.max():8} "
            f"{whole.mean():12.6f} {whole.min():8.5f} {dense.mean():12.6f} {dense.min():8.5f}"
        )
    if worst < 0.999:
        print(f"the lowest cosine of a whole picture is {worst:.5f}, below 0.999", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
