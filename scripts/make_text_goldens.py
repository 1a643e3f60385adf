#!/usr/bin/env python3
"""Goldens of the text tower: tiny random towers in Hugging Face's and OpenCLIP's layout, with their
outputs.

    python scripts/make_text_goldens.py                     writes tests/fixtures/text
    python scripts/make_text_goldens.py --compare DIR BIN   compares `BIN encode` with transformers
                                                            on a real folder

Needs torch, transformers, open_clip_torch, safetensors, tokenizers. `--compare` reads
DIR/config.json, DIR/text_encoder.safetensors and DIR/tokenizer.json and fails beyond a difference
of 1e-5 in the normalised embedding.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "text"
TEXTS = [[57, 3, 9, 11, 4, 58], [57, 8, 58], [57] + list(range(5, 40)) + [58], [57, 1, 58, 58, 58]]
SHAPE = dict(
    vocab_size=59,
    hidden_size=16,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=77,
    projection_dim=12,
)


def spread(module: torch.nn.Module, seed: int) -> None:
    """Random weights large enough that every part matters (the usual initialisation is nearly
    linear)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 0.3 if parameter.ndim < 2 else 1.5 / parameter.shape[-1] ** 0.5
            centre = (
                1.0
                if name.endswith("weight")
                and ("norm" in name or ".ln_" in name or name.startswith("ln_"))
                else 0.0
            )
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + centre)


def hugging_face(name: str, dtype: torch.dtype, texts: list[list[int]], **change) -> None:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        **{**SHAPE, "hidden_act": "quick_gelu", "eos_token_id": 58, "bos_token_id": 57, **change}
    )
    model = CLIPTextModelWithProjection(config).eval()
    spread(model, 1)
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
    model.load_state_dict({key: value.float() for key, value in state.items()})
    save_file(state, folder / "model.safetensors")
    keys = [*SHAPE, "hidden_act", "eos_token_id", "layer_norm_eps"]
    (folder / "config.json").write_text(
        json.dumps({key: getattr(config, key) for key in keys}, indent=1) + "\n"
    )
    outputs = []
    with torch.no_grad():
        for text in texts:
            outputs.append(model(input_ids=torch.tensor([text])).text_embeds[0].tolist())
    write(folder, texts, outputs)


def open_clip_tower(name: str, quick_gelu: bool) -> None:
    import open_clip

    text = dict(context_length=77, vocab_size=59, width=16, heads=2, layers=2)
    vision = dict(image_size=8, patch_size=8, width=8, layers=1, head_width=8)
    model = open_clip.model.CLIP(
        embed_dim=12, vision_cfg=vision, text_cfg=text, quick_gelu=quick_gelu
    ).eval()
    spread(model, 2)
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    config = {
        "model_cfg": {
            "embed_dim": 12,
            "quick_gelu": quick_gelu,
            "vision_cfg": vision,
            "text_cfg": text,
        }
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    outputs = []
    with torch.no_grad():
        for text in TEXTS:
            padded = torch.zeros((1, 77), dtype=torch.long)
            padded[0, : len(text)] = torch.tensor(text)
            outputs.append(model.encode_text(padded)[0].tolist())
    write(folder, TEXTS, outputs)


def tokenizer() -> None:
    """A small byte-pair tokenizer of CLIP's form; it asks for padding, which readers here must
    not follow."""
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    bpe = Tokenizer(
        models.BPE(
            unk_token="<|endoftext|>", continuing_subword_prefix="", end_of_word_suffix="</w>"
        )
    )
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = (
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"
        r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    corpus = [
        "a photo of a cat",
        "a photo of a dog",
        "the dog's house",
        "two cats and three dogs",
        "a red house, a blue boat",
        "3 boats!",
    ]
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=110,
            show_progress=False,
            end_of_word_suffix="</w>",
            special_tokens=["<|startoftext|>", "<|endoftext|>"],
        ),
    )
    begin, end = (
        ("<|startoftext|>", bpe.token_to_id("<|startoftext|>")),
        ("<|endoftext|>", bpe.token_to_id("<|endoftext|>")),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[begin, end]
    )
    texts = ["a photo of a cat", "The  DOG's house", "two boats, 3 cats!", ""]
    rows = [{"text": text, "tokens": bpe.encode(text).ids} for text in texts]
    bpe.enable_padding(length=77)
    folder = ROOT / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "expected.json").write_text(
        "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    )


def write(folder: pathlib.Path, texts, outputs) -> None:
    rows = [{"tokens": text, "output": output} for text, output in zip(texts, outputs)]
    (folder / "expected.json").write_text(
        "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    )


def compare(folder: pathlib.Path, binary: str) -> None:
    from tokenizers import Tokenizer
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    texts = [
        "a photo of a cat",
        "a photo of a dog on the beach.",
        "sky",
        "an old steam locomotive, in the snow",
    ]
    config = json.loads((folder / "config.json").read_text())
    model = CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()
    state = {
        key: value.float() for key, value in load_file(folder / "text_encoder.safetensors").items()
    }
    model.load_state_dict(state, strict=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    command = [binary, "encode", "--model", str(folder), "--json"] + [
        part for text in texts for part in ("--text", text)
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    worst = 0.0
    for text, line in zip(texts, lines, strict=True):
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            ours = model(input_ids=torch.tensor([ids])).text_embeds[0].double().numpy()
        theirs = np.array(json.loads(line)["embedding"])
        worst = max(worst, float(np.abs(ours / np.linalg.norm(ours) - theirs).max()))
    print(f"{len(texts)} texts, largest difference {worst:.2e}")
    sys.exit(0 if worst < 1e-5 else 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compare", nargs=2, metavar=("DIR", "BIN"))
    arguments = parser.parse_args()
    if arguments.compare:
        compare(pathlib.Path(arguments.compare[0]), arguments.compare[1])
    else:
        hugging_face("hugging_face", torch.float32, TEXTS)
        hugging_face("hugging_face_fp16_gelu", torch.float16, TEXTS, hidden_act="gelu")
        # eos_token_id 2: transformers reads at the largest id.
        hugging_face("hugging_face_legacy", torch.float32, TEXTS, eos_token_id=2)
        open_clip_tower("open_clip", quick_gelu=False)
        open_clip_tower("open_clip_quick", quick_gelu=True)
        tokenizer()
