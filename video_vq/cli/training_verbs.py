"""Code shared by `train-tokenizer` and `train-prior`: the options and the training run."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

from video_vq.arguments import add_json, print_json
from video_vq.cli import following, options
from video_vq.cli.recorded import go_on_as_recorded
from video_vq.config import config_names, find_config, load_config, to_json
from video_vq.errors import ConfigError
from video_vq.machine import is_main_rank
from video_vq.models.model_folder import Kind
from video_vq.stores.lock import require_free
from video_vq.stores.places import require_writable
from video_vq.training.finished import finished_by_same_command
from video_vq.training.screen import lasting_screen
from video_vq.training.stop_request import StopRequest

Config = TypeVar("Config")


def add_options(parser: argparse.ArgumentParser, kind: Kind, data: str, store: str) -> None:
    """Add all options for training.

    Args:
        parser: parser of the subcommand.
        kind: kind of model that the subcommand trains.
        data: flag for the training data, such as `--data`.
        store: description of the training data, for the help text.
    """
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
    parser.add_argument(data, required=True, type=Path, metavar="STORE", help=store)
    options.add_out(parser, "the run folder; run the same command again to resume")
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="NAME",
        help="setting that a resumed run may change, as named in the error "
        "(config.optim.steps, world_size, …); may be given several times; run.json "
        "records it (default: none)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the sizes, rates, steps and memory of the training, without training; with "
        "--json its settings, too",
    )
    parser.add_argument(
        "--time",
        action="store_true",
        help="with --dry-run: run 15 steps in a temporary folder, and print how long the training "
        "will take on this machine",
    )
    parser.add_argument(
        "--tracker",
        action="append",
        choices=("tensorboard", "wandb", "trackio", "none"),
        help="tracker that shows the run, besides metrics.jsonl; may be given several times "
        "(default: tensorboard, if it is installed)",
    )
    add_json(parser, "the model's path, or with --dry-run all numbers,")


def read_config(arguments: argparse.Namespace, kind: Kind, of: type[Config]) -> Config:
    """Return the config that the arguments name, with the overrides applied.

    Args:
        arguments: parsed options from `add_options`.
        kind: kind of model that the subcommand trains.
        of: settings dataclass of the config.

    Raises:
        ConfigError: the config cannot be used, or `--time` is given without `--dry-run`.
    """
    if arguments.time and not arguments.dry_run:
        raise ConfigError("--time needs --dry-run: a training run itself shows the time left")
    return load_config(of, find_config(arguments.config, kind), arguments.settings)


def run_training(
    arguments: argparse.Namespace,
    kind: Kind,
    config: Any,
    data: Path,
    data_hash: str,
    next_words: Callable[[], tuple[str | Path, ...]],
) -> int:
    """Train a model, or only print the plan with `--dry-run`, and return the exit status.

    If an equal run has already finished in the output folder, only print the path of its model.

    Args:
        arguments: parsed options from `add_options`.
        kind: kind of model to train.
        config: checked training config.
        data: store with the training data.
        data_hash: content hash of the store.
        next_words: function that returns the words of the next command.
    """
    out = arguments.out

    def say_ended(model: Path | None, text: str) -> None:
        """Print the path of the trained model, or that training was stopped if `model` is None."""
        if not is_main_rank():
            return
        if arguments.json:
            print_json({"kind": kind, "model": model, "run": out, "steps": config.optim.steps})
        elif model is not None:
            print(f"{text}{kind}: {model}")
            following.say_next(*next_words())
        elif arguments.quiet:  # otherwise the training run has already printed this message
            print("stopped before the end; the same command resumes")

    go_on_as_recorded(out)
    if arguments.dry_run:
        from video_vq.inspect.dry_run import plan_prior, plan_tokenizer

        plan = plan_tokenizer if kind == "tokenizer" else plan_prior
        found = plan(config, data, arguments.time)
        if is_main_rank() and arguments.json:
            print_json(found.to_json())
        elif is_main_rank():
            print(found.text())
        return 0
    require_free(out)
    finished = finished_by_same_command(out, kind, to_json(config), data_hash)
    if finished is not None:
        say_ended(finished, f"already finished: {finished}\n")
        return 0
    if not (out / "run.json").exists():  # a run may resume on a full disk
        require_writable(out)
    with StopRequest() as request, lasting_screen():  # before torch is loaded, which takes seconds
        from video_vq.training.prior import train_prior
        from video_vq.training.tokenizer import train_tokenizer
        from video_vq.training.trackers import chosen_trackers

        train = train_tokenizer if kind == "tokenizer" else train_prior
        trackers = chosen_trackers(arguments.tracker)
        with _stdout_aside(arguments.quiet, arguments.json):
            folder = train(config, data, out, trackers, arguments.allow_change, request)
        say_ended(folder, "")
        request.ignore_echo()
    return 0


@contextmanager
def _stdout_aside(quiet: bool, json: bool) -> Iterator[None]:
    """Discard a block's stdout if `quiet`, or redirect stdout to stderr if `json`."""
    if quiet:
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing):
            yield
    else:
        with redirect_stdout(sys.stderr if json else sys.stdout):
            yield
