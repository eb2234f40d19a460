"""`video-vq fvd`: computes the Fréchet video distance between sets of videos from any model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from video_vq.arguments import add_json, positive, print_json, rate
from video_vq.cli import following, options
from video_vq.errors import ConfigError, InputError
from video_vq.media.reading import READING_OPTIONS, add_reading, reading_of
from video_vq.metrics.protocol import DEFAULT_PROTOCOL, PROTOCOLS
from video_vq.stores.lock import require_free


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `fvd` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "fvd",
        help="score folders of videos, arrays or clip stores by FVD",
        examples=(
            "video-vq fvd real_videos generated_videos",
            "video-vq fvd clips samples --protocol all",
            "video-vq fvd --sanity clips",
            "video-vq fvd real_frames samples.npy",
        ),
    )
    what = "clip store, folder of videos, array file, or file of features (.safetensors)"
    parser.add_argument("real", type=Path, metavar="REAL", help=what)
    fake = parser.add_argument(
        "fake",
        type=Path,
        metavar="FAKE",
        nargs="+",
        help=f"{what}; several are also compared with each other; none with --sanity",
    )
    parser.add_argument(
        "--protocol",
        default=DEFAULT_PROTOCOL.name,
        metavar="NAME",
        help=f"{', '.join(PROTOCOLS)} (for clips of fewer than 9 frames); several with commas; "
        f"or all (default: {DEFAULT_PROTOCOL.name})",
    )
    parser.add_argument(
        "--frames",
        type=positive,
        default=16,
        metavar="N",
        help="number of frames in a clip; of a video file, the first ones (default: 16)",
    )
    parser.add_argument(
        "--stride", type=positive, default=1, metavar="N", help="take every n-th frame (default: 1)"
    )
    parser.add_argument(
        "--fps",
        type=rate,
        metavar="R",
        help="convert video files to this frame rate first (default: their own)",
    )
    parser.add_argument(
        "--split",
        help="split of REAL, if it is a clip store (default: test if there is one, else all)",
    )
    parser.add_argument(
        "--max-clips",
        type=positive,
        metavar="N",
        help="largest number of clips to score on each side (default: all)",
    )
    options.add_network(parser)
    add_reading(parser)
    parser.add_argument(
        "--sanity",
        action=_Alone,
        other=fake,
        help="score REAL's own clips frozen, shuffled, played backwards, slowed down and "
        "blurred, to show what the score is sensitive to",
    )
    parser.add_argument(
        "--save-real",
        type=Path,
        metavar="FILE",
        help="write REAL's features as a .safetensors file, to publish them (default: not kept)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


class _Alone(argparse.Action):
    """A flag that makes a required positional argument optional.

    Args:
        option_strings, dest, help: see argparse.Action.
        other: the positional argument. If its nargs were "*" from the start, no option could
            precede the argument on the command line.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, other: argparse.Action, help: str):
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)
        self._other = other

    def __call__(self, parser: object, namespace: argparse.Namespace, *_: object) -> None:
        setattr(namespace, self.dest, True)
        self._other.nargs, self._other.required, self._other.default = "*", False, []


def run(arguments: argparse.Namespace) -> int:
    """Compute the scores, print them, and return the exit status."""
    from video_vq.metrics.protocol import fvd_protocols

    protocols = fvd_protocols(arguments.protocol)
    if arguments.sanity and (arguments.fake or arguments.save_real):
        surplus = "--save-real" if arguments.save_real else f"FAKE {arguments.fake[0]}"
        raise ConfigError(f"--sanity compares REAL with itself; leave out {surplus}")
    sources = (arguments.real, *arguments.fake)
    if arguments.save_real is not None:
        _require_new_file(arguments.save_real, sources)
        require_free(arguments.save_real, single_file=True)
    from video_vq.distributed import holding, make_accelerator
    from video_vq.evaluation.feature_network import load_feature_network
    from video_vq.evaluation.fvd_comparison import FVDComparison, require_scorable
    from video_vq.evaluation.sanity import sanity
    from video_vq.evaluation.scored_clip import Cut
    from video_vq.report.fvd_text import show, show_sanity

    cut = Cut(arguments.frames, arguments.stride, arguments.fps)
    chosen = (protocols, cut, arguments.split, arguments.max_clips)
    reading = reading_of(arguments)
    require_scorable(arguments.real, arguments.fake, *chosen, reading)
    accelerator = make_accelerator()
    network = load_feature_network(arguments.network, accelerator.device)
    comparison = FVDComparison(
        network, protocols, cut, arguments.max_clips, accelerator, reading=reading
    )
    if arguments.sanity:
        found = sanity(comparison, arguments.real, arguments.split)
        if accelerator.is_main_process:
            print_json(found) if arguments.json else show_sanity(found)
        return 0
    with holding(accelerator, arguments.save_real, single_file=True):
        real, fakes = comparison.read_all(arguments.real, arguments.fake, arguments.split)
        if not accelerator.is_main_process:
            return 0
        if arguments.save_real is not None:
            comparison.save(arguments.save_real, real)
    result = comparison.scores(real, fakes)
    if arguments.json:
        print_json(result)
    else:
        show(result)
        if arguments.save_real is not None:
            following.say_next(*_with_saved(arguments))
    return 0


def _require_new_file(path: Path, sources: tuple[Path, ...]) -> None:
    """Raise an error if a feature file cannot be written, before anything is computed."""
    from video_vq.stores.places import require_not_input, require_writable

    for source in sources:
        require_not_input(path, {"source": source})
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: a file of features ends in .safetensors; rename it")
    if path.exists():
        raise InputError(f"{path}: already exists; remove it, or name another file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    require_writable(path.parent)


def _with_saved(arguments: argparse.Namespace) -> list[str]:
    """Return the words of the command that scores FAKE against the saved features of REAL."""
    words = ["video-vq", "fvd", arguments.save_real, *arguments.fake]
    for name in ("protocol", "frames", "stride", "fps", "max_clips", "network", *READING_OPTIONS):
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", value]
    return [str(word) for word in words]
