"""Tests that settings of the latents give two ranks equal bits and one rank's results."""

import json
from pathlib import Path

import pytest
import ranks
import torch
from ranks import OF_LATENTS, make_data
from test_ranks import distance, tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory, preloaded) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    make_data(folder)
    for world in (1, 2):
        (folder / str(world)).mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ranks.of_latents(folder, folder / "1")
    torch.set_num_threads(threads)
    preloaded.ranks(2, ranks.__file__, folder, "of_latents")
    return folder


@pytest.mark.parametrize("name", OF_LATENTS)
def test_two_ranks_hold_the_same_bits_and_train_like_one(folder, name):
    both = [(folder / "2" / f"{name}-rank{rank}").read_text() for rank in (0, 1)]
    assert both[0] == both[1]
    for kept in ("model", "averages"):
        one, two = (tensors(folder / world / name, 6, kept) for world in "12")
        assert distance(one, two) < 1e-5


def test_two_ranks_log_what_one_logs(folder):
    one, two = (
        [
            json.loads(line)
            for line in (folder / world / "late" / "metrics.jsonl").read_text().splitlines()
        ]
        for world in "12"
    )
    names = ("radial_wish", "radial_estimator", "radial_commitment", "radial_decay")
    names += ("obtuse_share", "exact_cosine_rotation", "exact_cosine_hessian")
    compared = 0
    for alone, shared in zip(one, two, strict=True):
        assert alone.keys() == shared.keys()
        found = {f"quantizer/{name}" for name in names} & alone.keys()
        for name in found:
            # A rank's sums are of its rows, with gradients of its own mean: the ranks' mean is
            # that of the whole. Decay knows no mean: half the rows have half of it.
            share = 2 if name.endswith("decay") else 1
            assert share * shared[name] == pytest.approx(alone[name], rel=2e-2, abs=1e-5)
        compared += len(found)
    assert compared == 3 * 5 + 3 * 7
