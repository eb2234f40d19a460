"""The `data-prep` command, which turns raw videos into clip stores."""

import argparse
import sys

from data_prep.cli import bair, folder, lerobot, simulate, stats, synthetic, ucf101, verify
from data_prep.cli.preparing import require_ready
from video_vq import completion
from video_vq.arguments import Parser, add_quiet
from video_vq.errors import InputError, printable, system_refusal
from video_vq.progress import set_quiet

VERBS = (folder, ucf101, bair, lerobot, simulate, synthetic, verify, stats)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status.

    The status is 0 on success, 1 for bad input or a system error, and 130 after Ctrl-C. For wrong
    arguments, the parser exits with status 2.

    Args:
        argv: command-line arguments without the program name; None for those in sys.argv.
    """
    arguments = make_parser().parse_args(argv)
    set_quiet(getattr(arguments, "quiet", False))
    try:
        if hasattr(arguments, "out"):
            require_ready(arguments)
        arguments.run(arguments)
    except InputError as error:
        print(f"data-prep: {printable(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"data-prep: {printable(system_refusal(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("data-prep: stopped; run the same command again to resume", file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the argument parser for all subcommands."""
    parser = Parser(
        prog="data-prep",
        description="Turn raw videos into a clip store. Every command resumes where it stopped "
        "when it is run again.",
        examples=("data-prep folder my_videos --out clips --size 64", "data-prep folder --help"),
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
    for added in verbs.choices.values():
        add_quiet(added)
    completion.add_parser(verbs, parser)
    return parser
