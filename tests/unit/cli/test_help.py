"""Tests of all help pages of both commands: descriptions, defaults and examples."""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

import data_prep.cli
import video_vq.cli
from video_vq.arguments import Parser
from video_vq.config import find_config, shipped_configs

MAKE = {"video-vq": video_vq.cli.make_parser, "data-prep": data_prep.cli.make_parser}


def pages() -> Iterator[Parser]:
    """Yield the parser of each help page: those of both commands and of all subcommands."""
    found = [make() for make in MAKE.values()]
    while found:
        parser = found.pop(0)
        assert isinstance(parser, Parser)
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += action.choices.values()


PAGES = {parser.prog: parser for parser in pages()}


def options() -> Iterator[tuple[str, argparse.Action]]:
    for prog, parser in PAGES.items():
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction | argparse._VersionAction):
                yield f"{prog} {'/'.join(action.option_strings) or action.dest}", action


OPTIONS = [pytest.param(action, id=name) for name, action in options()]


def test_all_verbs_are_looked_at():
    both_complete = 2
    assert len(PAGES) == 2 + len(video_vq.cli.VERBS) + 8 + both_complete
    assert {"video-vq evaluate", "data-prep synthetic", "data-prep stats"} <= set(PAGES)


@pytest.mark.parametrize("action", OPTIONS)
def test_each_option_has_a_text_and_shows_its_default(action):
    if isinstance(action, argparse._SubParsersAction):
        assert all(choice.help for choice in action._choices_actions)
        return
    assert action.help
    assert len(action.help.split()) > 1
    if action.nargs == 0 or action.required:  # a flag is off, and nothing stands for what is needed
        return
    shown = action.help.rpartition("(default: ")[2]
    assert shown != action.help, f"{action.help}: no default"
    if isinstance(action.default, str | int | float):
        value = shown.partition(")")[0].partition(";")[0].partition(",")[0]
        assert value == str(action.default) or float(value) == action.default


@pytest.mark.parametrize("prog", PAGES)
def test_each_page_shows_examples_that_its_command_takes(prog):
    parser = PAGES[prog]
    assert parser.examples
    for example in parser.examples:
        assert f"\n  {example}\n" in parser.format_help()
        command, *words = shlex.split(example)
        assert " ".join([command, *words]).startswith(prog)
        if "--help" not in words:
            parsed = MAKE[command]().parse_args(words)
            assert callable(parsed.run)


@pytest.mark.parametrize("kind", ["tokenizer", "prior"])
def test_the_help_of_a_training_names_every_shipped_config(kind):
    page = " ".join(PAGES[f"video-vq train-{kind}"].format_help().split())
    files = [*(shipped_configs() / kind).rglob("*.yaml")]
    names = [str(file.relative_to(shipped_configs() / kind).with_suffix("")) for file in files]
    assert len(names) > 5
    for name in [*names, f"demo/{kind}"]:
        assert f" {name}" in page
        assert find_config(name, kind).is_file()


@pytest.mark.parametrize("command", ["video_vq", "data_prep"])
def test_all_pages_are_made_without_torch_or_a_decoder(command):
    code = (
        "import sys\n"
        f"from {command}.cli import make_parser\n"
        "parser = make_parser()\n"
        "for verb in parser._subparsers._group_actions[0].choices.values(): verb.format_help()\n"
        "loaded = {'torch', 'av', 'decord', 'accelerate'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
