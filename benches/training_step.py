"""The training step of benches/training_step.rs in PyTorch, for comparison: same shapes, same
equations, frozen weights without gradients, prompts cut after the end token.

    python benches/training_step.py THREADS [--plain] \\
        [CATEGORIES POSITIONS DIM WIDTH LAYERS HEADS LENGTH STEPS]

By default it also takes the two savings that tagstream takes: the last block of the text tower is
computed only where it is read, and the attention's products are ordered so that the frozen
positions are never projected. With --plain it is written as the equations stand. Prints one JSON
line with the median and the fastest step in milliseconds.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

plain = "--plain" in sys.argv
arguments = [int(x) for x in sys.argv[1:] if x != "--plain"]
threads = arguments[0]
defaults = [36, 49, 256, 256, 4, 4, 8, 15]
C, N, D, W, LAYERS, HEADS, LENGTH, STEPS = arguments[1:] + defaults[len(arguments) - 1 :]
BATCH, CONTEXT = 64, 4
torch.set_num_threads(threads)
torch.manual_seed(0)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_1, self.norm_2 = torch.nn.LayerNorm(W), torch.nn.LayerNorm(W)
        self.qkv, self.out = torch.nn.Linear(W, 3 * W), torch.nn.Linear(W, W)
        self.mlp_in, self.mlp_out = torch.nn.Linear(W, 4 * W), torch.nn.Linear(4 * W, W)

    def forward(self, x, read=False):
        n, length, _ = x.shape
        if read:
            # The last block, read at the last position only.
            normal = self.norm_1(x)
            q = F.linear(normal[:, -1:], self.qkv.weight[:W], self.qkv.bias[:W])
            q = q.view(n, 1, HEADS, W // HEADS).transpose(1, 2)
            kv = F.linear(normal, self.qkv.weight[W:], self.qkv.bias[W:])
            k, v = kv.view(n, length, 2, HEADS, W // HEADS).permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, 1, W)
            x = x[:, -1:] + self.out(a)
        else:
            q, k, v = (
                self.qkv(self.norm_1(x))
                .view(n, length, 3, HEADS, W // HEADS)
                .permute(2, 0, 3, 1, 4)
            )
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(n, length, W))
        h = self.mlp_in(self.norm_2(x))
        return x + self.mlp_out(h * torch.sigmoid(1.702 * h))


tower = torch.nn.ModuleList(Block() for _ in range(LAYERS))
final, projection = torch.nn.LayerNorm(W), torch.nn.Linear(W, D, bias=False)
for module in (tower, final, projection):
    module.requires_grad_(False)
fixed_begin, fixed_rest = (
    torch.randn(C, 1, W) * 0.02,
    torch.randn(C, LENGTH - 1 - CONTEXT, W) * 0.02,
)
positions = torch.randn(LENGTH, W) * 0.01

unit = lambda x: F.normalize(x, dim=-1)
parameter = lambda *shape: torch.nn.Parameter(torch.randn(*shape) * 0.05)
context, query = parameter(C, CONTEXT, W), parameter(C, D)
wq, wk, wv, wo = (torch.nn.Parameter(torch.eye(D)) for _ in range(4))
norm = torch.nn.LayerNorm(D)
mlp_in, mlp_out = torch.nn.Linear(D, 4 * D), torch.nn.Linear(4 * D, D)
negative, residual = torch.nn.Parameter(torch.zeros(C, D)), torch.nn.Parameter(torch.zeros(C, D))
scales, biases = torch.nn.Parameter(torch.full((3,), 3.0)), torch.nn.Parameter(torch.zeros(3, C))
trained = [context, query, wq, wk, wv, wo, negative, residual, scales, biases]
trained += [*norm.parameters(), *mlp_in.parameters(), *mlp_out.parameters()]
optimizer = torch.optim.AdamW(trained, lr=3e-4, weight_decay=5e-4)
average = [p.detach().clone() for p in trained]
prototypes = unit(torch.randn(C, D))


def step():
    dense, glob = torch.randn(BATCH, N, D), torch.randn(BATCH, D)
    labels = torch.randint(-1, 2, (BATCH, C)).float()
    targets = torch.rand(BATCH, C)
    start = time.perf_counter()
    mask = (torch.rand(BATCH, D) > 0.5).float() * 2
    v, g, s = unit(dense) * mask[:, None], unit(glob) * mask, glob * mask
    x = torch.cat([fixed_begin, context, fixed_rest], 1) + positions
    for index, block in enumerate(tower):
        x = block(x, read=not plain and index + 1 == LAYERS)
    text = unit(projection(final(x[:, -1])))
    if plain:
        a = torch.softmax((query @ wq) @ (v @ wk).transpose(1, 2) / D**0.5, -1)
        region, attended = a @ v, (a @ (v @ wv)) @ wo
    else:
        a = torch.softmax((query @ wq / D**0.5) @ wk.T @ v.transpose(1, 2), -1)
        region = a @ v
        attended = region @ (wv @ wo)
    region = unit(region)
    u = norm(query + attended)
    feature = unit(u + mlp_out(F.gelu(mlp_in(u))))
    logits = []
    for at, rows in enumerate((region, feature)):
        logits.append(
            ((rows * text).sum(-1) - (rows * negative).sum(-1)) * scales[at].exp() + biases[at]
        )
    logits.append(g @ (text - negative).T * scales[2].exp() + s @ residual.T + biases[2])
    known = (labels != 0).float()
    loss = 0.03 * residual.square().sum()
    for z in logits:
        loss = (
            loss
            + (
                F.binary_cross_entropy_with_logits(z, (labels > 0).float(), reduction="none")
                * known
            ).sum()
            / known.sum()
            * C
        )
        loss = (
            loss
            + (F.binary_cross_entropy_with_logits(z, targets, reduction="none") * (1 - known)).sum()
            / (1 - known).sum()
            * C
        )
    teacher = (logits[0].detach() / 4).log_softmax(-1)
    loss = loss + 16 / BATCH * (teacher.exp() * (teacher - (logits[1] / 4).log_softmax(-1))).sum()
    rows, categories = torch.where(labels > 0)
    scores = (region[rows, categories] @ torch.cat([prototypes, text]).T / 0.07).log_softmax(-1)
    at = torch.arange(len(rows))
    loss = loss - (scores[at, categories] + scores[at, categories + C]).mean() / 2
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(average, [p.detach() for p in trained], 0.001)
    return time.perf_counter() - start


for _ in range(3):
    step()
times = sorted(step() for _ in range(STEPS))
print(
    json.dumps(
        {
            "framework": "pytorch " + torch.__version__,
            "plain": plain,
            "threads": threads,
            "categories": C,
            "positions": N,
            "dim": D,
            "width": W,
            "layers": LAYERS,
            "length": LENGTH,
            "median_ms": round(1e3 * times[len(times) // 2], 2),
            "fastest_ms": round(1e3 * times[0], 2),
        }
    )
)
