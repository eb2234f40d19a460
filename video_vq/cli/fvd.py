"""`video-vq fvd`: the Fréchet video distance of sets of videos of anybody's model."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from video_vq.cli import following, options
from video_vq.stores.lock import require_free


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "fvd",
        help="FVD of folders of videos or clip stores",
        examples=(
            "video-vq fvd real_videos generated_videos",
            "video-vq fvd clips samples --protocol all",
        ),
    )
    what = "clip store, folder of videos, or file of features (.safetensors)"
    parser.add_argument("real", type=Path, metavar="REAL", help=what)
    parser.add_argument(
        "fake", type=Path, metavar="FAKE", nargs="+", help=f"{what}; of several, the differences"
    )
    parser.add_argument(
        "--protocol",
        default="styleganv",
        metavar="NAME",
        help="styleganv, google, videogpt, tats, cd-fvd or larp; several with commas; or all "
        "(default: styleganv)",
    )
    parser.add_argument(
        "--frames",
        type=options.positive,
        default=16,
        metavar="N",
        help="frames of a clip: of a video file the first ones (default: 16)",
    )
    parser.add_argument(
        "--stride",
        type=options.positive,
        default=1,
        metavar="N",
        help="take each n-th frame (default: 1)",
    )
    parser.add_argument(
        "--fps",
        type=options.rate,
        metavar="R",
        help="bring files to this rate first (default: their own)",
    )
    parser.add_argument(
        "--split", help="of REAL, where it is a clip store (default: test, or all without one)"
    )
    parser.add_argument(
        "--max-clips",
        type=options.positive,
        metavar="N",
        help="score at most so many clips on each side (default: all)",
    )
    options.add_network(parser)
    parser.add_argument(
        "--save-real",
        type=Path,
        metavar="FILE",
        help="write REAL's features as a .safetensors file, to publish them (default: not kept)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score."""
    from video_vq.metrics.protocol import fvd_protocols

    protocols = fvd_protocols(arguments.protocol)
    sources = (arguments.real, *arguments.fake)
    if arguments.save_real is not None:
        _require_new_file(arguments.save_real, sources)
        require_free(arguments.save_real, single_file=True)
    from video_vq.distributed import holding, make_accelerator
    from video_vq.evaluation.feature_network import load_feature_network
    from video_vq.evaluation.fvd_comparison import FVDComparison, require_scorable
    from video_vq.evaluation.scored_clip import Cut

    cut = Cut(arguments.frames, arguments.stride, arguments.fps)
    chosen = (protocols, cut, arguments.split, arguments.max_clips)
    require_scorable(arguments.real, arguments.fake, *chosen)
    accelerator = make_accelerator()
    network = load_feature_network(arguments.network, accelerator.device)
    comparison = FVDComparison(network, protocols, cut, arguments.max_clips, accelerator)
    with holding(accelerator, arguments.save_real, single_file=True):
        real, fakes = comparison.read_all(arguments.real, arguments.fake, arguments.split)
        if not accelerator.is_main_process:
            return 0
        if arguments.save_real is not None:
            comparison.save(arguments.save_real, real)
    result = comparison.scores(real, fakes)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        _show(result)
        if arguments.save_real is not None:
            following.say_next(*_with_saved(arguments))
    return 0


def _require_new_file(path: Path, sources: tuple[Path, ...]) -> None:
    """Refuse, before anything is computed, a file of features that cannot be written.

    Raises:
        InputError: its name does not end in .safetensors, it is there, or its folder takes no file.
    """
    from video_vq.errors import InputError
    from video_vq.stores.places import require_not_input, require_writable

    for source in sources:
        require_not_input(path, {"source": source})
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: a file of features ends in .safetensors; rename it")
    if path.exists():
        raise InputError(f"{path}: is there already; remove it, or name another file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    require_writable(path.parent)


def _with_saved(arguments: argparse.Namespace) -> list[str]:
    """Return the command that scores the same against the features that were saved."""
    words = ["video-vq", "fvd", arguments.save_real, *arguments.fake]
    for name in ("protocol", "frames", "stride", "fps", "max_clips", "network"):
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", value]
    return [str(word) for word in words]


def _show(result: dict[str, Any]) -> None:
    for under in result["protocols"]:
        for score in under["scores"]:
            _show_score(score, under)
        if under["floor"] is not None:
            floor = under["floor"]
            print(
                f"  floor {floor['distance']:.2f}: real clips against other real clips at "
                f"N = {floor['num_clips']}, the largest disjoint"
            )
            print("  (at fewer clips FVD is larger: compare only at one N)")
        else:
            print("  no floor: it takes 4 real clips of at least 2 source videos")
        for difference in under["differences"]:
            print(f"  {difference['sentence']}")
        print(f"  {under['citation']}")
        if under["assumed"]:
            print(f"  ({under['assumed']})")
    for side in (result["real"], *result["candidates"]):
        split = "" if side["split"] is None else f"split {side['split']}, "
        print(f"{side['name']}: {split}{_count(side['num_clips'], 'clip')} of ", end="")
        print(_count(side["num_videos"], "source video"))
    network = result["network"]
    print(f"network {network['name']} {network['sha256'][:12]}, real data {_hashes(result)}")
    for side in (result["real"], *result["candidates"]):
        _complain(side)
    _warn(result["warnings"])


def _warn(warnings: list[str]) -> None:
    """Print what limits the numbers, below them even where both streams go into one file."""
    sys.stdout.flush()
    if len(warnings) == 1:
        print(f"warning: {warnings[0]}", file=sys.stderr)
    elif warnings:
        print(f"{len(warnings)} warnings:", file=sys.stderr)
        for warning in warnings:
            print(f"  {warning}", file=sys.stderr)


def _show_score(score: dict[str, Any], under: dict[str, Any]) -> None:
    told = f"FVD {score['fvd']:.2f}"
    if score["fvd_error"] is not None:
        told += f" ± {score['fvd_error']:.2f}"
    else:
        told += " (no error: it takes 8 source videos on each side)"
    told += f"  {score['name']}  ({under['settings']['name']})"
    print(told)
    if score["kvd"] is not None:
        kvd = score["kvd"]
        print(f"  KVD {kvd['value']:.4g} ± {kvd['standard_error']:.2g}, unbiased at any N")
    if score["fvd_infinity"] is not None:
        limit = score["fvd_infinity"]
        print(f"  at infinite N {limit['value']:.2f} ± {limit['standard_error']:.2f}, extrapolated")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _hashes(result: dict[str, Any]) -> str:
    fakes = ", ".join(side["data"][:12] for side in result["candidates"])
    return f"{result['real']['data'][:12]}, generated {fakes}"


def _complain(side: dict[str, Any]) -> None:
    if side["left_out"]:
        print(f"left out of {side['name']}: {len(side['left_out'])}", file=sys.stderr)
        for line in side["left_out"][:10]:
            print(f"  {line}", file=sys.stderr)
