"""Shows scores as a text table, together with the controls that the scores must beat."""

from typing import Any

from video_vq.evaluation.generation_protocols import simulation
from video_vq.metrics.protocol import fvd_protocol
from video_vq.report.blocks import Row
from video_vq.report.verdicts import codec_sentences, score_table

SMALL = 256


def summary(scores: dict[str, Any]) -> str:
    """Return the scores from `evaluate` as a text table with explanations, followed by remarks."""
    table = score_table(scores)
    lines = []
    for row in (Row(table.head), *table.rows):
        name, value, num = row.cells
        name = f"  control: {name}" if row.below else name
        meaning = f" ({note})" if (note := row.note.partition(";")[0]) else ""
        lines.append(f"{value:>10}{num:>14}  {name}{meaning}")
    return "\n".join([*lines, "", *remarks(scores)])


def remarks(scores: dict[str, Any]) -> list[str]:
    """Return a description of the FVD protocol, followed by caveats about the scores."""
    fake = scores.get("generation", {}).get("gfvd", {}).get("num_fake", scores["num_clips"])
    counts = (scores["num_clips"], fake)
    lines = [fvd_protocol(scores["protocol"]["name"]).describe(counts)]
    lines += [] if (told := simulation(scores)) is None else [told]
    if (network := scores["identity"].get("network")) is not None:
        lines.append(
            f"the network of FVD is {network}, not I3D: compare only numbers of this network"
        )
    lines += codec_sentences(scores)
    lines += _counts(scores)
    if scores["split"] == "train":
        lines.append("the reference is the training split: these scores flatter the model")
    if min(counts) < SMALL:
        lines.append(
            f"FVD at N = {min(counts)} is an illustration: below {SMALL} clips its bias is "
            f"larger than most differences{_unbiased(scores)}"
        )
    return lines


def _unbiased(scores: dict[str, Any]) -> str:
    """Return a clause about KVD, or "" if KVD was not computed."""
    sides = {
        "reconstructions": scores["reconstruction"]["rfvd"].get("kvd"),
        "samples": scores.get("generation", {}).get("gfvd", {}).get("kvd"),
    }
    told = [
        f"{kvd['value']:.3g} ± {kvd['standard_error']:.2g} for {name}"
        for name, kvd in sides.items()
        if kvd is not None
    ]
    return f"; KVD, which has no such bias, is {' and '.join(told)}" if told else ""


def _counts(scores: dict[str, Any]) -> list[str]:
    """Return a sentence for each unexpected number of clips."""
    lines = []
    num_real, asked = scores["num_clips"], scores["identity"].get("num_clips", 0)
    if num_real < asked:
        lines.append(
            f"{num_real} real clips were scored, not {asked}: split {scores['split']} holds no "
            "more clips of this length that do not overlap"
        )
    generation = scores.get("generation", {})
    found = generation.get("num_samples")  # scores of an earlier version lack this number
    if found is None:
        return lines
    num_fake = generation["gfvd"]["num_fake"]
    if num_fake < found:
        lines.append(
            f"of {found} samples the first {num_fake} were scored, as many as there are real clips"
        )
    if num_fake != num_real and generation.get("protocol") is None:
        lines.append(
            f"gFVD is of {num_fake} samples against {num_real} real clips: most published numbers "
            f"use the same number on both sides; `video-vq sample --num {num_real}` makes them "
            "equal"
        )
    return lines
