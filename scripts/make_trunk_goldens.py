#!/usr/bin/env python3
"""Goldens of OpenCLIP's models beyond its first: trunks of timm's and towers of texts in tiny form
with random weights, and what timm and open_clip make of some pixels and texts, in float64.

    python scripts/make_trunk_goldens.py [NAME...]      writes tests/fixtures/trunks

Needs torch, open_clip_torch, timm, safetensors, tokenizers. Weights are stored in 16 bit. Trunks
are built by timm under their own names, so that what no tensor tells (heads, epsilons, rotary
tables) is theirs.
"""

import json
import pathlib
import shutil
import sys
from functools import partial

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import tower_reference as reference
from make_tower_goldens import pixels

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "trunks"
DIM = 24
CLIP = (reference.CLIP_MEAN, reference.CLIP_STD)


def attention_of(mode: str, grid: int, first: int):
    """In place of torch's attention: what the heads give to all tokens under a dense mode."""

    def attention(q, k, v, **_):
        if mode == "value":
            return v
        flat = lambda x: x.transpose(1, 2).flatten(2)
        made = reference.correlations(flat(q), flat(k), flat(v), q.shape[1], grid, first)[mode]
        made = made.unflatten(-1, (q.shape[1], -1)).transpose(1, 2)
        return torch.cat([v[:, :, :first], made], 2)

    return attention


@torch.no_grad()
def transformer(trunk, head, normalised, grid: int) -> reference.Features:
    """A transformer of timm's, with its rotary positions if it has those."""
    first = trunk.num_prefix_tokens
    x = trunk.patch_embed(normalised)
    placed = trunk._pos_embed(x)
    x, rope = placed if isinstance(placed, tuple) else (placed, None)
    kwargs = {} if rope is None else dict(rope=rope)
    x = trunk.norm_pre(x)
    for block in trunk.blocks[:-1]:
        x = block(x, **kwargs)
    last, pool = trunk.blocks[-1], trunk.attn_pool
    behind = "PostNorm" in type(last).__name__

    def finish(x):
        if pool is not None:
            path = pool.proj(pool.kv(trunk.norm(x))[..., x.shape[-1] :])
            return head(trunk.head(path + pool.mlp(pool.norm(path))))
        return head(trunk.head(trunk.fc_norm(trunk.norm(x))))

    def attended(mode):
        real, F.scaled_dot_product_attention = (
            F.scaled_dot_product_attention,
            attention_of(mode, grid, first),
        )
        try:
            path = last.attn(x if behind else last.norm1(x), **kwargs)
        finally:
            F.scaled_dot_product_attention = real
        if behind:
            return last.norm1(path)
        if getattr(last, "gamma_1", None) is not None:
            return last.gamma_1 * path
        return last.ls1(path) if hasattr(last, "ls1") else path

    def fed(x):
        if behind:
            return last.norm2(last.mlp(x))
        made = last.mlp(last.norm2(x))
        if getattr(last, "gamma_2", None) is not None:
            return last.gamma_2 * made
        return last.ls2(made) if hasattr(last, "ls2") else made

    made = {"global": head(trunk(normalised))}
    if pool is None:
        u = x + attended("value")
        made["dense/value"] = finish((u + fed(u))[:, first:])
    else:
        made["dense/value"] = finish(last(x, **kwargs)[:, first:])
    for mode in ("self", "neighbour"):
        made[f"dense/{mode}"] = finish(attended(mode)[:, first:])
    return made


@torch.no_grad()
def convnext(trunk, head, normalised, grid: int) -> reference.Features:
    x = trunk.forward_features(normalised)
    places = x.flatten(2).transpose(1, 2)
    dense = head(F.layer_norm(places, places.shape[-1:], *norm_of(trunk.head.norm)))
    return {"global": head(trunk(normalised)), "dense/value": dense}


@torch.no_grad()
def fastvit(trunk, head, normalised, grid: int) -> reference.Features:
    """MobileCLIP's: what its classifier gives if it pools that location alone."""
    places = trunk.forward_features(normalised).flatten(2).transpose(1, 2)
    return {"global": head(trunk(normalised)), "dense/value": head(trunk.head.fc(places))}


def norm_of(norm):
    return norm.weight, norm.bias, norm.eps


def save(name: str, state: dict, config: dict, expected: dict) -> None:
    made = ROOT / name
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    floats = {key: value for key, value in state.items() if value.is_floating_point()}
    weights = {key: value.half().contiguous() for key, value in floats.items()}
    save_file(weights, made / "open_clip_model.safetensors")
    (made / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(expected, made / "expected.safetensors")


def trunk_goldens(name, trunk, head, vision_cfg, sides, run) -> None:
    """Random weights, and features at the trunk's own size and at another."""
    trunk, head = trunk.double().eval(), head.double().eval()
    reference.spread(trunk, len(name))
    if name.startswith("fastvit"):
        # Nothing in it keeps sums small, and 1e-4 of features of hundreds is less than 32 bit hold.
        for tensor in trunk.head.fc.parameters():
            tensor.data /= 64
    if name.endswith("+joined"):
        from timm.utils import reparameterize_model

        trunk = reparameterize_model(trunk, inplace=True)
        rounded = {key: value.half().double() for key, value in trunk.state_dict().items()}
        trunk.load_state_dict(rounded)
    reference.spread(head, len(name) + 1)
    state = {f"visual.trunk.{key}": value.clone() for key, value in trunk.state_dict().items()}
    state |= {f"visual.head.{key}": value.clone() for key, value in head.state_dict().items()}
    expected = {}
    for side in sides:
        if side != sides[0] and hasattr(trunk, "set_input_size"):
            trunk.set_input_size((side, side))
        expected[f"{side}/pixels"] = pixels(side)
        step = trunk.patch_embed.patch_size[0] if hasattr(trunk, "patch_embed") else 32
        step = 16 if "mci" in name or "vitamin" in name else step
        made = run(trunk, head, reference.normalise(pixels(side), *CLIP), side // step)
        expected |= {f"{side}/{key}": x.float().contiguous() for key, x in made.items()}
    cfg = dict(timm_model_name=name.split("+")[0], image_size=sides[0], **vision_cfg)
    model = dict(embed_dim=DIM, vision_cfg=cfg, text_cfg={}, custom_text=True)
    config = dict(model_cfg=model, preprocess_cfg=dict(mean=CLIP[0], std=CLIP[1]))
    save(name, state, config, expected)


def trunks() -> dict:
    """Name by name: what makes it. Widths are multiples of the heads that timm gives the name."""
    none = torch.nn.Identity()
    made = {}

    def vit(name, pool, sides, proj=None, **sizes):
        def make():
            trunk = timm.create_model(
                name, img_size=sides[0], global_pool=pool, num_classes=DIM, depth=2, **sizes
            )
            cfg = dict(timm_pool=pool, timm_proj=proj)
            trunk_goldens(name, trunk, none, cfg, sides, transformer)

        made[name] = make

    vit("eva02_base_patch16_clip_224", "token", (32, 48), embed_dim=48, patch_size=8)
    vit(
        "eva02_enormous_patch14_clip_224",
        "token",
        (32, 48),
        embed_dim=64,
        patch_size=8,
        mlp_ratio=1.0,
    )
    vit("eva_giant_patch14_224", "token", (32, 16), embed_dim=64, patch_size=8, mlp_ratio=1.0)
    vit("vit_pe_core_tiny_patch16_384", "map", (48, 64), embed_dim=24, mlp_ratio=1.0)
    vit(
        "vit_pe_core_gigantic_patch14_448",
        "map",
        (32, 48),
        embed_dim=64,
        patch_size=8,
        mlp_ratio=1.0,
        attn_pool_mlp_ratio=1.0,
    )
    vit(
        "vit_large_patch14_clip_224",
        "token",
        (32, 48),
        embed_dim=64,
        patch_size=8,
        mlp_ratio=1.0,
    )

    def gap():
        trunk = timm.create_model(
            "vit_medium_patch16_gap_256", img_size=48, embed_dim=32, depth=2, mlp_ratio=1.0
        )
        trunk.reset_classifier(0)
        head = torch.nn.Sequential()
        head.add_module("proj", torch.nn.Linear(32, DIM, bias=False))
        cfg = dict(timm_pool="", timm_proj="linear")
        trunk_goldens("vit_medium_patch16_gap_256", trunk, head, cfg, (48, 64), transformer)

    made["vit_medium_patch16_gap_256"] = gap

    def mci():
        from timm.layers import HybridEmbed
        from timm.models.vision_transformer import VisionTransformer
        from timm.models.vision_transformer_hybrid import ConvStem

        width = 48
        stem = ConvStem(
            channels=(width // 4, width // 4, width),
            stride=(4, 2, 2),
            kernel_size=(4, 2, 2),
            padding=0,
            act_layer=torch.nn.GELU,
        )
        embed = partial(HybridEmbed, backbone=stem, proj=False)
        trunk = VisionTransformer(
            img_size=48,
            patch_size=1,
            embed_dim=width,
            depth=2,
            num_heads=12,
            mlp_ratio=1.0,
            num_classes=DIM,
            no_embed_class=True,
            embed_layer=embed,
        )
        cfg = dict(timm_pool="token", timm_proj=None, timm_drop=0.0, timm_drop_path=0.0)
        trunk_goldens("vit_base_mci_224", trunk, none, cfg, (48,), transformer)

    made["vit_base_mci_224"] = mci

    def fast(name, sides, stored="", **sizes):
        def make():
            trunk = timm.create_model(name, num_classes=DIM, **sizes)
            cfg = dict(timm_pool="avg", timm_proj=None, timm_drop=0.0, timm_drop_path=0.0)
            trunk_goldens(name + stored, trunk, none, cfg, sides, fastvit)

        made[name + stored] = make

    four = dict(layers=(1, 2, 1, 1), embed_dims=(4, 8, 16, 32), mlp_ratios=(1, 1, 1, 1))
    five = dict(layers=(1,) * 5, embed_dims=(4, 8, 16, 32, 64), mlp_ratios=(1,) * 5)
    fast("fastvit_mci0", (64, 96), **four)
    fast("fastvit_mci3", (64, 128), **five)
    fast("fastvit_mci0", (64, 96), "+joined", **four)

    def vitamin(name, placed):
        def make():
            from timm.models.vitamin import VitCfg

            widths = VitCfg(embed_dim=(8, 12, 48), depths=(2, 2, 1), stem_width=8)
            sizes = dict(embed_dim=48, depth=2, embed_cfg=widths)
            trunk = timm.create_model(name, img_size=48, **sizes)
            trunk.reset_classifier(0)
            head = torch.nn.Sequential()
            head.add_module("proj", torch.nn.Linear(48, DIM, bias=False))
            cfg = dict(timm_pool="", timm_proj="linear", timm_drop=0.0, timm_drop_path=0.1)
            trunk_goldens(name, trunk, head, cfg, (48,), transformer)

        made[name] = make

    vitamin("vitamin_small_224", True)
    vitamin("vitamin_xlarge_256", False)

    def conv(name, proj):
        def make():
            widths, depths = (8, 12, 16, 20), (1, 1, 2, 1)
            trunk = timm.create_model(name, dims=widths, depths=depths)
            trunk.reset_classifier(0)
            if proj == "linear":
                head = torch.nn.Sequential()
                head.add_module("proj", torch.nn.Linear(widths[-1], DIM, bias=False))
            else:
                from timm.layers import Mlp

                head = torch.nn.Sequential()
                head.add_module("mlp", Mlp(widths[-1], 2 * DIM, DIM, bias=(True, False)))
            cfg = dict(timm_pool="", timm_proj=proj, timm_drop=0.0, timm_drop_path=0.1)
            trunk_goldens(name, trunk, head, cfg, (64, 96), convnext)

        made[name] = make

    conv("convnext_large", "mlp")
    conv("convnext_xxlarge", "linear")
    return made


@torch.no_grad()
def own_transformer(visual, normalised, grid: int) -> reference.Features:
    """OpenCLIP's own transformer, read at the mean of its locations or with layer scale."""
    x = visual._embeds(normalised)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    attention, width = last.attn, x.shape[-1]
    parts = F.linear(last.ln_1(x), attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    made = reference.correlations(*parts, attention.num_heads, grid, 1)
    finish = lambda x: visual.ln_post(x) @ visual.proj
    u = x[:, 1:] + last.ls_1(attention.out_proj(parts[2][:, 1:]))
    u = u + last.ls_2(last.mlp(last.ln_2(u)))
    return {
        "global": visual(normalised),
        "dense/value": finish(u),
        **{f"dense/{m}": finish(last.ls_1(attention.out_proj(x))) for m, x in made.items()},
    }


@torch.no_grad()
def coca(visual, normalised, grid: int) -> reference.Features:
    """OpenCLIP's own transformer with CoCa's pool: what that gives if it looks there only."""
    x = visual._embeds(normalised)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last, pool = visual.transformer.resblocks[-1], visual.attn_pool
    attention, width = pool.attn, pool.attn.embed_dim

    def finish(x):
        bias = attention.in_proj_bias[2 * width :]
        path = attention.out_proj(F.linear(pool.ln_k(x), attention.v_proj_weight, bias))
        return visual.ln_post(path) @ visual.proj

    of = last.attn
    parts = F.linear(last.ln_1(x), of.in_proj_weight, of.in_proj_bias).chunk(3, -1)
    made = reference.correlations(*parts, of.num_heads, grid, 1)
    return {
        "global": visual(normalised),
        "dense/value": finish(last(x)[:, 1:]),
        **{f"dense/{m}": finish(last.ls_1(of.out_proj(x))) for m, x in made.items()},
    }


def own(name: str, options: dict, run=own_transformer) -> None:
    from open_clip.transformer import VisionTransformer

    width, heads, patch = 32, 4, 8
    sizes = dict(patch_size=patch, width=width, layers=2, heads=heads, mlp_ratio=2.0)
    build = lambda side: VisionTransformer(image_size=side, output_dim=DIM, **sizes, **options)
    visual = build(32).double().eval()
    reference.spread(visual, len(name))
    state = {f"visual.{key}": value.clone() for key, value in visual.state_dict().items()}
    expected = {}
    for side in (32, 48):
        if side != 32:
            visual = reference.open_clip_at(visual_at(build), state, side, 32).visual
        made = run(visual, reference.normalise(pixels(side), *CLIP), side // patch)
        expected[f"{side}/pixels"] = pixels(side)
        expected |= {f"{side}/{key}": x.float().contiguous() for key, x in made.items()}
    cfg = dict(image_size=32, layers=2, width=width, head_width=8, patch_size=patch, mlp_ratio=2.0)
    model = dict(embed_dim=DIM, vision_cfg=cfg | options, text_cfg={})
    config = dict(model_cfg=model, preprocess_cfg=dict(mean=CLIP[0], std=CLIP[1]))
    save(name, state, config, expected)


def visual_at(build):
    def make(side):
        model = torch.nn.Module()
        model.visual = build(side)
        return model

    return make


def main() -> None:
    all_of_them = trunks()
    clipa = dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True)
    all_of_them["clipa"] = partial(own, "clipa", clipa)
    all_of_them["mean"] = partial(own, "mean", dict(pool_type="avg"))
    all_of_them["layer_scale"] = partial(own, "layer_scale", dict(ls_init_value=1e-4))
    pool = dict(attentional_pool=True, attn_pooler_heads=4, attn_pooler_queries=3)
    all_of_them["coca"] = partial(own, "coca", pool, coca)
    for name in sys.argv[1:] or all_of_them:
        all_of_them[name]()


if __name__ == "__main__":
    main()
