"""Tests that float32 keeps full precision inside the context, and settings are restored."""

from typing import Any

import pytest
import torch

from video_vq.nn.precision import exact_float32


def readings() -> tuple:
    backends: Any = torch.backends
    return (
        torch.get_float32_matmul_precision(),
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,
        backends.mkldnn.matmul.fp32_precision,
        backends.mkldnn.conv.fp32_precision,
    )


@pytest.fixture(autouse=True)
def restored():
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_global_settings_do_not_reach_inside_and_come_back(setting):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 256, generator=generator)
    y = torch.randn(256, 64, generator=generator)
    expected = x @ y
    torch.set_float32_matmul_precision(setting)
    before = readings()
    with torch.autocast("cpu", dtype=torch.bfloat16), exact_float32(torch.device("cpu")):
        inside = x @ y
        # What PyTorch's CUDA product asks before it runs; it raises when the interfaces disagree.
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.equal(inside, expected)
    assert readings() == before


def test_an_error_inside_restores_the_settings():
    torch.set_float32_matmul_precision("high")
    before = readings()
    with pytest.raises(KeyError), exact_float32(torch.device("cpu")):
        raise KeyError
    assert readings() == before
