"""`video-vq sample`: samples clips from a prior."""

import argparse
from pathlib import Path

from video_vq.arguments import add_json, positive, print_json
from video_vq.cli import following, options
from video_vq.cli.recorded import go_on_as_recorded
from video_vq.machine import is_main_rank
from video_vq.stores.lock import require_free
from video_vq.stores.places import beside


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `sample` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "sample",
        help="sample clips from a prior",
        examples=(
            "video-vq sample --prior runs/prior --tokenizer runs/tokenizer --out samples --num 32",
            "video-vq sample --prior runs/prior --tokenizer runs/tokenizer --out samples "
            "--given clips",
            "video-vq sample --prior runs/prior --tokenizer runs/tokenizer --out samples "
            "--seconds 60 --num 4",
        ),
    )
    options.add_model(parser, "prior")
    options.add_model(parser, "tokenizer")
    options.add_out(parser, "the clip store, with mp4s; run the same command again to resume")
    parser.add_argument(
        "--num",
        type=positive,
        metavar="N",
        help="number of samples (default: 64; with --given, --samples-per-clip for each video)",
    )
    parser.add_argument(
        "--given",
        type=Path,
        metavar="STORE",
        help="clip store whose videos' first frames are continued; the tokenizer must be causal "
        "(default: none)",
    )
    parser.add_argument(
        "--given-split",
        default="test",
        metavar="SPLIT",
        help="split of --given, and of a store of --actions (default: test)",
    )
    parser.add_argument(
        "--given-frames",
        type=positive,
        default=1,
        metavar="N",
        help="number of given frames (default: 1)",
    )
    parser.add_argument(
        "--given-as",
        choices=("true", "reconstruction"),
        default="true",
        help="whether a sample shows the given frames themselves or their reconstruction "
        "(default: true)",
    )
    parser.add_argument(
        "--samples-per-clip",
        type=positive,
        default=1,
        metavar="N",
        help="number of samples for each given video (default: 1)",
    )
    parser.add_argument(
        "--actions",
        type=Path,
        metavar="STORE|FILE",
        help="actions, for a prior that takes them: those of a clip store's videos (their split: "
        "--given-split), or a .npy or .csv with a row per frame (default: the given videos' own)",
    )
    options.add_parallel(parser)
    options.add_length(parser, "length of each sample", "a clip")
    options.add_sampling(parser, "name of the class to sample (default: all in turn)")
    options.add_batch_size(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Sample clips, print the result, and return the exit status."""
    drawing = options.drawing(arguments)
    options.require_models(arguments)
    _require_places(arguments)
    require_free(arguments.out)
    go_on_as_recorded(arguments.out)
    from video_vq.stages.sample_job import (
        DEFAULT_FPS,
        VIDEOS,
        FramesToGive,
        SampleJob,
        finished_samples,
        write_videos,
    )

    given = None
    if arguments.given is not None:
        given = FramesToGive(
            arguments.given, arguments.given_split, arguments.given_frames, arguments.given_as
        )
    job = SampleJob(
        prior=arguments.prior,
        tokenizer=arguments.tokenizer,
        out=arguments.out,
        num_samples=arguments.num,
        batch_size=arguments.batch_size,
        given=given,
        actions_split=arguments.given_split,
        samples_per_clip=arguments.samples_per_clip,
        **drawing,
    )
    store = finished_samples(job)
    if store is None:
        from video_vq.distributed import holding, make_accelerator
        from video_vq.stages.sample_clips import sample_store

        accelerator = make_accelerator()
        with holding(accelerator, job.out):
            store = sample_store(accelerator, job)
            if is_main_rank():
                write_videos(store, job.out / VIDEOS)
    if is_main_rank() and arguments.json:
        videos = job.out / VIDEOS
        print_json({"out": job.out, "samples": len(store.videos), "videos": videos})
    elif is_main_rank():
        assumed = ""
        if job.seconds is not None and store.videos[0].fps is None:
            assumed = f", at {DEFAULT_FPS:g} frames per second: the prior's clips state none"
        print(f"{len(store.videos)} samples: {job.out} (mp4s in {VIDEOS}/){assumed}")
        following.say_next(*_next(arguments))
    return 0


def _require_places(arguments: argparse.Namespace) -> None:
    from video_vq.media.encode import require_video_name
    from video_vq.stores.clips import ClipStore
    from video_vq.stores.places import require_out

    inputs = {
        "clip store that is continued": arguments.given,
        "store of actions": arguments.actions,
        "prior": arguments.prior,
        "tokenizer": arguments.tokenizer,
    }
    require_out(arguments.out, inputs)
    require_video_name(arguments.out / "videos" / "sample.mp4")
    if arguments.given is not None:
        ClipStore(arguments.given).indices(arguments.given_split)


def _next(arguments: argparse.Namespace) -> tuple[str | Path, ...]:
    if arguments.given is None:
        return following.verify_words(arguments.out)
    scores = beside(arguments.out, "scores")
    return (
        *("video-vq", "evaluate", "--data", arguments.given, "--tokenizer", arguments.tokenizer),
        *("--samples", arguments.out, "--split", arguments.given_split, "--out", scores),
    )
