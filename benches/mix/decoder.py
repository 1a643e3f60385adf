"""Files to a model's input with the libraries that people use: one of the subjects of run.py.

    python benches/mix/decoder.py LIBRARY RULE SIDE THREADS

LIBRARY is pillow, opencv, simplejpeg or pyvips. RULE is `users`, the way that library's users
shrink while decoding (to no less than the input), or `ours`, the stage's: to no less than 2.5 times
the input, below which embeddings differ visibly. Answers the lines that
crates/image/benches/mix.rs answers in the same way.
"""

import json
import pathlib
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# As decode::jpeg has it.
KEPT_RATIO = 2.5


def ample(pixels: int, side: int, ratio: float) -> int:
    """The largest of libjpeg's reductions 1, 2, 4 and 8 after which so many pixels are ample."""
    return max((by for by in (1, 2, 4, 8) if pixels / by >= ratio * side), default=1)


def pillow(side: int, ratio: float):
    import io

    from PIL import Image

    def decode(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.format == "JPEG":
                picture.draft("RGB", (int(side * ratio), int(side * ratio)))
            small = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            return np.asarray(small)

    return decode


def size_of(data: bytes) -> int:
    """The shorter side of a JPEG; 0 for other files, which OpenCV cannot reduce."""
    import simplejpeg

    if data[:2] != b"\xff\xd8":
        return 0
    return min(simplejpeg.decode_jpeg_header(data)[:2])


def opencv(side: int, ratio: float):
    import cv2

    cv2.setNumThreads(1)
    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }

    def decode(data: bytes) -> np.ndarray:
        by = ample(size_of(data), side, ratio)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags[by])
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(small, cv2.COLOR_BGR2RGB)

    return decode


def simplejpeg(side: int, ratio: float):
    import cv2
    import simplejpeg as library

    other = opencv(side, ratio)
    least = int(side * ratio)

    def decode(data: bytes) -> np.ndarray:
        if data[:2] != b"\xff\xd8":
            return other(data)
        picture = library.decode_jpeg(data, min_height=least, min_width=least, fastupsample=True)
        return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)

    return decode


def pyvips(side: int, ratio: float):
    import pyvips as library

    def decode(data: bytes) -> np.ndarray:
        if ratio == 1:
            picture = library.Image.thumbnail_buffer(data, side, height=side, size="force")
        else:
            by = ample(size_of(data), side, ratio)
            options = {"shrink": by} if by > 1 else {}
            picture = library.Image.new_from_buffer(data, "", access="sequential", **options)
            across, down = side / picture.width, side / picture.height
            picture = picture.resize(across, vscale=down, kernel="cubic")
        return picture.colourspace("srgb").numpy()[..., :3]

    return decode


LIBRARIES = {"pillow": pillow, "opencv": opencv, "simplejpeg": simplejpeg, "pyvips": pyvips}


def seconds(usage: resource.struct_rusage) -> float:
    """Of processor time, in user mode and in the kernel."""
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    library, rule, side, threads = sys.argv[1:]
    decode = LIBRARIES[library](int(side), {"users": 1.0, "ours": KEPT_RATIO}[rule])
    pool = ThreadPoolExecutor(int(threads))
    for line in sys.stdin:
        what, passes, folder = line.rstrip("\n").split("\t")
        files = [path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())]
        if what == "pixels":
            pixels = b"".join(np.ascontiguousarray(decode(data)).tobytes() for data in files)
            pathlib.Path(passes).write_bytes(pixels)
            print("{}", flush=True)
            continue
        work = files * int(passes)
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        for _ in pool.map(decode, work):
            pass
        after, ended = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        answer = {
            "cpu_ms": (seconds(after) - seconds(before)) / len(work) * 1e3,
            "wall_ms": (ended - started) / len(work) * 1e3,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
