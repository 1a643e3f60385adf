"""Zero-shot figures, and what labels could add."""

import numpy as np
import torch
import torch.nn.functional as F

from .model import SIZE, TEMPERATURE, encode_image, encode_text, region_cosine
from .scenes import presence

TEMPLATES = [
    "a photo of a {}",
    "a photo of a {}.",
    "a photo of an {}",
    "a picture of a {}",
    "a {}",
    "{}",
]


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
    return {
        name: round(mean_average_precision(s.numpy(), labels.numpy()), 4)
        for name, s in named.items()
    }


@torch.no_grad()
def category_text(model, tokenizer, categories, template=TEMPLATES[0]):
    return F.normalize(
        encode_text(model, tokenizer([template.format(name) for name in categories])), dim=-1
    )


def headroom(model, text, train, test, seed):
    """mAP of a dense head (attention and read-out per category) trained on frozen features of
    labelled scenes."""
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
        return round(
            mean_average_precision(score(test_dense, test_glob).numpy(), test_labels.numpy()), 4
        )
