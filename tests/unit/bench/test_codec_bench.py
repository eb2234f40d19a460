"""Tests of the codec bench: rates, interpolation, table and plot."""

import math
import xml.etree.ElementTree as ElementTree
from argparse import Namespace
from itertools import pairwise

import codec as bench
import pytest
from trained import scores_of

from video_vq.errors import ConfigError, InputError
from video_vq.media.decode import pyav_version
from video_vq.stores.files import write_json


def tokenizer(bits: float, after_prior: float | None) -> dict:
    scores = scores_of("tokenizer")
    scores["reconstruction"]["bits_per_clip"] = bits
    if after_prior is None:
        del scores["prior"]
    else:
        scores["prior"]["bits_per_clip"] = after_prior
    return scores


def coded(title: str, bits: float, psnr: float) -> dict:
    scores = {"psnr": {"mean": psnr}, "ssim": {"mean": 0.5}, "rfvd": {"value": 900.0}}
    return {"title": title, "bits_per_clip": 2 * bits, "payload_bits": bits, **scores}


CURVES = bench.curves_of([coded("H.264", 4000, 30.0), coded("H.264", 1000, 20.0)])
MODELS = {"small": tokenizer(2000, 1000), "large": tokenizer(32000, None)}


def test_a_curve_is_read_at_the_bits_that_it_took_and_never_beyond_its_ends():
    curve = CURVES["H.264"]
    assert [point.bits for point in curve] == [1000, 4000]
    assert bench.at_bits(curve, 2000, "psnr") == pytest.approx(25.0)  # halfway over log bits
    assert bench.at_bits(curve, 999, "psnr") is None
    assert bench.at_bits(curve, 2000, "st_lpips") is None


def test_rates_reach_beyond_every_tokenizer_also_after_its_prior():
    rates = bench.rates_around(MODELS)
    assert rates[0] == 1000 / bench.REACH
    assert rates[-1] == pytest.approx(32000 * bench.REACH, abs=1)
    steps = {round(math.log(b / a), 2) for a, b in pairwise(rates)}
    assert len(steps) == 1


def test_the_table_says_what_the_codec_makes_of_as_many_bits():
    head, _, fixed, after, large = bench.markdown(MODELS, CURVES).splitlines()
    assert head.startswith("|  | bits per clip | PSNR, dB | SSIM | rFVD | H.264: PSNR, dB")
    assert fixed == "| small, fixed length | 2,000 | 27.25 | 0.9 | 41.50 | 25.00 | 0.5 | 900.00 |"
    assert after.startswith("| small, after the prior | 1,000 | 27.25 |")
    assert large == "| large, fixed length | 32,000 | 27.25 | 0.9 | 41.50 | — | — | — |"


def test_the_picture_is_the_same_each_time_and_names_every_curve(tmp_path):
    files = [tmp_path / name for name in ("a.svg", "b.svg")]
    for file in files:
        bench.picture([bench.panels_of(MODELS, CURVES)], file)
    assert files[0].read_bytes() == files[1].read_bytes()
    ElementTree.fromstring(files[0].read_text())
    for label in ("H.264", "small", "large", "bits per clip"):
        assert f">{label}</text>" in files[0].read_text()


def test_what_was_measured_on_several_stores_is_joined_in_one_picture(tmp_path):
    points = {name: bench.points_of(scores) for name, scores in MODELS.items()}
    for store in ("demo", "footage"):
        (tmp_path / store).mkdir()
        write_json(tmp_path / store / bench.CURVES, {"models": points, "curves": CURVES})
    joined = [f"{store}={tmp_path / store}" for store in ("demo", "footage")]
    rows = bench.read_panels(joined, ["psnr", "rfvd"])
    assert [list(row) for row in rows] == [
        ["demo: PSNR, dB", "footage: PSNR, dB"],
        ["demo: rFVD", "footage: rFVD"],
    ]
    measured = bench.panels_of(MODELS, CURVES)
    assert rows[0]["demo: PSNR, dB"] == measured["PSNR, dB"]
    assert rows[1]["footage: rFVD"] == measured["rFVD"]
    words = ["--join", *joined, "--scores", "psnr", "rfvd", "--picture"]
    bench.main([*words, str(tmp_path / "joined.svg")])
    bench.picture(rows, tmp_path / "measured.svg")
    assert (tmp_path / "joined.svg").read_bytes() == (tmp_path / "measured.svg").read_bytes()
    with pytest.raises(ConfigError, match="write NAME=FOLDER, of an earlier --out"):
        bench.read_panels(["demo"], ["psnr"])


def test_a_masked_prior_gives_no_second_rate():
    scores = tokenizer(2000, None)
    scores["prior"] = {"bits_per_hidden_token": 3.0, "num_grids": 8}
    assert list(bench.points_of(scores)) == ["fixed length"]


def test_codecs_that_another_network_scored_are_not_taken_for_these(tmp_path):
    same = dict.fromkeys(("data", "split", "num_clips", "protocol", "st_lpips"), "the same")

    def measured(network: str) -> list[dict]:
        scores = scores_of("tokenizer") | {"network_sha256": network, "identity": same}
        options = Namespace(out=tmp_path, codecs=["h264"])
        return bench.measure_codecs(bench.Model("a", tmp_path), scores, [2000], options)

    known = {"codec": "h264", "bits_per_clip": 2000}
    shared = {**same, "num_frames": 4, "frame_stride": 1, "network_sha256": "i3d"}
    shared["pyav"] = pyav_version()
    write_json(tmp_path / "codecs.json", {"shared": shared, "scores": [known]})
    assert measured("i3d") == [known]
    with pytest.raises(InputError, match="another feature network or PyAV; name another --out"):
        measured("videomae")


@pytest.mark.parametrize("text", ["runs/a", "a=tokenizer,tokens", "a=1,2,3,4"])
def test_a_model_is_named_with_its_prior_and_tokens_or_alone(text):
    with pytest.raises(ConfigError, match="write NAME=TOKENIZER or NAME=TOKENIZER,TOKENS,PRIOR"):
        bench.read_model(text)
    assert bench.read_model("a=b").prior is None
