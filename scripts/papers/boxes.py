"""Where tags are seen: boxes.jsonl."""

from .rows import jsonl

MODELS = {"zero-shot": "zero-shot", "trained": "trained on a tenth of the labels"}
COLUMNS = (
    "right tags", "with a box", "pointing", "IoU >= 0.5", "boxes a tag", "in truth",
    "crop keeps the tag", "in its place",
)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def table() -> str:
    lines = ["| model | scenes | " + " | ".join(COLUMNS) + " |", "|---" * 10 + "|"]
    for row in jsonl("boxes.jsonl"):
        cells = [
            MODELS[row["model"]], row["style"], str(row["right_tags"]),
            percent(row["right_shown"]), percent(row["pointing"]), percent(row["iou_half"]),
            f"{row['boxes']:.2f}", f"{row['true_boxes']:.2f}",
            percent(row["crop_keeps"]), percent(row["alone_keeps"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figures() -> dict[str, str]:
    return {
        f"boxes.{row['model']}.{row['style']}.{name}": percent(row[name])
        for row in jsonl("boxes.jsonl")
        for name in ("right_shown", "pointing", "iou_half", "crop_keeps", "alone_keeps")
    }


TABLES = {"boxes": table}
