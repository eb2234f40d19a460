"""Tests of --dry-run, progress output and trackers."""

import json
import math
import re
import shutil

import pytest
import torch
from runs import SMALL_PRIOR, SMALL_TOKENIZER, launcher, run, video_vq
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._subclasses.fake_tensor import FakeTensorMode

from video_vq.cli import main
from video_vq.config import check_config, load_config
from video_vq.inspect.costs import saved_bytes
from video_vq.inspect.timing import _duration
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.models.tokenizer_config import TokenizerConfig
from video_vq.training import progress_line
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig


@pytest.fixture
def configs(tmp_path):
    for name, text in (("tokenizer", SMALL_TOKENIZER), ("prior", SMALL_PRIOR)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def train(verb: str, configs, *arguments, **changes):
    config = configs / f"{verb.removeprefix('train-')}.yaml"
    return video_vq(verb, "--config", config, *arguments, **changes)


def test_a_dry_run_of_the_tokenizer_tells_its_sizes_and_writes_nothing(clip_store, configs):
    out = configs / "run"
    answer = train("train-tokenizer", configs, "--data", clip_store, "--out", out, "--dry-run")
    text = answer.stdout
    # 4x16x16 pixels at 24 bits; strides 2x4x4 leave 2x4x4 tokens of log2(32) = 5 bits; 10 fps.
    assert "tokens          2x4x4 = 32 a clip, 5 bits each" in text
    assert f"compression     {4 * 16 * 16 * 24 / 160:.1f} x" in text
    assert "0.4 kbit per second of video" in text
    assert "data            6 train videos" in text
    assert "steps           6 of 4 clips: 24 clips, 4.0 times the clips of an epoch" in text
    assert text.startswith("parameters ")  # the answer comes first
    assert text.endswith("\ndry run: nothing was written; --json prints the settings, too\n")
    assert not out.exists()
    parameters = sum(value.numel() for value in small_tokenizer().parameters())
    assert f"parameters      {parameters:,} (" in text or f"{parameters / 1e6:.2f} M" in text
    common = ["--data", clip_store, "--out", out, "--dry-run", "--json"]
    numbers = json.loads(train("train-tokenizer", configs, *common).stdout)
    assert numbers["parameters"] == parameters
    assert (numbers["grid_thw"], numbers["bits_per_token"]) == ([2, 4, 4], 5)
    assert (numbers["train_clips"], numbers["steps"], numbers["time"]) == (6, 6, None)
    assert numbers["config"]["optim"]["batch_size"] == 4


def test_a_quiet_training_says_where_its_model_is_and_json_has_stdout_for_itself(
    clip_store, configs
):
    common = ["--data", clip_store, "--out", configs / "run", "--tracker", "none"]
    common += ["optim.steps=2", "optim.warmup_steps=0"]
    quiet = train("train-tokenizer", configs, *common, "--quiet")
    assert quiet.stdout == f"tokenizer: {configs / 'run' / 'tokenizer'}\n"
    assert quiet.stderr == ""
    found = json.loads(train("train-tokenizer", configs, *common, "--json").stdout)
    assert found["model"] == str(configs / "run" / "tokenizer")
    assert found["steps"] == 2


def small_tokenizer() -> VideoTokenizer:
    backbone = {
        "channels": 8,
        "num_blocks": 1,
        "patch_thw": [1, 2, 2],
        "multipliers": [1, 2],
        "strides_thw": [[2, 2, 2]],
    }
    quantizer = {"codebook_size": 32, "codebook_dim": 8}
    settings = {"backbone": backbone, "quantizer": quantizer}
    return VideoTokenizer(check_config(TokenizerConfig, settings, "a test"))


def test_a_dry_run_of_the_prior_tells_its_sizes(clip_store, configs):
    train("train-tokenizer", configs, "--data", clip_store, "--out", configs / "t")
    video_vq("encode", clip_store, "--tokenizer", configs / "t", "--out", configs / "tokens")
    out = configs / "p"
    common = ["--tokens", configs / "tokens", "--out", out]
    text = train("train-prior", configs, *common, "--dry-run").stdout
    assert "a uniform guess costs 5 bits per token" in text
    assert "classes         2" in text
    assert not out.exists()
    # TensorBoard gets every number of metrics.jsonl.
    train("train-prior", configs, *common)
    assert_tensorboard_holds_the_metrics(out)


def test_the_memory_of_a_dry_run_is_what_a_real_pass_keeps():
    def kept(make_video) -> int:
        tokenizer = small_tokenizer()
        video = make_video()
        return saved_bytes(
            tokenizer, lambda: tokenizer.decoder(tokenizer.encoder(video)).square().mean()
        )

    real = kept(lambda: torch.zeros(2, 3, 4, 16, 16))
    with FakeTensorMode():
        fake = kept(lambda: torch.zeros(2, 3, 4, 16, 16))
    with FakeTensorMode():
        twice = kept(lambda: torch.zeros(4, 3, 4, 16, 16))
    assert real == fake
    assert 1.9 < twice / fake <= 2


def test_a_dry_run_counts_the_processes_of_the_launcher(clip_store, configs):
    config = configs / "tokenizer.yaml"
    train = ("-m", "video_vq", "train-tokenizer", "--config", config, "--data", clip_store)
    answer = run([*launcher(2), *train, "--out", configs / "run", "--dry-run"])
    assert "activations of 2 clips" in answer.stdout
    assert answer.stdout.count("dry run: nothing was written") == 1


PROGRESS = r"(?:step|validating: clip) \d+ of \d+(?=  [\d.,]+ clips per second  \d\d:\d\d left$)"


def said(text: str) -> list[str]:
    """Return the beginnings of all progress lines and log lines."""
    return re.findall(rf"^(?:{PROGRESS}|step \d+(?=  ))", text, re.MULTILINE)


@pytest.mark.parametrize("seconds", [30.0, -1.0])
def test_a_training_speaks_at_its_first_step_and_then_before_it_is_silent_for_long(
    seconds, clip_store, configs, monkeypatch, capfd
):
    monkeypatch.setattr(progress_line, "SILENCE_SECONDS", seconds)
    config = load_config(TokenizerTrainingConfig, configs / "tokenizer.yaml", ["run.log_every=3"])
    train_tokenizer(config, clip_store, configs / "run")
    first = ["step 1 of 6"]
    if seconds > 0:  # all is over before
        expected = [*first, "step 3", "step 4", "step 6", "step 6"]
    else:
        validation = ["validating: clip 3 of 3"]
        of_log = ["step 3", *("step 4 of 6", *validation, "step 4"), "step 5 of 6"]
        expected = [*first, "step 2 of 6", *of_log, "step 6", *validation, "step 6"]
    assert said(capfd.readouterr().err) == expected
    lines = (configs / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 4, 6, 6]


def test_a_timed_dry_run_of_each_training_measures_its_own_steps(clip_store, configs, capsys):
    """The trainings are of a tokenizer with a late-starting discriminator and of a prior."""
    adversarial = "loss.adversarial={weight: 0.1, start: 50, channels: 8, levels: 2}"
    of_tokenizer = ["train-tokenizer", "--config", str(configs / "tokenizer.yaml")]
    of_tokenizer += ["--data", str(clip_store)]
    assert main([*of_tokenizer, "--out", str(configs / "t")]) == 0
    encode = ["encode", str(clip_store), "--tokenizer", str(configs / "t")]
    assert main([*encode, "--out", str(configs / "tokens")]) == 0
    of_prior = ["train-prior", "--config", str(configs / "prior.yaml")]
    of_prior += ["--tokens", str(configs / "tokens"), "optim.batch_size=2"]
    capsys.readouterr()
    for command, batch in (([*of_tokenizer, adversarial], 4), (of_prior, 2)):
        out = ["--out", str(configs / "new"), "--dry-run", "--time"]
        assert main([*command, "optim.steps=1000", "run.validate_every=300", *out]) == 0
        said = capsys.readouterr()
        [line] = [line for line in said.out.splitlines() if line.startswith("time ")]
        found = re.fullmatch(
            r"time +about (.+) on this machine: 1,000 steps of (\S+) s \((\S+) clips per second\) "
            r"and 4 validations of (\S+) s; measured on 10 steps with their data loading, "
            "checkpoints come on top",
            line,
        )
        assert found is not None, line
        whole, step, rate, validation = found.groups()
        assert float(rate) == pytest.approx(batch / float(step), rel=0.02)
        seconds = 1000 * float(step) + 4 * float(validation)
        assert abs(seconds - in_seconds(whole)) <= 60 + 0.02 * seconds
        assert "steps           1,000 of" in said.out  # those of the whole run
        assert said.out.endswith("--json prints the settings, too\n")
        assert "step 15" in said.err
        assert ("adversarial" in said.err) == (batch == 4)
    assert not (configs / "new").exists()


def in_seconds(duration: str) -> float:
    units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    words = duration.split()
    return sum(
        int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True)
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (59.5, "60 s"),
        (60.0, "60 s"),
        (61.0, "2 min"),
        (3600.0, "1 h"),
        (3661.0, "1 h 2 min"),
        (86400 * 3 + 60.0, "3 d 1 min"),
        (90061.0, "1 d 1 h 2 min"),
    ],
)
def test_a_duration_is_rounded_up_to_minutes(seconds, text):
    assert _duration(seconds) == text


def test_time_alone_is_refused(clip_store, configs, capsys):
    config = ["--config", str(configs / "tokenizer.yaml"), "--data", str(clip_store)]
    assert main(["train-tokenizer", *config, "--out", str(configs / "run"), "--time"]) == 2
    assert "--time needs --dry-run" in capsys.readouterr().err
    assert not (configs / "run").exists()


def assert_tensorboard_holds_the_metrics(run) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {
        (name, line["step"]): value
        for line in lines
        for name, value in line.items()
        if name not in ("step", "clock")
    }
    found = {
        (name, event.step): event.value
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    }
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert math.isclose(found[key], value, rel_tol=1e-5, abs_tol=1e-30), key
    return events


def test_tensorboard_shows_numbers_and_playing_validation_clips(clip_store, configs):
    run = configs / "run"
    train("train-tokenizer", configs, "--data", clip_store, "--out", run)
    events = assert_tensorboard_holds_the_metrics(run)
    clips = events.Images("validation/clips")
    assert [clip.step for clip in clips] == [4, 6]
    assert clips[0].encoded_image_string.startswith(b"GIF89a")
    assert clips[0].encoded_image_string.count(b"\x21\xf9\x04") == 4  # a control block per frame


def test_a_resumed_run_shows_each_step_once(clip_store, configs):
    run = configs / "run"
    common = ["--data", clip_store, "--out", run]
    train("train-tokenizer", configs, *common, "run.log_every=1")
    # Without its last checkpoint the run goes on from step 4, and logs steps 5 and 6 again.
    shutil.rmtree(max((run / "state").iterdir()))
    train("train-tokenizer", configs, *common, "run.log_every=1")
    assert len(list((run / "tensorboard").iterdir())) == 2
    events = assert_tensorboard_holds_the_metrics(run)
    assert [event.step for event in events.Scalars("loss/reconstruction")] == [1, 2, 3, 4, 5, 6]


def test_no_tracker_leaves_metrics_alone(clip_store, configs):
    run = configs / "run"
    train("train-tokenizer", configs, "--data", clip_store, "--out", run, "--tracker", "none")
    assert (run / "metrics.jsonl").exists()
    assert not (run / "tensorboard").exists()


def test_a_tracker_that_is_not_there_is_named(clip_store, configs, monkeypatch, capsys):
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "trackio" else there(name)
    )
    config = str(configs / "tokenizer.yaml")
    common = ["--data", str(clip_store), "--out", str(configs / "run")]
    assert main(["train-tokenizer", "--config", config, *common, "--tracker", "trackio"]) == 1
    assert "--tracker trackio: not installed; `pip install trackio`" in capsys.readouterr().err
