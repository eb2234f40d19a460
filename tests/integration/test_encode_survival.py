"""Tests of `kill -9` while raw videos are encoded: the tokens are those of an undisturbed run."""

import json
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from runs import run
from survival import Run, wait_for
from test_scale import encode, encode_command, found, hashes, needs_ray, write_videos
from trained import trained_tokenizer

NUM_RENAMES = (
    14  # plan; list's plan and manifest; three for each of three shards; skipped, manifest
)

# Forks for each start, so that torch is loaded once. A start ends by SIGKILL at its n-th rename of
# a file: before it, or after it.
KILLED = """
import json, os, signal, sys
from pathlib import Path
import accelerate, torch
from video_vq import cli
from video_vq.stages import encode_clips
from video_vq.stores import files

def killed_at(number, before):
    rename, calls = files.rename, []
    def counted(source, target):
        calls.append(target)
        if before and len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
    files.rename = counted

ends = []
for number, before in json.loads(sys.argv[1]):
    pid = os.fork()
    if pid == 0:
        killed_at(number, before)
        os._exit(cli.main(sys.argv[2:]))
    ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with eight raw videos, an invalid video, a tokenizer and the tokens."""
    root = tmp_path_factory.mktemp("survival")
    write_videos(root / "raw", 8)
    (root / "raw" / "walk" / "04-notes.mp4").write_text("not a video\n")
    trained_tokenizer().save_pretrained(root / "t")
    assert encode(root, "raw", root / "whole", "--videos-per-shard", "3") == 0
    return root


def killed(made: Path, out: Path, moments: list[tuple[int, bool]]) -> None:
    """Start encoding once per moment, and check that it is killed there.

    A moment is the number of a rename, and whether to die before it rather than after it.
    """
    command = encode_command(made, "raw", out, "--videos-per-shard", "3")
    ends = run([sys.executable, "-c", KILLED, json.dumps(moments), *command]).stdout
    assert json.loads(ends.splitlines()[-1]) == [-signal.SIGKILL] * len(moments)


def test_kills_while_a_folder_is_encoded_leave_what_an_uninterrupted_run_leaves(made, tmp_path):
    out = tmp_path / "tokens"
    # Half a list; a shard without its record; all shards and no manifest.
    killed(made, out, [(2, False), (4, False), (11, True)])
    assert not (out / "manifest.json").exists()
    assert len(list((out / "parts").glob("shard-*.json"))) == 3
    assert encode(made, "raw", out, "--videos-per-shard", "3") == 0
    assert hashes(out) == hashes(made / "whole")
    killed_after_the_manifest = tmp_path / "sealed"
    shutil.copytree(out, killed_after_the_manifest)
    (killed_after_the_manifest / "parts").mkdir()  # what a kill leaves that was quicker than rmtree
    assert encode(made, "raw", killed_after_the_manifest, "--videos-per-shard", "3") == 0
    assert hashes(killed_after_the_manifest) == hashes(made / "whole")


@pytest.mark.slow
def test_a_kill_before_or_after_any_rename_costs_nothing_but_time(made, tmp_path):
    for number in range(1, NUM_RENAMES + 1):
        for before in (True, False):
            out = tmp_path / f"{number}-{before}"
            killed(made, out, [(number, before)])
            assert (out / "manifest.json").exists() == ((number, before) == (NUM_RENAMES, False))
            assert encode(made, "raw", out, "--videos-per-shard", "3") == 0
            assert hashes(out) == hashes(made / "whole")


@pytest.mark.slow
@needs_ray
def test_five_kills_under_ray_leave_the_tokens_of_an_uninterrupted_run(tmp_path):
    write_videos(tmp_path / "raw", 200)
    trained_tokenizer().save_pretrained(tmp_path / "t")
    per_shard = ("--videos-per-shard", "5")
    assert encode(tmp_path, "raw", tmp_path / "local", *per_shard) == 0
    out = tmp_path / "tokens"
    command = encode_command(tmp_path, "raw", out, *per_shard, "--engine", "ray")
    rng = random.Random(0)
    targets = ["worker", "driver", "decoder", "worker", "driver"]
    while targets:
        done = 7 * (5 - len(targets))

        def reached(started: Run, done: int = done) -> bool:
            shards = len(list((out / "parts").glob("shard-*.json")))
            return shards > done or started.leader.poll() is not None

        with Run(tmp_path, (sys.executable, "-m", "video_vq", *command), {}) as started:
            wait_for(lambda s=started: reached(s), f"shard {done}")
            time.sleep(rng.uniform(0, 0.5))
            if started.leader.poll() is not None:  # faster than the kill: once more from nothing
                assert hashes(out) == hashes(tmp_path / "local"), started.text("stderr")
                shutil.rmtree(out)
                continue
            target = targets.pop(0)
            if target == "driver":
                started.leader.send_signal(signal.SIGKILL)
                started.wait_until_gone()  # Ray's own processes, too
            else:
                psutil.Process(rng.choice(found(started, target))).send_signal(signal.SIGKILL)
                wait_for(lambda s=started, d=done + 5: reached(s, d), "shards after the kill")
    run([sys.executable, "-m", "video_vq", *command])
    assert hashes(out) == hashes(tmp_path / "local")
