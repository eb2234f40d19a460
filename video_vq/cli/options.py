"""Options that several subcommands share."""

import argparse
import os
from pathlib import Path
from typing import Any

from video_vq.arguments import fraction, positive, seconds
from video_vq.config import check_config
from video_vq.errors import ConfigError, InputError
from video_vq.media.reading import Reading
from video_vq.models.model_folder import Kind, read_model_config
from video_vq.models.prior_config import ParallelSettings, SamplingSettings
from video_vq.models.starter import named


def add_out(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--out`; `what` is the help text."""
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help=what)


def add_model(parser: argparse.ArgumentParser, kind: Kind, default: str | None = None) -> None:
    """Add `--tokenizer` or `--prior`, depending on `kind`; required unless there is a default."""
    starter = ", or `starter`, the package's own if it has one" if kind == "tokenizer" else ""
    parser.add_argument(
        f"--{kind}",
        required=default is None,
        default=default,
        type=named if kind == "tokenizer" else Path,
        metavar="DIR",
        help=f"a trained {kind}: its folder, or the run folder that contains it{starter}"
        + ("" if default is None else f" (default: {default})"),
    )


def add_sampling(parser: argparse.ArgumentParser, classes: str) -> None:
    """Add the sampling options: class, temperature, top-k, top-p, guidance, seed and precision.

    Args:
        parser: parser of the subcommand.
        classes: help text for `--class`.
    """
    parser.add_argument("--class", dest="label", help=classes)
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="number that divides the logits: below 1 samples are safer, above 1 more varied "
        "(default: 1.0)",
    )
    parser.add_argument(
        "--top-k",
        type=positive,
        metavar="K",
        help="draw only among the K likeliest tokens (default: all)",
    )
    parser.add_argument(
        "--top-p",
        type=fraction,
        default=1.0,
        metavar="P",
        help="draw only among the likeliest tokens that together have this probability (default: "
        "1.0)",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        metavar="W",
        help="weight of classes and actions: 0 ignores them, 1 is as trained, and larger "
        "values sharpen them (default: 1.0)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed; sample i is drawn with N + i (default: 0)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of the prior's weights, cache and products (default: float32)",
    )


def add_parallel(parser: argparse.ArgumentParser) -> None:
    """Add the options for sampling several tokens at once from a masked prior."""
    parser.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help="for a masked prior: number of passes per clip, each of which draws several "
        "tokens; at most the number of tokens (default: 12)",
    )
    parser.add_argument(
        "--confidence-temperature",
        type=float,
        metavar="T",
        help="for a masked prior: noise in the choice of the tokens that a step keeps; 0 keeps "
        "the most certain (default: 4.5)",
    )


def add_length(parser: argparse.ArgumentParser, what: str, default: str) -> None:
    """Add the options for the length of samples.

    Args:
        parser: parser of the subcommand.
        what: description of the length, for the help text.
        default: description of the default length, for the help text.
    """
    parser.add_argument(
        "--seconds",
        type=seconds,
        metavar="S",
        help=f"{what}, rounded up to whole latent frames; any length, for a causal tokenizer "
        f"(default: {default})",
    )
    parser.add_argument(
        "--window-stride",
        type=positive,
        metavar="K",
        help="with --seconds: number of latent frames that each window of the prior adds; "
        "fewer use more of the past and take longer (default: half of a clip's)",
    )


def drawing(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options for sampling, masked priors, length and actions as fields of `Drawing`.

    `Drawing` is a dataclass in `video_vq.stages.sample_job`.

    Raises:
        ConfigError: a number is out of range, or `--window-stride` is given without `--seconds`.
    """
    names = ("temperature", "top_k", "top_p", "guidance")
    settings = {name: getattr(arguments, name) for name in names}
    names = ("steps", "confidence_temperature")
    parallel = {name: getattr(arguments, name) for name in names}
    parallel = {name: value for name, value in parallel.items() if value is not None}
    found = {
        "settings": check_config(SamplingSettings, settings, "sampling"),
        "parallel": check_config(ParallelSettings, parallel, "sampling") if parallel else None,
    }
    if arguments.window_stride is not None and arguments.seconds is None:
        raise ConfigError("--window-stride needs --seconds: without it a sample is one window")
    names = ("label", "seed", "dtype", "actions", "seconds", "window_stride")
    return {**found, **{name: getattr(arguments, name) for name in names}}


def add_batch_size(parser: argparse.ArgumentParser, default: int = 16) -> None:
    """Add `--batch-size`."""
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=default,
        metavar="N",
        help=f"number of clips at a time on each process (default: {default})",
    )


def add_short_videos(parser: argparse.ArgumentParser) -> None:
    """Add `--short-videos`."""
    parser.add_argument(
        "--short-videos",
        choices=("leave_out", "repeat_last", "loop"),
        default="leave_out",
        help="what to do with videos shorter than a clip: leave them out, repeat their last "
        "frame, or loop them until the clip is full (default: leave_out)",
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add `--network`."""
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="the feature network: jedi=FILE,FILE or videomae=FILE with its published weights, or "
        "your own code as module:function (default: I3D, as published)",
    )


def require_models(arguments: argparse.Namespace) -> None:
    """Raise an error if a model is missing or of the wrong kind, before torch is loaded.

    Raises:
        InputError: the tokenizer, or the prior if given, is missing or of the wrong kind; the
            message says what was found and what was expected.
    """
    read_model_config(arguments.tokenizer, "tokenizer")
    if getattr(arguments, "prior", None) is not None:
        read_model_config(arguments.prior, "prior")


def require_new_video(path: Path, source: Path) -> None:
    """Raise an error if an output video cannot be written, before anything is computed.

    Args:
        path: the output video.
        source: the input video.

    Raises:
        InputError: the file extension is unknown or has no encoder on this machine, the output is
            the input, the output already exists, or its folder cannot be written.
    """
    from video_vq.media.encode import require_video_name
    from video_vq.stores.places import require_not_input, require_writable

    require_video_name(path)
    require_not_input(path, {"video": source})
    if os.path.exists(path):
        raise InputError(f"{path}: already exists; remove it, or name another file")
    require_writable(path.parent)


def require_video(path: Path, reading: Reading) -> None:
    """Raise an error if a path is recognizably not a video, without decoding the file.

    Args:
        path: the input video.
        reading: settings for reading frame folders and arrays.

    Raises:
        InputError: the path is not a video, in which case the message says what was found; or
            `reading` sets an option that the video does not need.
    """
    from video_vq.media.sources import VideoFile, require_needed, source_of

    source = source_of(path, reading)
    if isinstance(source, VideoFile) and not path.is_file():
        raise InputError(f"{path}: no such file; name a video")
    require_needed(source, reading)
