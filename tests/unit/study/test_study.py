"""Tests of studies: planned runs and commands, a resumable runner, and paired intervals."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mechanism
import numpy as np
import plan as plans
import pytest
import run as runner
import table
from pydantic import TypeAdapter, ValidationError
from scipy import stats

WORLD: dict[str, Any] = {
    "make": ["video_vq none"],
    "tokenizer": "demo/tokenizer",
    "prior": "demo/prior",
    "tokenizer_settings": ["optim.steps=4"],
    "prior_settings": ["optim.steps=2"],
    "hop": 4,
    "sampling": ["--top-p", "0.9"],
    "num": 4,
}
PLAN: dict[str, Any] = {
    "question": "?",
    "endpoint": "PSNR",
    "analysis": "paired",
    "reference": "plain",
    "unquantized": ["open"],
    "precision": "no",
    "worlds": {"toy": WORLD},
    "regimes": {"good": []},
    "optimizers": {"muon": ["optim.kind=muon"]},
    "arms": {"plain": ["a=1"], "turned": ["a=2"], "open": ["a=3"]},
    "parts": [
        {
            "name": "tuning",
            "world": "toy",
            "regimes": ["good"],
            "optimizers": ["muon"],
            "arms": ["plain", "turned"],
            "seeds": [9],
            "rates": [0.1, 0.2],
            "last": "tokenizer",
        },
        {
            "name": "main",
            "world": "toy",
            "regimes": ["good"],
            "optimizers": ["muon"],
            "arms": ["plain", "turned"],
            "seeds": [0, 1],
        },
    ],
}


def make_plan(**changes: Any) -> plans.Plan:
    return TypeAdapter(plans.Plan).validate_json(json.dumps({**PLAN, **changes}))


def tuned(arm: str, rate: float, psnr: float, status: str = "finished") -> dict[str, Any]:
    result = {"part": "tuning", "regime": "good", "optimizer": "muon", "arm": arm, "rate": rate}
    return {**result, "validation_psnr": psnr, "status": status}


def test_a_plan_has_every_combination_once_and_pairs_come_together():
    runs = list(plans.runs_of(make_plan()))
    assert len({run.name for run in runs}) == len(runs) == 4 + 4
    assert [(run.arm, run.rate) for run in runs[:4]] == [
        *(("plain", 0.1), ("plain", 0.2)),
        *(("turned", 0.1), ("turned", 0.2)),
    ]
    assert [(run.seed, run.arm) for run in runs[4:]] == [
        *((0, "plain"), (0, "turned")),
        *((1, "plain"), (1, "turned")),
    ]


@pytest.mark.parametrize("change", [{"arms": ["nobody"]}, {"world": "moon"}, {"regimes": ["x"]}])
def test_a_plan_with_an_unknown_name_is_refused(change):
    part = {**PLAN["parts"][1], **change}
    with pytest.raises(ValidationError, match="part 'main': no such"):
        make_plan(parts=[part])


def test_the_tuned_rate_is_the_best_of_the_same_arm_among_finished_runs():
    run = next(run for run in plans.runs_of(make_plan()) if run.part == "main")
    results = [tuned("plain", 0.1, 20.0), tuned("plain", 0.2, 19.0), tuned("turned", 0.2, 30.0)]
    assert run.arm == "plain"
    assert plans.tuned_rate(run, results) == 0.1
    assert plans.tuned_rate(run, [*results, tuned("plain", 0.4, 99.0, "failed")]) == 0.1
    assert plans.tuned_rate(run, results[2:]) is None


def test_paired_runs_differ_in_their_arm_alone():
    plan = make_plan()
    one, two = [run for run in plans.runs_of(plan) if run.part == "main"][:2]
    first, second = (
        [step.command for step in plans.steps_of(plan, run, 0.1, Path("c"), Path("f"))]
        for run in (one, two)
    )
    assert [command[0] for command in first] == [
        *("train-tokenizer", "encode", "train-prior", "sample", "evaluate")
    ]
    assert set(first[0]) ^ set(second[0]) == {"a=1", "a=2"}
    assert first[1:] == second[1:]
    assert {"optim.kind=muon", "optim.lr=0.1", "run.seed=0", "optim.steps=4"} <= set(first[0])


def test_an_arm_without_codes_ends_with_the_scores_of_its_reconstructions():
    part = {**PLAN["parts"][1], "arms": ["open"], "rates": [0.1]}
    plan = make_plan(parts=[part])
    (run, _) = plans.runs_of(plan)
    commands = [step.command for step in plans.steps_of(plan, run, 0.1, Path("c"), Path("f"))]
    assert [command[0] for command in commands] == ["train-tokenizer", "evaluate"]
    assert "--samples" not in commands[1]


class Commands:
    """A stand-in for running commands, which writes the files that they would write."""

    def __init__(self, fails_at: str = "", stops_at: str = ""):
        self.fails_at, self.stops_at = fails_at, stops_at
        self.called: list[str] = []

    def __call__(self, command: list[str], **options: Any) -> SimpleNamespace:
        verb, arguments = command[3], command[4:]
        self.called.append(verb)
        if verb == self.fails_at:
            options["stdout"].write("video-vq: no luck\n")
            return SimpleNamespace(returncode=1)
        out = Path(arguments[arguments.index("--out") + 1])
        made = {
            "train-tokenizer": "tokenizer/config.json",
            "train-prior": "prior/config.json",
            "evaluate": "scores.json",
        }.get(verb, "manifest.json")
        if verb != self.stops_at:
            (out / made).parent.mkdir(parents=True, exist_ok=True)
            (out / made).write_text("{}")
        if verb == "train-tokenizer":
            rate = next(a for a in arguments if a.startswith("optim.lr=")).split("=")[1]
            lines = [
                {"step": 1, "codebook/usage": 0.5, "quantizer/angle_p50": 3.0, "loss/x": 1},
                {"step": 4, "validation/psnr": 20 + float(rate)},
            ]
            out.mkdir(parents=True, exist_ok=True)
            (out / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        return SimpleNamespace(returncode=0)


def study(tmp_path: Path, monkeypatch, commands: Commands, *options: str) -> list[dict[str, Any]]:
    monkeypatch.setattr(runner.subprocess, "run", commands)
    monkeypatch.setattr(runner, "make_world", lambda plan, name, out: out / "clips")
    monkeypatch.setattr(runner, "gpus", list)
    (tmp_path / "plan.yaml").write_text(json.dumps(PLAN))
    results = tmp_path / "results.jsonl"
    try:
        runner.main(
            [
                *(str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")),
                *("--results", str(results), *options),
            ]
        )
    finally:
        found = (
            [json.loads(line) for line in results.read_text().splitlines()]
            if results.exists()
            else []
        )
    return found


def test_a_study_makes_every_run_once_at_the_tuned_rate(tmp_path, monkeypatch):
    commands = Commands()
    results = study(tmp_path, monkeypatch, commands)
    assert [result["name"] for result in results] == [
        run.name for run in plans.runs_of(make_plan())
    ]
    assert {result["rate"] for result in results if result["part"] == "main"} == {0.2}
    assert results[0]["curve"] == [{"step": 1, "codebook/usage": 0.5, "quantizer/angle_p50": 3.0}]
    assert not list((tmp_path / "out").glob("main-*"))
    again = Commands()
    assert study(tmp_path, monkeypatch, again) == results
    assert again.called == []


def test_a_failed_run_is_a_result_with_its_last_words(tmp_path, monkeypatch):
    results = study(tmp_path, monkeypatch, Commands(fails_at="encode"))
    failed = [result for result in results if result["part"] == "main"]
    assert {result["status"] for result in failed} == {"failed"}
    assert {result["failed"] for result in failed} == {"encode"}
    assert all("no luck" in result["said"] for result in failed)
    printed = table.tables(make_plan(), results)
    assert "Failed runs: 4" in printed


def test_a_stopped_run_is_no_result_and_goes_on(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="train-prior was stopped; the same command resumes"):
        study(tmp_path, monkeypatch, Commands(stops_at="train-prior"))
    assert (tmp_path / "out" / "main-toy-good-muon-plain-tuned-0").is_dir()
    results = study(tmp_path, monkeypatch, Commands())
    assert len(results) == 8


def test_parts_can_be_chosen_and_no_run_begins_when_time_is_over(tmp_path, monkeypatch):
    results = study(tmp_path, monkeypatch, Commands(), "--parts", "tuning")
    assert {result["part"] for result in results} == {"tuning"}
    commands = Commands()
    assert study(tmp_path, monkeypatch, commands, "--minutes", "0") == results
    assert commands.called == []


def test_the_interval_of_a_paired_difference_is_students():
    random = np.random.default_rng(0)
    arm = dict(enumerate(random.normal(1.0, 1.0, 5).tolist()))
    reference = dict(enumerate(random.normal(0.0, 1.0, 6).tolist()))
    found = table.paired_difference(arm, reference)
    assert found is not None
    expected = stats.ttest_rel([arm[i] for i in range(5)], [reference[i] for i in range(5)])
    low, high = expected.confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high)
    )
    assert found.pairs == 5
    assert table.paired_difference({0: 1.0}, reference) is None


def test_the_table_pairs_by_seed_and_the_picture_is_drawn(tmp_path):
    def result(arm: str, seed: int, psnr: float, bits: float) -> dict[str, Any]:
        scores = {"reconstruction": {"psnr": {"mean": psnr}}, "prior": {"bits_per_clip": bits}}
        where = {"part": "main", "world": "toy", "regime": "good", "optimizer": "muon"}
        run = {**where, "arm": arm, "seed": seed, "rate": 0.1, "status": "finished", "curve": []}
        return {"name": f"{arm}-{seed}", **run, "validation_psnr": psnr, "scores": scores}

    results = [
        *(result("plain", 0, 20.0, 900), result("plain", 1, 22.0, 910)),
        *(
            result("turned", 0, 21.0, 800),
            result("turned", 1, 23.5, 810),
            result("turned", 2, 99, 1),
        ),
    ]
    printed = table.tables(make_plan(), results)
    assert "| plain | 0.1 | 2 | 21.00 | 905 |" in printed
    assert "| turned | 0.1 | 3 | 47.83 (+1.25 ± 3.18) | 537 (-100 ± 0) |" in printed
    table.picture(make_plan(), results, tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


@pytest.mark.slow
def test_a_run_by_the_real_commands(tmp_path):
    world = {
        **WORLD,
        "make": [
            "data_prep synthetic {raw} --layout ucf101 --videos 24 --frames 20 --size 64 --seed 0",
            "data_prep ucf101 {raw} --out {clips} --size 32 --split 1",
        ],
        "tokenizer_settings": [
            *("optim.steps=2", "optim.warmup_steps=1", "run.validation_clips=2", "run.log_every=1")
        ],
        "prior_settings": ["optim.steps=2", "optim.warmup_steps=1", "run.validation_clips=2"],
        "sampling": [],
    }
    arms = {"plain": ["model.quantizer.estimator=straight_through"]}
    parts = [{**PLAN["parts"][1], "arms": ["plain"], "seeds": [0], "rates": [0.001]}]
    plan = {**PLAN, "worlds": {"toy": world}, "arms": arms, "unquantized": [], "parts": parts}
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    command = [sys.executable, runner.__file__, "plan.yaml", "--out", "o", "--results", "r.jsonl"]
    subprocess.run(command, cwd=tmp_path, check=True)
    (result,) = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert result["status"] == "finished", result
    for measure in table.MEASURES:
        assert measure.of(result) is not None, measure.title


def test_the_picture_of_the_mechanism_takes_cosines_by_angle_over_all_steps_and_arms(tmp_path):
    key = "quantizer/exact_cosine_rotation_at_15"
    steps = [{"step": 50, key: 0.8, "quantizer/latent_norm_p50": 2.0}, {"step": 100, key: 0.6}]
    result = {"part": "mechanism", "status": "finished", "arm": "rotation", "curve": steps}
    other = {**result, "arm": "tangential", "curve": [{"step": 50, key: 0.1}]}
    assert mechanism.by_angle([result, other], "rotation") == ([15], [pytest.approx(0.5)])
    assert mechanism.curve(result, "quantizer/latent_norm_p50") == ([50], [2.0])
    mechanism.draw([result, other], tmp_path / "mechanism.svg")
    assert "cosine to the exact gradient" in (tmp_path / "mechanism.svg").read_text()
