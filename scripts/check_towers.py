#!/usr/bin/env python3
"""Full-size vision towers with random weights: `tagstream init` and `tagstream encode` against
transformers and open_clip.

    python scripts/check_towers.py --tagstream target/release/tagstream [--only vit_b_32 ...]

Weights are random in the shapes of the published models (no download). Compared are `dense` and
`global` of the written encoder.onnx (onnxruntime), the embeddings that `tagstream encode` prints
for a picture, and fp16 against fp32. Fails beyond 1e-4 (relative to the largest number of a tensor
where that is above 1) or below a cosine of 0.999 for fp16. Needs torch, transformers,
open_clip_torch, timm, onnxruntime, numpy, pillow.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
import torch
from PIL import Image
from safetensors.torch import save_file

import make_trunk_goldens as goldens
import tower_reference as reference

TOKENIZER = (
    pathlib.Path(__file__).resolve().parent.parent
    / "tests/fixtures/towers/hugging_face/tokenizer.json"
)
TEXT = dict(context_length=77, vocab_size=68, width=64, heads=2, layers=1)
BATCH = 2


def hugging_face(folder: pathlib.Path, patch: int):
    from transformers import CLIPConfig, CLIPModel

    text = dict(
        vocab_size=68,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=512,
        bos_token_id=66,
        eos_token_id=67,
    )
    vision = dict(patch_size=patch)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512)).eval()
    reference.spread(model, 1)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    config = dict(model_type="clip", projection_dim=512, text_config=text, vision_config=vision)
    (folder / "config.json").write_text(json.dumps(config))
    model = model.double()
    return lambda pixels: reference.hugging_face(model, pixels)


def open_clip(folder: pathlib.Path, vision: dict, dim: int, outputs, **options):
    from open_clip.model import CLIP

    def build(side: int):
        return CLIP(dim, {**vision, "image_size": side}, TEXT, **options)

    model = build(vision["image_size"]).eval()
    reference.spread(model, 2)
    with torch.no_grad():
        # Undamped, 33 random bottlenecks let activations grow to thousands and the pool's attention
        # saturate, where half precision says nothing; trained ones stay small.
        for name, parameter in model.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.mul_(0.25)
    state = {
        key: value.contiguous()
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    config = dict(model_cfg=dict(embed_dim=dim, **options, vision_cfg=vision, text_cfg=TEXT))
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model, state = model.double(), model.state_dict()
    if "layers" in vision and isinstance(vision["layers"], list):
        return lambda pixels: outputs(model.visual, pixels)
    native = vision["image_size"]
    return lambda pixels: outputs(
        reference.open_clip_at(build, dict(state), pixels.shape[1], native).visual, pixels
    )


def resnet(layers: list[int], dim: int):
    vision = dict(image_size=224, layers=layers, width=64)
    return lambda folder: open_clip(folder, vision, dim, reference.open_clip_resnet)


def timm_trunk(folder: pathlib.Path, name: str, outputs, vision: dict, dim: int, step: int):
    """A trunk of timm's inside OpenCLIP's model; `vision` is what OpenCLIP's configuration says."""
    from open_clip.model import CustomTextCLIP

    model = CustomTextCLIP(dim, dict(timm_model_name=name, **vision), TEXT).eval()
    reference.spread(model, 3)
    with torch.no_grad():
        # As with ResNets: trained layer scale is small.
        for key, parameter in model.named_parameters():
            if "layer_scale" in key:
                parameter.mul_(0.1)
        # Batch norms hold the statistics of what they see, as training leaves them.
        norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        side = vision["image_size"]
        generator = torch.Generator().manual_seed(1)
        seen = torch.randint(0, 256, (BATCH, side, side, 3), generator=generator)
        if norms:
            model.train().visual(reference.normalise(seen).float())
            model.eval()
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    config = dict(vision_cfg=dict(timm_model_name=name, **vision), text_cfg=TEXT)
    config = dict(model_cfg=dict(embed_dim=dim, custom_text=True, **config))
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    visual = model.double().visual
    of = lambda pixels: reference.normalise(pixels)
    return lambda pixels: outputs(visual.trunk, visual.head, of(pixels), side // step)


def mobile_clip(name: str, dim: int, step: int):
    vision = dict(timm_pool="avg", timm_proj=None, image_size=256)
    return lambda folder: timm_trunk(folder, name, goldens.fastvit, vision, dim, step)


def vitamin(folder: pathlib.Path):
    vision = dict(timm_pool="", timm_proj="linear", image_size=224)
    return timm_trunk(folder, "vitamin_base_224", goldens.transformer, vision, 512, 16)


def coca(folder: pathlib.Path):
    pool = dict(attentional_pool=True, attn_pooler_heads=8)
    vision = dict(image_size=224, layers=12, width=768, patch_size=32, **pool)
    outputs = lambda visual, pixels: goldens.coca(visual, reference.normalise(pixels), 7)
    return open_clip(folder, vision, 512, outputs)


VIT = ("value", "plain", "value_bare")
NEW = ("value", "self", "neighbour")
RESNET = ("value", "value_positional")
CASES = {
    "vit_b_32": (lambda folder: hugging_face(folder, 32), (224,), VIT),
    "vit_b_16": (lambda folder: hugging_face(folder, 16), (224,), VIT),
    "open_clip_vit_b_32": (
        lambda folder: open_clip(
            folder,
            dict(image_size=224, layers=12, width=768, patch_size=32),
            512,
            reference.open_clip_transformer,
        ),
        (224, 448),
        ("value",),
    ),
    "mobileclip2_s0": (mobile_clip("fastvit_mci0", 512, 32), (256,), ("value",)),
    "mobileclip_s2": (mobile_clip("fastvit_mci2", 512, 32), (256,), ("value",)),
    "mobileclip2_s3": (mobile_clip("fastvit_mci3", 768, 64), (256,), ("value",)),
    "vitamin_b": (vitamin, (224,), NEW),
    "coca_vit_b_32": (coca, (224,), NEW),
    "rn50": (resnet([3, 4, 6, 3], 1024), (224, 448), RESNET),
    "rn101": (resnet([3, 4, 23, 3], 512), (224, 448), ("value",)),
}


def init(tagstream: str, clip: pathlib.Path, out: pathlib.Path, *options: str) -> None:
    categories = clip / "categories.txt"
    categories.write_text("a\nb\n")
    command = [
        tagstream,
        "init",
        "--clip",
        clip,
        "--categories",
        categories,
        "--out",
        out,
        *options,
    ]
    subprocess.run([str(part) for part in command], check=True, stderr=subprocess.DEVNULL)


def run(bundle: pathlib.Path, pixels: torch.Tensor) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(
        bundle / "encoder.onnx", options, providers=["CPUExecutionProvider"]
    )
    return dict(
        zip(("dense", "global"), session.run(["dense", "global"], {"pixels": pixels.numpy()}))
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return float(((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min())


def check(name: str, tagstream: str, work: pathlib.Path) -> bool:
    make, sizes, modes = CASES[name]
    clip = work / name
    clip.mkdir()
    (clip / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    outputs, good = make(clip), True
    for size in sizes:
        generator = torch.Generator().manual_seed(size)
        pixels = torch.randint(
            0, 256, (BATCH, size, size, 3), dtype=torch.uint8, generator=generator
        )
        expected = {key: value.numpy() for key, value in outputs(pixels).items()}
        for mode in modes:
            out = work / f"{name}-{size}-{mode}"
            init(tagstream, clip, out, "--input-size", str(size), "--dense-mode", mode)
            found, line = run(out, pixels), []
            for key, golden in (
                ("dense", expected[f"dense/{mode}"]),
                ("global", expected["global"]),
            ):
                difference = float(np.abs(found[key] - golden).max())
                scale = max(1.0, float(np.abs(golden).max()))
                good &= difference <= 1e-4 * scale
                line.append(f"{key} {difference:.1e} (of {np.abs(golden).max():.1f})")
            if mode == "value":
                picture = work / "picture.png"
                Image.fromarray(pixels[0].numpy()).save(picture)
                command = [tagstream, "encode", "--model", out, "--json", picture]
                printed = subprocess.run(
                    [str(p) for p in command], check=True, capture_output=True, text=True
                ).stdout
                embedding = np.array(json.loads(printed)["embedding"])
                unit = expected["global"][0] / np.linalg.norm(expected["global"][0])
                difference = float(np.abs(embedding - unit).max())
                good &= difference <= 1e-4
                line.append(f"encode {difference:.1e}")
                half = work / f"{name}-{size}-fp16"
                init(tagstream, clip, half, "--input-size", str(size), "--precision", "fp16")
                narrow = run(half, pixels)
                lowest = [cosine(narrow[key], found[key]) for key in ("dense", "global")]
                good &= min(lowest) >= 0.999
                line.append("fp16 cosine dense {:.6f} global {:.6f}".format(*lowest))
            print(f"{name} {size} {mode}: " + ", ".join(line), flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tagstream", required=True)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    torch.set_num_threads(2)
    good = True
    for name in args.only:
        with tempfile.TemporaryDirectory() as work:
            good &= check(name, args.tagstream, pathlib.Path(work))
    print("all within bounds" if good else "FAILED")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
