"""Tests of what all commands share: --quiet, --json and shell completion."""

import argparse
import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest

import data_prep.cli
import video_vq.cli
from video_vq.arguments import print_json
from video_vq.cli import following, info
from video_vq.progress import is_quiet

COMMANDS = {"video-vq": video_vq.cli, "data-prep": data_prep.cli}
NO_NUMBERS = {"completion", "synthetic"}  # verbs that print none


def verbs_of(command: str) -> dict[str, argparse.ArgumentParser]:
    (action,) = (
        action
        for action in COMMANDS[command].make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return action.choices


@pytest.mark.parametrize("command", COMMANDS)
def test_each_verb_can_be_quiet_and_print_json(command):
    for name, parser in verbs_of(command).items():
        flags = parser.format_help()
        assert ("--quiet" in flags) == (name != "completion"), name
        assert ("--json" in flags) == (name not in NO_NUMBERS), name


@pytest.mark.parametrize("flag", [[], ["--quiet"]])
def test_quiet_lasts_for_its_command_and_takes_the_next_one_away(monkeypatch, capsys, flag):
    seen = []

    def run(arguments: argparse.Namespace) -> int:
        seen.append(is_quiet())
        following.say_next("video-vq", "info", ".")
        return 0

    monkeypatch.setattr(info, "run", run)
    assert video_vq.cli.main(["info", ".", *flag]) == 0
    assert seen == [bool(flag)]
    assert capsys.readouterr().out == ("" if flag else "next: video-vq info .\n")


def test_json_holds_paths_as_texts_and_null_for_what_is_not_finite(capsys):
    print_json({"out": Path("a/b"), "psnr": math.inf, "size": (1, 2), "in": {"x": [math.nan]}})
    found = json.loads(capsys.readouterr().out)
    assert found == {"out": "a/b", "psnr": None, "size": [1, 2], "in": {"x": [None]}}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_it_can_read(command, shell, capsys, tmp_path):
    assert COMMANDS[command].main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    for verb in verbs_of(command):
        assert verb in script.read_text()
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n", script], check=True, timeout=60)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_verbs_flags_and_values(capsys, tmp_path):
    assert video_vq.cli.main(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    for words, expected in (
        ("vi", "view"),
        ("fvd --prot", "--protocol"),
        ("encode --engine r", "ray"),
    ):
        typed = words.split()
        code = (
            f"source {script}; COMP_WORDS=(video-vq {words}); COMP_CWORD={len(typed)}; "
            '_shtab_video_vq; echo "${COMPREPLY[*]}"'
        )
        answer = subprocess.run(
            ["bash", "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        assert answer.stdout.split() == [expected]
