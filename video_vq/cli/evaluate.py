"""`video-vq evaluate`: scores a tokenizer, a prior and samples from a prior."""

import argparse
from pathlib import Path

from video_vq.arguments import add_json, positive, print_json
from video_vq.cli import following, options
from video_vq.cli.recorded import go_on_as_recorded
from video_vq.evaluation.generation_protocols import GENERATION_PROTOCOLS
from video_vq.machine import asked_precision, is_main_rank
from video_vq.metrics.protocol import DEFAULT_PROTOCOL, PROTOCOLS
from video_vq.stores.lock import require_free


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `evaluate` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "evaluate",
        help="score a tokenizer and a prior: rFVD, gFVD, PSNR, SSIM, code usage, rate",
        description="Score a tokenizer's reconstructions; with --samples also a prior's samples, "
        "with --tokens and --prior its bits per token.",
        examples=(
            "video-vq evaluate --data clips --tokenizer runs/tokenizer --out scores",
            "video-vq evaluate --data clips --tokenizer runs/tokenizer --samples samples "
            "--tokens tokens --prior runs/prior --out scores",
        ),
    )
    parser.add_argument(
        "--data", required=True, type=Path, metavar="STORE", help="the clip store of real videos"
    )
    options.add_model(parser, "tokenizer")
    options.add_out(parser, "folder to write scores.json and the sheets to")
    parser.add_argument(
        "--samples", type=Path, metavar="STORE", help="a prior's samples; adds gFVD (default: none)"
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="STORE",
        help="the token store that encode made from --data (default: none)",
    )
    parser.add_argument(
        "--prior",
        type=Path,
        metavar="DIR",
        help="a trained prior; adds its bits per token, needs --tokens (default: none)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        help="split of --data and --tokens; report scores on test, which was not used for any "
        "choice (default: test, or that of --generation)",
    )
    parser.add_argument(
        "--num",
        type=positive,
        metavar="N",
        help="largest number of clips to score, none of which overlap (default: 2048, or as many "
        "as --generation takes)",
    )
    parser.add_argument(
        "--protocol",
        default=DEFAULT_PROTOCOL.name,
        metavar="NAME",
        help=f"convention of FVD: {', '.join(PROTOCOLS)} (default: {DEFAULT_PROTOCOL.name})",
    )
    parser.add_argument(
        "--controls",
        nargs="*",
        choices=("codec",),
        metavar="codec",
        help="also compute the controls that the scores must beat; takes about twice the time. "
        "With `codec`, they include H.264, HEVC and AV1 at the tokenizer's bits, which "
        "takes seconds per clip (default: none)",
    )
    parser.add_argument(
        "--generation",
        metavar="NAME",
        help="a published protocol that --samples must follow: "
        f"{', '.join(GENERATION_PROTOCOLS)} (default: none)",
    )
    options.add_network(parser)
    parser.add_argument(
        "--st-lpips", action="store_true", help="also compute ST-LPIPS (weights: doctor --st-lpips)"
    )
    options.add_short_videos(parser)
    add_json(parser, "all scores, as in scores.json,")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compute the scores, write and print them, and return the exit status."""
    from video_vq.evaluation.evaluation_job import (
        EvaluationJob,
        finished_scores,
        identity_of_scores,
    )
    from video_vq.evaluation.generation_protocols import generation_protocol
    from video_vq.metrics.protocol import fvd_protocol
    from video_vq.report.summary import summary
    from video_vq.stores.places import require_not_input

    name = arguments.generation
    job = EvaluationJob(
        data=arguments.data,
        tokenizer=arguments.tokenizer,
        protocol=fvd_protocol(arguments.protocol),
        split=arguments.split,
        num_clips=arguments.num,
        samples=arguments.samples,
        prior=arguments.prior,
        tokens=arguments.tokens,
        with_controls=arguments.controls is not None,
        with_codec="codec" in (arguments.controls or ()),
        generation=None if name is None else generation_protocol(name),
        st_lpips="alex" if arguments.st_lpips else None,
        short_videos=arguments.short_videos,
        network=arguments.network,
    )
    inputs = {
        "clip store": job.data,
        "store of samples": job.samples,
        "token store": job.tokens,
        "prior": job.prior,
        "tokenizer": job.tokenizer,
    }
    require_not_input(arguments.out, inputs)
    options.require_models(arguments)
    require_free(arguments.out)
    go_on_as_recorded(arguments.out)
    identity = identity_of_scores(job, asked_precision())
    scores = finished_scores(arguments.out, identity)
    if scores is None:
        from video_vq.distributed import holding, make_accelerator
        from video_vq.evaluation.evaluate import evaluate

        accelerator = make_accelerator()
        with holding(accelerator, arguments.out):
            scores = evaluate(accelerator, job, arguments.out, identity)
    if is_main_rank() and arguments.json:
        print_json(scores)
    elif is_main_rank():
        print(summary(scores))
        print(f"{arguments.out}/scores.json, sheet.webp, sheet.png")
        following.say_next("video-vq", "report", arguments.out)
    return 0
