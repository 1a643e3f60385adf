#!/usr/bin/env python3
"""CLIP weights of a chosen size, drawn at random: for timings, which do not depend on the weights.
Transformers are written in Hugging Face's layout, ResNets in OpenCLIP's.

    python benches/random_clip.py OUT [--dim D] [--seed S] \\
        --shape vit-b-16|vit-small|vit-tiny|vit-nano|rn101|rn-tiny
    tagstream init --clip OUT --categories FILE --out BUNDLE

Needs numpy. The tokenizer is that of the demo model.
"""

import argparse
import json
import pathlib
import struct

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
# width, layers, heads, patch, input side, D
SHAPES = {
    "vit-b-16": (768, 12, 12, 16, 224, 512),
    "vit-small": (384, 6, 6, 32, 224, 256),
    "vit-tiny": (64, 2, 2, 32, 224, 64),
    "vit-nano": (32, 1, 2, 32, 224, 32),
}
# width, blocks of the four stages, input side, D
RESNETS = {
    "rn101": (64, (3, 4, 23, 3), 224, 512),
    "rn-tiny": (4, (1, 1, 1, 1), 224, 64),
}
# The text tower is as small as it can be.
TEXT_WIDTH, TEXT_LAYERS = 64, 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=[*SHAPES, *RESNETS], required=True)
    parser.add_argument(
        "--dim", type=int, help="size of the joint space; default: that of the shape"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Weights:
    """Tensors by name, each drawn with the spread that keeps activations at about one."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: dict[str, np.ndarray] = {}

    def normal(self, name: str, *shape: int, spread: float) -> None:
        self.tensors[name] = self.random.standard_normal(shape, dtype=np.float32) * np.float32(
            spread
        )

    def linear(self, name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        self.normal(f"{name}.weight", outputs, inputs, spread=inputs**-0.5)
        if bias:
            self.normal(f"{name}.bias", outputs, spread=0.01)

    def norm(self, name: str, width: int) -> None:
        self.tensors[f"{name}.weight"] = np.ones(width, np.float32)
        self.tensors[f"{name}.bias"] = np.zeros(width, np.float32)

    def convolution(
        self, name: str, norm: str, outputs: int, inputs: int, side: int, gain: float = 1.0
    ) -> None:
        self.normal(
            f"{name}.weight", outputs, inputs, side, side, spread=(inputs * side**2) ** -0.5
        )
        self.tensors[f"{norm}.weight"] = np.full(outputs, gain, np.float32)
        self.normal(f"{norm}.bias", outputs, spread=0.1)
        self.tensors[f"{norm}.running_mean"] = np.zeros(outputs, np.float32)
        self.tensors[f"{norm}.running_var"] = np.ones(outputs, np.float32)

    def fused_layers(self, tower: str, count: int, width: int) -> None:
        for layer in range(count):
            name = f"{tower}.resblocks.{layer}"
            self.normal(f"{name}.attn.in_proj_weight", 3 * width, width, spread=width**-0.5)
            self.normal(f"{name}.attn.in_proj_bias", 3 * width, spread=0.01)
            self.linear(f"{name}.attn.out_proj", width, width)
            self.norm(f"{name}.ln_1", width)
            self.norm(f"{name}.ln_2", width)
            self.linear(f"{name}.mlp.c_fc", 4 * width, width)
            self.linear(f"{name}.mlp.c_proj", width, 4 * width)

    def layers(self, tower: str, count: int, width: int) -> None:
        for layer in range(count):
            name = f"{tower}.encoder.layers.{layer}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                self.linear(f"{name}.self_attn.{part}", width, width)
            self.norm(f"{name}.layer_norm1", width)
            self.norm(f"{name}.layer_norm2", width)
            self.linear(f"{name}.mlp.fc1", 4 * width, width)
            self.linear(f"{name}.mlp.fc2", width, 4 * width)

    def save(self, path: pathlib.Path) -> None:
        header, at = {}, 0
        for name, tensor in self.tensors.items():
            header[name] = {
                "dtype": "F32",
                "shape": list(tensor.shape),
                "data_offsets": [at, at + tensor.nbytes],
            }
            at += tensor.nbytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor in self.tensors.values():
                file.write(tensor.tobytes())


def transformer(args: argparse.Namespace, weights: Weights, vocabulary: dict[str, int]) -> dict:
    width, layers, heads, patch, side, dim = SHAPES[args.shape]
    dim = args.dim or dim
    text_width, text_layers = TEXT_WIDTH, TEXT_LAYERS
    vision = "vision_model"
    weights.normal(f"{vision}.embeddings.class_embedding", width, spread=1.0)
    weights.normal(
        f"{vision}.embeddings.patch_embedding.weight",
        width,
        3,
        patch,
        patch,
        spread=(3 * patch**2) ** -0.5,
    )
    weights.normal(
        f"{vision}.embeddings.position_embedding.weight",
        (side // patch) ** 2 + 1,
        width,
        spread=0.1,
    )
    weights.norm(f"{vision}.pre_layrnorm", width)
    weights.layers(vision, layers, width)
    weights.norm(f"{vision}.post_layernorm", width)
    weights.linear("visual_projection", dim, width, bias=False)
    text = "text_model"
    weights.normal(
        f"{text}.embeddings.token_embedding.weight", len(vocabulary), text_width, spread=1.0
    )
    weights.normal(f"{text}.embeddings.position_embedding.weight", 77, text_width, spread=0.1)
    weights.layers(text, text_layers, text_width)
    weights.norm(f"{text}.final_layer_norm", text_width)
    weights.linear("text_projection", dim, text_width, bias=False)
    weights.tensors["logit_scale"] = np.array(3.0, np.float32)

    last = max(vocabulary.values())
    return {
        "model_type": "clip",
        "projection_dim": dim,
        "text_config": {
            "vocab_size": len(vocabulary),
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": text_layers,
            "num_attention_heads": 2,
            "max_position_embeddings": 77,
            "projection_dim": dim,
            "bos_token_id": last - 1,
            "eos_token_id": last,
        },
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "image_size": side,
            "patch_size": patch,
            "projection_dim": dim,
        },
    }


def resnet(args: argparse.Namespace, weights: Weights, vocabulary: dict[str, int]) -> dict:
    width, stages, side, dim = RESNETS[args.shape]
    dim = args.dim or dim
    for i, (inputs, outputs) in enumerate(
        [(3, width // 2), (width // 2, width // 2), (width // 2, width)], start=1
    ):
        weights.convolution(f"visual.conv{i}", f"visual.bn{i}", outputs, inputs, 3, gain=1.4)
    inputs = width
    for stage, blocks in enumerate(stages):
        planes = width << stage
        for block in range(blocks):
            name = f"visual.layer{stage + 1}.{block}"
            weights.convolution(f"{name}.conv1", f"{name}.bn1", planes, inputs, 1, gain=1.4)
            weights.convolution(f"{name}.conv2", f"{name}.bn2", planes, planes, 3, gain=1.4)
            # What a block adds is small, or the sum would grow through 33 of them.
            weights.convolution(f"{name}.conv3", f"{name}.bn3", planes * 4, planes, 1, gain=0.3)
            if block == 0:
                weights.convolution(
                    f"{name}.downsample.0", f"{name}.downsample.1", planes * 4, inputs, 1
                )
            inputs = planes * 4
    pool = "visual.attnpool"
    weights.normal(f"{pool}.positional_embedding", (side // 32) ** 2 + 1, inputs, spread=0.1)
    for part, outputs in (
        ("q_proj", inputs),
        ("k_proj", inputs),
        ("v_proj", inputs),
        ("c_proj", dim),
    ):
        weights.linear(f"{pool}.{part}", outputs, inputs)
    weights.normal("token_embedding.weight", len(vocabulary), TEXT_WIDTH, spread=1.0)
    weights.normal("positional_embedding", 77, TEXT_WIDTH, spread=0.1)
    weights.fused_layers("transformer", TEXT_LAYERS, TEXT_WIDTH)
    weights.norm("ln_final", TEXT_WIDTH)
    weights.normal("text_projection", TEXT_WIDTH, dim, spread=TEXT_WIDTH**-0.5)
    weights.tensors["logit_scale"] = np.array(3.0, np.float32)
    text = {
        "context_length": 77,
        "vocab_size": len(vocabulary),
        "width": TEXT_WIDTH,
        "heads": 2,
        "layers": TEXT_LAYERS,
    }
    vision = {"image_size": side, "layers": stages, "width": width}
    return {
        "model_cfg": {"embed_dim": dim, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    }


def main() -> None:
    args = arguments()
    tokenizer = (ROOT / "models/demo-clip/tokenizer.json").read_text()
    vocabulary = json.loads(tokenizer)["model"]["vocab"]
    weights = Weights(args.seed)
    if args.shape in RESNETS:
        config, prefix = resnet(args, weights, vocabulary), "open_clip_"
    else:
        config, prefix = transformer(args, weights, vocabulary), ""
    args.out.mkdir(parents=True, exist_ok=True)
    weights.save(args.out / f"{prefix}model.safetensors")
    (args.out / f"{prefix}config.json").write_text(json.dumps(config, indent=1) + "\n")
    (args.out / "tokenizer.json").write_text(tokenizer)


if __name__ == "__main__":
    main()
