"""`video-vq train-prior`: token store to prior."""

import argparse
import os
from pathlib import Path

from video_vq.cli import following, options
from video_vq.cli.recorded import go_on_as_recorded
from video_vq.config import find_config, load_config, to_json
from video_vq.stores.lock import require_free
from video_vq.stores.places import require_not_input, require_writable
from video_vq.stores.tokens import TokenStore
from video_vq.training.finished import finished_by_same_command
from video_vq.training.screen import lasting_screen
from video_vq.training.stop_request import StopRequest
from video_vq.training.training_config import PriorTrainingConfig


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "train-prior",
        help="train a prior on a token store",
        examples=(
            "video-vq train-prior --config video64 --tokens tokens --out runs/prior",
            "video-vq train-prior --config video64 --tokens tokens --out runs/prior "
            "optim.steps=500 optim.lr=1e-4",
        ),
    )
    options.add_config(parser, "prior")
    parser.add_argument(
        "--tokens", required=True, type=Path, metavar="STORE", help="a token store (encode)"
    )
    options.add_out(parser, "the run folder; the same command again resumes it")
    options.add_allow_change(parser)
    options.add_dry_run(parser)
    options.add_trackers(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check the configuration, then train."""
    options.require_dry_run_to_time(arguments)
    path = find_config(arguments.config, "prior")
    config = load_config(PriorTrainingConfig, path, arguments.settings)
    # What is wrong with the paths is said before torch is loaded.
    require_not_input(arguments.out, {"token store": arguments.tokens})
    store = TokenStore(arguments.tokens)
    for split in ("train", "val"):
        store.rows(split)
    go_on_as_recorded(arguments.out)
    if arguments.dry_run:
        from video_vq.inspect.dry_run import plan_prior

        text = plan_prior(config, arguments.tokens, arguments.time)
        if os.environ.get("RANK", "0") == "0":
            print(text)
        return 0
    require_free(arguments.out)
    finished = finished_by_same_command(arguments.out, "prior", to_json(config), store.content_hash)
    if finished is not None:
        _say_finished(arguments, store, f"already finished: {finished}\nprior: {finished}")
        return 0
    if not (arguments.out / "run.json").exists():  # a run that goes on may do so on a full disk
        require_writable(arguments.out)
    with StopRequest() as request, lasting_screen():  # before torch is loaded, which takes seconds
        from video_vq.training.prior import train_prior
        from video_vq.training.trackers import chosen_trackers

        folder = train_prior(
            config,
            arguments.tokens,
            arguments.out,
            chosen_trackers(arguments.tracker),
            arguments.allow_change,
            request,
        )
        if folder is not None:
            _say_finished(arguments, store, f"prior: {folder}")
        request.ignore_echo()
    return 0


def _say_finished(arguments: argparse.Namespace, store: TokenStore, text: str) -> None:
    """Say on rank 0 where the prior is, and the command that samples from it."""
    if os.environ.get("RANK", "0") != "0":
        return
    print(text)
    near = (arguments.out, arguments.tokens)
    tokenizer = following.tokenizer_of(store.header.tokenizer_hash, near)
    samples = following.beside(arguments.out, "samples")
    following.say_next(
        *("video-vq", "sample", "--prior", arguments.out),
        *("--tokenizer", tokenizer, "--out", samples),
    )
