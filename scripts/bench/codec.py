"""Compares the rate and distortion of tokenizers with those of video codecs on the same clips.

  python scripts/bench/codec.py --data clips --model small=runs/a,tokens-a,runs/prior-a \
    --model large=runs/b --out codec --picture codec.svg

  python scripts/bench/codec.py --join demo=codec footage=codec-footage --picture codec.svg

A tokenizer has up to two rates: that of its codes at a fixed length and, if a token store and an
autoregressive prior are given, that after the prior, at which an arithmetic coder would store the
codes. The rate of a codec is that of its payload, without the container. Existing results are not
computed again. With --join, the script only draws the results of earlier output folders, with a row
of panels for each score in --scores.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from video_vq.distributed import make_accelerator
from video_vq.errors import ConfigError, InputError
from video_vq.evaluation.codec_control import score_codec
from video_vq.evaluation.evaluate import evaluate
from video_vq.evaluation.evaluation_job import EvaluationJob, finished_scores, identity_of_scores
from video_vq.evaluation.evaluation_setup import EvaluationSetup
from video_vq.machine import asked_precision
from video_vq.media.codec import CODECS, CodecName, available_codecs
from video_vq.media.decode import pyav_version
from video_vq.metrics.perceptual import load_st_lpips
from video_vq.metrics.protocol import DEFAULT_PROTOCOL
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.files import read_json, write_json

Scores = dict[str, Any]
NUM_RATES = 7
REACH = 4.0  # the codecs' rates extend the range of the tokenizers' by this factor on both sides
FIXED = "fixed length"  # the rate of the codes themselves
CURVES = "curves.json"  # in --out: all points
PANELS = {"psnr": "PSNR, dB", "ssim": "SSIM", "st_lpips": "ST-LPIPS", "rfvd": "rFVD"}


class Model(NamedTuple):
    """A tokenizer to measure, with its token store and prior, if any."""

    name: str
    tokenizer: Path
    tokens: Path | None = None
    prior: Path | None = None


class Point(NamedTuple):
    """Bits per clip, and the scores at this rate."""

    bits: float
    scores: dict[str, float | None]


class Panel(NamedTuple):
    """The contents of a panel of the picture.

    Attributes:
        key: name of the score.
        models: points of each tokenizer, by the name of the rate.
        curves: points of each codec, in ascending order of bits.
    """

    key: str
    models: Mapping[str, Mapping[str, Point]]
    curves: Mapping[str, Sequence[Point]]


def read_model(text: str) -> Model:
    name, equals, paths = text.partition("=")
    parts = [Path(part) for part in paths.split(",")]
    if not equals or len(parts) not in (1, 3):
        raise ConfigError(f"--model {text}: write NAME=TOKENIZER or NAME=TOKENIZER,TOKENS,PRIOR")
    return Model(name, *parts)


def job_of(model: Model, options: argparse.Namespace) -> EvaluationJob:
    return EvaluationJob(
        data=options.data,
        tokenizer=model.tokenizer,
        protocol=DEFAULT_PROTOCOL,
        split=options.split,
        num_clips=options.num,
        tokens=model.tokens,
        prior=model.prior,
        st_lpips="alex" if options.st_lpips else None,
        network=options.network,
    )


def measure(models: Sequence[Model], options: argparse.Namespace) -> dict[str, Scores]:
    """Return the scores of every tokenizer by its name, and compute those that are missing.

    Raises:
        InputError: two tokenizers need clips of different lengths or strides.
    """
    accelerator = make_accelerator()
    found = {}
    for model in models:
        job, out = job_of(model, options), options.out / model.name
        identity = identity_of_scores(job, asked_precision())
        found[model.name] = finished_scores(out, identity) or evaluate(
            accelerator, job, out, identity
        )
    cuts = {name: (each["num_frames"], each["frame_stride"]) for name, each in found.items()}
    if len(set(cuts.values())) > 1:
        raise InputError(
            f"bits per clip are comparable only at one length and stride, found {cuts}"
        )
    return found


def measure_codecs(
    model: Model, scores: Scores, bits: Sequence[int], options: argparse.Namespace
) -> list[Scores]:
    """Return the scores of every codec at every rate, on the clips of one tokenizer.

    Args:
        scores: scores of the tokenizer, whose protocol the scores of the codecs must share.

    Raises:
        InputError: the output folder holds scores that were computed on other clips, with other
            settings, with another feature network, or with another version of PyAV.
    """
    identity = scores["identity"]
    shared = {key: identity[key] for key in ("data", "split", "num_clips", "protocol", "st_lpips")}
    shared |= {key: scores[key] for key in ("num_frames", "frame_stride", "network_sha256")}
    shared["pyav"] = pyav_version()
    path = options.out / "codecs.json"
    known: dict[str, Any] = {"shared": shared, "scores": []}
    if path.exists():
        known = read_json(path, "scores of codecs")
    if known.get("shared") != shared:
        raise InputError(
            f"{path}: holds scores of other clips, or those of another feature network or PyAV; "
            "name another --out"
        )
    done = {(one["codec"], one["bits_per_clip"]) for one in known["scores"]}
    names: tuple[CodecName, ...] = tuple(options.codecs or available_codecs())
    missing: list[tuple[CodecName, int]] = [
        (codec, rate) for codec in names for rate in bits if (codec, rate) not in done
    ]
    if missing:
        accelerator, job = make_accelerator(), job_of(model, options)
        tokenizer = VideoTokenizer.from_pretrained(model.tokenizer, device=accelerator.device)
        setup = EvaluationSetup(accelerator, job, tokenizer)
        st_lpips = load_st_lpips("alex").to(accelerator.device) if options.st_lpips else None
        for codec, rate in missing:
            known["scores"].append(score_codec(setup, st_lpips, codec, "asked", rate))
            write_json(path, known)
    asked = {(codec, rate) for codec in names for rate in bits}
    return [one for one in known["scores"] if (one["codec"], one["bits_per_clip"]) in asked]


def rates_around(models: Mapping[str, Scores]) -> list[int]:
    """Return log-spaced bits per clip, from below the tokenizers' lowest to above their highest."""
    bits = [point.bits for scores in models.values() for point in points_of(scores).values()]
    return [int(rate) for rate in np.geomspace(min(bits) / REACH, max(bits) * REACH, NUM_RATES)]


def points_of(scores: Scores) -> dict[str, Point]:
    """Return a tokenizer's points: at a fixed length and, if known, after the prior."""
    ours = scores["reconstruction"]
    values = _values(ours)
    points = {FIXED: Point(ours["bits_per_clip"], values)}
    if (bits := scores.get("prior", {}).get("bits_per_clip")) is not None:  # not of a masked prior
        points["after the prior"] = Point(bits, values)
    return points


def _values(scores: Scores) -> dict[str, float | None]:
    values = {key: scores[key]["mean"] for key in PANELS if key in scores and key != "rfvd"}
    return {**values, "rfvd": scores["rfvd"]["value"]}


def curves_of(codecs: Sequence[Scores]) -> dict[str, list[Point]]:
    """Return each codec's points by its title, in ascending order of bits."""
    curves: dict[str, list[Point]] = {}
    for one in codecs:
        curves.setdefault(one["title"], []).append(Point(one["payload_bits"], _values(one)))
    return {title: sorted(points, key=lambda point: point.bits) for title, points in curves.items()}


def at_bits(curve: Sequence[Point], bits: float, score: str) -> float | None:
    """Return a score at a rate, interpolated linearly in log bits; None outside the curve."""
    known = [
        (point.bits, value) for point in curve if (value := point.scores.get(score)) is not None
    ]
    if not known or not known[0][0] <= bits <= known[-1][0]:
        return None
    rates, values = zip(*known, strict=True)
    return float(np.interp(math.log(bits), np.log(rates), values))


def titles_of(models: Mapping[str, Scores]) -> dict[str, str]:
    """Return the titles of the available scores by key, naming rFVD's network if it is not I3D."""
    found = list(models.values())
    titles = {k: v for k, v in PANELS.items() if any(k in each["reconstruction"] for each in found)}
    network = found[0]["identity"].get("network")
    return titles if network is None else {**titles, "rfvd": f"rFVD on {network}"}


def markdown(models: Mapping[str, Scores], curves: Mapping[str, Sequence[Point]]) -> str:
    """Return a Markdown table with, for each tokenizer and rate, its scores and each codec's."""
    shown = titles_of(models)
    heads = list(shown.values())
    head = [
        "",
        "bits per clip",
        *heads,
        *(f"{name}: {title}" for name in curves for title in heads),
    ]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, scores in models.items():
        for rate, point in points_of(scores).items():
            ours = [point.scores.get(key) for key in shown]
            theirs = [at_bits(curve, point.bits, key) for curve in curves.values() for key in shown]
            cells = [f"{name}, {rate}", f"{point.bits:,.0f}", *map(_cell, [*ours, *theirs])]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(value: float | None) -> str:
    return "—" if value is None else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def panels_of(
    models: Mapping[str, Scores], curves: Mapping[str, Sequence[Point]]
) -> dict[str, Panel]:
    """Return a panel per score, by its title."""
    points = {name: points_of(scores) for name, scores in models.items()}
    return {title: Panel(key, points, curves) for key, title in titles_of(models).items()}


def read_panels(texts: Sequence[str], scores: Sequence[str]) -> list[dict[str, Panel]]:
    """Return a row of panels for each score, with a panel for each output folder.

    Args:
        texts: output folders of earlier runs, each as NAME=FOLDER.
        scores: keys of `PANELS`.

    Raises:
        ConfigError: a text is not of the form NAME=FOLDER.
        InputError: a folder holds no curves that can be read.
    """
    stores = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals:
            raise ConfigError(f"--join {text}: write NAME=FOLDER, of an earlier --out")
        found = read_json(Path(folder) / CURVES, "curves of codecs")
        models = {
            model: {rate: Point(*point) for rate, point in points.items()}
            for model, points in found["models"].items()
        }
        stores[name] = (
            models,
            {title: [Point(*p) for p in points] for title, points in found["curves"].items()},
        )
    return [
        {f"{name}: {PANELS[score]}": Panel(score, *store) for name, store in stores.items()}
        for score in scores
    ]


def picture(rows: Sequence[Mapping[str, Panel]], path: Path) -> None:
    """Draw rows of panels with scores over bits per clip: codecs as lines, tokenizers as points."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "codec", "svg.fonttype": "none"}
    size = (4.2 * len(rows[0]), 4.0 * len(rows))
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=size, squeeze=False)
    panels = [each for row in rows for each in row.items()]
    for axis, (title, panel) in zip(axes.flat, panels, strict=True):
        for codec, curve in sorted(panel.curves.items()):
            drawn = [(p.bits, v) for p in curve if (v := p.scores.get(panel.key)) is not None]
            if drawn:
                axis.plot(*zip(*drawn, strict=True), marker=".", label=codec)
        for number, (name, rates) in enumerate(sorted(panel.models.items())):
            colour = f"C{number + len(CODECS)}"
            places = {
                rate: (p.bits, v)
                for rate, p in sorted(rates.items())
                if (v := p.scores.get(panel.key)) is not None
            }
            axis.plot(*zip(*places.values(), strict=True), color=colour, linewidth=1)
            for rate, (bits, value) in places.items():
                fill, label = (colour, name) if rate == FIXED else ("white", None)
                axis.plot(bits, value, "D", color=colour, markerfacecolor=fill, label=label)
        axis.set(xlabel="bits per clip", title=title)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.suptitle("filled: codes at a fixed length; open: after the prior", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the clip store")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME=TOKENIZER[,TOKENS,PRIOR]",
        help="a tokenizer, with its token store and prior for the rate after the prior",
    )
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num", type=int, default=64, help="largest number of clips")
    parser.add_argument("--bits", type=int, nargs="+", help="the codecs' rates, bits per clip")
    parser.add_argument("--codecs", nargs="+", choices=list(CODECS), help="default: all available")
    parser.add_argument("--st-lpips", action="store_true", help="score ST-LPIPS, too")
    parser.add_argument("--network", metavar="MODULE:FUNCTION", help="network instead of I3D")
    parser.add_argument("--picture", type=Path, help="draw the curves into this file")
    parser.add_argument(
        "--join", nargs="+", metavar="NAME=OUT", help="draw the scores of measured folders"
    )
    parser.add_argument(
        "--scores",
        nargs="+",
        choices=list(PANELS),
        default=["psnr"],
        help="with --join: a row of panels for each (default: psnr)",
    )
    options = parser.parse_args(arguments)
    if options.join and options.picture:
        picture(read_panels(options.join, options.scores), options.picture)
        return
    if not (options.data and options.model and options.out):
        parser.error("needs --data, --model and --out, or --join and --picture")
    models = [read_model(text) for text in options.model]
    options.out.mkdir(parents=True, exist_ok=True)
    scores = measure(models, options)
    bits = sorted(options.bits or rates_around(scores))
    curves = curves_of(measure_codecs(models[0], scores[models[0].name], bits, options))
    points = {name: points_of(each) for name, each in scores.items()}
    write_json(options.out / CURVES, {"models": points, "curves": curves})
    print(markdown(scores, curves))
    if options.picture is not None:
        picture([panels_of(scores, curves)], options.picture)


if __name__ == "__main__":
    main()
