"""Arguments that several verbs share."""

import argparse
import os
from pathlib import Path

from video_vq.arguments import fraction, positive, seconds
from video_vq.config import check_config, config_names
from video_vq.errors import ConfigError, InputError
from video_vq.media.reading import Reading
from video_vq.models.model_folder import read_model_config
from video_vq.models.prior_config import ParallelSettings, SamplingSettings
from video_vq.models.starter import named


def add_config(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add `--config` and the overrides."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME",
        help=f"a .yaml file, or the name of a shipped config: {', '.join(config_names(kind))}",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="section.key=value",
        help="settings that replace those of the config, such as optim.lr=1e-4 (default: none)",
    )


def add_out(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--out`."""
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help=what)


def add_allow_change(parser: argparse.ArgumentParser) -> None:
    """Add `--allow-change`."""
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="NAME",
        help="setting that a resumed run may change, as the error names it (config.optim.steps, "
        "world_size, …); may be given several times; run.json records it (default: none)",
    )


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add `--dry-run`."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the settings, sizes, rates and memory of the training, without training",
    )
    parser.add_argument(
        "--time",
        action="store_true",
        help="with --dry-run: run 15 steps in a temporary folder, and print how long the training "
        "will take on this machine",
    )


def require_dry_run_to_time(arguments: argparse.Namespace) -> None:
    """Refuse `--time` where it would start a training run.

    Raises:
        ConfigError: `--dry-run` is missing.
    """
    if arguments.time and not arguments.dry_run:
        raise ConfigError("--time needs --dry-run: a training itself shows the time that is left")


def add_trackers(parser: argparse.ArgumentParser) -> None:
    """Add `--tracker`."""
    parser.add_argument(
        "--tracker",
        action="append",
        choices=("tensorboard", "wandb", "trackio", "none"),
        help="tracker that shows the run, besides metrics.jsonl; may be given several times "
        "(default: tensorboard where it is installed)",
    )


def add_tokenizer(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add `--tokenizer`, which is required unless there is a default."""
    parser.add_argument(
        "--tokenizer",
        required=default is None,
        default=default,
        type=named,
        metavar="DIR",
        help="a trained tokenizer: its folder, the run folder that it is in, or `starter`, the one "
        "that comes with the package" + ("" if default is None else f" (default: {default})"),
    )


def add_prior(parser: argparse.ArgumentParser) -> None:
    """Add `--prior`."""
    parser.add_argument(
        "--prior",
        required=True,
        type=Path,
        metavar="DIR",
        help="a trained prior: its folder, or the run folder that it is in",
    )


def add_sampling(parser: argparse.ArgumentParser, classes: str) -> None:
    """Add the options that say how tokens are drawn, for which class, and from which seed."""
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
        help="weight of classes and actions: 0 ignores them, 1 is as trained, more sharpens them "
        "(default: 1.0)",
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
    """Add the options for drawing several tokens at once from a masked prior."""
    parser.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help="of a masked prior: passes for a clip, each of which draws several tokens; at most "
        "its number of tokens (default: 12)",
    )
    parser.add_argument(
        "--confidence-temperature",
        type=float,
        metavar="T",
        help="of a masked prior: noise in the choice of the tokens that a step keeps; 0 keeps the "
        "surest (default: 4.5)",
    )


def parallel_settings(arguments: argparse.Namespace) -> ParallelSettings | None:
    """Return the settings given to the options of `add_parallel`; None if there are none.

    Raises:
        ConfigError: a number is out of range.
    """
    named = {
        "steps": arguments.steps,
        "confidence_temperature": arguments.confidence_temperature,
    }
    chosen = {name: value for name, value in named.items() if value is not None}
    return check_config(ParallelSettings, chosen, "sampling") if chosen else None


def add_length(parser: argparse.ArgumentParser, what: str, default: str) -> None:
    """Add the options for the length of samples."""
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
        help="with --seconds: latent frames that each window of the prior adds; fewer see more of "
        "the past and take longer (default: half of a clip's)",
    )


def require_seconds_to_stride(arguments: argparse.Namespace) -> None:
    """Refuse `--window-stride` where no window slides.

    Raises:
        ConfigError: there is no `--seconds`.
    """
    if arguments.window_stride is not None and arguments.seconds is None:
        raise ConfigError("--window-stride needs --seconds: without it a sample is one window")


def sampling_settings(arguments: argparse.Namespace) -> SamplingSettings:
    """Return the settings given to the options of `add_sampling`.

    Raises:
        ConfigError: a number is out of range.
    """
    return check_config(
        SamplingSettings,
        {
            "temperature": arguments.temperature,
            "top_k": arguments.top_k,
            "top_p": arguments.top_p,
            "guidance": arguments.guidance,
        },
        "sampling",
    )


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
    """Refuse a missing tokenizer or prior, or another kind of model, before torch is loaded.

    Raises:
        InputError: one of them does not fit; the message says what was found and what was expected.
    """
    read_model_config(arguments.tokenizer, "tokenizer")
    if getattr(arguments, "prior", None) is not None:
        read_model_config(arguments.prior, "prior")


def require_new_video(path: Path, source: Path) -> None:
    """Refuse a video that exists already, before anything is computed; write nothing.

    Raises:
        InputError: the name's ending is unknown or has no encoder here, the file exists, or its
            folder cannot be written.
    """
    from video_vq.media.encode import require_video_name
    from video_vq.stores.places import require_not_input, require_writable

    require_video_name(path)
    require_not_input(path, {"video": source})
    if os.path.exists(path):
        raise InputError(f"{path}: already exists; remove it, or name another file")
    require_writable(path.parent)


def require_video(path: Path, reading: Reading) -> None:
    """Refuse anything that is not a video, as far as that is known without decoding.

    Raises:
        InputError: it is not a video, and the message says what it is; or the video does not need
            one of the options of `reading`.
    """
    from video_vq.media.sources import VideoFile, require_needed, source_of

    source = source_of(path, reading)
    if isinstance(source, VideoFile) and not path.is_file():
        raise InputError(f"{path}: no such file; name a video")
    require_needed(source, reading)
