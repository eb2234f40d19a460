"""Settings for reading frame folders and arrays: details that the files do not state."""

import argparse
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from video_vq.errors import InputError

Values = Literal["unit", "signed", "byte"]
RANGES: dict[Values, tuple[float, float]] = {"unit": (0, 1), "signed": (-1, 1), "byte": (0, 255)}
EXAMPLE_PATTERN = r"(?P<video>.+)_frame(?P<frame>[0-9]+)\.png"


@dataclass(frozen=True)
class Reading:
    """Details that the files of frame folders and arrays do not state.

    Attributes:
        fps: frames per second of the videos; None if unknown.
        layout: letters for the axes of arrays: t, h and w, and optionally c and b (a batch of
            videos), for example "btchw"; None to infer them from the shape.
        values: range of the values in float arrays; None to infer the range from the values of all
            arrays, as `list_videos` does.
        frame_names: regular expression that matches whole names of image files. The group `frame`
            orders the frames; the optional group `video` separates the videos in a folder.

    Raises:
        ValueError: a value is invalid.
    """

    fps: float | None = None
    layout: str | None = None
    values: Values | None = None
    frame_names: str | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < 1e6:
            raise ValueError(f"expected a number above 0, found {self.fps!r}")
        axes = self.layout
        if axes is not None and (
            len(set(axes)) != len(axes) or not set("thw") <= set(axes) <= set("bthwc")
        ):
            raise ValueError(f"expected t, h and w once each, optionally c and b, found {axes!r}")
        if self.values is not None and self.values not in RANGES:
            raise ValueError(f"expected one of {', '.join(RANGES)}, found {self.values!r}")
        if self.frame_names is not None:
            _require_pattern(self.frame_names)

    def to_json(self) -> dict[str, Any]:
        """Return the settings that are not None, as JSON; `Reading(**value)` restores them."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def words(self) -> list[str]:
        """Return the settings as command-line options."""
        options = (f"--{name.replace('_', '-')}" for name in READING_OPTIONS)
        fps = None if self.fps is None else f"{self.fps:g}"
        pairs = zip(options, (fps, self.layout, self.values, self.frame_names), strict=True)
        return [word for option, value in pairs if value for word in (option, value)]


USUAL = Reading()
READING_OPTIONS = ("source_fps", "layout", "values", "frame_names")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the reading options to a parser, in a separate group."""
    group = parser.add_argument_group(
        "frame folders and arrays",
        "a folder of png, jpg or webp pictures is a video, and so is each video in a .npy, .npz or "
        ".safetensors file (NAME.npz#MEMBER:3 names one); see docs/preparing.md",
    )
    group.add_argument(
        "--source-fps",
        type=_rate,
        metavar="FPS",
        help="frames per second of frame folders and arrays, which do not state it (default: "
        "--fps, if that is given)",
    )
    group.add_argument(
        "--layout",
        type=_layout,
        metavar="AXES",
        help="the axes of arrays, for example btchw: b for a batch of videos, then frames, "
        "channels, height, width (default: inferred from the shape, if only one is "
        "possible)",
    )
    group.add_argument(
        "--values",
        choices=tuple(RANGES),
        help="the range of float arrays: unit 0 to 1, signed -1 to 1, byte 0 to 255 (default: "
        "inferred from all values, and printed)",
    )
    group.add_argument(
        "--frame-names",
        type=_pattern,
        metavar="REGEX",
        help="for folders that hold the frames of several videos, or whose names hold several "
        f"numbers: matches a whole name, for example '{EXAMPLE_PATTERN}' (default: none)",
    )


def reading_of(arguments: argparse.Namespace) -> Reading:
    """Return the settings given by the options that `add_reading` adds."""
    return Reading(
        fps=arguments.source_fps,
        layout=arguments.layout,
        values=arguments.values,
        frame_names=arguments.frame_names,
    )


def require_reading(asked: Reading, has_pictures: bool, has_arrays: bool, where: object) -> None:
    """Reject reading options that none of a folder's videos needs.

    Raises:
        InputError: there is such an option; the message names the option.
    """
    either = has_pictures or has_arrays
    for flag, value, needed, what in (
        ("--source-fps", asked.fps, either, "frame folders and arrays"),
        ("--layout", asked.layout, has_arrays, "arrays"),
        ("--values", asked.values, has_arrays, "arrays"),
        ("--frame-names", asked.frame_names, has_pictures, "pictures"),
    ):
        if value is not None and not needed:
            raise InputError(f"{flag} is for {what}, and none are taken from {where}; leave it out")


def _rate(text: str) -> float:
    try:
        value = float(text)
        Reading(fps=value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}") from None
    return value


def _layout(text: str) -> str:
    axes = re.sub(r"[\s,]", "", text.lower())
    try:
        Reading(layout=axes)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return axes


def _pattern(text: str) -> str:
    try:
        Reading(frame_names=text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _require_pattern(text: str) -> None:
    try:
        groups = re.compile(text).groupindex
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    if "frame" not in groups or set(groups) - {"frame", "video"}:
        raise ValueError(
            f"expected a group (?P<frame>…), and optionally (?P<video>…), found {text!r}"
        )
