"""Scenes as training data: pictures from tars, labels and boxes from their sidecars."""

import io
import json
import mmap
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def draw(args, name, style, seed, count):
    """Scenes of one seed as a tar with sidecars; drawn once."""
    folder = Path(args.work) / name
    if not (folder / "scenes.jsonl").exists():
        command = [
            args.tagstream,
            "scenes",
            "--out",
            str(folder),
            "--count",
            str(count),
            "--seed",
            str(seed),
        ]
        subprocess.run(command + ["--style", style, "--tar"], check=True)
    return folder


class Scenes:
    """The scenes of some folders; pictures stay JPEGs in memory-mapped tars until they are asked
    for."""

    def __init__(self, folders):
        self.items, self.maps = [], []
        for folder in folders:
            with tarfile.open(folder / "images.tar") as tar:
                members = [(m.offset_data, m.size) for m in tar]
            file = open(folder / "images.tar", "rb")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            lines = (folder / "scenes.jsonl").read_text().splitlines()
            assert len(lines) == len(members)
            self.items += [(data, at, size, line) for (at, size), line in zip(members, lines)]
        self.categories = (folders[0] / "categories.txt").read_text().split()
        self.index = {name: i for i, name in enumerate(self.categories)}

    def __len__(self):
        return len(self.items)

    def batch(self, indices, size, rng=None):
        """Pixels [B,3,size,size] normalised, objects [(row, category, x0, y0, x1, y1)],
        captions; flipped if rng."""
        pixels, objects, captions = [], [], []
        for row, i in enumerate(indices):
            data, at, length, line = self.items[i]
            image = np.asarray(Image.open(io.BytesIO(data[at : at + length])))
            scene = json.loads(line)
            flip = rng is not None and rng.random() < 0.5
            pixels.append(image[:, ::-1] if flip else image)
            for o in scene["objects"]:
                b = o["box"]
                x0, x1 = b["x"], b["x"] + b["w"]
                if flip:
                    x0, x1 = 1 - x1, 1 - x0
                objects.append((row, self.index[o["category"]], x0, b["y"], x1, b["y"] + b["h"]))
            captions.append(scene["caption"])
        x = (
            torch.from_numpy(np.stack(pixels))
            .permute(0, 3, 1, 2)
            .float()
            .contiguous(memory_format=torch.channels_last)
        )
        if size != x.shape[-1]:
            x = F.interpolate(
                x, size=(size, size), mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 255)
        x = x / 255
        if rng is not None:
            x = x * torch.tensor(rng.uniform(0.8, 1.2, (len(x), 1, 1, 1)), dtype=torch.float32)
        x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        return x, objects, captions


def presence(objects, rows, categories):
    y = torch.zeros(rows, categories)
    for row, category, *_ in objects:
        y[row, category] = 1
    return y


def location(objects, rows, grid, categories):
    """[rows, grid*grid, categories]: cells whose centre lies in a category's box, and the cell
    of the box's centre."""
    y = torch.zeros(rows, grid, grid, categories)
    centres = (torch.arange(grid) + 0.5) / grid
    for row, category, x0, y0, x1, y1 in objects:
        across = ((centres >= x0) & (centres <= x1)).float()
        down = ((centres >= y0) & (centres <= y1)).float()
        cells = down[:, None] * across[None, :]
        cells[
            min(int((y0 + y1) / 2 * grid), grid - 1), min(int((x0 + x1) / 2 * grid), grid - 1)
        ] = 1
        y[row, :, :, category] = torch.maximum(y[row, :, :, category], cells)
    return y.view(rows, grid * grid, categories)
