"""The peer's decoding: a process for every core, pixels straight into the batch."""

import io
import os
import pathlib
import signal
import sys
from multiprocessing import shared_memory

# A JPEG is reduced while it is decoded only down to this many times the model's input, as the stage
# does it: less changes embeddings visibly. 1 is Pillow's own rule.
KEPT_RATIO = float(os.environ.get("TAGSTREAM_PEER_KEPT_RATIO", "2.5"))
# What JPEGs are decoded with: simplejpeg, opencv or pillow; at present the fastest at this ratio is
# simplejpeg (make bench-mix).
DECODER = os.environ.get("TAGSTREAM_PEER_DECODER", "simplejpeg")
ORIENTATION = 0x0112

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "mix"))


def decoder(height: int, width: int, bilinear: bool):
    """From a file's content to pixels and the picture's size."""
    import numpy
    from PIL import Image, ImageOps

    kernel = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    draft = (int(width * KEPT_RATIO), int(height * KEPT_RATIO))
    other = None
    if DECODER != "pillow" and height == width:
        from decoder import LIBRARIES

        other = LIBRARIES[DECODER](width, KEPT_RATIO)

    def decode(data: bytes):
        with Image.open(io.BytesIO(data)) as image:
            if other and image.getexif().get(ORIENTATION, 1) == 1:
                return other(data), image.size
            original = image.size
            if image.format == "JPEG":
                image.draft("RGB", draft)
            upright = ImageOps.exif_transpose(image)
            if upright.size[0] != image.size[0]:
                original = original[::-1]
            return numpy.asarray(upright.convert("RGB").resize((width, height), kernel)), original

    return decode


def decode_worker(
    tasks, results, memory_name: str, height: int, width: int, bilinear: bool
) -> None:
    """Decodes files into the places named, until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import numpy

    memory = shared_memory.SharedMemory(memory_name)
    size = height * width * 3
    decode = decoder(height, width, bilinear)
    while (task := tasks.get()) is not None:
        place, source = task
        try:
            data = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
            pixels, original = decode(data)
            target = numpy.frombuffer(memory.buf, numpy.uint8, size, place * size)
            target[:] = pixels.reshape(-1)
            del target
            results.put((place, original, None))
        except Exception as error:  # a broken picture must not end the worker
            results.put((place, (0, 0), str(error)))
