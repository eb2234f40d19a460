import dataclasses
import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from video_vq.errors import InputError
from video_vq.metrics import weights
from video_vq.metrics.perceptual import load_st_lpips
from video_vq.metrics.pinned import PinnedFile
from video_vq.metrics.st_lpips_checkpoint import to_safetensors


class Canary:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def checkpoint(tensors: Any) -> bytes:
    """Return the bytes of a checkpoint in the format of the published ones."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def small_tensors(stage: int, layer: int) -> dict[str, torch.Tensor]:
    return {
        "scaling_layer.shift": torch.zeros(1, 3, 1, 1),
        f"net.slice{stage}.{layer}.weight": torch.arange(24.0).view(2, 3, 2, 2),
        f"net.slice{stage}.{layer}.bias": torch.arange(2.0),
        f"net.slice{stage}.{layer - 1}.filt": torch.ones(2, 1, 3, 3),
        "lin0.model.1.weight": torch.arange(2.0).view(1, 2, 1, 1),
    }


def pin(name: str, data: bytes) -> PinnedFile:
    return PinnedFile(name, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return a miniature of the published wheel, pinned like the real one; use an empty cache."""
    real = weights.ST_LPIPS_WEIGHTS
    members = [checkpoint(small_tensors(2, 5)), checkpoint(small_tensors(5, 32))]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        folder = "stlpips_pytorch-0.0.2.dist-info"
        wheel.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(
            f"{folder}/METADATA", "Metadata-Version: 2.1\nName: stlpips_pytorch\nVersion: 0.0.2\n"
        )
        wheel.writestr(f"{folder}/RECORD", "")
        for member, data in zip(real.members, members, strict=True):
            wheel.writestr(member.name, data)
    archive, stored = buffer.getvalue(), real.convert(members)
    small = dataclasses.replace(
        real,
        archive=pin(real.archive.name, archive),
        members=tuple(pin(m.name, d) for m, d in zip(real.members, members, strict=True)),
        stored=pin(real.stored.name, stored),
    )
    monkeypatch.setattr(weights, "ST_LPIPS_WEIGHTS", small)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(small.variable, raising=False)
    return {"archive": archive, "stored": stored, "member": members[1]}


def test_convolutions_and_heads_get_our_names_and_constants_are_left_to_our_code(small_world):
    tensors = safetensors.torch.load(small_world["stored"])
    assert set(tensors) == {
        *("alex.stages.1.2.weight", "alex.stages.1.2.bias", "alex.heads.0"),
        *("vgg.stages.4.6.weight", "vgg.stages.4.6.bias", "vgg.heads.0"),
    }
    assert torch.equal(tensors["vgg.stages.4.6.weight"], torch.arange(24.0).view(2, 3, 2, 2))
    assert torch.equal(tensors["alex.heads.0"], torch.arange(2.0))


def test_pip_fetches_the_wheel_once(small_world, tmp_path, monkeypatch):
    index = tmp_path / "index"
    index.mkdir()
    (index / weights.ST_LPIPS_WEIGHTS.archive.name).write_bytes(small_world["archive"])
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    path = weights.ST_LPIPS_WEIGHTS.path(fetch=True)
    assert path == tmp_path / "cache" / "video-vq" / "st-lpips.safetensors"
    assert path.read_bytes() == small_world["stored"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert weights.ST_LPIPS_WEIGHTS.path(fetch=False) == path


@pytest.mark.parametrize("kind", ["archive", "stored"])
def test_the_variable_may_name_the_wheel_or_our_copy(kind, small_world, tmp_path, monkeypatch):
    named = tmp_path / "file"
    named.write_bytes(small_world[kind])
    monkeypatch.setenv("VIDEO_VQ_STLPIPS", str(named))
    assert weights.ST_LPIPS_WEIGHTS.read(fetch=False) == small_world["stored"]


@pytest.mark.parametrize("kind", ["archive", "stored", "member"])
def test_one_checkpoint_alone_or_a_wrong_byte_is_refused(kind, small_world, tmp_path, monkeypatch):
    data = bytearray(small_world[kind])
    if kind != "member":
        data[len(data) // 2] ^= 1
    named = tmp_path / "file"
    named.write_bytes(data)
    monkeypatch.setenv("VIDEO_VQ_STLPIPS", str(named))
    with pytest.raises(InputError, match=r"expected .*sha256"):
        weights.ST_LPIPS_WEIGHTS.path(fetch=False)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("small_world")
def test_without_st_lpips_weights_the_error_says_how_to_get_them():
    with pytest.raises(InputError, match=r"video-vq doctor --st-lpips.*VIDEO_VQ_STLPIPS"):
        weights.ST_LPIPS_WEIGHTS.path(fetch=False)


def test_a_checkpoint_of_torch_that_wants_to_execute_something_is_refused(tmp_path):
    canary = tmp_path / "executed"
    for data in (checkpoint({"a": Canary(canary)}), pickle.dumps({"a": Canary(canary)})):
        with pytest.raises(InputError, match="nothing is executed"):
            to_safetensors({"alex": data}, source="a test")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"net.slice6.0.weight": torch.zeros(1)}, "unknown name, net.slice6.0.weight"),
        ({"lin0.model.1.weight": torch.zeros(1).double()}, "float64, not float32"),
        ({"lin0.model.1.weight": 3}, "is int, not float32"),
        ([torch.zeros(1)], "plain arrays"),
    ],
)
def test_a_checkpoint_of_other_contents_is_refused(tensors, message):
    with pytest.raises(InputError, match=message):
        to_safetensors({"alex": checkpoint(tensors)}, source="a test")


def test_an_unknown_trunk_is_refused():
    name: Any = "squeeze"
    load: Any = getattr(load_st_lpips, "__wrapped__", load_st_lpips)  # beartype checks it too
    with pytest.raises(InputError, match="no trunk 'squeeze'; expected one of: alex, vgg"):
        load(name)
