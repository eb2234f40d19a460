"""The parser of both commands: a wrong flag is answered by its verb, a page ends in examples."""

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any

MAX_SIDE = 4096  # largest height or width of a frame, in pixels
SETTING = re.compile(r"--(\w+(?:\.\w+)+)(?:=(.*))?", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Names the known flag nearest to an unknown one, under the usage of its verb.

    argparse itself passes what a verb does not know up to the command, whose usage names no flag.

    Args:
        examples: commands to show at the end of the help page, as one types them.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_help(self) -> str:
        """Return the help page with its examples, which no wrapping may cut."""
        title = "example" if len(self.examples) == 1 else "examples"
        shown = "".join(f"  {example}\n" for example in self.examples)
        return super().format_help() + (f"\n{title}:\n{shown}" if shown else "")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse; anything unknown ends the command with status 2."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown, args)}")
        return parsed, unknown

    def _hint(self, unknown: Sequence[str], args: Sequence[str] | None) -> str:
        settings = [self._setting(word, args or ()) for word in unknown if SETTING.fullmatch(word)]
        if settings and self._takes_settings():
            return f"\nsettings are written without dashes: {' '.join(settings)}"
        if self._takes_settings() and "=" in unknown[0] and not unknown[0].startswith("-"):
            return "\nwrite all settings one after the other, with no flag between them"
        known = {flag.lstrip("-"): flag for flag in self._option_string_actions}
        names = [word.lstrip("-").partition("=")[0] for word in unknown if word.startswith("--")]
        near = [difflib.get_close_matches(name, known, n=1, cutoff=0.7) for name in names]
        flags = dict.fromkeys(known[found[0]] for found in near if found)
        return f"\ndid you mean {' and '.join(flags)}?" if flags else ""

    def _takes_settings(self) -> bool:
        return any(action.dest == "settings" for action in self._get_positional_actions())

    @staticmethod
    def _setting(flag: str, args: Sequence[str]) -> str:
        """Return `section.key=value` for a flag that carries its value or is followed by it."""
        found = SETTING.fullmatch(flag)
        assert found is not None
        name, value = found.groups()
        if value is None:
            behind = list(args)[list(args).index(flag) + 1 :][:1]
            value = behind[0] if behind and not behind[0].startswith("--") else "VALUE"
        return f"{name}={value}"


def frame_size(text: str) -> tuple[int, int]:
    """Parse PIXELS or HEIGHTxWIDTH."""
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"expected PIXELS or HEIGHTxWIDTH, found {text!r}")
    height, width = int(sides[0]), int(sides[-1])
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise argparse.ArgumentTypeError(f"a side has 1 to {MAX_SIDE} pixels, found {text!r}")
    return height, width


def file_endings(text: str) -> tuple[str, ...]:
    """Parse endings of file names, like mp4,avi; return them in lower case, with the dot."""
    endings = tuple(f".{part.strip().lower().lstrip('.')}" for part in text.split(",") if part)
    if not endings or "." in endings:
        raise argparse.ArgumentTypeError(f"expected endings like mp4,avi, found {text!r}")
    return endings
