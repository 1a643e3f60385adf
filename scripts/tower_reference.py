"""Dense and global features of CLIP's vision towers by transformers and open_clip, for goldens and
checks.
 The dense modes are written out here with the libraries' own modules, apart from what the Rust code
does with them.
"""

import torch
import torch.nn.functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Features = dict[str, torch.Tensor]


def normalise(pixels: torch.Tensor, mean=CLIP_MEAN, std=CLIP_STD) -> torch.Tensor:
    """uint8 [B,H,W,3] to float64 [B,3,H,W]."""
    x = pixels.double() / 255.0
    return ((x - torch.tensor(mean).double()) / torch.tensor(std).double()).permute(0, 3, 1, 2)


def spread(module: torch.nn.Module, seed: int) -> None:
    """Random weights large enough that every part matters, and rounded to 16 bit, so that files
    can be small. What no file holds (masks, rotary tables) is left as it is."""
    generator = torch.Generator().manual_seed(seed)
    stored = module.state_dict()
    tensors = list(module.named_parameters()) + [
        (n, b) for n, b in module.named_buffers() if b.is_floating_point() and n in stored
    ]
    with torch.no_grad():
        for name, tensor in tensors:
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                value = 0.5 + noise.abs()
            elif tensor.ndim >= 2:
                value = noise * (1.2 / (tensor[0].numel() ** 0.5))
            elif name.endswith("weight"):  # norms
                value = 1.0 + 0.2 * noise
            elif tensor.ndim == 0:
                continue
            else:
                value = 0.2 * noise
            tensor.copy_(value.half().to(tensor.dtype))


def correlations(q, k, v, heads: int, grid: int, first: int) -> dict[str, torch.Tensor]:
    """What the locations' heads give under self-correlating attention (SCLIP's sum of two, as in
    ClearCLIP's last block) and under NACLIP's neighbourhood; q, k, v are [B, T, W], `first` tokens
    are no locations. Written as their papers' code has it: one attention over all tokens, from
    which rows are taken at the end."""
    batch, tokens, width = q.shape
    rows = lambda x: x.reshape(batch, tokens, heads, -1).transpose(1, 2)
    q, k, v = rows(q), rows(k), rows(v)
    scale = q.shape[-1] ** -0.5
    together = (q @ q.mT * scale).softmax(-1) + (k @ k.mT * scale).softmax(-1)
    # A bell over 2 g - 1 places, laid on every place in turn, with no bonus for the class token.
    side = torch.arange(1 - grid, grid).double()
    bell = torch.exp(-(side[:, None] ** 2 + side[None] ** 2) / (2 * 5.0**2))
    bonus = torch.zeros(tokens, tokens).double()
    for place in range(grid * grid):
        y, x = divmod(place, grid)
        window = bell[grid - 1 - y : 2 * grid - 1 - y, grid - 1 - x : 2 * grid - 1 - x]
        bonus[first + place, first:] = window.flatten()
    near = (k @ k.mT * scale + bonus).softmax(-1)
    merged = lambda x: x.transpose(1, 2).reshape(batch, tokens, width)[:, first:]
    return {"self": merged(together @ v), "neighbour": merged(near @ v)}


@torch.no_grad()
def hugging_face(model, pixels: torch.Tensor, pixel_values=(CLIP_MEAN, CLIP_STD)) -> Features:
    """`model` is a CLIPModel or CLIPVisionModelWithProjection in float64."""
    vision, project = model.vision_model, model.visual_projection
    normalised = normalise(pixels, *pixel_values)
    hidden = vision(
        pixel_values=normalised, interpolate_pos_encoding=True, output_hidden_states=True
    )
    states, layers = hidden.hidden_states, vision.encoder.layers
    x, last = states[len(layers) - 1][:, 1:], layers[-1]
    path = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(x)))
    u = x + path
    u = u + last.mlp(last.layer_norm2(u))
    attention, normed = last.self_attn, last.layer_norm1(states[len(layers) - 1])
    parts = [part(normed) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
    grid = round(x.shape[1] ** 0.5)
    made = correlations(*parts, attention.num_heads, grid, 1)
    finish = lambda heads: project(vision.post_layernorm(attention.out_proj(heads)))
    return {
        **{f"dense/{mode}": finish(heads) for mode, heads in made.items()},
        "global": project(hidden.pooler_output),
        "dense/plain": project(vision.post_layernorm(states[len(layers)][:, 1:])),
        "dense/value": project(vision.post_layernorm(u)),
        "dense/value_bare": project(vision.post_layernorm(path)),
    }


@torch.no_grad()
def open_clip_transformer(
    visual, pixels: torch.Tensor, pixel_values=(CLIP_MEAN, CLIP_STD)
) -> Features:
    """`visual` is open_clip's VisionTransformer in float64, at the size of the pixels."""
    normalised = normalise(pixels, *pixel_values)
    x = visual._embeds(normalised)
    blocks = visual.transformer.resblocks
    for block in blocks[:-1]:
        x = block(x)
    last = blocks[-1]
    attention, width = last.attn, x.shape[-1]
    value = F.linear(
        last.ln_1(x[:, 1:]),
        attention.in_proj_weight[2 * width :],
        attention.in_proj_bias[2 * width :],
    )
    path = attention.out_proj(value)
    u = x[:, 1:] + path
    u = u + last.mlp(last.ln_2(u))
    parts = F.linear(last.ln_1(x), attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    grid = round((x.shape[1] - 1) ** 0.5)
    made = correlations(*parts, attention.num_heads, grid, 1)
    finish = lambda heads: visual.ln_post(attention.out_proj(heads)) @ visual.proj
    return {
        **{f"dense/{mode}": finish(heads) for mode, heads in made.items()},
        "global": visual(normalised),
        "dense/plain": visual.ln_post(last(x)[:, 1:]) @ visual.proj,
        "dense/value": visual.ln_post(u) @ visual.proj,
        "dense/value_bare": visual.ln_post(path) @ visual.proj,
    }


@torch.no_grad()
def open_clip_resnet(visual, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """`visual` is open_clip's ModifiedResNet in float64. At sizes that it was not made for, its
    pool's positional grid is
    interpolated as DualCoOp does."""
    x = visual.stem(normalise(pixels))
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = stage(x)
    pool, side = visual.attnpool, x.shape[-1]
    table = pool.positional_embedding
    native = round((table.shape[0] - 1) ** 0.5)
    if native != side:
        grid = table[1:].T.reshape(1, -1, native, native)
        grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
        table = torch.cat([table[:1], grid.reshape(grid.shape[1], -1).T])
    saved = pool.positional_embedding
    pool.positional_embedding = torch.nn.Parameter(table)
    pooled = pool(x)
    pool.positional_embedding = saved
    tokens = x.flatten(2).transpose(1, 2)
    return {
        "global": pooled,
        "dense/value": pool.c_proj(pool.v_proj(tokens)),
        "dense/value_positional": pool.c_proj(pool.v_proj(tokens + table[1:])),
    }


def open_clip_at(build, state: dict, size: int, native: int):
    """An open_clip model of `build(size)` in float64 with weights made for `native`, positions
    resized as open_clip does."""
    from open_clip.model import resize_pos_embed

    model = build(size).double().eval()
    state = {
        key: value.double() if value.is_floating_point() else value for key, value in state.items()
    }
    if size != native:
        resize_pos_embed(state, model)
    model.load_state_dict(state)
    return model
