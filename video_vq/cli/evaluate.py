"""`video-vq evaluate`: the scores of a tokenizer and of a prior's samples."""

import argparse
import os
from pathlib import Path

from video_vq.cli import options
from video_vq.cli.recorded import go_on_as_recorded
from video_vq.machine import asked_precision
from video_vq.stores.lock import require_free


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser("evaluate", help="rFVD, gFVD, PSNR, SSIM, code usage, rate")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="STORE", help="the clip store of real videos"
    )
    options.add_tokenizer(parser)
    options.add_out(parser, "folder for scores.json and the sheets")
    parser.add_argument("--samples", type=Path, metavar="STORE", help="samples: adds gFVD")
    parser.add_argument("--tokens", type=Path, metavar="STORE", help="the token store of --data")
    parser.add_argument("--prior", type=Path, metavar="DIR", help="with --tokens: adds the rate")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--num", type=options.positive, default=2048, help="clips at most")
    parser.add_argument("--protocol", default="styleganv", help="FVD's convention")
    parser.add_argument(
        "--controls",
        action="store_true",
        help="compute what the scores must beat, too; takes about twice the time",
    )
    parser.add_argument(
        "--generation", metavar="NAME", help="a published protocol: ucf101-2048-test, bair-256, …"
    )
    parser.add_argument(
        "--st-lpips", action="store_true", help="add ST-LPIPS (weights: doctor --st-lpips)"
    )
    options.add_short_videos(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score, print and write."""
    from video_vq.errors import ConfigError
    from video_vq.metrics.protocol import fvd_protocol

    if arguments.prior is not None and arguments.tokens is None:
        raise ConfigError("--prior needs --tokens, the token store that `video-vq encode` made")
    if arguments.generation is not None and arguments.samples is None:
        raise ConfigError("--generation needs --samples, a clip store of samples")
    protocol = fvd_protocol(arguments.protocol)
    require_free(arguments.out)
    go_on_as_recorded(arguments.out)
    from video_vq.evaluation.finished import finished_scores, identity_of_scores
    from video_vq.evaluation.generation_protocols import generation_protocol
    from video_vq.evaluation.summary import summary

    name = arguments.generation
    generation = None if name is None else generation_protocol(name)
    chosen = (protocol, arguments.split, arguments.num)
    models = (arguments.samples, arguments.prior, arguments.tokens)
    how = (arguments.controls, generation)
    identity = identity_of_scores(
        arguments.data,
        arguments.tokenizer,
        *chosen,
        *models,
        *how,
        "alex" if arguments.st_lpips else None,
        arguments.short_videos,
        asked_precision(),
    )
    scores = finished_scores(arguments.out, identity)
    if scores is None:
        from video_vq.evaluation.evaluate import evaluate
        from video_vq.metrics.perceptual import load_st_lpips
        from video_vq.training.distributed import holding, make_accelerator

        accelerator = make_accelerator()
        with holding(accelerator, arguments.out):
            scores = evaluate(
                accelerator,
                arguments.data,
                arguments.tokenizer,
                arguments.out,
                *chosen,
                *models,
                *how,
                load_st_lpips("alex").to(accelerator.device) if arguments.st_lpips else None,
                arguments.short_videos,
            )
    if os.environ.get("RANK", "0") == "0":
        print(summary(scores))
        print(f"{arguments.out}/scores.json, sheet.webp, sheet.png")
    return 0
