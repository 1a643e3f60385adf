#!/usr/bin/env python3
"""Goldens of the vision towers: whole tiny CLIPs with random weights in Hugging Face's and
OpenCLIP's layouts, and what transformers and open_clip make of some pixels, in float64.

    python scripts/make_tower_goldens.py        writes tests/fixtures/towers

Needs torch, transformers, open_clip_torch, safetensors. Weights are stored in 16 bit.
"""

import json
import pathlib

import torch
from safetensors.torch import save_file

import tower_reference as reference

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures"
ROOT = FIXTURES / "towers"
TEXT = dict(
    vocab_size=68,
    hidden_size=16,
    intermediate_size=40,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=77,
    projection_dim=24,
    bos_token_id=66,
    eos_token_id=67,
)


def tokenizer() -> str:
    """The text fixtures' tokenizer with begin and end as the last ids, as CLIP has them
    (OpenCLIP reads at the largest)."""
    content = json.loads((FIXTURES / "text" / "tokenizer" / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    moved = {token: (index - 2) % len(vocabulary) for token, index in vocabulary.items()}
    content["model"]["vocab"] = dict(sorted(moved.items(), key=lambda item: item[1]))
    for token in content["added_tokens"]:
        token["id"] = moved[token["content"]]
    for token in content["post_processor"]["special_tokens"].values():
        token["ids"] = [moved[name] for name in token["tokens"]]
    return json.dumps(content)


def pixels(side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=generator)


def save(
    name: str, model: torch.nn.Module, file: str, goldens: dict[int, dict[str, torch.Tensor]]
) -> pathlib.Path:
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    # Of integers there are only counters of batch norms, which inference does not read.
    state = {
        key: value.half().contiguous()
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }
    save_file(state, folder / file)
    expected = {}
    for side, outputs in goldens.items():
        expected[f"{side}/pixels"] = pixels(side)
        expected |= {f"{side}/{key}": value.float().contiguous() for key, value in outputs.items()}
    save_file(expected, folder / "expected.safetensors")
    (folder / "tokenizer.json").write_text(tokenizer())
    return folder


def hugging_face() -> None:
    from transformers import CLIPConfig, CLIPModel

    vision = dict(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        projection_dim=24,
    )
    config = CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=24)
    model = CLIPModel(config).double().eval()
    reference.spread(model, 1)
    goldens = {side: reference.hugging_face(model, pixels(side)) for side in (32, 48)}
    folder = save("hugging_face", model, "model.safetensors", goldens)
    config = dict(model_type="clip", projection_dim=24, text_config=TEXT, vision_config=vision)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    preprocessor = dict(image_mean=reference.CLIP_MEAN, image_std=reference.CLIP_STD)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")


def open_clip(name: str, vision: dict, sides: tuple[int, ...], outputs, **options) -> None:
    from open_clip.model import CLIP

    text = dict(context_length=77, vocab_size=68, width=16, heads=2, layers=1)

    def build(side: int):
        return CLIP(24, {**vision, "image_size": side}, text, **options)

    native = vision["image_size"]
    model = build(native).double().eval()
    reference.spread(model, 2)
    state = model.state_dict()
    resize = "patch_size" in vision
    goldens = {}
    for side in sides:
        sized = reference.open_clip_at(build, dict(state), side, native) if resize else model
        goldens[side] = outputs(sized.visual, pixels(side))
    folder = save(name, model, "open_clip_model.safetensors", goldens)
    config = dict(
        model_cfg=dict(embed_dim=24, **options, vision_cfg=vision, text_cfg=text),
        preprocess_cfg=dict(mean=reference.CLIP_MEAN, std=reference.CLIP_STD),
    )
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    hugging_face()
    vit = dict(image_size=32, layers=2, width=32, head_width=8, patch_size=8, mlp_ratio=2.0)
    open_clip("open_clip_vit", vit, (32, 16, 48), reference.open_clip_transformer)
    resnet = dict(image_size=64, layers=[1, 2, 1, 1], width=4, head_width=32)
    open_clip("open_clip_resnet", resnet, (64, 96), reference.open_clip_resnet, quick_gelu=True)
