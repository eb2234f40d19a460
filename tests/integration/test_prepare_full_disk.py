"""Tests that a full disk stops a preparation with one clear error, and that it can resume."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_videos import encode, scene
from test_prepare import PACKAGE, tree

from data_prep import run
from data_prep.cli import main
from video_vq.stores import files

# Every file may grow to 100 kB, as with `ulimit -f`: the parent's do, a shard of frames does not.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from data_prep.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    for index in range(6):
        encode(root / f"{index}.avi", scene(30, 48, 64, index))
    return root


def arguments(raw: Path, out: Path) -> list[str]:
    options = ["--size", "64", "--workers", "1", "--videos-per-shard", "2"]
    return ["folder", str(raw), "--out", str(out), *options]


@pytest.fixture(scope="module")
def reference(raw, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "store"
    assert main(arguments(raw, out)) == 0
    return out


def limited(code: str, raw: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments(raw, out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), *sys.path])},
        capture_output=True,
        text=True,
    )


def assert_clear(error: str) -> None:
    assert "Traceback" not in error
    assert "Nothing is lost" in error
    assert "run the command again; it resumes where it stopped" in error


def test_files_that_cannot_grow_stop_the_run_and_it_resumes(raw, reference, tmp_path):
    out = tmp_path / "store"
    done = limited(LIMITED, raw, out)
    assert done.returncode == 1
    assert_clear(done.stderr)
    assert "cannot be written (File too large)" in done.stderr
    assert not list(out.rglob("*.partial"))
    assert main(arguments(raw, out)) == 0
    assert tree(out) == tree(reference)


def test_a_full_disk_keeps_the_shards_that_are_done_and_resumes_when_there_is_room(
    raw, reference, small_disk, tmp_path, capsys
):
    disk = small_disk(2)
    out = disk / "store"
    assert main(arguments(raw, out)) == 1
    error = capsys.readouterr().err
    assert_clear(error)
    assert "cannot be written (No space left on device)" in error
    done = sorted(path.name for path in (out / "parts").glob("shard-*.json"))
    assert done == ["shard-00000.json", "shard-00001.json"]
    written = (out / "frames-00000.npy").stat().st_mtime_ns
    subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True, timeout=120)
    assert main(arguments(raw, out)) == 0
    assert (out / "frames-00000.npy").stat().st_mtime_ns == written
    assert tree(out) == tree(reference)


@pytest.fixture(scope="module")
def unsealed(raw, tmp_path_factory) -> Path:
    """Return a store whose shards are all written, but which is not sealed."""
    out = tmp_path_factory.mktemp("unsealed") / "store"

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.ClipStoreWriter, "finish", stop)
        assert main(arguments(raw, out)) == 130
    return out


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_any_write_of_the_parent_may_fail(
    raw, reference, unsealed, tmp_path, capsys, monkeypatch, call
):
    real = getattr(files, call)
    failing = 0
    for failing in range(60):
        left = [failing]

        def fail(*taken, left=left):
            left[0] -= 1
            if left[0] == -1:
                raise OSError(28, "No space left on device")
            return real(*taken)

        out = tmp_path / f"store-{failing}"
        if failing:
            shutil.copytree(unsealed, out)  # 0 begins a new store and fails at its plan
        with monkeypatch.context() as patch:
            patch.setattr(files, call, fail)
            code = main(arguments(raw, out))
        if code == 0:
            break
        assert_clear(capsys.readouterr().err)
        assert not list(out.rglob("*.partial"))
        assert main(arguments(raw, out)) == 0
        assert tree(out) == tree(reference)
    assert failing >= 3  # provenance, skipped.jsonl, manifest
