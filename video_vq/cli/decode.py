"""`video-vq decode`: token store to clip store."""

import argparse
from pathlib import Path

from video_vq.cli import options
from video_vq.cli.recorded import go_on_as_recorded
from video_vq.stores.lock import require_free


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser("decode", help="turn a token store back into clips")
    parser.add_argument("tokens", type=Path, metavar="TOKENS", help="a token store (encode)")
    options.add_tokenizer(parser)
    options.add_out(parser, "the clip store; the same command again goes on")
    parser.add_argument("--split", choices=("train", "val", "test"), help="decode this one alone")
    options.add_batch_size(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Decode."""
    require_free(arguments.out)
    go_on_as_recorded(arguments.out)
    from video_vq.evaluation.finished import finished_clips

    models = arguments.tokens, arguments.tokenizer
    how = arguments.split, arguments.batch_size
    store = finished_clips(arguments.out, *models, *how)
    if store is None:
        from video_vq.evaluation.decode import decode_store
        from video_vq.training.distributed import holding, make_accelerator

        accelerator = make_accelerator()
        with holding(accelerator, arguments.out):
            store = decode_store(accelerator, *models, arguments.out, *how)
    print(f"{len(store.videos)} clips: {arguments.out}")
    return 0
