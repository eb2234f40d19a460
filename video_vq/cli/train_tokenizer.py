"""`video-vq train-tokenizer`: trains a tokenizer on a clip store."""

import argparse
from pathlib import Path

from video_vq.cli import training_verbs
from video_vq.stores.clips import ClipStore
from video_vq.stores.places import beside, require_not_input
from video_vq.training.training_config import TokenizerTrainingConfig


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `train-tokenizer` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "train-tokenizer",
        help="train a tokenizer on a clip store",
        examples=(
            "video-vq train-tokenizer --config video64 --data clips --out runs/tokenizer",
            "video-vq train-tokenizer --config video64 --data clips --out runs/tokenizer "
            "optim.steps=500 optim.lr=1e-4",
        ),
    )
    training_verbs.add_options(parser, "tokenizer", "--data", "a clip store (data-prep)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check the configuration and the data, train, and return the exit status."""
    config = training_verbs.read_config(arguments, "tokenizer", TokenizerTrainingConfig)
    # Wrong paths are reported before torch is loaded.
    require_not_input(arguments.out, {"clip store": arguments.data})
    store = ClipStore(arguments.data)
    for split in ("train", "val"):
        store.indices(split)

    def encode() -> tuple[str | Path, ...]:
        tokens = beside(arguments.data, "tokens")
        words = ("video-vq", "encode", arguments.data, "--tokenizer", arguments.out)
        return (*words, "--out", tokens)

    return training_verbs.run_training(
        arguments, "tokenizer", config, arguments.data, store.content_hash, encode
    )
