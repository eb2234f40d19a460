"""`video-vq train-tokenizer`: clip store to tokenizer."""

import argparse
import os
from pathlib import Path

from video_vq.cli import following, options
from video_vq.cli.recorded import go_on_as_recorded
from video_vq.config import find_config, load_config, to_json
from video_vq.stores.clips import ClipStore
from video_vq.stores.lock import require_free
from video_vq.stores.places import require_not_input, require_writable
from video_vq.training.finished import finished_by_same_command
from video_vq.training.screen import lasting_screen
from video_vq.training.stop_request import StopRequest
from video_vq.training.training_config import TokenizerTrainingConfig


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "train-tokenizer",
        help="train a tokenizer on a clip store",
        examples=(
            "video-vq train-tokenizer --config video64 --data clips --out runs/tokenizer",
            "video-vq train-tokenizer --config video64 --data clips --out runs/tokenizer "
            "optim.steps=500 optim.lr=1e-4",
        ),
    )
    options.add_config(parser, "tokenizer")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="STORE", help="a clip store (data-prep)"
    )
    options.add_out(parser, "the run folder; the same command again resumes it")
    options.add_allow_change(parser)
    options.add_dry_run(parser)
    options.add_trackers(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check the configuration, then train."""
    options.require_dry_run_to_time(arguments)
    path = find_config(arguments.config, "tokenizer")
    config = load_config(TokenizerTrainingConfig, path, arguments.settings)
    # What is wrong with the paths is said before torch is loaded.
    require_not_input(arguments.out, {"clip store": arguments.data})
    store = ClipStore(arguments.data)
    for split in ("train", "val"):
        store.indices(split)
    go_on_as_recorded(arguments.out)
    if arguments.dry_run:
        from video_vq.inspect.dry_run import plan_tokenizer

        text = plan_tokenizer(config, arguments.data, arguments.time)
        if os.environ.get("RANK", "0") == "0":
            print(text)
        return 0
    require_free(arguments.out)
    finished = finished_by_same_command(
        arguments.out, "tokenizer", to_json(config), store.content_hash
    )
    if finished is not None:
        _say_finished(arguments, f"already finished: {finished}\ntokenizer: {finished}")
        return 0
    if not (arguments.out / "run.json").exists():  # a run that goes on may do so on a full disk
        require_writable(arguments.out)
    with StopRequest() as request, lasting_screen():  # before torch is loaded, which takes seconds
        from video_vq.training.tokenizer import train_tokenizer
        from video_vq.training.trackers import chosen_trackers

        folder = train_tokenizer(
            config,
            arguments.data,
            arguments.out,
            chosen_trackers(arguments.tracker),
            arguments.allow_change,
            request,
        )
        if folder is not None:
            _say_finished(arguments, f"tokenizer: {folder}")
        request.ignore_echo()
    return 0


def _say_finished(arguments: argparse.Namespace, text: str) -> None:
    """Say on rank 0 where the tokenizer is, and the command that encodes the same clips with it."""
    if os.environ.get("RANK", "0") != "0":
        return
    print(text)
    tokens = following.beside(arguments.out, "tokens")
    following.say_next(
        *("video-vq", "encode", arguments.data),
        *("--tokenizer", arguments.out, "--out", tokens),
    )
