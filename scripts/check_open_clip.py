#!/usr/bin/env python3
"""Which of OpenCLIP's configurations `tagstream init` reads: makes each in tiny form (few layers,
narrow, random weights), reads it, and compares features of a picture and of texts with open_clip's.

    python scripts/check_open_clip.py TAGSTREAM [NAME...]

TAGSTREAM is the binary. Needs torch, open_clip_torch, timm, safetensors, tokenizers, Pillow. Prints
a line a configuration, and a count; ends with 1 if a feature differs by more than 1e-4.
"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile

import open_clip
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models.vitamin import VitCfg
from transformers import RobertaConfig, XLMRobertaConfig

import make_language_goldens as languages
import tower_reference as reference

CONFIGS = pathlib.Path(open_clip.__file__).parent / "model_configs"
TEXTS = ["a photo of a cat", "a photo of a red dog"]
BOUND = 1e-4
MAKE = timm.create_model
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def tiny_trunk(name: str) -> tuple[dict, int, int]:
    """What makes timm build `name` small, its width and the side of its input."""
    if name.startswith("convnext"):
        return dict(dims=(8, 12, 16, 20), depths=(1, 1, 2, 1)), 20, 64
    if "_mci_" in name and name.startswith("vit"):
        return dict(depth=1), 768, 224
    if name.startswith("fastvit"):
        stages = 5 if name[-1] in "34" else 4
        widths = (4, 8, 16, 32, 64)[:stages]
        return dict(layers=(1,) * stages, embed_dims=widths), 2 * widths[-1], 64
    if name.startswith("vitamin"):
        stem = VitCfg(embed_dim=(8, 12, 48), depths=(2, 2, 1), stem_width=8)
        return dict(depth=2, embed_dim=48, embed_cfg=stem, img_size=48), 48, 48
    with torch.device("meta"):
        trunk = MAKE(name)
    heads, patch = trunk.blocks[0].attn.num_heads, trunk.patch_embed.patch_size[0]
    pool = trunk.attn_pool.num_heads if getattr(trunk, "attn_pool", None) else 1
    width = 4 * math.lcm(heads, pool)
    return dict(depth=2, embed_dim=width, img_size=3 * patch), width, 3 * patch


def tokenizer_of(text: dict):
    """A tokenizer of the configuration's kind, and how its texts are filled up."""
    name = text.get("hf_tokenizer_name", "")
    if "xlm" in name or "roberta" in name:
        return languages.sentence_pieces(SPECIAL, "<s> $A </s>", "<unk>"), 1
    if "mt5" in name or "SigLIP" in name:
        special = ["<pad>", "</s>", "<unk>"]
        made = languages.sentence_pieces(special, "$A </s>", "<unk>")
        return made, 1 if "SigLIP" in name else 0
    if "bert" in name:
        return languages.word_pieces(), 0
    return languages.byte_pairs(), 0


def tiny(config: dict) -> tuple[dict, int]:
    """The configuration made small, and the side of its input."""
    made = json.loads(json.dumps(config))
    vision, text = made["vision_cfg"], made["text_cfg"]
    text |= dict(width=16, heads=2, layers=2, context_length=32)
    text["vocab_size"] = tokenizer_of(text)[0].get_vocab_size()
    made["embed_dim"] = 24
    if "timm_model_name" in vision:
        _, width, side = tiny_trunk(vision["timm_model_name"])
        if vision.get("timm_proj") == "none":
            made["embed_dim"] = width
    elif isinstance(vision["layers"], list):
        vision |= dict(layers=[1, 1, 1, 1], width=8)
        side = 64
    else:
        patch = vision["patch_size"]
        vision |= dict(layers=2, width=2 * vision.get("head_width", 64), mlp_ratio=2.0)
        side = 3 * patch
    vision["image_size"] = side
    if text.get("proj_type") == "none":
        text["width"] = made["embed_dim"]
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    if "multimodal_cfg" in made:
        made["multimodal_cfg"] = dict(width=16, heads=2, layers=1, context_length=32)
    return made, side


def tiny_encoder(name: str, **_):
    """In place of a configuration of Hugging Face's library, whose heads are 64 wide."""
    shape = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2)
    shape |= dict(intermediate_size=32, max_position_embeddings=34, type_vocab_size=1)
    words = languages.sentence_pieces(SPECIAL, "<s> $A </s>", "<unk>").get_vocab_size()
    kind = XLMRobertaConfig if "xlm" in name else RobertaConfig
    return kind(vocab_size=words, layer_norm_eps=1e-5, **shape)


def build(config: dict):
    timm.create_model = lambda name, **given: MAKE(name, **(given | tiny_trunk(name)[0]))
    open_clip.hf_model.AutoConfig.from_pretrained = tiny_encoder
    try:
        given = {key: value for key, value in config.items() if key != "custom_text"}
        custom = config.get("custom_text") or "hf_model_name" in config["text_cfg"]
        kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        kind = open_clip.CoCa if "multimodal_cfg" in config else kind
        model = kind(**given)
    finally:
        timm.create_model = MAKE
    model = model.eval()
    reference.spread(model, 3)
    return model


def tokens(text: dict) -> torch.Tensor:
    tokenizer, padding = tokenizer_of(text)
    tokenizer.no_padding()
    rows = []
    for line in TEXTS:
        row = tokenizer.encode(line).ids
        if text.get("tokenizer_kwargs", {}).get("strip_sep_token"):
            row = [0 if token == 3 else token for token in row]
        rows.append(row + [padding] * (32 - len(row)))
    return torch.tensor(rows)


def run(*command) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def refusal(tagstream: str, folder: pathlib.Path, config: dict) -> str:
    """What `init` says of a configuration that is not made here."""
    save_file({"logit_scale": torch.zeros(1)}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config)))
    languages.byte_pairs().save(str(folder / "tokenizer.json"))
    return init(tagstream, folder).stderr.strip().splitlines()[-1]


def init(tagstream: str, folder: pathlib.Path) -> subprocess.CompletedProcess:
    categories = folder / "categories.txt"
    categories.write_text("cat\nред\n")
    out = folder / "bundle"
    return run(tagstream, "init", "--clip", folder, "--categories", categories, "--out", out)


@torch.no_grad()
def check(tagstream: str, folder: pathlib.Path, config: dict) -> float | str:
    """The largest difference of a feature, or why it is refused."""
    trunk = config["vision_cfg"].get("timm_model_name", "")
    foreign = ("swin", "vit_relpos")
    encoder = config["text_cfg"].get("hf_model_name", "roberta")
    if trunk.startswith(foreign) or "roberta" not in encoder:
        return refusal(tagstream, folder, config)
    made, side = tiny(config)
    model = build(made)
    state = {k: v.clone().contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    written = dict(model_cfg=made)
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    tokenizer_of(made["text_cfg"])[0].save(str(folder / "tokenizer.json"))
    done = init(tagstream, folder)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (1, side, side, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels[0].numpy()).save(folder / "picture.png")
    texts = [part for text in TEXTS for part in ("--text", text)]
    bundle = folder / "bundle"
    answer = run(tagstream, "encode", "--model", bundle, "--json", *texts, folder / "picture.png")
    if answer.returncode:
        return answer.stderr.strip().splitlines()[-1]
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    model = model.double()
    image = model.encode_image(reference.normalise(pixels), normalize=True)
    text = model.encode_text(tokens(made["text_cfg"]), normalize=True)
    differences = []
    for kind, expected in (("image", image), ("text", text)):
        found = [line["embedding"] for line in lines if line["kind"] == kind]
        differences.append((torch.tensor(found).double() - expected).abs().max().item())
    return max(differences)


def main() -> int:
    tagstream, *names = sys.argv[1:]
    names = names or sorted(path.stem for path in CONFIGS.glob("*.json"))
    read, wrong = 0, 0
    for name in names:
        config = json.loads((CONFIGS / f"{name}.json").read_text())
        with tempfile.TemporaryDirectory() as folder:
            found = check(tagstream, pathlib.Path(folder), config)
        if isinstance(found, float):
            read += 1
            wrong += found > BOUND
            print(f"{name}: read, differs by {found:.1e}", flush=True)
        else:
            print(f"{name}: refused: {found}", flush=True)
    print(f"{read} of {len(names)} configurations are read, {wrong} differ by more than {BOUND}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
