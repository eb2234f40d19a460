"""Argument parser and options for `video-vq` and `data-prep`, with hints for wrong flags."""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NoReturn

from video_vq.errors import nearest

MAX_COUNT = 1_000_000_000  # largest integer that a flag accepts
MAX_SIDE = 4096  # largest height or width of a frame, in pixels
SETTING = re.compile(r"--(\w+(?:\.\w+)+)(?:=(.*))?", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Argument parser that suggests the nearest known flag or choice for an unknown one.

    The suggestion follows the usage line of the subcommand. Plain argparse would pass flags unknown
    to the subcommand on to the main command, whose usage line lists no flags.

    Args:
        examples: commands to show verbatim at the end of the help page.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any):
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.examples = tuple(examples)
        self._words: list[str] = []

    def format_help(self) -> str:
        """Return the help page, followed by the examples without line wrapping."""
        title = "example" if len(self.examples) == 1 else "examples"
        shown = "".join(f"  {example}\n" for example in self.examples)
        return super().format_help() + (f"\n{title}:\n{shown}" if shown else "")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse arguments; exit with status 2 if an argument is unknown."""
        self._words = list(sys.argv[1:] if args is None else args)
        parsed, unknown = super().parse_known_args(self._words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Print a message, with unknown flags if arguments are missing, and exit with status 2."""
        if message.startswith("the following arguments are required"):
            known = (*self._option_string_actions, "--")
            flags = [word for word in self._words if word.startswith("--")]
            if unknown := [flag for flag in flags if flag.partition("=")[0] not in known]:
                message += f"; unrecognized: {' '.join(unknown)}{self._hint(unknown)}"
        super().error(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if close := nearest(str(value), map(str, action.choices or ())):
                error.message += f"\ndid you mean {close}?"
            raise

    def _hint(self, unknown: Sequence[str]) -> str:
        settings = [self._setting(word) for word in unknown if SETTING.fullmatch(word)]
        if settings and self._takes_settings():
            return f"\nsettings are written without dashes: {' '.join(settings)}"
        if self._takes_settings() and "=" in unknown[0] and not unknown[0].startswith("-"):
            return "\nwrite all settings one after the other, with no flag between them"
        known = {flag.lstrip("-"): flag for flag in self._option_string_actions}
        names = [word.lstrip("-").partition("=")[0] for word in unknown if word.startswith("--")]
        near = [nearest(name, known, cutoff=0.7) for name in names]
        flags = dict.fromkeys(known[found] for found in near if found)
        return f"\ndid you mean {' and '.join(flags)}?" if flags else ""

    def _takes_settings(self) -> bool:
        return any(action.dest == "settings" for action in self._get_positional_actions())

    def _setting(self, flag: str) -> str:
        """Return a flag such as `--section.key=value` or `--section.key value` without dashes."""
        found = SETTING.fullmatch(flag)
        assert found is not None
        name, value = found.groups()
        if value is None:
            behind = self._words[self._words.index(flag) + 1 :][:1]
            value = behind[0] if behind and not behind[0].startswith("--") else "VALUE"
        return f"{name}={value}"


def frame_size(text: str) -> tuple[int, int]:
    """Return the height and width given as PIXELS or HEIGHTxWIDTH."""
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"expected PIXELS or HEIGHTxWIDTH, found {text!r}")
    height, width = int(sides[0]), int(sides[-1])
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise argparse.ArgumentTypeError(f"a side has 1 to {MAX_SIDE} pixels, found {text!r}")
    return height, width


def file_endings(text: str) -> tuple[str, ...]:
    """Return the file extensions in a list such as mp4,avi, in lower case and with dots."""
    endings = tuple(f".{part.strip().lower().lstrip('.')}" for part in text.split(",") if part)
    if not endings or "." in endings:
        raise argparse.ArgumentTypeError(f"expected endings like mp4,avi, found {text!r}")
    return endings


def positive(text: str) -> int:
    """Parse an integer from 1 to MAX_COUNT."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_COUNT):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    return _number(text, "a share from 0 to 1", lambda number: 0 <= number <= 1)


def fraction(text: str) -> float:
    """Parse a number above 0 and at most 1."""
    return _number(text, "a number above 0 and at most 1", lambda number: 0 < number <= 1)


def rate(text: str) -> float:
    """Parse a frame rate above 0 and at most 1000 frames per second."""
    return _number(text, "a number above 0, at most 1000", lambda number: 0 < number <= 1000)


def seconds(text: str) -> float:
    """Parse a duration above 0 and below a million seconds."""
    return _number(text, "a number above 0, below a million", lambda number: 0 < number < 1e6)


def _number(text: str, expected: str, is_right: Callable[[float], bool]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not is_right(number):
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return number


def add_size(parser: argparse._ActionsContainer, default: str | None, told: str = "") -> None:
    """Add `--size`.

    Args:
        parser: subcommand parser, or one of its argument groups.
        default: default value as typed on the command line; None for no default.
        told: description of the behavior without the option, for the help text; used only if there
            is no default.
    """
    parser.add_argument(
        "--size",
        type=frame_size,
        default=default,
        metavar="SIZE",
        help="side of the square frames in pixels, or HEIGHTxWIDTH; videos are scaled to cover "
        f"it, then cropped to the centre (default: {default or told})",
    )


def add_fps(parser: argparse._ActionsContainer) -> None:
    """Add `--fps`."""
    parser.add_argument(
        "--fps",
        type=rate,
        metavar="FPS",
        help="convert all videos to this frame rate (default: their own)",
    )


def add_shares(
    parser: argparse._ActionsContainer, val: float, test: float | None = None, of: str = "groups"
) -> None:
    """Add `--val` and, unless `test` is None, `--test`.

    Args:
        parser: subcommand parser, or one of its argument groups.
        val: default fraction for the val split.
        test: default fraction for the test split; None if the source has an official test split.
        of: name of what is split, in the plural, for the help text.
    """
    shares = {"--val": val} if test is None else {"--val": val, "--test": test}
    for flag, default in shares.items():
        parser.add_argument(
            flag,
            type=share,
            default=default,
            metavar="SHARE",
            help=f"share of the {of} that becomes the {flag[2:]} split (default: {default})",
        )


def add_group_by(parser: argparse._ActionsContainer) -> None:
    """Add `--group-by`."""
    parser.add_argument(
        "--group-by",
        choices=("video", "folder"),
        default="video",
        help="what has to stay in one split, such as near-duplicates: each video is its own "
        "group, or the videos of a folder form a group (default: video)",
    )


def add_extensions(parser: argparse._ActionsContainer) -> None:
    """Add `--extensions`."""
    parser.add_argument(
        "--extensions",
        type=file_endings,
        metavar="LIST",
        help="file name endings to take, for example mp4,avi (default: those of video files; if "
        "there are none, those of pictures; if there are none, those of arrays)",
    )


def add_videos_per_shard(parser: argparse._ActionsContainer) -> None:
    """Add `--videos-per-shard`."""
    parser.add_argument(
        "--videos-per-shard",
        type=positive,
        metavar="N",
        help="number of videos in a shard; an interruption costs at most one shard (default: a "
        "64th of all, at most 128)",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add `--quiet`, which `video_vq.progress.set_quiet` implements."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="show only results, warnings and errors: no progress and no next command",
    )


def add_json(parser: argparse._ActionsContainer, what: str = "the result") -> None:
    """Add `--json`.

    Args:
        parser: subcommand parser, or one of its argument groups.
        what: description of the output, for the help text.
    """
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def print_json(found: Mapping[str, Any]) -> None:
    """Print a result as JSON, with paths as strings and non-finite numbers as null."""
    print(json.dumps(_plain(found), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, PurePath) else value
