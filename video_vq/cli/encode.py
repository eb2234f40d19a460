"""`video-vq encode`: turns a clip store or raw videos into a token store."""

import argparse
import os
from pathlib import Path

from video_vq.arguments import add_json, positive, print_json, share
from video_vq.cli import folder_options, following, options
from video_vq.cli.recorded import go_on_as_recorded
from video_vq.machine import is_main_rank, num_cores
from video_vq.models import starter
from video_vq.stores.clips import SPLITS
from video_vq.stores.lock import require_free
from video_vq.stores.places import beside
from video_vq.stores.tokens import TokenStore
from video_vq.stores.videos import warning_of_empty_splits
from video_vq.training.finished import RUN

MANY_GRIDS = 10_000  # number of training grids from which the larger prior is suggested


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `encode` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "encode",
        help="turn a clip store, or raw videos, into a token store",
        description="Turn clips into tokens. DATA is a clip store, or a folder of videos, "
        "or a list "
        "of raw videos (`data-prep … --list-only`). Raw videos are decoded without "
        "keeping their pixels, and give the same tokens. A video is a file, a folder of "
        "numbered pictures, or an array.",
        examples=(
            "video-vq encode clips --tokenizer runs/tokenizer --out tokens",
            "video-vq encode my_videos --tokenizer runs/tokenizer --out tokens --size 64",
        ),
    )
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a clip store, a folder of videos, an array file, or a list of raw videos",
    )
    options.add_model(parser, "tokenizer")
    options.add_out(parser, "the token store; run the same command again to resume")
    parser.add_argument(
        "--windows",
        choices=("all", "uniform", "random"),
        default="all",
        help="clips to take from each video: all, or --clips-per-video of them, evenly spaced or "
        "drawn at random (default: all)",
    )
    parser.add_argument(
        "--clips-per-video",
        type=positive,
        metavar="N",
        help="number of clips per video; required by --windows uniform and random (default: none)",
    )
    parser.add_argument(
        "--hop",
        type=positive,
        metavar="FRAMES",
        help="number of frames from one clip's start to the next, with --windows all (default: no "
        "overlap)",
    )
    options.add_short_videos(parser)
    options.add_batch_size(parser)
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="number of processes per rank that decode raw videos (default: the cores, shared "
        "among the ranks of a machine; 1 with --engine ray)",
    )
    parser.add_argument(
        "--max-skipped",
        type=share,
        metavar="SHARE",
        help="fail if more than this share of the raw videos, and more than one, cannot be used; "
        "skipped.jsonl lists those left out, with the reason (default: the list's own share; 0.01 "
        "for a folder)",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: this process and the other ranks; ray: the cluster at RAY_ADDRESS, or Ray "
        "on this machine (default: local)",
    )
    folder_options.add(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Encode clips or raw videos, print the result, and return the exit status."""
    from video_vq.config import check_config
    from video_vq.data.clip_config import ClipConfig
    from video_vq.models.model_folder import read_model_config
    from video_vq.stages.clip_sources import require_data
    from video_vq.stores.places import require_out
    from video_vq.stores.shards import MANIFEST

    settings = {
        "windows": arguments.windows,
        "clips_per_video": arguments.clips_per_video,
        "hop": arguments.hop,
        "short_videos": arguments.short_videos,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    clips = check_config(ClipConfig, given, "encode")
    folder = folder_options.read(arguments)
    # Wrong paths are reported before torch is loaded.
    what = "clip store" if (arguments.data / MANIFEST).exists() else "folder of videos"
    require_out(arguments.out, {what: arguments.data, "tokenizer": arguments.tokenizer})
    require_data(arguments.data, folder.listing.extensions)
    read_model_config(arguments.tokenizer, "tokenizer")
    require_free(arguments.out)
    if arguments.engine == "ray":
        from video_vq.ray_tasks import require_ray

        require_ray()
    go_on_as_recorded(arguments.out)
    from video_vq.stages.encode_job import EncodeJob, finished_tokens

    on_ray = arguments.engine == "ray"
    cores_of_a_rank = max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    job = EncodeJob(
        data=arguments.data,
        tokenizer=arguments.tokenizer,
        out=arguments.out,
        clips=clips,
        batch_size=arguments.batch_size,
        workers=arguments.workers or (1 if on_ray else cores_of_a_rank),
        max_skipped=arguments.max_skipped,
        folder=folder,
    )
    store = finished_tokens(job)
    if store is None:
        from video_vq.distributed import holding, make_accelerator
        from video_vq.stages.encode_clips import encode_clips
        from video_vq.stages.encode_on_ray import encode_on_ray

        accelerator = make_accelerator()
        with holding(accelerator, arguments.out):
            if on_ray:
                store = encode_on_ray(make_accelerator, job)
            else:
                store = encode_clips(accelerator, job)
    if is_main_rank():
        _say_made(arguments, store)
    return 0


def _say_made(arguments: argparse.Namespace, store: TokenStore) -> None:
    if arguments.json:
        print_json(
            {
                "out": arguments.out,
                "clips": len(store),
                "grid_thw": store.header.grid_thw,
                "vocabulary": store.header.vocabulary,
                "num_action_dims": store.header.num_action_dims,
                "videos_left_out": store.num_skipped,
                "videos_with_notes": len(store.notes),
            }
        )
        return
    grid = "x".join(str(side) for side in store.header.grid_thw)
    numbers = store.header.num_action_dims
    steered = f", {numbers} numbers of actions for each latent frame" if numbers else ""
    print(f"{len(store)} clips of {grid} tokens{steered}: {arguments.out}")
    if store.num_skipped:
        left_out = "1 video was" if store.num_skipped == 1 else f"{store.num_skipped:,} videos were"
        print(f"{left_out} left out, see {arguments.out / 'skipped.jsonl'}")
    if store.notes:
        print(
            f"{len(store.notes)} videos have oddities, see the notes in "
            f"{arguments.out}/manifest.json"
        )
    if store.num_skipped and (missing := [name for name in SPLITS if name not in store.splits]):
        print(warning_of_empty_splits(missing, store.num_skipped))
    if {"train", "val"} <= store.splits:
        is_own = arguments.tokenizer != starter.FOLDER
        prior = beside(_run_of(arguments.tokenizer) if is_own else arguments.out, "prior")
        config = "small" if len(store.rows("train")) >= MANY_GRIDS else "video64"
        words = ("train-prior", "--config", config, "--tokens", arguments.out, "--out", prior)
    else:  # nothing to train on
        decoded = beside(arguments.out, "decoded")
        words = ("decode", arguments.out, "--tokenizer", arguments.tokenizer, "--out", decoded)
    following.say_next("video-vq", *words)


def _run_of(tokenizer: Path) -> Path:
    """Return the run folder that contains a tokenizer folder, or else the tokenizer folder."""
    return tokenizer.parent if (tokenizer.parent / RUN).is_file() else tokenizer
