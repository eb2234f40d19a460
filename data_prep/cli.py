"""`data-prep`: from the command line to one call; heavy imports wait for right arguments."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.lerobot_cli import lerobot_parser
from data_prep.simulated.cli import add_simulate_parser
from data_prep.stats_cli import add_stats_parser
from data_prep.synthetic_cli import add_synthetic_parser
from video_vq.arguments import Parser
from video_vq.errors import InputError
from video_vq.machine import num_cores

if TYPE_CHECKING:
    from data_prep.shard import Recipe
    from data_prep.sources import Listing

MAX_SIDE = 4096


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 for bad input, 2 for wrong usage."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except InputError as error:
        print(f"data-prep: {_printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("data-prep: stopped; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def _printable(text: str) -> str:
    """Escape what a file name could do to a terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
        for character in text
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="data-prep",
        description="Turn raw videos into a clip store. Every command goes on where it stopped "
        "when it is given again.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_folder(commands)
    _add_ucf101(commands)
    _add_bair(commands)
    _add_lerobot(commands)
    add_simulate_parser(commands)
    add_synthetic_parser(commands)
    _add_verify(commands)
    add_stats_parser(commands, _printable)
    return parser


def _add_folder(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "folder",
        help="prepare any folder or table of videos",
        description="Prepare any tree of videos: the first folder below VIDEOS is the label; "
        "a hash of the group decides the split. Or a CSV of them, whose first line names its "
        "columns: path, and if wanted label, split, group and actions (a .npy or .csv with one "
        "row of numbers for each frame).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "videos", type=Path, metavar="VIDEOS", help="folder of videos, or a .csv that names them"
    )
    _add_out(parser)
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="that the paths of the CSV begin in (default: the CSV's own)",
    )
    _add_size(parser, "64")
    _add_shares(parser, val=0.1)
    parser.add_argument(
        "--test", type=_share, default=0.1, metavar="SHARE", help="of the groups (default: 0.1)"
    )
    grouping = parser.add_mutually_exclusive_group()
    grouping.add_argument(
        "--group-by",
        choices=("video", "folder"),
        default="video",
        help="near-duplicates share a group, and a group a split: each video is its own group, or "
        "those of one folder are one (default: video)",
    )
    grouping.add_argument(
        "--group-regex",
        metavar="REGEX",
        help="the group is what this finds in the path below VIDEOS (its first group, or all)",
    )
    parser.add_argument(
        "--extensions",
        type=_extensions,
        metavar="LIST",
        help="endings to take, for example mp4,avi (default: all usual ones)",
    )
    _add_rate(parser)
    _add_list_only(parser)
    _add_run(parser, max_skipped=0.01)
    parser.set_defaults(run=_run_folder)


def _add_ucf101(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "ucf101",
        help="prepare UCF-101, packed or unpacked",
        description="Prepare UCF-101: ROOT is UCF101.rar (read by unar or unrar), a zip or "
        "tar of it, or a folder that holds it or UCF-101/<class>/*.avi. The split lists lie beside "
        "it, as the official zip or unpacked. val is carved from the official train side, by "
        "groups; test is the official test side.",
        allow_abbrev=False,
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="archive or folder of UCF-101")
    _add_out(parser)
    parser.add_argument(
        "--split", type=int, choices=(1, 2, 3), default=1, help="official split (default: 1)"
    )
    parser.add_argument(
        "--lists",
        type=Path,
        metavar="PLACE",
        help="folder or zip of classInd.txt and the lists, if elsewhere",
    )
    _add_size(parser, "128")
    _add_shares(parser, val=0.1)
    _add_rate(parser)
    _add_list_only(parser)
    _add_run(parser, max_skipped=0.01)
    parser.set_defaults(run=_run_ucf101)


def _add_bair(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "bair",
        help="prepare BAIR robot pushing, its tar or unpacked",
        description="Prepare BAIR robot pushing: ROOT is bair_robot_pushing_dataset_v0.tar, which "
        "is read where it lies, or a folder that holds it or softmotion30_44k/{train,test}/"
        "*.tfrecords. Actions and end-effector positions are kept with the frames. val is carved "
        "from the official train side; test is the official test side.",
        allow_abbrev=False,
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="the tar, or the unpacked folder")
    _add_out(parser)
    parser.add_argument(
        "--camera",
        choices=("aux1", "main"),
        default="aux1",
        help="aux1 as in VideoGPT and MAGVIT, main as in SAVP (default: aux1)",
    )
    _add_size(parser, "64")
    _add_shares(parser, val=0.05)
    _add_stride(parser)
    _add_run(parser, max_skipped=0.01)
    parser.set_defaults(run=_run_bair)


def _add_lerobot(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = lerobot_parser(commands)
    _add_out(parser)
    _add_size(parser, "64")
    _add_shares(parser, val=0.1)
    _add_stride(parser)
    _add_run(parser, max_skipped=0.01)
    parser.set_defaults(run=_run_lerobot)


def _add_verify(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "verify",
        help="check every byte of a store, count it, and make a contact sheet",
        description="Hash every file of a store of clips or tokens and print its counts; exit 1 "
        "and name the files if one is damaged.",
        allow_abbrev=False,
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the store")
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="PNG",
        help="write first, middle and last frames of some videos of every class",
    )
    parser.set_defaults(run=_run_verify)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="STORE", help="folder of the clip store"
    )


def _add_size(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--size",
        type=_size,
        default=_size(default),
        metavar="SIZE",
        help="pixels of the square frames, or HEIGHTxWIDTH: a video is scaled until it covers "
        f"them, and its centre is kept (default: {default})",
    )


def _add_shares(parser: argparse.ArgumentParser, val: float) -> None:
    parser.add_argument(
        "--val", type=_share, default=val, metavar="SHARE", help=f"of the groups (default: {val})"
    )


def _add_rate(parser: argparse.ArgumentParser) -> None:
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--fps", type=_positive, metavar="FPS", help="bring all to one rate (default: their own)"
    )
    _add_stride(rate)
    parser.add_argument(
        "--decoder",
        choices=("pyav", "decord"),
        default="pyav",
        help="both give the same frames (default: pyav)",
    )


def _add_list_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--list-only",
        action="store_true",
        help="write a list of the videos and no pixels; `video-vq encode LIST` then goes from the "
        "videos straight to tokens, the same as those of the clip store",
    )


def _add_stride(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument(
        "--stride", type=_count, default=1, metavar="N", help="keep every N-th frame (default: 1)"
    )


def _add_run(parser: argparse.ArgumentParser, max_skipped: float) -> None:
    parser.add_argument(
        "--workers", type=_count, metavar="N", help="processes (default: one per processor core)"
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: processes of this machine; ray: the cluster at RAY_ADDRESS, or a Ray of this "
        "machine; the same bytes (default: local)",
    )
    parser.add_argument(
        "--videos-per-shard",
        type=_count,
        metavar="N",
        help="a shard is what an interruption can cost (default: a 64th of all, at most 128)",
    )
    parser.add_argument(
        "--max-skipped",
        type=_share,
        default=max_skipped,
        metavar="SHARE",
        help="fail when more of the videos, and more than one, cannot be used; those left out are "
        f"listed in skipped.jsonl with the reason (default: {max_skipped}; 0 allows none)",
    )
    parser.add_argument(
        "--cpu-limit",
        type=_positive,
        default=60.0,
        metavar="SECONDS",
        help="processor time a video may take, besides 1 s for each 50 MB of its decoded frames "
        "(default: 60)",
    )
    parser.add_argument(
        "--max-expansion",
        type=_count,
        default=5000,
        metavar="TIMES",
        help="refuse a video that decodes to over 4 GiB and over so many times its file's size "
        "(default: 5000)",
    )


def _run_folder(arguments: argparse.Namespace) -> None:
    from data_prep.sources.folder import FolderSettings, list_folder
    from data_prep.sources.table import list_table
    from video_vq.media.suffixes import VIDEO_SUFFIXES

    by_regex = arguments.group_regex is not None
    settings = FolderSettings(
        val=arguments.val,
        test=arguments.test,
        group_by="regex" if by_regex else arguments.group_by,
        group_regex=arguments.group_regex,
        extensions=arguments.extensions or VIDEO_SUFFIXES,
    )
    videos: Path = arguments.videos
    if videos.suffix.lower() == ".csv" and not videos.is_dir():
        _prepare(arguments, list_table(videos, arguments.root or videos.parent, settings))
    elif arguments.root is not None:
        raise InputError(f"{videos}: --root is for a .csv of videos; name the folder alone")
    else:
        _prepare(arguments, list_folder(videos, settings))


def _run_ucf101(arguments: argparse.Namespace) -> None:
    from data_prep.sources.ucf101 import Ucf101Settings, list_ucf101

    settings = Ucf101Settings(split=arguments.split, val=arguments.val, lists=arguments.lists)
    _prepare(arguments, list_ucf101(arguments.root, settings))


def _run_bair(arguments: argparse.Namespace) -> None:
    from data_prep.sources.bair import BairSettings, list_bair

    settings = BairSettings(camera=arguments.camera, val=arguments.val)
    _prepare(arguments, list_bair(arguments.root, settings))


def _run_lerobot(arguments: argparse.Namespace) -> None:
    from data_prep.sources.lerobot import LerobotSettings, list_lerobot

    settings = LerobotSettings(arguments.lerobot_camera, arguments.val, arguments.test)
    _prepare(arguments, list_lerobot(arguments.root, settings))


def _prepare(arguments: argparse.Namespace, listing: "Listing") -> None:
    from data_prep.run import prepare, summarize
    from data_prep.shard import Recipe
    from video_vq.media.probe import Limits

    recipe = Recipe(
        source=listing.source,
        size_hw=arguments.size,
        fps=getattr(arguments, "fps", None),
        stride=arguments.stride,
        camera=getattr(arguments, "camera", "aux1"),
        simulated=listing.simulated,
        limits=Limits(max_expansion=arguments.max_expansion),
        cpu_seconds=arguments.cpu_limit,
        decoder=getattr(arguments, "decoder", "pyav"),
    )
    if getattr(arguments, "list_only", False):
        _write_list(arguments, listing, recipe)
        return
    outcome = prepare(
        listing,
        arguments.out,
        recipe,
        workers=arguments.workers or num_cores(),
        engine=arguments.engine,
        videos_per_shard=arguments.videos_per_shard,
        max_skipped=arguments.max_skipped,
    )
    print(_printable(summarize(outcome, listing)))


def _write_list(arguments: argparse.Namespace, listing: "Listing", recipe: "Recipe") -> None:
    from data_prep.raw_list import write_list

    raw = write_list(
        listing, arguments.out, recipe, arguments.videos_per_shard, arguments.max_skipped
    )
    total = sum(video.num_bytes for video in raw.videos)
    left_out = f"; {len(raw.skipped):,} left out" if raw.skipped else ""
    print(
        _printable(
            f"{arguments.out}: a list of {len(raw.videos):,} videos, {total / 1e6:,.0f} MB, in "
            f"{raw.num_shards:,} shards{left_out}; nothing was decoded\n"
            f"next: video-vq encode {arguments.out} --tokenizer DIR --out TOKENS"
        )
    )


def _run_verify(arguments: argparse.Namespace) -> None:
    from data_prep.verify import describe, open_store, verify, write_sheet
    from video_vq.stores.tokens import TokenStore

    if arguments.sheet is not None and arguments.sheet.suffix.lower() != ".png":
        raise InputError(f"{arguments.sheet}: the contact sheet's name must end in .png")
    store = open_store(arguments.store)
    strangers = verify(store)
    print(_printable(f"{store.path}: every byte is as it was written"))
    if strangers:
        print(_printable(f"no part of the store: {', '.join(strangers)}"))
    if isinstance(store, TokenStore):
        return
    print(_printable(describe(store)))
    if arguments.sheet is not None:
        write_sheet(store, arguments.sheet)
        print(_printable(f"contact sheet: {arguments.sheet}"))


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"expected PIXELS or HEIGHTxWIDTH, found {text!r}")
    height, width = int(sides[0]), int(sides[-1])
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise argparse.ArgumentTypeError(f"a side has 1 to {MAX_SIDE} pixels, found {text!r}")
    return height, width


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {what}, found {text!r}") from None


def _share(text: str) -> float:
    value = _number(text, "a share from 0 to 1")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, found {text!r}")
    return value


def _positive(text: str) -> float:
    value = _number(text, "a number above 0")
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


def _extensions(text: str) -> tuple[str, ...]:
    endings = tuple(f".{part.strip().lower().lstrip('.')}" for part in text.split(",") if part)
    if not endings or "." in endings:
        raise argparse.ArgumentTypeError(f"expected endings like mp4,avi, found {text!r}")
    return endings
