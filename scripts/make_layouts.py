#!/usr/bin/env python3
"""Tiny CLIPs with random weights in the layouts that disks and hubs hold, saved by the libraries
that save them there, and what those libraries make of some pixels and prompts, in float64.

    python scripts/make_layouts.py        writes tests/fixtures/layouts

Needs torch, transformers 5, open_clip_torch, safetensors, tokenizers. Weights are stored in 16 bit.
"""

import json
import os
import pathlib
import shutil
import warnings

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import tower_reference as reference
from make_tower_goldens import pixels, tokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "layouts"
SIDE = 32
DIM = 12
TEXT = dict(context_length=16, vocab_size=68, width=16, heads=2, layers=1)
PROMPTS = ["a photo of a cat", "a photo of a red dog"]
# Not CLIP's own, so that ignoring them shows.
MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)


def tokens() -> torch.Tensor:
    """The prompts as the towers take them, padded with zeros behind the end token."""
    reader = Tokenizer.from_str(tokenizer())
    reader.no_padding()
    rows = [reader.encode(text).ids for text in PROMPTS]
    length = max(map(len, rows))
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def padded(length: int) -> torch.Tensor:
    ids = tokens()
    return torch.nn.functional.pad(ids, (0, length - ids.shape[1]))


def expect(name: str, outputs: dict[str, torch.Tensor], text: torch.Tensor) -> None:
    kept = {key: outputs[key] for key in ("global", "dense/value")} | {"text": text}
    expected = {key: value.detach().float().contiguous() for key, value in kept.items()}
    save_file(expected | {"pixels": pixels(SIDE)}, ROOT / f"{name}.safetensors")


def folder(name: str, tokens_of: str | None = tokenizer()) -> pathlib.Path:
    made = ROOT / name
    made.mkdir(parents=True)
    if tokens_of:
        (made / "tokenizer.json").write_text(tokens_of)
    return made


def write(path: pathlib.Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def halves(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    floats = {key: value.half() for key, value in state.items() if value.is_floating_point()}
    return state | floats


def hugging_face() -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    text = dict(
        vocab_size=68,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=DIM,
        bos_token_id=66,
        eos_token_id=67,
    )
    vision = dict(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=16,
        projection_dim=DIM,
    )
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)
    model = CLIPModel(config).double().eval()
    reference.spread(model, 3)
    features = model.text_projection(model.text_model(input_ids=padded(16)).pooler_output)
    expect("hugging_face", reference.hugging_face(model, pixels(SIDE), (MEAN, STD)), features)
    model = model.half()
    state = model.state_dict()
    processor = CLIPImageProcessor(image_mean=list(MEAN), image_std=list(STD))

    def save(name: str, tokens_of: str | None = tokenizer(), inside: str = "") -> pathlib.Path:
        made = folder(name, tokens_of) / inside
        made.mkdir(exist_ok=True)
        model.config.save_pretrained(made)
        processor.save_pretrained(made)
        return made

    made = save("transformers_5")
    model.save_pretrained(made)
    # As CLIPProcessor.save_pretrained of transformers 5 nests it.
    values = json.loads((made / "preprocessor_config.json").read_text())
    (made / "preprocessor_config.json").unlink()
    whole = dict(image_processor=values, processor_class="CLIPProcessor")
    write(made / "processor_config.json", whole)

    model.save_pretrained(save("sharded"), max_shard_size="12KB")
    model.save_pretrained(save("variant"), variant="fp16")
    torch.save(state, save("pickle") / "pytorch_model.bin")

    made, names = save("sharded_pickle"), list(state)
    pieces = [names[: len(names) // 2], names[len(names) // 2 :]]
    weight_map = {}
    for number, piece in enumerate(pieces, 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: state[name] for name in piece}, made / file)
        weight_map |= {name: file for name in piece}
    index = dict(metadata=dict(total_size=0), weight_map=weight_map)
    write(made / "pytorch_model.bin.index.json", index)

    made = save("sentence_transformers", None, "0_CLIPModel")
    torch.save(state, made / "pytorch_model.bin")
    parts = json.loads(tokenizer())
    vocabulary = parts["model"]["vocab"] | {t["content"]: t["id"] for t in parts["added_tokens"]}
    write(made / "vocab.json", vocabulary)
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in parts["model"]["merges"]]
    (made / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    kind = "sentence_transformers.models.CLIPModel"
    module = dict(idx=0, name="0", path="0_CLIPModel", type=kind)
    write(made.parent / "modules.json", [module])


def spread(model: torch.nn.Module, seed: int) -> None:
    """Random weights, and the causal mask (a buffer of OpenCLIP's) as it was."""
    mask = model.attn_mask.clone()
    reference.spread(model, seed)
    model.attn_mask.copy_(mask)


def open_clip() -> None:
    from open_clip.model import CLIP

    vision = dict(image_size=SIDE, layers=2, width=16, head_width=8, patch_size=16, mlp_ratio=2.0)
    model = CLIP(DIM, vision, TEXT).double().eval()
    spread(model, 4)
    outputs = reference.open_clip_transformer(model.visual, pixels(SIDE), (MEAN, STD))
    expect("open_clip", outputs, model.encode_text(padded(TEXT["context_length"])))
    config = dict(
        model_cfg=dict(embed_dim=DIM, vision_cfg=vision, text_cfg=TEXT),
        preprocess_cfg=dict(mean=MEAN, std=STD),
    )
    state = halves(model.state_dict())
    for name in ("open_clip_pickle", "open_clip_robot", "open_clip_training"):
        write(folder(name) / "open_clip_config.json", config)
    torch.save(state, ROOT / "open_clip_pickle" / "open_clip_pytorch_model.bin")
    robot = ROOT / "open_clip_robot" / "open_clip_pytorch_model.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, robot)
    checkpoint = dict(
        epoch=1,
        name="run",
        state_dict={f"module.{key}": value for key, value in state.items()},
        optimizer=dict(state={}, param_groups=[dict(lr=1e-3, betas=(0.9, 0.98))]),
    )
    torch.save(checkpoint, ROOT / "open_clip_training" / "epoch_1.pt")


def open_ai() -> None:
    """A TorchScript program, with the names that OpenAI's have."""
    from open_clip.model import CLIP

    vision = dict(image_size=SIDE, layers=1, width=64, patch_size=16, mlp_ratio=0.5)
    text = dict(context_length=16, vocab_size=68, width=64, heads=1, layers=1, mlp_ratio=0.5)
    model = CLIP(DIM, vision, text, quick_gelu=True).double().eval()
    spread(model, 5)
    ids = padded(16)
    outputs = reference.open_clip_transformer(model.visual, pixels(SIDE))
    expect("open_ai", outputs, model.encode_text(ids))
    model = model.float()
    for name, size in (("input_resolution", SIDE), ("context_length", 16), ("vocab_size", 68)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(size))
    traced = torch.jit.trace(model, (torch.zeros(1, 3, SIDE, SIDE), ids[:1]), check_trace=False)
    traced = traced.half()
    torch.jit.save(traced, folder("open_ai") / "ViT-T-16.pt")


class Program:
    """What a pickle may do to whoever loads it as Python does."""

    def __reduce__(self):
        return os.system, ("touch a-pickle-was-run",)


def pickles() -> None:
    """Files that a reader of pickles meets besides."""
    made = folder("pickles", None)
    matrix = torch.arange(6.0).reshape(2, 3)
    torch.save({"x": matrix, "y": Program()}, made / "program.bin")
    parts = {"turned": matrix.t(), "row": matrix[1], "parameter": torch.nn.Parameter(matrix)}
    torch.save(parts, made / "views.bin")
    torch.save({"x": torch.ones(1).expand(1000)}, made / "expanded.bin")
    torch.save(torch.nn.Linear(2, 2), made / "whole.bin")
    quantized = torch.quantize_per_tensor(matrix, 0.1, 0, torch.qint8)
    torch.save({"x": quantized}, made / "quantized.bin")
    torch.save({"x": matrix}, made / "old.bin", _use_new_zipfile_serialization=False)
    torch.save({"step": 3, "best": None}, made / "nothing.bin")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True)
    hugging_face()
    open_clip()
    open_ai()
    pickles()
