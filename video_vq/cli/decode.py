"""`video-vq decode`: turns a token store into a clip store."""

import argparse
from pathlib import Path

from video_vq.arguments import add_json, print_json
from video_vq.cli import following, options
from video_vq.cli.recorded import go_on_as_recorded
from video_vq.machine import is_main_rank
from video_vq.models.model_folder import read_model_config
from video_vq.stores.lock import require_free
from video_vq.stores.places import require_out


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `decode` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "decode",
        help="turn a token store back into clips",
        examples=("video-vq decode tokens --tokenizer runs/tokenizer --out decoded",),
    )
    parser.add_argument("tokens", type=Path, metavar="TOKENS", help="a token store (encode)")
    options.add_model(parser, "tokenizer")
    options.add_out(parser, "the clip store; run the same command again to resume")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), help="decode only this split (default: all)"
    )
    options.add_batch_size(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Decode a token store, print the result, and return the exit status."""
    require_out(arguments.out, {"token store": arguments.tokens, "tokenizer": arguments.tokenizer})
    read_model_config(arguments.tokenizer, "tokenizer")
    require_free(arguments.out)
    go_on_as_recorded(arguments.out)
    from video_vq.stages.decode_job import DecodeJob, finished_clips

    job = DecodeJob(
        arguments.tokens, arguments.tokenizer, arguments.out, arguments.split, arguments.batch_size
    )
    store = finished_clips(job)
    if store is None:
        from video_vq.distributed import holding, make_accelerator
        from video_vq.stages.decode_tokens import decode_store

        accelerator = make_accelerator()
        with holding(accelerator, arguments.out):
            store = decode_store(accelerator, job)
    if is_main_rank() and arguments.json:
        print_json({"out": arguments.out, "clips": len(store.videos)})
    elif is_main_rank():
        print(f"{len(store.videos)} clips: {arguments.out}")
        following.say_next(*following.verify_words(arguments.out))
    return 0
