"""The frame rate of the data reaches the samples, also where the data have several."""

from pathlib import Path

import pytest
from runs import SMALL_PRIOR, make_clip_store
from trained import trained_tokenizer

from video_vq.cli import main
from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenStore


def rates_of(store: Path) -> list[float | None]:
    return [video.fps for video in ClipStore(store).videos]


@pytest.mark.parametrize("rates", [(24.0, 25.0, 24.0), (25.0,)])
def test_samples_have_the_commonest_rate_and_decoded_clips_their_own(tmp_path, rates):
    store = make_clip_store(tmp_path / "clips", 9, 4, rates)
    trained_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "prior.yaml").write_text(SMALL_PRIOR)
    tokenizer = ["--tokenizer", str(tmp_path / "tokenizer")]
    tokens, prior, samples, decoded = (
        str(tmp_path / name) for name in ("tokens", "prior", "samples", "decoded")
    )
    assert main(["encode", str(store.path), *tokenizer, "--out", tokens]) == 0
    assert TokenStore(tokens).header.fps == rates[0]
    train = ["train-prior", "--config", str(tmp_path / "prior.yaml"), "--tokens", tokens]
    assert main([*train, "--out", prior, "--tracker", "none", "optim.steps=1"]) == 0
    assert main(["sample", "--prior", prior, *tokenizer, "--out", samples, "--num", "2"]) == 0
    assert rates_of(tmp_path / "samples") == [rates[0]] * 2
    assert main(["decode", tokens, *tokenizer, "--out", decoded]) == 0
    by_video = {video.id: video.fps for video in store.videos}
    found = {(v.origin or {})["video"]: v.fps for v in ClipStore(decoded).videos}
    assert found == by_video
