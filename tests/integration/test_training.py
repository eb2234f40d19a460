"""Tests of training from the command line: complete, resumed, changed, and on two ranks."""

import json
import re
import sys
from itertools import chain
from pathlib import Path

import observed
import pytest
import torch
from runs import SMALL_PRIOR, SMALL_TOKENIZER, AfterStep, run, video_vq
from torch import nn

from video_vq.cli import main
from video_vq.config import load_config
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.training.prior import train_prior
from video_vq.training.stop_request import StopRequest
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import PriorTrainingConfig, TokenizerTrainingConfig


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    (folder / "tokenizer.yaml").write_text(SMALL_TOKENIZER)
    (folder / "prior.yaml").write_text(SMALL_PRIOR)
    return folder


@pytest.fixture(scope="module")
def trained(configs, clip_store, tmp_path_factory) -> Path:
    """Return a folder with a trained tokenizer, tokens and a trained prior."""
    out = tmp_path_factory.mktemp("runs")
    config = configs / "tokenizer.yaml"
    video_vq("train-tokenizer", "--config", config, "--data", clip_store, "--out", out / "t")
    video_vq(
        *("encode", clip_store, "--tokenizer", out / "t", "--out", out / "tokens", "--hop", "1"),
    )
    config = configs / "prior.yaml"
    video_vq("train-prior", "--config", config, "--tokens", out / "tokens", "--out", out / "p")
    return out


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_clock(path: Path) -> list[dict]:
    return [
        {key: value for key, value in line.items() if key != "clock" and not key.startswith("time")}
        for line in lines(path)
    ]


def final_state(run: Path) -> dict:
    folder = run / "state" / "step_0000006"
    state = json.loads((folder / "state.json").read_text())
    del state["log_position"]  # the log's times have more or fewer digits
    tensors = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    return {"state": state, **tensors}


def train(kind: str, configs: Path, data: Path, out: Path, request: StopRequest) -> None:
    """Train in this process on one thread, as the other processes do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config, function = {
        "tokenizer": (TokenizerTrainingConfig, train_tokenizer),
        "prior": (PriorTrainingConfig, train_prior),
    }[kind]
    function(load_config(config, configs / f"{kind}.yaml", []), data, out, request=request)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["tokenizer", "prior"])
def test_a_run_in_two_parts_is_bit_equal_to_a_run_in_one(
    kind, trained, configs, clip_store, tmp_path, capfd
):
    data = ("--data", clip_store) if kind == "tokenizer" else ("--tokens", trained / "tokens")
    whole = trained / kind[0]
    part = tmp_path / "part"
    command = (f"train-{kind}", "--config", configs / f"{kind}.yaml", *data, "--out", part)
    part.mkdir()
    (part / "run.json").write_bytes((whole / "run.json").read_bytes())
    (part / "stop").touch()
    stopped = video_vq(*command)
    assert "stopped after step 0 of 6 before there was anything to save" in stopped.stdout
    assert not (part / "stop").exists()
    train(kind, configs, data[1], part, AfterStep(3))
    assert "stopped after step 3 of 6 and saved; the same command resumes" in capfd.readouterr().out
    assert not (part / kind).exists()
    resumed = video_vq(*command)
    assert "resuming from" in resumed.stdout
    assert final_state(part) == final_state(whole)
    assert without_clock(part / "metrics.jsonl") == without_clock(whole / "metrics.jsonl")
    hashes = [json.loads((run / kind / "config.json").read_text())["hash"] for run in (whole, part)]
    assert hashes[0] == hashes[1]


COMPILED = """
import atexit, sys
from torch import distributed, nn
from torch._dynamo import lookup_backend
from video_vq.cli import main
graphs, calls = [], []
def keep(graph, inputs):
    graphs.append(graph)
    function = lookup_backend("aot_eager")(graph, inputs)  # no C++ compiler needed
    def called(*inputs):
        calls.append(graph)
        return function(*inputs)
    return called
real = nn.Module.compile
def compile(module):
    print("compiled", type(module).__name__)
    return real(module, backend=keep)
nn.Module.compile = compile
# The last thing that happens: gloo's threads can abort a process that still has a group.
atexit.register(lambda: print(f"group {distributed.is_initialized()}\\n", end=""))
status = main()
print(f"graphs {len(graphs)} called {len(calls)}\\n", end="")
sys.exit(status)
"""
PARTS = {"tokenizer": ["ConvEncoder", "ConvDecoder"], "prior": ["Prior"]}


@pytest.mark.parametrize("kind", ["tokenizer", "prior"])
def test_a_compiled_training_is_the_one_as_written(kind, trained, configs, clip_store, tmp_path):
    data = ("--data", clip_store) if kind == "tokenizer" else ("--tokens", trained / "tokens")
    answer = run(
        [
            *(sys.executable, "-c", COMPILED, f"train-{kind}"),
            *("--config", configs / f"{kind}.yaml", *data, "--out", tmp_path / "run"),
            "run.compile=true",
        ]
    )
    assert "Warning" not in answer.stderr
    assert re.findall(r"^compiled (\w+)$", answer.stdout, re.M) == PARTS[kind]
    # One graph a part, called in the trial and in the six steps; validations call none.
    assert counted(answer.stdout) == [(len(PARTS[kind]), 7 * len(PARTS[kind]))]
    expected = without_clock(trained / kind[0] / "metrics.jsonl")
    found = without_clock(tmp_path / "run" / "metrics.jsonl")
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, other in zip(found, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("kind", ["tokenizer", pytest.param("prior", marks=pytest.mark.slow)])
def test_two_ranks_call_what_was_compiled_in_each_step(
    kind, trained, configs, clip_store, tmp_path, preloaded
):
    program = tmp_path / "compiled.py"
    program.write_text(COMPILED)
    data = ("--data", clip_store) if kind == "tokenizer" else ("--tokens", trained / "tokens")
    answers = preloaded.ranks(
        *(2, program, f"train-{kind}", "--config", configs / f"{kind}.yaml", *data),
        *("--out", tmp_path / "run", "run.compile=true", "optim.accumulation=2"),
    )
    parts = len(PARTS[kind])
    for answer in answers:
        assert counted(answer.stdout) == [(parts, 13 * parts)]
        assert re.findall(r"^group (\w+)$", answer.stdout, re.M) == ["False"]


def counted(stdout):
    """Return the number of graphs that each process compiled, and that of its calls of them."""
    found = re.findall(r"^graphs (\d+) called (\d+)$", stdout, re.M)
    return [(int(graphs), int(calls)) for graphs, calls in found]


def fail_to_compile(module):
    """Replace `Module.compile`, as if with a compiler that fails at the first call."""

    def failing(*inputs):
        raise OSError("no working compiler was found")

    module._compiled_call_impl = failing


@pytest.mark.parametrize("kind", ["tokenizer", "prior"])
def test_a_compiler_that_fails_costs_a_warning_and_no_run(
    kind, trained, configs, clip_store, tmp_path, monkeypatch
):
    monkeypatch.setattr(nn.Module, "compile", fail_to_compile)
    data = ("--data", clip_store) if kind == "tokenizer" else ("--tokens", trained / "tokens")
    command = (f"train-{kind}", "--config", configs / f"{kind}.yaml", *data)
    with pytest.warns(RuntimeWarning, match="torch.compile failed .*no working compiler") as caught:
        assert main([*map(str, command), "--out", str(tmp_path / "run"), "run.compile=true"]) == 0
    assert len(caught) == 1
    expected, found = (
        without_clock(run / "metrics.jsonl") for run in (trained / kind[0], tmp_path / "run")
    )
    assert found == expected


def test_a_finished_training_says_so_and_changes_nothing(trained, configs, clip_store):
    for kind, data, following in (
        ("tokenizer", ("--data", clip_store), "next: video-vq encode "),
        ("prior", ("--tokens", trained / "tokens"), "next: video-vq sample "),
    ):
        run = trained / kind[0]
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        answer = video_vq(
            f"train-{kind}", "--config", configs / f"{kind}.yaml", *data, "--out", run
        )
        *said, command = answer.stdout.splitlines()
        assert said == [f"already finished: {run / kind}", f"{kind}: {run / kind}"]
        assert command.startswith(following)
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_damaged_checkpoint_is_passed_over(trained, configs, clip_store, tmp_path):
    out = tmp_path / "run"
    command = ("train-tokenizer", "--config", configs / "tokenizer.yaml", "--data", clip_store)
    video_vq(*command, "--out", out)
    newest = out / "state" / "step_0000006" / "model.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    answer = video_vq(*command, "--out", out)
    assert "skipped a damaged checkpoint" in answer.stdout
    assert "resuming from" in answer.stdout
    assert "step_0000004" in answer.stdout
    assert final_state(out) == final_state(trained / "t")


def test_a_changed_config_is_refused_with_the_difference(trained, configs, clip_store):
    config = configs / "tokenizer.yaml"
    answer = video_vq(
        *("train-tokenizer", "--config", config, "--data", clip_store, "--out", trained / "t"),
        *("optim.lr=5e-4", "model.quantizer.codebook_size=64"),
        expect=1,
    )
    assert "config.optim.lr: 0.001 -> 0.0005" in answer.stderr
    assert "config.model.quantizer.codebook_size: 32 -> 64" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_finished_run_goes_on_where_more_steps_are_allowed(configs, clip_store, tmp_path):
    command = ("train-tokenizer", "--config", configs / "tokenizer.yaml", "--data", clip_store)
    video_vq(*command, "--out", tmp_path / "run")
    refused = video_vq(*command, "--out", tmp_path / "run", "optim.steps=8", expect=1)
    assert "To resume with the new ones" in refused.stderr
    assert "--allow-change config.optim.steps" in refused.stderr
    longer = ("optim.steps=8", "--allow-change", "config.optim.steps")
    answer = video_vq(*command, "--out", tmp_path / "run", *longer)
    assert "training steps 7 to 8" in answer.stdout
    assert VideoTokenizer.from_pretrained(tmp_path / "run").facts.steps == 8
    (change,) = json.loads((tmp_path / "run" / "run.json").read_text())["changes"]
    assert change == {"after_step": 6, "was -> now": ["config.optim.steps: 6 -> 8"]}


def test_two_ranks_hold_one_codebook_and_see_different_clips(
    configs, clip_store, tmp_path, preloaded
):
    settings = ("optim.steps=50", "model.quantizer.restart_threshold=0.9")
    preloaded.ranks(
        *(2, observed.__file__),
        *("train-tokenizer", "--config", configs / "tokenizer.yaml", "--data", clip_store),
        *("--out", tmp_path / "two", *settings),
    )
    ranks = [lines(tmp_path / "two" / f"observed-rank{rank}.jsonl") for rank in range(2)]
    assert [len(rank) for rank in ranks] == [50, 50]
    seen: list[list[int]] = []
    for step, (first, second) in enumerate(zip(*ranks, strict=True), start=1):
        assert (first["step"], second["step"]) == (step, step)
        assert (first["rank"], second["rank"]) == (0, 1)
        assert first["num_processes"] == second["num_processes"] == 2
        assert first["broadcast_buffers"] is second["broadcast_buffers"] is False
        assert first["codebook_sha256"] == second["codebook_sha256"]
        assert len(first["videos"]) == len(second["videos"]) == 2
        seen += [first["videos"], second["videos"]]
    assert len({line["codebook_sha256"] for line in ranks[0]}) == 50
    # The six train videos come once in three halves of a batch: the ranks share an epoch.
    for epoch in range(0, len(seen) - 2, 3):
        assert sorted(chain(*seen[epoch : epoch + 3])) == [0, 3, 6, 9, 12, 15]
    restarted = [
        line.get("codebook/restarted", 0) for line in lines(tmp_path / "two/metrics.jsonl")
    ]
    assert sum(restarted) > 0
    VideoTokenizer.from_pretrained(tmp_path / "two")


def test_more_processes_announced_than_run_is_an_error(configs, clip_store, tmp_path):
    answer = video_vq(
        *("train-tokenizer", "--config", configs / "tokenizer.yaml", "--data", clip_store),
        *("--out", tmp_path / "run"),
        expect=1,
        WORLD_SIZE="2",
    )
    assert "WORLD_SIZE is 2, but there is no launcher" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "accelerate launch --multi_gpu --num_processes 2" in answer.stderr
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_processes_do_not_divide_is_an_error(configs, clip_store, tmp_path):
    answer = video_vq(
        *("train-tokenizer", "--config", configs / "tokenizer.yaml", "--data", clip_store),
        *("--out", tmp_path / "run", "optim.batch_size=3", "optim.accumulation=2"),
        expect=2,
    )
    assert "batch_size (3) must be a multiple of accumulation (2)" in answer.stderr


def test_samples_do_not_depend_on_ranks_and_are_not_made_twice(trained, tmp_path, preloaded):
    common = ("--prior", trained / "p", "--tokenizer", trained / "t", "--num", "7")
    one = video_vq("sample", *common, "--out", tmp_path / "one", "--batch-size", "2")
    assert "7 samples" in one.stdout
    preloaded.ranks(
        2, "video-vq", "sample", *common, "--out", tmp_path / "two", "--batch-size", "2"
    )
    files = [sorted((tmp_path / name).glob("*.npy")) for name in ("one", "two")]
    assert len(files[0]) == 4
    assert [a.read_bytes() for a in files[0]] == [b.read_bytes() for b in files[1]]
    stamps = [file.stat().st_mtime_ns for file in files[0]]
    video_vq("sample", *common, "--out", tmp_path / "one", "--batch-size", "2")
    assert [file.stat().st_mtime_ns for file in files[0]] == stamps
    assert len(list((tmp_path / "one" / "videos").glob("*.mp4"))) == 7
    other = video_vq(
        *("sample", *common, "--out", tmp_path / "one", "--batch-size", "2", "--top-k", "3"),
        expect=1,
    )
    assert "settings.top_k: None -> 3" in other.stderr


def test_a_prior_of_another_tokenizer_is_refused(trained, configs, clip_store, tmp_path):
    config = configs / "tokenizer.yaml"
    video_vq(
        *("train-tokenizer", "--config", config, "--data", clip_store, "--out", tmp_path / "t"),
        "run.seed=1",
    )
    prior = Prior.from_pretrained(trained / "p")
    answer = video_vq(
        *("sample", "--prior", trained / "p", "--tokenizer", tmp_path / "t"),
        *("--out", tmp_path / "samples", "--num", "2"),
        expect=1,
    )
    assert f"belongs to the tokenizer {prior.facts.tokenizer_hash[:12]}" in answer.stderr
    answer = video_vq(
        *("decode", trained / "tokens", "--tokenizer", tmp_path / "t", "--out", tmp_path / "d"),
        expect=1,
    )
    assert "belongs to the tokenizer" in answer.stderr


def test_decoded_tokens_are_the_tokenizers_reconstructions(trained, clip_store, tmp_path):
    import numpy as np
    import torch

    from video_vq.models.tokenizer import to_uint8
    from video_vq.stores.clips import ClipStore
    from video_vq.stores.tokens import TokenStore

    video_vq(
        *("decode", trained / "tokens", "--tokenizer", trained / "t", "--out", tmp_path / "d"),
        *("--split", "test"),
    )
    decoded, tokens = ClipStore(tmp_path / "d"), TokenStore(trained / "tokens")
    store, tokenizer = ClipStore(clip_store), VideoTokenizer.from_pretrained(trained / "t")
    rows = tokens.rows("test")
    assert len(decoded.videos) == len(rows) == 6 * 6
    for index in (0, 7, 35):
        video, first, stride = tokens.window_of(int(rows[index]))
        assert decoded.videos[index].origin == {
            "video": store.videos[video].id,
            "first_frame": first,
            "stride": stride,
        }
        clip = torch.from_numpy(store.read(video, first, 4, stride))[None]
        expected = to_uint8(tokenizer.reconstruct(clip))[0].numpy()
        # One level: the batch of the command has another shape than this one.
        assert np.abs(expected.astype(int) - decoded.read(index).astype(int)).max() <= 1
