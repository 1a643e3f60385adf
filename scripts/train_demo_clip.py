#!/usr/bin/env python3
"""Trains the demo model: a small CLIP on synthetic scenes, in the layout in which OpenCLIP weights
come.

    cargo build --release
    python scripts/train_demo_clip.py --tagstream target/release/tagstream \\
        --work /tmp/demo-clip --out models/demo-clip

Needs torch, open_clip_torch, safetensors, numpy and pillow. Only plain scenes are trained on; the
other styles are measured. docs/demo-model.md says how the losses fit together and what came out.
"""

import argparse
import json
import math
import os
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from demo_clip.measure import TEMPLATES, category_text, features, headroom, measure
from demo_clip.model import (
    SIZE,
    Scores,
    build,
    encode_image,
    encode_text,
    model_config,
    region_cosine,
)
from demo_clip.scenes import MEAN, STD, Scenes, draw, location, presence
from demo_clip.tokenizer import CONTEXT, Tokenizer, build_tokenizer


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
    named = list(model.named_parameters()) + [
        ("scores." + n, p) for n, p in scores.named_parameters()
    ]
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
            losses.append(
                0.2 * (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
            )
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
            # Each process goes some steps by itself, then all take the mean: they need not wait at
            # every step.
            average([p.data for p in parameters] + running, args.processes)
        sums += [1, loss.item(), *(l.item() for l in losses[:3])]
        if (step + 1) % args.every == 0 or last:
            if rank == 0:
                figures = measure(
                    model, scores, held_out, category_text(model, tokenizer, scenes.categories)
                )
                line = dict(
                    step=step + 1,
                    size=size,
                    seen=(step + 1) * args.batch,
                    seconds=round(time.time() - start),
                )
                names = ("loss", "region_loss", "global_loss", "location_loss")
                line |= {n: round(float(v), 4) for n, v in zip(names, sums[1:] / sums[0])}
                line |= {"map " + n: v for n, v in figures.items()}
                log(args, line)
                if figures["region+global"] > best:
                    best = figures["region+global"]
                    torch.save(
                        {"model": model.state_dict(), "scores": scores.state_dict()},
                        Path(args.work) / "best.pt",
                    )
            sums[:] = 0
            dist.barrier()
    dist.destroy_process_group()


def log(args, line):
    text = json.dumps(line)
    print(text, flush=True)
    with open(Path(args.out) / "training.log", "a") as file:
        file.write(text + "\n")


def export(args, folders):
    """Writes the best weights, loads them back through open_clip from the files alone, and
    measures."""
    from safetensors.torch import load_file, save_file

    out = Path(args.out)
    best = torch.load(Path(args.work) / "best.pt")
    # What tagging needs is the sigmoid's scale and offset; the captions' temperature has done its
    # work.
    best["model"]["logit_scale"] = best["scores"]["log_scale"][0]
    best["model"]["logit_bias"] = best["scores"]["bias"][0]
    half = {
        k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in best["model"].items()
    }
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
        log(
            args,
            {
                "zero-shot": style,
                "scenes": 1000,
                **measure(model, scores, Scenes([folders[style]]), text),
            },
        )
    supervised = headroom(
        model, text, Scenes([folders["head"]]), Scenes([folders["pale"]]), args.seed
    )
    log(
        args, {"supervised dense head": "pale", "labelled": 4000, "scenes": 1000, "map": supervised}
    )


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
        best = [
            source.categories[i]
            for i in score[row].argsort(descending=True)[: len(present)].tolist()
        ]
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tagstream", default="target/release/tagstream")
    parser.add_argument("--work", required=True, help="scenes and checkpoints; 1 GB")
    parser.add_argument("--out", default="models/demo-clip")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument(
        "--batch", type=int, default=96, help="scenes a step, of all processes together"
    )
    parser.add_argument(
        "--small-steps", type=int, default=1300, help="steps on pictures of 128 or 160 pixels"
    )
    parser.add_argument(
        "--full-steps", type=int, default=400, help="steps on pictures of 192 pixels"
    )
    parser.add_argument(
        "--sync", type=int, default=10, help="steps between averaging the processes"
    )
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=6, help="of 16,384 plain scenes each")
    parser.add_argument("--every", type=int, default=150, help="steps between measurements")
    parser.add_argument("--port", type=int, default=29517)
    parser.add_argument(
        "--export-only", action="store_true", help="write the best checkpoint so far"
    )
    parser.add_argument("--resume", help="a checkpoint to go on from; the log goes on too")
    parser.add_argument("--quick", action="store_true", help="with --export-only: do not measure")
    args = parser.parse_args()

    torch.set_num_threads(2)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    folders = {
        "train": [draw(args, f"train-{i}", "plain", 1000 + i, 16384) for i in range(args.shards)]
    }
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
    words.update(
        "picture drawing painting sketch an the on in with and . , one two three many image".split()
    )
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
    wanted = (
        "processes",
        "batch",
        "small_steps",
        "full_steps",
        "sync",
        "lr",
        "seed",
        "shards",
        "resume",
    )
    named = {k: getattr(args, k) for k in wanted}
    named["resume"] = bool(args.resume)
    log(args, {"torch": torch.__version__, **named})


if __name__ == "__main__":
    main()
