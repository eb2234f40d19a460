"""Tests that the shipped sizes of priors match the table in docs/prior.md."""

import re
from pathlib import Path

import pytest
import torch

from video_vq.config import find_config, load_config
from video_vq.models.prior import Prior
from video_vq.models.prior_config import PriorConfig
from video_vq.training.training_config import PriorTrainingConfig

PAGE = (Path(__file__).parents[3] / "docs" / "prior.md").read_text()


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_the_table_of_sizes_is_what_the_configs_make(name):
    sizes = load_config(PriorTrainingConfig, find_config(name, "prior")).model
    config = PriorConfig(1024, (4, 16, 16), transformer=sizes)
    with torch.device("meta"):
        prior = Prior(config)
    count = sum(weight.numel() for weight in prior.parameters())
    products = sum(w.numel() for w in prior.blocks.parameters() if w.ndim == 2)
    products += prior.head.weight.numel()
    reads = config.num_tokens / 2 * 2 * sizes.width * sizes.depth  # scores and values
    cache = 4 * 2 * sizes.depth * sizes.width * config.num_tokens
    row = (
        f"| `{name}` | {sizes.width} | {sizes.depth} | {sizes.heads} | {sizes.hidden} | "
        f"{count / 1e6:.1f} M | {2 * (products + reads) / 1e6:.1f} | {cache / 1e6:.1f} |"
    )
    assert row in re.findall(r"^\|.*\|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("name", "base"), [("video64", "tiny"), ("ucf101", "base")])
def test_a_data_sets_config_has_the_size_it_is_built_on(name, base):
    one, other = (
        load_config(PriorTrainingConfig, find_config(config, "prior")).model
        for config in (name, base)
    )
    assert (one.width, one.depth, one.heads) == (other.width, other.depth, other.heads)
