"""What the README says has been measured, in one table."""

from . import chaos, mix, quality, stage, training
from .rows import markdown


def decoding(said: dict[str, str]) -> list[list[str]]:
    """The headline: the mix against the strongest library; nothing while there are no rows."""
    if "mix.ours.ratio" not in said:
        return []
    of = {what: said[f"mix.{what}"] for what in ("ours.ms", "ours.ratio", "users.ratio")}
    beside = f"{said['mix.ours.peer']}, the strongest Python library, at the same quality"
    return [
        [
            "decoding a mix of pictures as platforms have it",
            f"{of['ours.ms']} ms of processor time an image; {of['ours.ratio']} times as fast as "
            f"{beside}, {of['users.ratio']} times as fast as {said['mix.users.peer']} as it is "
            "mostly used",
        ]
    ]


def table() -> str:
    said: dict[str, str] = {}
    for subject in (chaos, mix, quality, stage, training):
        said |= subject.figures()

    def speed(case: str, digits: str, alone: str) -> str:
        of = {what: said[f"stage.{case}.{what}"] for what in ("peak_mib", "ratio_short")}
        per_second = said[f"stage.{case}.images_per_second_short"]
        peer = said[f"stage.{case}.over_peer{digits}"]
        return (
            f"{per_second} images/s, {of['peak_mib']} MiB; {peer} times the same work in Python "
            f"with {said[f'stage.{case}.peer_decoder']}, {of['ratio_short']} of {alone}"
        )

    faults = (
        f"{said['chaos.rounds']} rounds of faults on a real Kafka and S3, and "
        f"{said['matrix.places']} places to be killed, stopped, failed or hung at"
    )
    baselines = f"zero-shot {said['quality.zero_shot.50']}, DualCoOp {said['quality.dualcoop']}"
    lines = [
        *decoding(said),
        [
            "4 MP JPEGs, tiny model, broker to committed Parquet",
            speed("decode_bound", "_short", "decoding alone"),
        ],
        ["1 MP JPEGs, ViT-B/16", speed("model_bound", "", "bare ONNX Runtime")],
        [
            "photos of 192 x 128, a MobileNet-sized CLIP",
            speed("lab_clip", "", "bare ONNX Runtime"),
        ],
        [faults, said["chaos.result_in_words"]],
        [
            "a million messages",
            f"at most {said['soak.most_mib']} MiB, {said['soak.growth_mib']} of them after the "
            "first quarter",
        ],
        [
            "Corel5k with a small stand-in for CLIP, 10 / 50 / 90 % of the labels known, mAP",
            f"{said['quality.trm_ml']} ({baselines})",
        ],
        [
            "retraining on 2,200 photos",
            f"{said['retraining.seconds']} s, {said['retraining.peak_mib']} MiB",
        ],
    ]
    return markdown(["", ""], lines)


TABLES = {"summary": table}


def figures() -> dict[str, str]:
    return {}
