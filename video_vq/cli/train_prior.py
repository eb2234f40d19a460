"""`video-vq train-prior`: trains a prior on a token store."""

import argparse
from pathlib import Path

from video_vq.cli import following, training_verbs
from video_vq.stores.places import beside, require_not_input
from video_vq.stores.tokens import TokenStore
from video_vq.training.training_config import PriorTrainingConfig


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `train-prior` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "train-prior",
        help="train a prior on a token store",
        examples=(
            "video-vq train-prior --config video64 --tokens tokens --out runs/prior",
            "video-vq train-prior --config video64 --tokens tokens --out runs/prior "
            "optim.steps=500 optim.lr=1e-4",
        ),
    )
    training_verbs.add_options(parser, "prior", "--tokens", "a token store (encode)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check the configuration and the data, train, and return the exit status."""
    config = training_verbs.read_config(arguments, "prior", PriorTrainingConfig)
    # Wrong paths are reported before torch is loaded.
    require_not_input(arguments.out, {"token store": arguments.tokens})
    store = TokenStore(arguments.tokens)
    for split in ("train", "val"):
        store.rows(split)

    def sample() -> tuple[str | Path, ...]:
        near = (arguments.out, arguments.tokens)
        tokenizer = following.tokenizer_of(store.header.tokenizer_hash, near)
        words = ("video-vq", "sample", "--prior", arguments.out, "--tokenizer", tokenizer)
        return (*words, "--out", beside(arguments.tokens, "samples"))

    return training_verbs.run_training(
        arguments, "prior", config, arguments.tokens, store.content_hash, sample
    )
