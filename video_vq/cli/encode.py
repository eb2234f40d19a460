"""`video-vq encode`: clip store to token store."""

import argparse
from pathlib import Path

from video_vq.cli import options


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser("encode", help="turn a clip store into a token store")
    parser.add_argument("data", type=Path, metavar="STORE", help="a clip store (data-prep)")
    options.add_tokenizer(parser)
    options.add_out(parser, "the token store; the same command again goes on")
    parser.add_argument(
        "--windows",
        choices=("all", "uniform", "random"),
        default="all",
        help="which clips of each video: all, or --clips-per-video of them, evenly spaced or drawn "
        "(default: all)",
    )
    parser.add_argument(
        "--clips-per-video", type=options.positive, metavar="N", help="of uniform and random"
    )
    parser.add_argument(
        "--hop",
        type=options.positive,
        metavar="FRAMES",
        help="of all: frames from one clip's start to the next in a video (default: no overlap)",
    )
    options.add_short_videos(parser)
    options.add_batch_size(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Encode."""
    from video_vq.config import check_config
    from video_vq.data.clip_config import ClipConfig
    from video_vq.stores.clips import ClipStore

    settings = {
        "windows": arguments.windows,
        "clips_per_video": arguments.clips_per_video,
        "hop": arguments.hop,
        "short_videos": arguments.short_videos,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    clips = check_config(ClipConfig, given, "encode")
    ClipStore(arguments.data)  # a wrong path is said before torch is loaded
    from video_vq.evaluation.encode import encode_store
    from video_vq.training.distributed import make_accelerator

    store = encode_store(
        make_accelerator(),
        arguments.data,
        arguments.tokenizer,
        arguments.out,
        clips,
        arguments.batch_size,
    )
    grid = "x".join(str(side) for side in store.header.grid_thw)
    print(f"{len(store)} clips of {grid} tokens: {arguments.out}")
    return 0
