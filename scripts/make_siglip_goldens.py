#!/usr/bin/env python3
"""Goldens of SigLIP's towers: tiny ones with random weights in Hugging Face's and in OpenCLIP's
(timm's) layout, and what transformers, timm and open_clip make of some pixels and texts, in
float64.

    python scripts/make_siglip_goldens.py        writes tests/fixtures/siglip

Needs torch, transformers, open_clip_torch, timm, safetensors, tokenizers. Weights are stored in 16
bit.
"""

import json
import pathlib
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

import tower_reference as reference
from make_tower_goldens import pixels

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "siglip"
HALF = ((0.5,) * 3, (0.5,) * 3)
CONTEXT = 24
# As they are typed, and as the towers were trained to see them.
TEXTS = {
    "a photo of a cat": "a photo of a cat",
    "A photo of a red_dog!": "a photo of a red dog",
    "фото кота": "фото кота",
    "猫の写真": "猫の写真",
}
PIECES = "▁a ▁photo ▁of ▁cat ▁red ▁dog ▁ фото кот а о т 猫 の 写真 写 c r e d g p h".split()


def sentence_pieces() -> Tokenizer:
    """As the first SigLIP has them: unigrams, `</s>` at the end and for filling up."""
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    scored = [(piece, -1.0 - i / 10) for i, piece in enumerate(PIECES)]
    tokenizer = Tokenizer(models.Unigram(words + scored, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def gemma() -> Tokenizer:
    """As SigLIP 2 has them: byte pairs with bytes to fall back on, blanks kept with the words."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = sorted({letter for piece in PIECES for letter in piece})
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [("▁", "a"), ("c", "a"), ("▁", "d"), ("▁d", "o"), ("▁do", "g"), ("▁", "r")]
    made = [a + b for a, b in merges]
    vocabulary = {t: i for i, t in enumerate([*special, *letters, *made, *bytes_])}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "merged_with_previous")
    return tokenizer


def tokens(tokenizer: Tokenizer, end: int, filling: int, unknown: int) -> torch.Tensor:
    rows = [tokenizer.encode(text, add_special_tokens=False).ids + [end] for text in TEXTS.values()]
    assert max(map(len, rows)) <= CONTEXT and all(unknown not in row for row in rows)
    return torch.tensor([row + [filling] * (CONTEXT - len(row)) for row in rows])


def save(name, state, files, config, tokenizer, goldens, texts) -> None:
    made, (ids, text) = ROOT / name, texts
    made.mkdir(parents=True)
    floats = {key: value for key, value in state.items() if value.is_floating_point()}
    save_file({key: value.half().contiguous() for key, value in floats.items()}, made / files[0])
    (made / files[1]).write_text(json.dumps(config, indent=1) + "\n")
    tokenizer.save(str(made / "tokenizer.json"), pretty=False)
    expected = {"tokens": ids, "text": text.detach().float().contiguous()}
    for side, outputs in goldens.items():
        expected[f"{side}/pixels"] = pixels(side)
        for key, value in outputs.items():
            expected[f"{side}/{key}"] = value.detach().float().contiguous()
    save_file(expected, made / "expected.safetensors")
    (made / "texts.json").write_text(json.dumps(list(TEXTS), ensure_ascii=False) + "\n")


def hugging_face() -> None:
    from transformers import SiglipConfig, SiglipModel

    tokenizer = sentence_pieces()
    shape = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    size = tokenizer.get_vocab_size()
    text = dict(**shape, vocab_size=size, max_position_embeddings=CONTEXT, projection_size=16)
    # A size that leaves a rest, as that of so400m-patch14-384.
    vision = dict(**shape, image_size=36, patch_size=16)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).double().eval()
    reference.spread(model, 6)
    goldens = {}
    for side in (36, 48):
        normalised = reference.normalise(pixels(side), *HALF)
        outputs = model.vision_model(
            pixel_values=normalised,
            interpolate_pos_encoding=side != 36,
            output_hidden_states=True,
        )
        x, head = outputs.last_hidden_state, model.vision_model.head
        pool, width = head.attention, x.shape[-1]
        weight, bias = pool.in_proj_weight[2 * width :], pool.in_proj_bias[2 * width :]

        def pooled(x):
            path = pool.out_proj(F.linear(x, weight, bias))
            return path + head.mlp(head.layernorm(path))

        path = pool.out_proj(F.linear(x, weight, bias))
        last, before = model.vision_model.encoder.layers[-1], outputs.hidden_states[-2]
        attention, normed = last.self_attn, last.layer_norm1(before)
        parts = [part(normed) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        made = reference.correlations(*parts, attention.num_heads, side // 16, 0)
        finish = lambda x: pooled(model.vision_model.post_layernorm(attention.out_proj(x)))
        goldens[side] = {
            "global": outputs.pooler_output,
            "dense/value": path + head.mlp(head.layernorm(path)),
            "dense/value_bare": path,
            **{f"dense/{mode}": finish(heads) for mode, heads in made.items()},
        }
    ids = tokens(tokenizer, 1, 1, 2)
    features = model.text_model(input_ids=ids).pooler_output
    state = model.state_dict()
    config = dict(model_type="siglip", text_config=text, vision_config=vision)
    files = ("model.safetensors", "config.json")
    save("hugging_face", state, files, config, tokenizer, goldens, (ids, features))


def open_clip() -> None:
    from open_clip.transformer import TextTransformer
    from timm.models.vision_transformer import VisionTransformer

    tokenizer = gemma()
    width, heads = 24, 12
    trunk = VisionTransformer(
        img_size=32,
        patch_size=16,
        embed_dim=width,
        depth=2,
        num_heads=heads,
        mlp_ratio=1.0,
        class_token=False,
        global_pool="map",
        num_classes=0,
    )
    trunk = trunk.double().eval()
    reference.spread(trunk, 7)
    goldens = {}
    for side in (32, 48):
        normalised = reference.normalise(pixels(side), *HALF)
        if side == 32:
            state = trunk.state_dict().items()
            state = {f"visual.trunk.{key}": value.clone() for key, value in state}
        else:
            trunk.set_input_size((side, side))
        x, pool = trunk.forward_features(normalised), trunk.attn_pool
        path = pool.proj(pool.kv(x)[..., width:])

        def pooled(x):
            path = pool.proj(pool.kv(x)[..., width:])
            return path + pool.mlp(pool.norm(path))

        before = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(normalised)))
        for block in trunk.blocks[:-1]:
            before = block(before)
        last = trunk.blocks[-1]
        parts = last.attn.qkv(last.norm1(before)).chunk(3, -1)
        made = reference.correlations(*parts, heads, side // 16, 0)
        goldens[side] = {
            "global": trunk(normalised),
            "dense/value": path + pool.mlp(pool.norm(path)),
            "dense/value_bare": path,
            **{f"dense/{m}": pooled(trunk.norm(last.attn.proj(x))) for m, x in made.items()},
        }
    size = tokenizer.get_vocab_size()
    text_cfg = dict(context_length=CONTEXT, vocab_size=size, width=16, heads=2, layers=2)
    form = dict(no_causal_mask=True, proj_bias=True, pool_type="last")
    norm = lambda width: torch.nn.LayerNorm(width, eps=1e-6)
    act = lambda: torch.nn.GELU(approximate="tanh")
    tower = TextTransformer(**text_cfg, **form, output_dim=width, norm_layer=norm, act_layer=act)
    tower = tower.double().eval()
    reference.spread(tower, 8)
    ids = tokens(tokenizer, 1, 0, 3)
    state |= {f"text.{key}": value for key, value in tower.state_dict().items()}
    state |= dict(logit_scale=torch.tensor(4.7), logit_bias=torch.tensor(-12.0))
    kwargs = dict(norm_kwargs=dict(eps=1e-6), act_kwargs=dict(approximate="tanh"))
    vision_cfg = dict(
        image_size=32,
        timm_model_name="vit_base_patch16_siglip_32",
        timm_model_pretrained=False,
        timm_pool="map",
        timm_proj="none",
    )
    model_cfg = dict(
        embed_dim=width,
        init_logit_bias=-10,
        custom_text=True,
        vision_cfg=vision_cfg,
        text_cfg=dict(**text_cfg, **form, **kwargs, tokenizer_kwargs=dict(clean="canonicalize")),
    )
    config = dict(model_cfg=model_cfg, preprocess_cfg=dict(mean=HALF[0], std=HALF[1]))
    files = ("open_clip_model.safetensors", "open_clip_config.json")
    save("open_clip", state, files, config, tokenizer, goldens, (ids, tower(ids)))


if __name__ == "__main__":
    shutil.rmtree(ROOT, ignore_errors=True)
    hugging_face()
    open_clip()
