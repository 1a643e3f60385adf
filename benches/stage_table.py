#!/usr/bin/env python3
"""Markdown tables of benches/runs/stage.jsonl and scale.jsonl: python3 benches/stage_table.py
FILE ..."""

import json
import sys

MIB = 1 << 20


def rate(spread: dict) -> str:
    return f"{spread['median']:.4g} ({spread['least']:.4g} to {spread['most']:.4g})"


def main() -> None:
    rows = [json.loads(line) for path in sys.argv[1:] for line in open(path)]
    print(
        "| case | broker | (a) model alone | (b) decoding, per core | (c) stage | "
        "c/min(a, b x cores) | c/shared ceiling | peak MiB | model, ms CPU | rest, ms CPU | "
        "p50, p99 ms |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        ceiling, stage, cpu = row["ceiling"], row["stage"], row["stage"]["cpu_ms_per_image"]
        infer = cpu.get("infer", 0)
        latency = row["latency"]
        print(
            f"| {row['case']} | {row['broker']} | {rate(ceiling['model_images_per_second'])} | "
            f"{rate(ceiling['decode_images_per_second_per_core'])} | "
            f"{rate(stage['images_per_second'])} | "
            f"{row['stage_over_ceiling']:.3f} | {row['stage_over_shared_ceiling']:.3f} | "
            f"{stage['peak_memory_bytes']['median'] / MIB:.0f} | {infer:.2f} | "
            f"{sum(cpu.values()) - infer:.2f} | "
            + (f"{latency['p50_ms']:.0f}, {latency['p99_ms']:.0f} |" if latency else "|")
        )
    with_peer = [row for row in rows if row["peer"]]
    if with_peer:
        print(
            "\n| case | stage | Python peer | stage / peer | stage, peak MiB | peer, peak MiB |"
            "\n|---|---|---|---|---|---|"
        )
    for row in with_peer:
        stage, peer = row["stage"], row["peer"]
        print(
            f"| {row['case']} | {rate(stage['images_per_second'])} | "
            f"{rate(peer['images_per_second'])} | "
            f"{row['stage_over_peer']['median']:.2f} | "
            f"{stage['peak_memory_bytes']['median'] / MIB:.0f} | "
            f"{peer['peak_memory_bytes']['median'] / MIB:.0f} |"
        )


if __name__ == "__main__":
    main()
