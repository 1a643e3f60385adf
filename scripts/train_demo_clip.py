#!/usr/bin/env python3
"""Trains the demo model: a small CLIP on synthetic scenes, in the layout in which OpenCLIP weights come.

    cargo build --release
    python scripts/train_demo_clip.py --tagstream target/release/tagstream --work /tmp/demo-clip --out models/demo-clip

Needs torch, open_clip_torch, safetensors, numpy and pillow. Only plain scenes are trained on; the other styles are
measured. docs/demo-model.md says how the losses fit together and what came out.
"""

import argparse
import json
import math
import mmap
import os
import re
import subprocess
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from open_clip.model import CLIP
from PIL import Image
import io

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SIZE = 192
EMBED = 192
CONTEXT = 32
TEMPERATURE = 20.0  # softmax pooling: attention = softmax(cosine / 0.05)
TEMPLATES = ["a photo of a {}", "a photo of a {}.", "a photo of an {}", "a picture of a {}", "a {}", "{}"]


# ---------------------------------------------------------------- scenes


def draw(args, name, style, seed, count):
    """Scenes of one seed as a tar with sidecars; drawn once."""
    folder = Path(args.work) / name
    if not (folder / "scenes.jsonl").exists():
        command = [args.tagstream, "scenes", "--out", str(folder), "--count", str(count), "--seed", str(seed)]
        subprocess.run(command + ["--style", style, "--tar"], check=True)
    return folder


class Scenes:
    """The scenes of some folders; pictures stay JPEGs in memory-mapped tars until they are asked for."""

    def __init__(self, folders):
        self.items, self.maps = [], []
        for folder in folders:
            with tarfile.open(folder / "images.tar") as tar:
                members = [(m.offset_data, m.size) for m in tar]
            file = open(folder / "images.tar", "rb")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            lines = (folder / "scenes.jsonl").read_text().splitlines()
            assert len(lines) == len(members)
            self.items += [(data, at, size, line) for (at, size), line in zip(members, lines)]
        self.categories = (folders[0] / "categories.txt").read_text().split()
        self.index = {name: i for i, name in enumerate(self.categories)}

    def __len__(self):
        return len(self.items)

    def batch(self, indices, size, rng=None):
        """Pixels [B,3,size,size] normalised, objects [(row, category, x0, y0, x1, y1)], captions; flipped if rng."""
        pixels, objects, captions = [], [], []
        for row, i in enumerate(indices):
            data, at, length, line = self.items[i]
            image = np.asarray(Image.open(io.BytesIO(data[at : at + length])))
            scene = json.loads(line)
            flip = rng is not None and rng.random() < 0.5
            pixels.append(image[:, ::-1] if flip else image)
            for o in scene["objects"]:
                b = o["box"]
                x0, x1 = b["x"], b["x"] + b["w"]
                if flip:
                    x0, x1 = 1 - x1, 1 - x0
                objects.append((row, self.index[o["category"]], x0, b["y"], x1, b["y"] + b["h"]))
            captions.append(scene["caption"])
        x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
        if size != x.shape[-1]:
            x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        x = x / 255
        if rng is not None:
            x = x * torch.tensor(rng.uniform(0.8, 1.2, (len(x), 1, 1, 1)), dtype=torch.float32)
        x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        return x, objects, captions


def presence(objects, rows, categories):
    y = torch.zeros(rows, categories)
    for row, category, *_ in objects:
        y[row, category] = 1
    return y


def location(objects, rows, grid, categories):
    """[rows, grid*grid, categories]: cells whose centre lies in a category's box, and the cell of the box's centre."""
    y = torch.zeros(rows, grid, grid, categories)
    centres = (torch.arange(grid) + 0.5) / grid
    for row, category, x0, y0, x1, y1 in objects:
        across = ((centres >= x0) & (centres <= x1)).float()
        down = ((centres >= y0) & (centres <= y1)).float()
        cells = down[:, None] * across[None, :]
        cells[min(int((y0 + y1) / 2 * grid), grid - 1), min(int((x0 + x1) / 2 * grid), grid - 1)] = 1
        y[row, :, :, category] = torch.maximum(y[row, :, :, category], cells)
    return y.view(rows, grid * grid, categories)


# ---------------------------------------------------------------- tokenizer

PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def byte_alphabet():
    """The printable stand-ins for the 256 bytes that byte-level BPE uses."""
    kept = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for byte in kept:
        table[byte] = chr(byte)
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + extra)
            extra += 1
    return [table[b] for b in kept + [b for b in range(256) if b not in kept]]


def build_tokenizer(words, out):
    """Byte-pair merges until every word is one token; CLIP's file layout; start and end are the last two ids."""
    pieces = {word: tuple(word[:-1]) + (word[-1] + "</w>",) for word in words}
    merges = []
    while True:
        pairs = Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in pieces.items():
            merged, i = [], 0
            while i < len(parts):
                if parts[i : i + 2] == best:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            pieces[word] = tuple(merged)
    alphabet = byte_alphabet()
    tokens = alphabet + [c + "</w>" for c in alphabet] + [a + b for a, b in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(tokens)) == len(tokens)
    vocab = {token: i for i, token in enumerate(tokens)}
    bos, eos = len(tokens) - 2, len(tokens) - 1

    def special(token):
        flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        return {"id": vocab[token], "content": token, **flags}

    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special("<|startoftext|>"), special("<|endoftext|>")],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": True},
                byte_level,
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["<|endoftext|>", eos],
            "cls": ["<|startoftext|>", bos],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<|endoftext|>",
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [f"{a} {b}" for a, b in merges],
        },
    }
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1) + "\n")
    return len(tokens)


class Tokenizer:
    def __init__(self, path):
        from tokenizers import Tokenizer as HfTokenizer

        self.inner = HfTokenizer.from_file(str(path))
        self.eos = self.inner.token_to_id("<|endoftext|>")

    def __call__(self, texts):
        """Ids [n, L], L as long as needed; cut to the context length with the end kept, padded with zeros."""
        ids = [self.inner.encode(text).ids for text in texts]
        ids = [i if len(i) <= CONTEXT else i[: CONTEXT - 1] + [self.eos] for i in ids]
        out = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
        for row, i in enumerate(ids):
            out[row, : len(i)] = torch.tensor(i)
        return out


# ---------------------------------------------------------------- model


def model_config(vocab):
    return {
        "embed_dim": EMBED,
        "quick_gelu": True,
        "init_logit_bias": -4.0,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "image_size": SIZE, "patch_size": None},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": vocab, "width": 128, "heads": 4, "layers": 2},
    }


def build(config):
    """As open_clip builds it from the configuration."""
    return CLIP(**config)


def encode_text(model, tokens):
    """[n, D], not normalised. Tokens after the end cannot be seen by it (causal), so they are not computed."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


def encode_image(model, pixels):
    """dense [B,N,D] (value and output projection per location, no position), global [B,D]; neither normalised."""
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
    q, k, value = split(pool.q_proj(tokens[:, :1])), split(pool.k_proj(tokens)), split(pool.v_proj(tokens))
    pooled = F.scaled_dot_product_attention(q, k, value)
    return dense, pool.c_proj(pooled.transpose(1, 2).reshape(batch, width))


def region_cosine(dense, text):
    """[B,C]: the locations' cosines with the text, weighted by where the text is seen. Inputs normalised."""
    cosine = dense @ text.T
    return ((TEMPERATURE * cosine).softmax(1) * cosine).sum(1)


class Scores(torch.nn.Module):
    """Scale and offset that make a logit of a cosine, per branch."""

    def __init__(self):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.full((2,), math.log(10.0)))
        self.bias = torch.nn.Parameter(torch.tensor([-4.0, -5.0]))  # presence (pooled and global), location

    def forward(self, cosine, branch):
        return self.log_scale[branch].exp() * cosine + self.bias[branch]


# ---------------------------------------------------------------- measuring


def mean_average_precision(scores, labels):
    values = []
    for s, y in zip(scores.T, labels.T):
        if y.sum() > 0:
            hits = y[np.argsort(-s, kind="stable")]
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            values.append((precision * hits).sum() / hits.sum())
    return float(np.mean(values))


@torch.no_grad()
def features(model, scenes):
    model.eval()
    dense, glob, labels = [], [], []
    for first in range(0, len(scenes), 50):
        x, objects, _ = scenes.batch(range(first, min(first + 50, len(scenes))), SIZE)
        d, g = encode_image(model, x)
        dense.append(d)
        glob.append(g)
        labels.append(presence(objects, len(x), len(scenes.categories)))
    model.train()
    return torch.cat(dense), torch.cat(glob), torch.cat(labels)


@torch.no_grad()
def measure(model, scores, scenes, text):
    dense, glob, labels = features(model, scenes)
    region = scores(region_cosine(F.normalize(dense, dim=-1), text), 0)
    whole = scores(F.normalize(glob, dim=-1) @ text.T, 0)
    named = {"region": region, "global": whole, "region+global": (region + whole) / 2}
    return {name: round(mean_average_precision(s.numpy(), labels.numpy()), 4) for name, s in named.items()}


@torch.no_grad()
def category_text(model, tokenizer, categories, template=TEMPLATES[0]):
    return F.normalize(encode_text(model, tokenizer([template.format(name) for name in categories])), dim=-1)


def headroom(model, text, train, test, seed):
    """mAP of a dense head (attention and read-out per category) trained on frozen features of labelled scenes."""
    torch.manual_seed(seed)
    dense, glob, labels = features(model, train)
    test_dense, test_glob, test_labels = features(model, test)
    mean, std = dense.mean((0, 1)), dense.std((0, 1)) + 1e-6
    gmean, gstd = glob.mean(0), glob.std(0) + 1e-6
    attend = (text * TEMPERATURE).clone().requires_grad_()
    read = torch.zeros_like(text, requires_grad=True)
    linear = torch.zeros_like(text, requires_grad=True)
    bias = torch.full((len(text),), -2.8, requires_grad=True)

    def score(d, g):
        attention = (F.normalize(d, dim=-1) @ attend.T).softmax(1)
        pooled = attention.transpose(1, 2) @ ((d - mean) / std)
        return (pooled * read).sum(-1) + ((g - gmean) / gstd) @ linear.T + bias

    optimizer = torch.optim.AdamW([attend, read, linear, bias], lr=3e-3, weight_decay=0.02)
    epochs, batch = 25, 100
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(dense) // batch)
    for _ in range(epochs):
        for i in torch.randperm(len(dense)).split(batch):
            loss = F.binary_cross_entropy_with_logits(score(dense[i], glob[i]), labels[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return round(mean_average_precision(score(test_dense, test_glob).numpy(), test_labels.numpy()), 4)


# ---------------------------------------------------------------- training


def learning_rate(step, steps, peak):
    if step < 100:
        return peak * (step + 1) / 100
    return peak * 0.5 * (1 + math.cos(math.pi * (step - 100) / (steps - 100)))


def average(tensors, world):
    """The mean over the processes, in place, in one exchange."""
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= world
    for t, part in zip(tensors, flat.split([t.numel() for t in tensors])):
        t.copy_(part.view_as(t))


def work(rank, args, folders):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
    dist.init_process_group("gloo", rank=rank, world_size=args.processes)
    out = Path(args.out)
    tokenizer = Tokenizer(out / "tokenizer.json")
    config = json.loads((out / "open_clip_config.json").read_text())["model_cfg"]
    torch.manual_seed(args.seed)  # the same weights everywhere
    model, scores = build(config).to(memory_format=torch.channels_last), Scores()
    model.logit_scale.data.fill_(math.log(1 / 0.07))
    if args.resume:
        checkpoint = torch.load(args.resume)
        model.load_state_dict(checkpoint["model"])
        scores.load_state_dict(checkpoint["scores"])
    named = list(model.named_parameters()) + [("scores." + n, p) for n, p in scores.named_parameters()]
    decay = [p for _, p in named if p.ndim > 1]
    rest = [p for _, p in named if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    parameters = [p for _, p in named]
    running = [b for n, b in model.named_buffers() if "running" in n]
    scenes = Scenes(folders["train"])
    held_out = Scenes([folders["watch"]])
    prompts = [tokenizer([t.format(name) for name in scenes.categories]) for t in TEMPLATES]
    shared = np.random.default_rng(args.seed)  # choices all processes make alike
    own = np.random.default_rng([args.seed, rank])
    order, at = shared.permutation(len(scenes)), 0
    steps = args.small_steps + args.full_steps
    share = args.batch // args.processes
    start, sums = time.time(), np.zeros(5)
    categories = len(scenes.categories)
    best = 0.0

    for step in range(steps):
        if step < args.small_steps:
            size = int(shared.choice([128, 160], p=[0.7, 0.3]))
        else:
            size = SIZE
        if at + args.batch > len(order):
            order, at = shared.permutation(len(scenes)), 0
        mine = order[at + rank * share : at + (rank + 1) * share]
        at += args.batch
        template = prompts[0 if shared.random() < 0.6 else int(shared.integers(1, len(prompts)))]
        x, objects, captions = scenes.batch(mine, size, own)
        dense, glob = encode_image(model, x)
        dense, glob = F.normalize(dense, dim=-1), F.normalize(glob, dim=-1)
        text = F.normalize(encode_text(model, template), dim=-1)
        y = presence(objects, len(x), categories)
        where = location(objects, len(x), size // 32, categories)
        bce = F.binary_cross_entropy_with_logits
        losses = [
            10 * bce(scores(region_cosine(dense, text), 0), y),
            10 * bce(scores(glob @ text.T, 0), y),
            30 * bce(scores(dense @ text.T, 1), where),
        ]
        if step % 2 == 0:
            caption = F.normalize(encode_text(model, tokenizer(captions)), dim=-1)
            logits = model.logit_scale.exp() * glob @ caption.T
            same = torch.arange(len(x))
            losses.append(0.2 * (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2)
        loss = sum(losses)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, args.lr)
        optimizer.step()
        model.logit_scale.data.clamp_(0, math.log(100))
        last = step + 1 == steps
        if (step + 1) % args.sync == 0 or last:
            # Each process goes some steps by itself, then all take the mean: they need not wait at every step.
            average([p.data for p in parameters] + running, args.processes)
        sums += [1, loss.item(), *(l.item() for l in losses[:3])]
        if (step + 1) % args.every == 0 or last:
            if rank == 0:
                figures = measure(model, scores, held_out, category_text(model, tokenizer, scenes.categories))
                line = dict(step=step + 1, size=size, seen=(step + 1) * args.batch, seconds=round(time.time() - start))
                names = ("loss", "region_loss", "global_loss", "location_loss")
                line |= {n: round(float(v), 4) for n, v in zip(names, sums[1:] / sums[0])}
                line |= {"map " + n: v for n, v in figures.items()}
                log(args, line)
                if figures["region+global"] > best:
                    best = figures["region+global"]
                    torch.save({"model": model.state_dict(), "scores": scores.state_dict()}, Path(args.work) / "best.pt")
            sums[:] = 0
            dist.barrier()
    dist.destroy_process_group()


def log(args, line):
    text = json.dumps(line)
    print(text, flush=True)
    with open(Path(args.out) / "training.log", "a") as file:
        file.write(text + "\n")


def export(args, folders):
    """Writes the best weights, loads them back through open_clip from the files alone, and measures."""
    from safetensors.torch import load_file, save_file

    out = Path(args.out)
    best = torch.load(Path(args.work) / "best.pt")
    # What tagging needs is the sigmoid's scale and offset; the captions' temperature has done its work.
    best["model"]["logit_scale"] = best["scores"]["log_scale"][0]
    best["model"]["logit_bias"] = best["scores"]["bias"][0]
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in best["model"].items()}
    save_file(half, out / "open_clip_model.safetensors", metadata={"format": "pt"})

    model = build(json.loads((out / "open_clip_config.json").read_text())["model_cfg"])
    model.load_state_dict(load_file(out / "open_clip_model.safetensors"), strict=True)
    model.eval()
    scores = Scores()
    scores.load_state_dict(best["scores"])
    held_out = Scenes([folders["plain"]])
    tokenizer = Tokenizer(out / "tokenizer.json")
    # Our road through the towers is open_clip's own.
    with torch.no_grad():
        x, _, captions = held_out.batch(range(8), SIZE)
        assert torch.allclose(encode_image(model, x)[1], model.encode_image(x), atol=1e-4)
        tokens = tokenizer(captions)
        padded = F.pad(tokens, (0, CONTEXT - tokens.shape[1]))
        assert torch.allclose(encode_text(model, tokens), model.encode_text(padded), atol=1e-4)
        text = category_text(model, tokenizer, held_out.categories)
    sanity(args, folders, model, scores, text)
    if args.quick:
        return
    for style in ("plain", "pale", "outline", "grey"):
        log(args, {"zero-shot": style, "scenes": 1000, **measure(model, scores, Scenes([folders[style]]), text)})
    supervised = headroom(model, text, Scenes([folders["head"]]), Scenes([folders["pale"]]), args.seed)
    log(args, {"supervised dense head": "pale", "labelled": 4000, "scenes": 1000, "map": supervised})


def sanity(args, folders, model, scores, text):
    """A few held-out scenes and what is in them, for `tagstream doctor`."""
    source = Scenes([folders["sanity"]])
    dense, glob, labels = features(model, source)
    region = region_cosine(F.normalize(dense, dim=-1), text)
    score = scores((region + F.normalize(glob, dim=-1) @ text.T) / 2, 0).detach()
    folder = Path(args.out) / "sanity"
    folder.mkdir(exist_ok=True)
    hits, wanted, scenes = 0, 0, []
    for row, (data, at, length, line) in enumerate(source.items):
        image_id = json.loads(line)["image_id"]
        (folder / f"{image_id}.jpg").write_bytes(data[at : at + length])
        present = [source.categories[i] for i in labels[row].nonzero().flatten().tolist()]
        best = [source.categories[i] for i in score[row].argsort(descending=True)[: len(present)].tolist()]
        hits, wanted = hits + len(set(best) & set(present)), wanted + len(present)
        scenes.append({"image_id": image_id, "present": present})
    expected = {
        "prompt": TEMPLATES[0],
        "categories": source.categories,
        "scenes": scenes,
        "found_in_training_script": round(hits / wanted, 4),
        "found_at_least": round(0.8 * hits / wanted, 2),
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    log(args, {"sanity scenes": len(scenes), "found": f"{hits} of {wanted}"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tagstream", default="target/release/tagstream")
    parser.add_argument("--work", required=True, help="scenes and checkpoints; 1 GB")
    parser.add_argument("--out", default="models/demo-clip")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--batch", type=int, default=96, help="scenes a step, of all processes together")
    parser.add_argument("--small-steps", type=int, default=1300, help="steps on pictures of 128 or 160 pixels")
    parser.add_argument("--full-steps", type=int, default=400, help="steps on pictures of 192 pixels")
    parser.add_argument("--sync", type=int, default=10, help="steps between averaging the processes")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=6, help="of 16,384 plain scenes each")
    parser.add_argument("--every", type=int, default=150, help="steps between measurements")
    parser.add_argument("--port", type=int, default=29517)
    parser.add_argument("--export-only", action="store_true", help="write the best checkpoint so far")
    parser.add_argument("--resume", help="a checkpoint to go on from; the log goes on too")
    parser.add_argument("--quick", action="store_true", help="with --export-only: do not measure")
    args = parser.parse_args()

    torch.set_num_threads(2)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    folders = {"train": [draw(args, f"train-{i}", "plain", 1000 + i, 16384) for i in range(args.shards)]}
    for style in ("plain", "pale", "outline", "grey"):
        folders[style] = draw(args, f"eval-{style}", style, 1, 1000)
    folders["watch"] = draw(args, "watch-plain", "plain", 4, 300)  # to choose the checkpoint by
    folders["sanity"] = draw(args, "sanity", "plain", 3, 12)
    folders["head"] = draw(args, "head-pale", "pale", 2, 4000)
    if not args.export_only:
        if not args.resume:
            prepare(args, folders)
        start_line(args)
        mp.spawn(work, (args, folders), nprocs=args.processes)
    export(args, folders)


def prepare(args, folders):
    """Tokenizer and configuration, before the first step."""
    out = Path(args.out)
    words = Counter()
    for line in (folders["train"][0] / "scenes.jsonl").read_text().splitlines():
        words.update(re.findall(r"[a-z]+|[^\sa-z]+", json.loads(line)["caption"]))
    words.update("picture drawing painting sketch an the on in with and . , one two three many image".split())
    vocab = build_tokenizer(words, out)
    config = {
        "model_cfg": model_config(vocab),
        "preprocess_cfg": {
            "size": [SIZE, SIZE],
            "mode": "RGB",
            "mean": list(MEAN),
            "std": list(STD),
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "training.log").write_text("")


def start_line(args):
    """What the run was asked for goes to the log first."""
    wanted = ("processes", "batch", "small_steps", "full_steps", "sync", "lr", "seed", "shards", "resume")
    named = {k: getattr(args, k) for k in wanted}
    named["resume"] = bool(args.resume)
    log(args, {"torch": torch.__version__, **named})


if __name__ == "__main__":
    main()
