"""Checkpoints appear whole or not at all, and are refused when a byte has changed."""

import errno
import json

import pytest
import safetensors.torch
import torch

from video_vq.errors import InputError
from video_vq.stores import files
from video_vq.training.averaging import Averages
from video_vq.training.checkpoint import (
    CheckpointFolder,
    _safetensors,
    load_optimizer,
    optimizer_tensors,
)
from video_vq.training.schedule import learning_rate, make_optimizer
from video_vq.training.training_config import OptimizerConfig


def save(folder: CheckpointFolder, step: int, **more) -> None:
    folder.save(step, {"model": {"w": torch.full((3,), float(step))}}, {"step": step}, **more)


def test_a_checkpoint_comes_back(tmp_path):
    folder = CheckpointFolder(tmp_path / "state")
    assert folder.newest() is None
    save(folder, 10)
    assert folder.newest() == (10, [])
    tensors, state = folder.load(10)
    assert torch.equal(tensors["model"]["w"], torch.full((3,), 10.0))
    assert state == {"step": 10}


def test_the_last_two_and_the_best_stay(tmp_path):
    folder = CheckpointFolder(tmp_path / "state")
    for step in (10, 20, 30, 40):
        save(folder, step, keep={20})
    assert folder.steps() == [20, 30, 40]


def test_any_changed_byte_or_file_is_found(tmp_path):
    folder = CheckpointFolder(tmp_path / "state")
    save(folder, 10)
    save(folder, 20)
    for name in ("model.safetensors", "state.json", "manifest.json"):
        path = folder.folder(20) / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        found = folder.newest()
        if name == "manifest.json" and found is not None and found[0] == 20:
            # The last byte of the manifest is a line feed; JSON does not care.
            assert json.loads(path.read_bytes()) == json.loads(whole)
        else:
            assert found is not None
            assert found[0] == 10
            assert len(found[1]) == 1
        path.write_bytes(whole)
    (folder.folder(20) / "extra.safetensors").write_bytes(b"")
    found = folder.newest()
    assert found is not None
    assert found[0] == 10
    (folder.folder(10) / "manifest.json").unlink()
    with pytest.raises(InputError, match="no checkpoint can be used"):
        folder.newest()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("function", ["write", "fsync", "rename"])
def test_a_fault_at_any_point_of_a_save_leaves_a_loadable_checkpoint(
    tmp_path, monkeypatch, function, error
):
    whole = getattr(files, function)
    module = "video_vq.stores.files"
    point = 0
    while True:
        folder = CheckpointFolder(tmp_path / f"state-{point}")
        save(folder, 10)
        calls = 0

        def faulty(*arguments, point=point):
            nonlocal calls
            calls += 1
            if calls == point + 1:
                raise OSError(error, "injected")
            return whole(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.{function}", faulty)
            if calls_all_pass(folder):
                assert point > 2 or function == "rename"
                break
        found = folder.newest()
        assert found is not None
        assert found[0] in (10, 20)
        tensors, _ = folder.load(found[0])
        assert torch.equal(tensors["model"]["w"], torch.full((3,), float(found[0])))
        assert not list((tmp_path / f"state-{point}").glob("*.partial"))
        point += 1


def calls_all_pass(folder: CheckpointFolder) -> bool:
    try:
        save(folder, 20)
    except OSError:
        return False
    return True


def test_an_optimizer_comes_back_and_a_wrong_one_is_refused():
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 4)
    config = OptimizerConfig(steps=10, batch_size=4)
    optimizer = make_optimizer(layer, config)
    layer(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    tensors = optimizer_tensors(optimizer)
    other = make_optimizer(layer, config)
    load_optimizer(other, tensors)
    for name, value in optimizer_tensors(other).items():
        assert torch.equal(value, tensors[name])
    with pytest.raises(InputError, match="holds 1 parameters, the model has 2"):
        load_optimizer(other, {k: v for k, v in tensors.items() if k.startswith("0.")})
    with pytest.raises(InputError, match="a tensor named 'evil'"):
        load_optimizer(other, {"evil": torch.zeros(1)})


def test_only_matrices_are_decayed():
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    groups = make_optimizer(layer, OptimizerConfig(weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [len(group["params"]) for group in groups] == [1, 3]


def test_the_rate_warms_up_and_follows_a_cosine():
    config = OptimizerConfig(steps=110, warmup_steps=10, lr=1.0, final_lr=0.1)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == pytest.approx(1.0)
    assert learning_rate(config, 60) == pytest.approx(0.55)
    assert learning_rate(config, 110) == pytest.approx(0.1)


def test_averages_follow_the_closed_form_and_copy_rows_that_jumped():
    layer = torch.nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.0)
    averages = Averages(layer, decay=0.5)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    averages.update(layer)  # decay 0.1
    torch.testing.assert_close(averages.tensors["weight"], torch.full((3, 2), 0.9))
    averages.update(layer, {"weight": torch.tensor([1])})  # decay 2/11
    expected = torch.full((3, 2), 0.9 * 2 / 11 + 9 / 11)
    expected[1] = 1.0
    torch.testing.assert_close(averages.tensors["weight"], expected)


def test_the_files_are_read_by_the_library_as_they_were():
    tensors = {
        "matrix": torch.randn(3, 5),
        "transposed": torch.randn(4, 6).t(),
        "number": torch.tensor(2.5, dtype=torch.float64),
        "flags": torch.tensor([True, False, True]),
        "nothing": torch.zeros(0, 3),
        "narrow": torch.randn(3).bfloat16(),
        "half": torch.randn(3).half(),
        "bytes": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "counts": torch.arange(4),
    }
    data = b"".join(bytes(part) for part in _safetensors(tensors))
    found = safetensors.torch.load(data)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
