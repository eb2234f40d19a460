"""Tests that no rank waits if rank 0 refuses to write."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from runs import make_clip_store
from trained import trained_prior, trained_tokenizer

from video_vq.errors import InputError
from video_vq.stages.decode_job import DecodeJob
from video_vq.stages.decode_tokens import decode_store
from video_vq.stages.encode_clips import encode_clips
from video_vq.stages.encode_job import EncodeJob
from video_vq.stages.sample_clips import sample_store
from video_vq.stages.sample_job import SampleJob
from video_vq.stores.tokens import TokenHeader, TokenStoreWriter

WRITE: dict[str, Callable[[Accelerator, Path], object]] = {
    "encode": lambda ranks, root: encode_clips(
        ranks, EncodeJob(root / "clips", root / "t", root / "clips")
    ),
    "decode": lambda ranks, root: decode_store(
        ranks, DecodeJob(root / "tokens", root / "t", root / "clips")
    ),
    "sample": lambda ranks, root: sample_store(
        ranks, SampleJob(root / "p", root / "t", root / "clips", num_samples=2)
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with clips and a matching tokenizer, prior and token store."""
    root = tmp_path_factory.mktemp("made")
    store = make_clip_store(root / "clips")
    tokenizer = trained_tokenizer()
    tokenizer.save_pretrained(root / "t")
    prior = trained_prior()
    prior.facts = replace(prior.facts, tokenizer_hash=tokenizer.hash)
    prior.save_pretrained(root / "p")
    header = TokenHeader(
        tokenizer.hash, 32, (2, 4, 4), 4, (16, 16), 10.0, store.classes, store.content_hash, {}
    )
    writer = TokenStoreWriter(root / "tokens", header)
    writer.write_shard(0, np.zeros((1, 2, 4, 4), int), np.array([[0, 0, 1]]))
    writer.finish(1, store.videos)
    return root


def one_of_two(said: list[float], is_main: bool, main_failed: bool) -> Accelerator:
    """Return a fake of one of two ranks.

    Args:
        said: list to which the rank's summands are appended.
        is_main: whether the rank is rank 0.
        main_failed: the other rank's summand.
    """
    ranks = mock.create_autospec(Accelerator, instance=True, mixed_precision="no")
    ranks.device, ranks.num_processes = torch.device("cpu"), 2
    ranks.is_main_process, ranks.process_index = is_main, int(not is_main)
    ranks.reduce.side_effect = lambda value, _: said.append(float(value)) or value + main_failed
    return ranks


@pytest.mark.parametrize("verb", WRITE)
@pytest.mark.parametrize("is_main", [True, False])
def test_where_rank_0_refuses_the_other_ranks_end(made, verb, is_main):
    said: list[float] = []
    # What lies at --out is another store, which the rank that owns it refuses.
    expected = "/clips: " if is_main else "rank 0 cannot continue; its message says why"
    with pytest.raises(InputError, match=expected):
        WRITE[verb](one_of_two(said, is_main, not is_main), made)
    assert said == [float(is_main)]
