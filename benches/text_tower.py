#!/usr/bin/env python3
"""PyTorch's time for the shapes of benches/text_tower.rs: CLIP's text transformer with frozen
weights, the gradient going
to the input embeddings. Needs torch and transformers."""

import time

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

for width, layers, heads, prompts, length, repeats in [
    (256, 4, 4, 36, 10, 40),
    (256, 4, 4, 80, 24, 20),
    (512, 12, 8, 80, 24, 5),
]:
    config = CLIPTextConfig(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        max_position_embeddings=77,
        eos_token_id=63,
    )
    model = CLIPTextModelWithProjection(config).eval().requires_grad_(False)
    text = model.text_model
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        x = (0.02 * torch.randn(prompts, length, width)).requires_grad_()
        began = time.perf_counter()
        h = x + text.embeddings.position_embedding.weight[:length]
        for layer in text.encoder.layers:
            q = layer.layer_norm1(h)
            a = layer.self_attn
            shape = lambda t: t.view(prompts, length, heads, width // heads).transpose(1, 2)
            o = torch.nn.functional.scaled_dot_product_attention(
                shape(a.q_proj(q)), shape(a.k_proj(q)), shape(a.v_proj(q)), is_causal=True
            )
            h = h + a.out_proj(o.transpose(1, 2).reshape(prompts, length, width))
            h = h + layer.mlp(layer.layer_norm2(h))
        loss = model.text_projection(text.final_layer_norm(h[:, length - 1])).sum()
        middle = time.perf_counter()
        loss.backward()
        end = time.perf_counter()
        best = [min(best[0], middle - began), min(best[1], end - middle)]
    print(
        f"{layers} x {width}, {prompts} prompts x {length}: forward {1e3 * best[0]:.1f} ms, "
        f"backward {1e3 * best[1]:.1f} ms "
        f"(best of {repeats}, {torch.get_num_threads()} threads)"
    )
