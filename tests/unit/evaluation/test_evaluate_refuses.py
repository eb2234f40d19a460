"""Tests that `evaluate` rejects inputs that do not match before it computes anything."""

from dataclasses import replace

import numpy as np
import pytest
from accelerate import Accelerator
from runs import make_clip_store
from trained import trained_prior, trained_tokenizer

from video_vq.errors import InputError
from video_vq.evaluation import evaluation_setup
from video_vq.evaluation.evaluate import evaluate
from video_vq.evaluation.evaluation_job import EvaluationJob
from video_vq.metrics.protocol import fvd_protocol
from video_vq.stores.clips import Video
from video_vq.stores.tokens import TokenHeader, TokenStoreWriter

NOT_THIS = "0" * 64


def make_tokens(path, tokenizer_hash: str, data_hash: str) -> None:
    classes = ("left", "right")
    header = TokenHeader(
        tokenizer_hash, 32, (2, 4, 4), 4, (16, 16), 10.0, classes, data_hash, {"made": "by a test"}
    )
    writer = TokenStoreWriter(path, header)
    writer.write_shard(0, np.zeros((2, 2, 4, 4), int), np.array([[0, 0, 1], [1, 0, 1]]))
    writer.finish(1, [Video(f"{n}", "left", s, f"{n}") for n, s in enumerate(("train", "test"))])


@pytest.mark.parametrize("foreign", ["tokens", "prior"])
def test_tokens_or_a_prior_of_another_tokenizer_cost_no_evaluation(tmp_path, monkeypatch, foreign):
    data = make_clip_store(tmp_path / "clips")
    tokenizer, prior = trained_tokenizer(), trained_prior()
    tokenizer.save_pretrained(tmp_path / "t")
    of = {name: NOT_THIS if name == foreign else tokenizer.hash for name in ("tokens", "prior")}
    prior.facts = replace(prior.facts, tokenizer_hash=of["prior"])
    prior.save_pretrained(tmp_path / "p")
    make_tokens(tmp_path / "tokens", of["tokens"], data.content_hash)
    monkeypatch.setattr(evaluation_setup, "load_feature_network", None)  # nothing is computed
    path = tmp_path / {"tokens": "tokens", "prior": "p"}[foreign]
    with pytest.raises(InputError, match=rf"{path}: belongs to the tokenizer 000000000000…"):
        evaluate(
            Accelerator(),
            EvaluationJob(
                data.path,
                tmp_path / "t",
                fvd_protocol("styleganv"),
                prior=tmp_path / "p",
                tokens=tmp_path / "tokens",
            ),
            tmp_path / "scores",
            {},
        )
    assert not (tmp_path / "scores").exists()
