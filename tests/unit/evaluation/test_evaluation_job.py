"""Tests that the options of `evaluate` are consistent, and none is silently overridden."""

from pathlib import Path
from typing import Any

import pytest

from video_vq.errors import ConfigError, InputError
from video_vq.evaluation import evaluation_job
from video_vq.evaluation.evaluation_job import EvaluationJob, finished_scores
from video_vq.evaluation.generation_protocols import generation_protocol
from video_vq.metrics.protocol import fvd_protocol
from video_vq.stores.files import write_json

PLACE = Path("nowhere")


def job(generation: str | None = None, **asked: Any) -> EvaluationJob:
    protocol = None if generation is None else generation_protocol(generation)
    asked = {"generation": protocol, "samples": PLACE, **asked}
    return EvaluationJob(PLACE, PLACE, fvd_protocol("styleganv"), **asked)


def test_without_a_generation_protocol_split_and_number_are_as_asked():
    assert job().split_and_number == ("test", 2048)
    assert job(split="val", num_clips=7).split_and_number == ("val", 7)


@pytest.mark.parametrize(
    "asked",
    [{}, {"split": "train"}, {"num_clips": 10_000}, {"split": "train", "num_clips": 10_000}],
)
def test_a_generation_protocol_takes_what_agrees_with_it(asked):
    assert job("ucf101-10k-train", **asked).split_and_number == ("train", 10_000)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"split": "val"}, "--split val: --generation bair-256 takes --split test; leave --split"),
        ({"num_clips": 64}, "--num 64: --generation bair-256 takes --num 256; leave --num out"),
        ({"samples": None}, "--generation needs --samples"),
        ({"prior": PLACE}, "--prior needs --tokens"),
        ({"split": "test", "num_clips": 255}, "--num 255: --generation bair-256 takes --num 256"),
    ],
)
def test_what_disagrees_with_a_generation_protocol_is_refused(asked, message):
    with pytest.raises(ConfigError, match=message):
        job("bair-256", **asked)


def test_codecs_without_an_encoder_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(evaluation_job, "available_codecs", lambda: ())
    with pytest.raises(InputError, match="none of the encoders libx264, libx265, libsvtav1; inst"):
        job(with_controls=True, with_codec=True)


def test_scores_by_a_network_of_ones_own_are_never_taken_for_finished(tmp_path):
    for identity, is_done in (({"data": "d"}, True), ({"data": "d", "network": "a:b"}, False)):
        write_json(tmp_path / "scores.json", {"identity": identity})
        assert (finished_scores(tmp_path, identity) is not None) == is_done
