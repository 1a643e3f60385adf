"""The two towers, built by open_clip, and how pictures and texts are compared."""

import math

import torch
import torch.nn.functional as F
from open_clip.model import CLIP

from .tokenizer import CONTEXT

SIZE = 192
EMBED = 192
TEMPERATURE = 20.0  # softmax pooling: attention = softmax(cosine / 0.05)


def model_config(vocab):
    return {
        "embed_dim": EMBED,
        "quick_gelu": True,
        "init_logit_bias": -4.0,
        "vision_cfg": {
            "layers": [1, 1, 1, 1],
            "width": 16,
            "head_width": 64,
            "image_size": SIZE,
            "patch_size": None,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocab,
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    }


def build(config):
    """As open_clip builds it from the configuration."""
    return CLIP(**config)


def encode_text(model, tokens):
    """[n, D], not normalised. Tokens after the end cannot be seen by it (causal), so they are
    not computed."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


def encode_image(model, pixels):
    """dense [B,N,D] (value and output projection per location, no position), global [B,D];
    neither normalised."""
    v = model.visual
    x = v.layer4(v.layer3(v.layer2(v.layer1(v.stem(pixels)))))
    pool, grid = v.attnpool, x.shape[-1]
    x = x.flatten(2).transpose(1, 2)
    dense = pool.c_proj(pool.v_proj(x))
    position = pool.positional_embedding
    full = SIZE // 32
    if grid != full:  # smaller pictures in the first phase
        cells = position[1:].T.reshape(1, -1, full, full)
        cells = F.interpolate(cells, size=(grid, grid), mode="bicubic", align_corners=False)
        position = torch.cat([position[:1], cells.flatten(2)[0].T])
    tokens = torch.cat([x.mean(1, keepdim=True), x], 1) + position
    batch, count, width = tokens.shape
    heads = pool.num_heads
    split = lambda t: t.view(batch, -1, heads, width // heads).transpose(1, 2)
    q, k, value = (
        split(pool.q_proj(tokens[:, :1])),
        split(pool.k_proj(tokens)),
        split(pool.v_proj(tokens)),
    )
    pooled = F.scaled_dot_product_attention(q, k, value)
    return dense, pool.c_proj(pooled.transpose(1, 2).reshape(batch, width))


def region_cosine(dense, text):
    """[B,C]: the locations' cosines with the text, weighted by where the text is seen. Inputs
    normalised."""
    cosine = dense @ text.T
    return ((TEMPERATURE * cosine).softmax(1) * cosine).sum(1)


class Scores(torch.nn.Module):
    """Scale and offset that make a logit of a cosine, per branch."""

    def __init__(self):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.full((2,), math.log(10.0)))
        self.bias = torch.nn.Parameter(
            torch.tensor([-4.0, -5.0])
        )  # presence (pooled and global), location

    def forward(self, cosine, branch):
        return self.log_scale[branch].exp() * cosine + self.bias[branch]
