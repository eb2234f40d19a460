"""Training curves: titles for logged metrics, and the arrangement of metrics in charts."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from markupsafe import Markup

from video_vq.report.charts import Line, Points, line_chart, short

WALL_CLOCK = ("time/clips_per_second",)  # the only time metric that gets a curve


class Group(NamedTuple):
    """The heading of a group of curves, and a sentence that explains the curves."""

    heading: str
    note: str


GROUPS = {
    "validation": Group(
        "Validation",
        "Scores of the averaged weights on fixed clips of the val split: a run is judged by these.",
    ),
    "loss": Group("Losses", "What training minimises, each part unweighted, on the current clips."),
    "weight": Group("Weights of the losses", "What each part of the loss is multiplied by."),
    "discriminator": Group(
        "Discriminator",
        "How well the discriminator tells clips from reconstructions: the share of patches that it "
        "classifies correctly (0.5: it guesses; 1: it has won), its losses and mean logits.",
    ),
    "codebook": Group(
        "Codebook",
        "How the codes are used: the share of them that occurs, how many equally frequent ones "
        "would carry as much (perplexity), and how many unused ones were restarted.",
    ),
    "quantizer": Group(
        "Quantizer",
        "Encoder outputs against their codes: angles, lengths, the part of the outputs' variance "
        "that codes miss (distortion), and what pulls the outputs towards the origin (radial "
        "forces: positive ones shrink them).",
    ),
    "optim": Group("Optimizer", "Gradients, the learning rate, and steps that were left out."),
    "time": Group("Speed", "Speed of training."),
    "warnings": Group("Warnings", "Number of warnings of the run."),
}
NAMES = {
    "validation/psnr": "PSNR, dB",
    "validation/is_continuous": "latents decoded instead of codes",
    "loss/bits_per_token": "bits per token",
    "discriminator/hinge": "hinge loss",
    "discriminator/lecam": "LeCam regularization",
    "discriminator/accuracy": "share of patches classified correctly",
    "discriminator/real_logit": "mean logit of clips",
    "discriminator/fake_logit": "mean logit of reconstructions",
    "discriminator/grad_norm": "gradient norm",
    "codebook/usage": "code usage",
    "codebook/batch_usage": "code usage within a batch",
    "codebook/split_usage": "code usage in an epoch",
    "codebook/split_perplexity": "perplexity in an epoch",
    "codebook/restarted": "restarted codes",
    "quantizer/rotated_cosine": "cosine: copied, rotated gradient",
    "quantizer/obtuse_share": "share of angles above 90°",
    "quantizer/distortion": "distortion",
    "quantizer/angle": "angle to the code, degrees",
    "quantizer/ratio": "length of code over output",
    "quantizer/latent_norm": "length of the outputs",
    "quantizer/radial_wish": "radial force the loss asks for",
    "quantizer/radial_estimator": "radial force of the estimator",
    "quantizer/radial_commitment": "radial force of commitment",
    "quantizer/radial_decay": "radial force of weight decay",
    "quantizer/changed_codes": "tokens that change code in a step",
    "optim/grad_norm": "gradient norm before clipping",
    "optim/lr": "learning rate",
    "optim/skipped_steps": "skipped steps, not finite",
    "warnings/loss_spikes": "jumps of the loss",
    "warnings/collapses": "collapses of the codebook",
}
LEVEL_NAMES = {"usage": "code usage of each level"}
SHARES = ("code usage", "share of patches")  # first words of chart titles for shares
QUANTILES = {"p05": "5 %", "p50": "median", "p95": "95 %"}
_QUANTILE = re.compile(rf"(.+)_({'|'.join(QUANTILES)})")
_LEVEL = re.compile(r"codebook/level_(\d+)/(\w+)")


class Chart(NamedTuple):
    """A chart with a title and lines."""

    title: str
    lines: tuple[Line, ...]

    def draw(self) -> Markup:
        """Return the chart as SVG; for shares, the y-axis starts at 0."""
        return line_chart(self.title, self.lines, zero=self.title.startswith(SHARES))


class CurveGroup(NamedTuple):
    """The charts of a group, and a sentence on omitted curves ("" if there are none)."""

    heading: str
    note: str
    charts: tuple[Chart, ...]
    left_out: str


def grouped(curves: Mapping[str, Points]) -> Iterator[CurveGroup]:
    """Yield the groups of logged metrics (such as `loss/…`), with the groups in `GROUPS` first.

    Charts in which no line ever changes are replaced by text with the last values. Of the metrics
    `time/…`, only those in `WALL_CLOCK` are included.
    """
    shown = {
        name: points
        for name, points in curves.items()
        if not name.startswith("time/") or name in WALL_CLOCK
    }
    found = {name.partition("/")[0] for name in shown}
    for key in [*(name for name in GROUPS if name in found), *sorted(found - GROUPS.keys())]:
        group = GROUPS.get(key, Group(key, ""))
        charts: dict[str, list[Line]] = {}
        for name, points in shown.items():
            if name.partition("/")[0] == key:
                title, line = in_words(name)
                charts.setdefault(title, []).append(Line(line, points))
        moving = {title: lines for title, lines in charts.items() if any(map(_moves, lines))}
        still = [
            f"{title}{f', {line.name}' if line.name else ''}: {short(line.points[-1][1])}"
            for title, lines in charts.items()
            if title not in moving
            for line in lines
        ]
        yield CurveGroup(
            *group,
            tuple(Chart(title, tuple(lines)) for title, lines in moving.items()),
            f"Without a curve, because nothing changed: {'; '.join(still)}." if still else "",
        )


def in_words(name: str) -> tuple[str, str]:
    """Return the chart title for a logged metric, and the name of the metric's line."""
    if found := _LEVEL.fullmatch(name):
        level, quantity = found.groups()
        title = LEVEL_NAMES.get(quantity, f"{_spaced(quantity)} of each level")
        return title, f"level {int(level) + 1}"
    if found := _QUANTILE.fullmatch(name):
        return in_words(found[1])[0], QUANTILES[found[2]]
    if name in NAMES:
        return NAMES[name], ""
    group, _, quantity = name.partition("/")
    words = _spaced(quantity or group)
    if group == "loss":
        return f"{words} loss", ""
    return (f"weight of the {words} loss" if group == "weight" else words), ""


def _moves(line: Line) -> bool:
    return len({y for _, y in line.points}) > 1


def _spaced(name: str) -> str:
    return name.replace("_", " ")
