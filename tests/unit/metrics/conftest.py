"""Fixtures for tests of metrics: feature networks, and reduced float32 precision."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.metrics.i3d import I3D, load_i3d


class PooledPixels(nn.Module):
    """A feature network with 24 features: means over 2 x 2 x 2 blocks per color channel."""

    num_features = 24

    def __init__(self):
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, video: Tensor) -> Tensor:
        self.modes.append(self.training)
        return F.adaptive_avg_pool3d(video, 2).flatten(1)


@pytest.fixture
def pooled_pixels() -> PooledPixels:
    return PooledPixels()


@pytest.fixture(scope="session")
def i3d() -> I3D:
    return load_i3d()


@pytest.fixture
def random_i3d() -> I3D:
    """Return I3D with random weights that preserve the scale of the activations."""
    torch.manual_seed(0)
    network = I3D()
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter)
    return network


@pytest.fixture
def reduced_precision():
    """Yield a function that switches on faster, less exact float32 arithmetic."""
    backend: Any = torch.backends.mkldnn

    def switch_on() -> None:
        torch.set_float32_matmul_precision("medium")
        backend.conv.fp32_precision = "bf16"

    yield switch_on
    torch.set_float32_matmul_precision("highest")
    backend.conv.fp32_precision = "none"
    backend.matmul.fp32_precision = "none"
