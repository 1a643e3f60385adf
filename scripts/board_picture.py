#!/usr/bin/env python3
"""The Grafana board's panels, drawn from what a Prometheus has recorded.

scripts/board_picture.py URL [SECONDS]    a page of SVG on standard output: every panel of
                                          deploy/grafana/tagstream.json over the last SECONDS (1800)

For those who have no Grafana at hand: it shows whether expressions give what their titles say, not
how Grafana draws them. Fails where an expression is refused; names panels without any figure.
"""

import html
import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

BOARD = Path(__file__).resolve().parent.parent / "deploy/grafana/tagstream.json"
COLOURS = ["#2563eb", "#059669", "#d97706", "#dc2626", "#7c3aed", "#0891b2", "#65a30d", "#db2777"]
STEPS, UNIT_W, UNIT_H, GAP = 120, 50, 30, 8
LEGEND_MOST = 8


def asked(url: str, expression: str, since: float, until: float) -> list[dict]:
    """The series of an expression, with the board's variable set to all."""
    expression = expression.replace("$job", ".*")
    query = urllib.parse.urlencode({"query": expression, "start": since, "end": until,
                                    "step": max(1, round((until - since) / STEPS))})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query_range?{query}", timeout=30) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{expression}\n{error.read().decode()[:500]}")


def name(legend: str, labels: dict) -> str:
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value)
    return legend


def number(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.1f} %"
    text = f"{value:.3g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return text + {"s": " s", "ops": "/s"}.get(unit, "")


def drawn(panel: dict, lines: list[tuple[str, list]], since: float, until: float) -> str:
    grid = panel["gridPos"]
    x, y = grid["x"] * UNIT_W, grid["y"] * UNIT_H
    w, h = grid["w"] * UNIT_W - GAP, grid["h"] * UNIT_H - GAP
    unit = panel["fieldConfig"]["defaults"]["unit"]
    out = [f"<g transform='translate({x},{y})'><rect width='{w}' height='{h}' rx='4' fill='#fff' "
           f"stroke='#ddd'/><text x='10' y='20' class='t'>{html.escape(panel['title'])}</text>"]
    points = [p for _, line in lines for p in line]
    if not points:
        out.append(f"<text x='10' y='{h // 2}' class='n'>no data</text>")
    elif panel["type"] == "stat":
        for i, (label, line) in enumerate(lines[:3]):
            out.append(f"<text x='10' y='{48 + 22 * i}' class='v'>{number(line[-1][1], unit)}"
                       f"<tspan class='n' dx='8'>{html.escape(label)}</tspan></text>")
    else:
        top = max(value for _, value in points) or 1
        low = min(0, min(value for _, value in points))
        left, right, above, below = 60, w - 12, 32, h - 40
        def at(moment: float, value: float) -> str:
            return (f"{left + (right - left) * (moment - since) / (until - since):.1f},"
                    f"{below - (below - above) * (value - low) / (top - low):.1f}")
        for value in (low, (low + top) / 2, top):
            height = at(since, value).split(",")[1]
            out.append(f"<path d='M{left} {height}H{right}' stroke='#eee'/><text x='{left - 4}' "
                       f"y='{float(height) + 4}' class='n' text-anchor='end'>"
                       f"{number(value, unit)}</text>")
        place = left
        for i, (label, line) in enumerate(lines):
            colour = COLOURS[i % len(COLOURS)]
            path = " ".join(at(*point) for point in line)
            out.append(f"<polyline points='{path}' fill='none' stroke='{colour}' "
                       "stroke-width='1.5'/>")
            if i < LEGEND_MOST and place < right - 40:
                out.append(f"<text x='{place}' y='{h - 12}' class='n' fill='{colour}'>"
                           f"{html.escape(label)}</text>")
                place += 7 * len(label) + 16
    return "".join(out) + "</g>"


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    url, until = sys.argv[1].rstrip("/"), time.time()
    since = until - float(sys.argv[2] if len(sys.argv) == 3 else 1800)
    shapes, empty, bottom = [], [], 0
    for panel in json.loads(BOARD.read_text())["panels"]:
        grid = panel["gridPos"]
        bottom = max(bottom, (grid["y"] + grid["h"]) * UNIT_H)
        if panel["type"] == "row":
            shapes.append(f"<text x='4' y='{grid['y'] * UNIT_H + 20}' class='r'>"
                          f"{html.escape(panel['title'])}</text>")
            continue
        lines = []
        for target in panel["targets"]:
            for series in asked(url, target["expr"], since, until):
                values = [(float(t), float(v)) for t, v in series["values"]]
                values = [(t, v) for t, v in values if abs(v) != float("inf") and v == v]
                if values:
                    lines.append((name(target["legendFormat"], series["metric"]), values))
        if not lines:
            empty.append(panel["title"])
        shapes.append(drawn(panel, lines, since, until))
    style = (".t{font:600 13px sans-serif}.n{font:11px sans-serif}.v{font:600 20px sans-serif}"
             ".r{font:600 15px sans-serif}")
    print(f"<!doctype html><meta charset=utf-8><title>tagstream</title><body style='background:"
          f"#f4f4f5;margin:12px'><svg xmlns='http://www.w3.org/2000/svg' width='{24 * UNIT_W}' "
          f"height='{bottom}'><style>{style}</style>{''.join(shapes)}</svg>")
    print("no figure in: " + (", ".join(empty) or "none"), file=sys.stderr)


if __name__ == "__main__":
    main()
