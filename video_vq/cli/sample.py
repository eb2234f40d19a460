"""`video-vq sample`: prior to clips."""

import argparse
from pathlib import Path

from video_vq.cli import options


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser("sample", help="sample clips from a prior")
    parser.add_argument(
        "--prior",
        required=True,
        type=Path,
        metavar="DIR",
        help="a trained prior: its folder, or the run folder that it is in",
    )
    options.add_tokenizer(parser)
    options.add_out(parser, "a clip store and mp4s; the same command again goes on")
    parser.add_argument(
        "--num",
        type=options.positive,
        metavar="N",
        help="how many (default: 64; with --given, all videos of the split)",
    )
    parser.add_argument(
        "--given",
        type=Path,
        metavar="STORE",
        help="continue the first frames of a clip store's videos; the tokenizer must be causal",
    )
    parser.add_argument("--given-split", default="test", metavar="SPLIT", help="(default: test)")
    parser.add_argument(
        "--given-frames",
        type=options.positive,
        default=1,
        metavar="N",
        help="how many frames are given (default: 1)",
    )
    parser.add_argument(
        "--given-as",
        choices=("true", "reconstruction"),
        default="true",
        help="what a sample shows of the given frames (default: true)",
    )
    parser.add_argument(
        "--samples-per-clip",
        type=options.positive,
        default=1,
        metavar="N",
        help="samples for each given video (default: 1)",
    )
    parser.add_argument("--class", dest="label", help="a class name (default: all in turn)")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=options.positive, help="draw among the k likeliest tokens")
    parser.add_argument(
        "--top-p", type=options.fraction, default=1.0, help="draw among the likeliest, to this mass"
    )
    parser.add_argument("--guidance", type=float, default=1.0, help="1: none")
    parser.add_argument("--seed", type=int, default=0, help="sample i is drawn with seed + i")
    options.add_batch_size(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Sample."""
    from video_vq.config import check_config
    from video_vq.models.prior_config import SamplingSettings

    settings = check_config(
        SamplingSettings,
        {
            "temperature": arguments.temperature,
            "top_k": arguments.top_k,
            "top_p": arguments.top_p,
            "guidance": arguments.guidance,
        },
        "sampling",
    )
    from video_vq.evaluation.generate import sample_store, write_videos
    from video_vq.evaluation.prompts import Prompts
    from video_vq.models.tokenizer import VideoTokenizer
    from video_vq.training.distributed import make_accelerator

    def prompts(tokenizer: VideoTokenizer) -> Prompts:
        return Prompts(
            arguments.given,
            arguments.given_split,
            arguments.given_frames,
            arguments.samples_per_clip,
            arguments.given_as,
            tokenizer,
        )

    accelerator = make_accelerator()
    store = sample_store(
        accelerator,
        arguments.prior,
        arguments.tokenizer,
        arguments.out,
        arguments.num,
        settings,
        arguments.label,
        arguments.seed,
        arguments.batch_size,
        None if arguments.given is None else prompts,
    )
    if accelerator.is_main_process:
        write_videos(store, arguments.out / "videos")
        print(f"{len(store.videos)} samples: {arguments.out} (mp4s in videos/)")
    return 0
