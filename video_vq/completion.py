"""The subcommand `completion` of `video-vq` and `data-prep`: prints a shell completion script."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "fish")


def add_parser(verbs: Any, parser: argparse.ArgumentParser) -> None:
    """Add the `completion` subcommand to a command.

    Args:
        verbs: subparsers of the command.
        parser: parser of the whole command, which the script completes.
    """
    name = parser.prog
    verb = verbs.add_parser(
        "completion",
        help="print the script for completing verbs, flags and paths in a shell",
        description=f"Print the script by which a shell completes {name}. Add one of these lines "
        "to the start-up file of your shell, such as ~/.bashrc or ~/.zshrc: "
        f'eval "$({name} completion bash)", '
        f'eval "$({name} completion zsh)"; for fish, {name} completion fish | source.',
        examples=(f"{name} completion bash",),
    )
    verb.add_argument("shell", choices=SHELLS, help="name of the shell")
    verb.set_defaults(run=lambda arguments: _print_script(parser, arguments.shell))


def _print_script(parser: argparse.ArgumentParser, shell: str) -> int:
    import shtab

    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
    print(shtab.complete(parser, shell=shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)
