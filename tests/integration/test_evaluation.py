"""Tests of `video-vq evaluate` and `compare` from the command line: on ranks, killed, repeated."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import codec as codec_bench
import numpy as np
import pytest
import torch
from made_videos import scene
from PIL import Image
from runs import SMALL_PRIOR, SMALL_TOKENIZER, environment, make_clip_store, video_vq

import data_prep.cli
from video_vq.cli import main
from video_vq.evaluation import codec_control, evaluation_setup
from video_vq.evaluation.feature_network import FeatureNetwork, named_i3d
from video_vq.media.encode import write_video
from video_vq.metrics.i3d import NUM_LOGITS

NUM = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with a store, two tokenizers, tokens, a prior and samples."""
    path = tmp_path_factory.mktemp("evaluation")
    make_clip_store(path / "clips", num_videos=30, num_frames=16)
    text = SMALL_TOKENIZER.replace("num_frames: 4", "num_frames: 16")
    (path / "tokenizer.yaml").write_text(text)
    (path / "prior.yaml").write_text(SMALL_PRIOR)
    for name, steps in (("a", 2), ("b", 12)):
        run(
            *("train-tokenizer", "--config", path / "tokenizer.yaml", "--data", path / "clips"),
            *("--out", path / name, "--tracker", "none", f"optim.steps={steps}"),
        )
    run("encode", path / "clips", "--tokenizer", path / "a", "--out", path / "tokens")
    run(
        *("train-prior", "--config", path / "prior.yaml", "--tokens", path / "tokens"),
        *("--out", path / "prior", "--tracker", "none"),
    )
    run(
        *("sample", "--prior", path / "prior", "--tokenizer", path / "a"),
        *("--out", path / "samples", "--num", "10"),
    )
    return path


def run(*arguments: object) -> None:
    assert main([str(part) for part in arguments]) == 0


def arguments(made: Path, name: str, out: Path) -> list:
    return [
        *("evaluate", "--data", made / "clips", "--tokenizer", made / name, "--out", out),
        *("--num", "10", "--samples", made / "samples"),
    ]


def comparable(folder: Path) -> dict:
    scores = json.loads((folder / "scores.json").read_text())
    scores.pop("environment")
    return scores


def assert_close(one, other, path: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_close(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_close(left, right, f"{path}[{number}]")
    elif isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6), path
    else:
        assert one == other, path


@pytest.mark.weights
def test_two_ranks_score_as_one_does_and_a_killed_run_repeats_no_clip(
    made, tmp_path, monkeypatch, preloaded
):
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    full = [*("--tokens", made / "tokens", "--prior", made / "prior", "--controls")]
    full += ["--num", str(NUM)]  # the network takes a second for each clip
    command = [*arguments(made, "a", tmp_path / "one"), *full]
    process = subprocess.Popen(
        [sys.executable, "-m", "video_vq", *map(str, command)],
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    while not (known := num_known(tmp_path / "cache")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert known > 0
    assert not (tmp_path / "one" / "scores.json").exists()
    kept = num_known(tmp_path / "cache")
    video_vq(*command)
    # Real clips, reconstructions, frozen, drawn and sampled ones: each once.
    assert num_known(tmp_path / "cache") == 5 * NUM
    assert kept < 5 * NUM
    two = [*arguments(made, "a", tmp_path / "two"), *full]
    preloaded.ranks(2, "video-vq", *two, VIDEO_VQ_CACHE=str(tmp_path / "other cache"))
    assert num_known(tmp_path / "other cache") == 5 * NUM
    assert_close(comparable(tmp_path / "one"), comparable(tmp_path / "two"))
    scores = comparable(tmp_path / "one")
    assert {"motion_energy_ratio", "flicker", "bits_per_second"} <= scores["reconstruction"].keys()
    assert scores["generation"]["memorisation"]["num_train_clips"] == 10
    assert scores["generation"]["diversity"]["ratio"] > 0
    # Nothing is done again when all is there.
    again = video_vq(*command)
    assert "features of" not in again.stderr


def num_known(cache: Path) -> int:
    record = 32 + 4 * 400 + 4
    return sum(file.stat().st_size // record for file in cache.rglob("*.log"))


class Averages(torch.nn.Module):
    """A fast feature network: each color's mean in each eighth of a clip, padded with zeros."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        means = torch.nn.functional.adaptive_avg_pool3d(video, (8, 1, 1)).flatten(1)
        return torch.nn.functional.pad(means, (0, NUM_LOGITS - means.shape[1]))


def test_compare_tells_what_differs(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation_setup, "load_feature_network", lambda *_: quick_network())
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))

    def answer(*arguments: object, expect: int = 0) -> str:
        capsys.readouterr()
        assert main([str(part) for part in arguments]) == expect
        said = capsys.readouterr()
        return said.err if expect else said.out

    for name in ("a", "b"):
        answer(*arguments(made, name, tmp_path / name))
    table = answer("compare", tmp_path / "a", tmp_path / "b")
    assert f"| | {tmp_path}/a | {tmp_path}/b |" in table
    assert "| PSNR, dB ↑ |" in table
    assert "FVD (styleganv): 16 frames" in table
    found = json.loads(answer("compare", tmp_path / "a", tmp_path / "b", "--json"))
    psnr = next(row for row in found["scores"] if row["name"] == "PSNR, dB")
    first, second = psnr["runs"]
    assert first["low"] is None
    middle = (second["low"] + second["high"]) / 2
    assert middle == pytest.approx(second["value"] - first["value"], abs=1e-6)
    rfvd = next(row for row in found["scores"] if row["name"] == "rFVD")
    assert rfvd["runs"][1]["low"] < rfvd["runs"][1]["high"]
    latex = answer("compare", tmp_path / "a", tmp_path / "b", "--latex")
    assert r"\begin{tabular}{lrr}" in latex
    assert latex.count(r"\\") == 1 + len(found["scores"])
    # The same clips of another protocol cannot be compared.
    fewer = [*arguments(made, "b", tmp_path / "c"), "--protocol", "google", "--num", "6"]
    assert "of 10 samples the first 6 were scored" in answer(*fewer)
    refused = answer("compare", tmp_path / "a", tmp_path / "c", expect=1)
    assert "did not score the same clips by the same protocol" in refused
    assert "protocol.name: 'styleganv' -> 'google'" in refused
    none = answer("compare", tmp_path / "a", tmp_path, expect=1)
    assert "holds no scores.json" in none


def test_codecs_stand_beside_the_tokenizer_at_its_bits(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation_setup, "load_feature_network", lambda *_: quick_network())
    monkeypatch.setattr(codec_control, "available_codecs", lambda: ("h264",))
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    models = ("--tokens", made / "tokens", "--prior", made / "prior", "--controls", "codec")
    run(*arguments(made, "a", tmp_path / "a"), *models, "--num", "4")
    told = capsys.readouterr().out
    scores = comparable(tmp_path / "a")
    at_tokens, after_prior = scores["codecs"]
    ours = scores["reconstruction"]
    assert at_tokens["bits_per_clip"] == ours["bits_per_clip"]
    assert after_prior["bits_per_clip"] == scores["prior"]["bits_per_clip"]
    assert at_tokens["payload_bits"] < at_tokens["file_bits"]
    # A clip of 16 x 16 has fewer bits of tokens than H.264 can do with; it says what it took.
    assert at_tokens["share_above"] == 1.0
    assert at_tokens["payload_bits"] > ours["bits_per_clip"]
    assert scores["controls"]["psnr_h264_above"] == at_tokens["psnr"]["mean"]
    assert "H.264, which needs more than the tokens' bits" in told
    [line] = [one for one in told.splitlines() if "at the tokens' bits (" in one]
    assert line.startswith("H.264 wins in ")
    assert f"took {at_tokens['payload_bits']:,.0f}, as 100% of the clips need more): PSNR" in line


def test_the_codecs_curves_are_measured_once(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    words = ["--data", made / "clips", "--out", tmp_path / "out", "--num", "4", "--codecs", "h264"]
    words += ["--model", f"a={made / 'a'},{made / 'tokens'},{made / 'prior'}"]
    words += ["--bits", "3000", "9000", "--network", f"{__name__}:averages"]
    words = [str(word) for word in words]
    codec_bench.main(words)
    table = capsys.readouterr().out
    assert "| a, after the prior |" in table
    monkeypatch.setattr(codec_bench, "score_codec", None)  # would be called for what is missing
    codec_bench.main(words)
    assert capsys.readouterr().out == table
    codecs = json.loads((tmp_path / "out" / "codecs.json").read_text())["scores"]
    few, many = codecs
    assert few["payload_bits"] <= 3000 < many["payload_bits"] <= 9000
    assert many["psnr"]["mean"] > few["psnr"]["mean"]


def test_evaluate_names_the_command_that_makes_a_store_of_other_videos(
    made, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(evaluation_setup, "load_feature_network", lambda *_: quick_network())
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    clips = np.stack([scene(16, 16, 16, seed) for seed in range(3)])
    np.save(tmp_path / "array.npy", clips)
    for number, clip in enumerate(clips):
        folder = tmp_path / "some frames" / f"{number}"
        folder.mkdir(parents=True)
        for place, frame in enumerate(clip):
            Image.fromarray(frame).save(folder / f"{place}.png")
    single = tmp_path / "single" / "0.mp4"
    single.parent.mkdir()
    write_video(single, clips[0], 8)
    scores = []
    for form, flag in (
        ("single/0.mp4", "--samples"),
        ("array.npy", "--data"),
        ("some frames", "--data"),
        ("array.npy", "--samples"),
    ):
        name = form.replace("/", " ")
        store, out = tmp_path / f"{name} {flag}", tmp_path / f"of {name} {flag}"
        named = ["--data", made / "clips", flag, tmp_path / form]  # the last one of a flag counts
        command = ["evaluate", *named, "--tokenizer", made / "a", "--out", out, "--num", "3"]
        capsys.readouterr()
        assert main([str(word) for word in command]) == 1
        (told,) = capsys.readouterr().err.splitlines()
        assert f"{form}: holds no manifest.json, but evaluate needs a clip store" in told
        way = shlex.split(told.split("`")[1].replace("STORE", shlex.quote(str(store))))
        assert way.pop(0) == "data-prep"
        assert data_prep.cli.main(way) == 0
        if form == "single/0.mp4":  # too few for a distance
            continue
        run(*(store if word == tmp_path / form else word for word in command))
        scores.append(comparable(out))
    of_array, of_frames, of_samples = scores
    assert of_array["reconstruction"]["psnr"] == of_frames["reconstruction"]["psnr"]
    assert of_array["num_clips"] == of_samples["generation"]["gfvd"]["num_fake"] == len(clips)


def quick_network() -> FeatureNetwork:
    return named_i3d()._replace(module=Averages())  # compare reads what I3D alone has made


def averages() -> Averages:
    """Return a feature network for `--network`."""
    return Averages().eval()


def test_a_network_of_ones_own_scores_and_is_compared(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    own = ("--network", f"{__name__}:averages")

    def answer(*words: object, expect: int = 0) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == expect
        said = capsys.readouterr()
        return said.err if expect else said.out

    for name in ("a", "b"):
        told = answer(*arguments(made, name, tmp_path / name), *own)
        assert f"the network of FVD is {__name__}:averages, not I3D" in told
    scores = comparable(tmp_path / "a")
    assert scores["identity"]["network"] == f"{__name__}:averages"
    assert scores["network_sha256"] != named_i3d().sha256
    folders = [tmp_path / "a", tmp_path / "b"]
    table = json.loads(answer("compare", *folders, *own, "--json"))
    rfvd = next(row for row in table["scores"] if row["name"] == "rFVD")
    values = [comparable(folder)["reconstruction"]["rfvd"]["value"] for folder in folders]
    assert [run["value"] for run in rfvd["runs"]] == values
    assert rfvd["runs"][1]["low"] < values[1] - values[0] < rfvd["runs"][1]["high"]
    assert "Name the network of both with --network" in answer("compare", *folders, expect=1)
    monkeypatch.setattr(evaluation_setup, "load_feature_network", lambda *_: quick_network())
    answer(*arguments(made, "b", tmp_path / "i3d"))
    refused = answer("compare", tmp_path / "a", tmp_path / "i3d", *own, expect=1)
    assert f"network: '{__name__}:averages' -> None" in refused


@pytest.mark.weights
def test_a_generation_protocol_is_kept_or_refused(made, tmp_path):
    samples = [*arguments(made, "a", tmp_path / "x"), "--generation", "ucf101-2048-test"]
    number = samples.index("--num")
    refused = video_vq(*samples[:number], *samples[number + 2 :], expect=1)
    assert "takes 2048 real clips of split test and 2048 samples, found 10 and 10" in refused.stderr
    assert not (tmp_path / "x").exists()
