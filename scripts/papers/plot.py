"""The one plot: how much of its slower part alone the stage keeps, and a Python program beside
it."""

from .rows import fixed, rate
from .stage import case_rows

PATH = "docs/performance/stage.svg"

WHAT = {
    "decode-bound": "4 MP JPEGs, a tiny model",
    "small-model": "4 MP JPEGs, a small model",
    "lab-clip": "0.02 MP photos, MobileNet-sized",
    "model-bound": "1 MP JPEGs, ViT-B/16",
}
LEFT, ONE, TOP, GROUP, BAR = 230, 400, 74, 62, 18

STYLE = """
  .ground { fill: #ffffff; stroke: #d0d7de; }
  text { fill: #1f2328; font-family: system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; }
  text.soft { fill: #59636e; }
  .line { stroke: #d0d7de; } .bound { stroke: #1f2328; }
  .stage { fill: #0969da; } .peer { fill: #8c959f; } .spread { stroke: #1f2328; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; stroke: #3d444d; }
    text { fill: #f0f6fc; } text.soft { fill: #9198a1; }
    .line { stroke: #3d444d; } .bound { stroke: #f0f6fc; }
    .stage { fill: #4493f8; } .peer { fill: #656c76; } .spread { stroke: #f0f6fc; }
  }
"""


def at(share: float) -> str:
    return f"{LEFT + ONE * share:.1f}"


def text(x, y, words, size=13, kind="", anchor="start", weight="normal") -> str:
    kind = f' class="{kind}"' if kind else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" '
        f'font-weight="{weight}"{kind}>{words}</text>'
    )


def bar(y: float, share: float, kind: str, least: float, most: float, words: str) -> list[str]:
    middle = y + BAR / 2
    # Beside the bar, or behind the line at 1 if the words would cross it.
    end = max(share, most)
    words_at = float(at(end)) + 8 if end < 0.6 else float(at(1)) + 16
    return [
        f'<rect x="{LEFT}" y="{y}" width="{ONE * share:.1f}" height="{BAR}" class="{kind}"/>',
        f'<path d="M{at(least)} {middle}H{at(most)}M{at(least)} {middle - 4}v8'
        f'M{at(most)} {middle - 4}v8" '
        'class="spread" stroke-width="1.5" fill="none"/>',
        text(words_at, y + 13.5, words, 12),
    ]


def draw() -> str:
    cases = {case: rows[0] for case, rows in case_rows().items()}
    bottom = TOP + GROUP * len(cases)
    width, height = LEFT + ONE + 190, bottom + 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-labelledby="title">',
        '<title id="title">Images a second of the stage and of a Python program, '
        "as a share of the slower of "
        "decoding alone and the model alone</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6"/>',
        text(
            18,
            28,
            "From broker to committed Parquet: share of the slower part alone",
            15,
            weight="bold",
        ),
    ]
    for x, kind, words in [(18, "stage", "tagstream"), (120, "peer", "the same work in Python")]:
        out.append(f'<rect x="{x}" y="42" width="12" height="12" class="{kind}"/>')
        out.append(text(x + 18, 52.5, words, 12, "soft"))
    for share in (0, 0.25, 0.5, 0.75, 1):
        kind = "bound" if share == 1 else "line"
        out.append(f'<path d="M{at(share)} {TOP - 6}V{bottom}" class="{kind}" fill="none"/>')
        out.append(text(at(share), bottom + 17, f"{share:g}", 12, "soft", "middle"))
    out.append(
        text(
            at(0.5),
            bottom + 36,
            "1 = decoding alone or the model alone, whichever is slower",
            12,
            "soft",
            "middle",
        )
    )
    for number, (case, row) in enumerate(cases.items()):
        y = TOP + GROUP * number + 4
        out += [text(18, y + 16, case, 13, weight="bold"), text(18, y + 33, WHAT[case], 12, "soft")]
        spread = row["stage_over_ceiling_spread"]
        bound = row["ceiling"]["least_images_per_second"]["median"]
        peer = {name: value / bound for name, value in row["peer"]["images_per_second"].items()}
        per_second = [rate(row[who]["images_per_second"]["median"]) for who in ("stage", "peer")]
        out += bar(
            y,
            spread["median"],
            "stage",
            spread["least"],
            spread["most"],
            f"{fixed(spread['median'], 2)} ({per_second[0]} images/s)",
        )
        out += bar(
            y + BAR + 5,
            peer["median"],
            "peer",
            peer["least"],
            peer["most"],
            f"{fixed(peer['median'], 2)} ({per_second[1]} images/s)",
        )
    return "\n".join([*out, "</svg>", ""])
