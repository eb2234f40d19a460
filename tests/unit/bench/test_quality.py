"""Tests of the comparison of quality per compute: equal conditions, resuming, table and plot."""

import xml.etree.ElementTree as ElementTree

import arms
import numpy as np
import pytest
import quality
import quality_report
import quality_training
import torch

from video_vq.errors import InputError
from video_vq.quantizers.vector import VectorQuantizer
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video

SETTINGS = quality.Settings(batch_size=2, precision="fp32", num_clips=2, seed=0)
CHEAP = ["ours", "no quantizer"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ClipStore:
    path = tmp_path_factory.mktemp("quality") / "clips"
    random = np.random.default_rng(0)
    writer = ClipStoreWriter(path, (16, 16), {"kind": "noise"})
    splits = ["train", "train", "val", "val", "test", "test"]

    def videos():
        for index, split in enumerate(splits):
            frames = random.integers(0, 256, (18, 16, 16, 3), dtype=np.uint8)
            name = f"video-{index}"
            video = Video(name, "noise", split, name, fps=10.0, origin={"made": "by a test"})
            yield PreparedVideo(video, [frames], {})

    writer.write_shard(0, videos())
    writer.finish(1, ["noise"])
    return ClipStore(path)


@pytest.mark.parametrize("name", arms.ARMS)
def test_every_arm_learns_and_spends_at_most_the_same_bits(name):
    torch.manual_seed(0)
    model = arms.ARMS[name].make().train()
    video = torch.rand(1, 3, 8, 16, 16) * 2 - 1
    model.begin(video)
    output = model(video)
    assert output.video.shape == video.shape
    assert output.commitment.shape == ()
    assert (output.codes is None) == (name == "no quantizer")
    if output.codes is not None:
        assert output.codes.shape == (1, 2, 4, 4)
        assert int(output.codes.max()) < arms.CODEBOOK_SIZE
    loss_of = arms.ARMS[name].recipe.loss()
    loss_of(output, video, 0.0).backward()
    parameters = [*model.parameters(), *loss_of.parameters()]
    assert all(parameter.grad is not None for parameter in parameters)
    model.end_step()


def test_codes_are_learned_by_ours_and_stay_where_they_are_frozen():
    video = torch.rand(1, 3, 8, 16, 16) * 2 - 1
    moved = {}
    for name in ("ours", "frozen random codes"):
        torch.manual_seed(0)
        model = arms.ARMS[name].make().train()
        model.begin(video)
        assert isinstance(model, arms.Ours)
        assert isinstance(model.quantizer, VectorQuantizer)
        codebook = model.quantizer.codebook
        before = codebook.vectors().clone()
        model(-video)
        model.end_step()
        moved[name] = not torch.equal(codebook.vectors(), before)
    assert moved == {"ours": True, "frozen random codes": False}


def test_a_second_start_skips_what_is_finished_and_adds_what_is_not(store, tmp_path):
    first, controls = quality.compare(store, tmp_path, SETTINGS, [0.01], CHEAP[:1], [0], None)
    both, _ = quality.compare(store, tmp_path, SETTINGS, [0.01], CHEAP, [0], None)
    assert [run for run in both if run["arm"] == "ours"] == first
    assert {run["arm"] for run in both} == set(CHEAP)
    assert all(run["steps"] >= 1 and run["psnr"] > 0 for run in both)
    assert all(run["curve"] and set(run["seconds_to"]) == {"26", "28"} for run in both)
    assert set(controls) == {"clip mean", "first frame", "k-means on raw patches"}
    # The best still picture is at least as near as any one frame.
    assert controls["clip mean"]["psnr"] > controls["first frame"]["psnr"]


def test_results_of_other_settings_are_refused_with_the_difference(store, tmp_path):
    quality.require_same_plan(tmp_path / "plan.json", {"batch_size": 2, "data": "a"})
    with pytest.raises(InputError, match="batch_size: 2 there, 4 now"):
        quality.require_same_plan(tmp_path / "plan.json", {"batch_size": 4, "data": "a"})


class Clock:
    """A fake CPU clock on which a training step takes one second and a check ten."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(quality_training.time, "process_time", lambda: self.now)
        self._slow(monkeypatch, quality_training, "set_learning_rate", 1.0)
        self._slow(monkeypatch, quality_training, "reconstruct", 10.0)

    def _slow(self, monkeypatch, place, name: str, seconds: float) -> None:
        real = getattr(place, name)

        def slow(*arguments):
            self.now += seconds
            return real(*arguments)

        monkeypatch.setattr(place, name, slow)


def trained(store, checks: int, monkeypatch) -> tuple[dict, dict]:
    Clock(monkeypatch)
    monkeypatch.setattr(quality_training, "CHECKS", checks)
    torch.manual_seed(0)
    arm = arms.ARMS["ours"]
    model = arm.make()
    val = quality.read_scored(store, SETTINGS).val
    did = quality_training.train(model, arm.recipe, store, val, SETTINGS, 3.0, 2e-3)
    return did, model.state_dict()


def test_checks_cost_no_budget_and_change_no_weight(store, monkeypatch):
    with monkeypatch.context() as patch:
        often, weights = trained(store, 3, patch)
    with monkeypatch.context() as patch:
        once, same = trained(store, 1, patch)
    assert often["steps"] == once["steps"] == 3
    assert [seconds for seconds, _ in often["curve"]] == [1.0, 2.0, 3.0]
    assert once["curve"] == often["curve"][-1:]
    assert often["clips_per_second"] == SETTINGS.batch_size
    assert all(torch.equal(weights[key], same[key]) for key in weights)


@pytest.mark.parametrize(
    ("goal", "seconds"), [(19.0, 10.0), (20.0, 10.0), (23.0, 16.0), (25.5, 25.0), (27.0, None)]
)
def test_the_time_to_a_goal_lies_on_the_line_between_two_checks(goal, seconds):
    curve = [(10.0, 20.0), (20.0, 25.0), (30.0, 26.0), (40.0, 24.0)]
    assert quality_training.seconds_to_reach(goal, curve) == seconds


def test_the_table_tells_the_shortest_time_to_a_goal_over_all_budgets():
    times = [{"26": None, "28": None}, {"26": 100.4, "28": None}, {"26": 180.0, "28": 230.6}]
    runs = {float(index): {"seconds_to": time} for index, time in enumerate(times)}
    assert quality_report.seconds_to("26", runs) == "100"
    assert quality_report.seconds_to("28", runs) == "231"
    assert quality_report.seconds_to("28", {0.0: runs[0.0]}) == "not reached"


def test_the_learning_rate_is_chosen_at_the_median_budget_with_the_first_seed(
    store, tmp_path, monkeypatch
):
    def run(name, store, scored, settings, seconds, lr, frechet):
        # The higher rate is better on val clips only, and only where the rate must be chosen.
        val = 1.0 + (lr == 4e-3) if (seconds, settings.seed) == (0.2, 3) else 9.0 - (lr == 4e-3)
        quick = {"steps": 1, "psnr": 1 / lr, "val_psnr": val, "seed": settings.seed}
        return {"arm": name, "seconds": seconds, "lr": lr, **quick}

    monkeypatch.setattr(quality, "run_arm", run)
    of_two_rates = arms.ARMS["ours"]._replace(learning_rates=(1e-3, 4e-3))
    monkeypatch.setitem(arms.ARMS, "ours", of_two_rates)
    results, _ = quality.compare(store, tmp_path, SETTINGS, [0.1, 0.3, 0.2], ["ours"], [3, 5], None)
    found = sorted((run["seconds"], run["seed"], run["lr"]) for run in results)
    expected = [(seconds, seed, 4e-3) for seconds in (0.1, 0.2, 0.3) for seed in (3, 5)]
    assert found == sorted([*expected, (0.2, 3, 1e-3)])


def result(arm: str, seconds: float, psnr: float, val: float, lr: float = 1e-3) -> dict:
    scores = {"psnr": psnr, "val_psnr": val, "ssim": 0.5, "rfvd": 10 * psnr}
    rest = {"steps": 1, "clips_per_second": 2.0, "parameters": 10**6, "gflop_forward": 3.0}
    times = {"seconds_to": {"26": None, "28": 1.0}}
    return {"arm": arm, "seconds": seconds, "lr": lr, **scores, **rest, **times}


RESULTS = [
    result("a <b>", 1.0, 20.0, 20.0),
    result("a <b>", 2.0, 22.0, 21.0, lr=1e-3),
    result("a <b>", 2.0, 21.5, 23.0, lr=2e-3),
    result("c", 2.0, 25.0, 25.0),
]
CONTROLS = {"clip mean": {"psnr": 18.0, "ssim": 0.4}}


def test_the_table_takes_the_learning_rate_that_is_best_on_val():
    rows = quality_report.markdown(RESULTS, CONTROLS).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert rows[2].startswith("| c |  | 25.00 |")
    assert rows[3].startswith("| a <b> | 20.00 | 21.50 | 0.500 | 215 |")
    assert "| not reached | 1 |" in rows[3]
    assert "| 0.002 |" in rows[3]
    assert rows[4].startswith("| clip mean (no training) |  | 18.00 | 0.400 |")


def test_the_table_shows_the_mean_and_range_of_seeds():
    seeds = [result("a", 2.0, 20.0, 21.0), result("a", 2.0, 21.0, 21.0)]
    lost = result("a", 2.0, 22.0, 30.0, lr=2e-3)  # tried with one seed only
    row = quality_report.markdown([*seeds, lost], CONTROLS).splitlines()[2]
    assert row.startswith("| a | 20.50 (20.00–21.00) | 0.500 | 205 (200–210) |")
    seeds[1].pop("rfvd")  # run without FVD
    row = quality_report.markdown(seeds, CONTROLS).splitlines()[2]
    assert row.startswith("| a | 20.50 (20.00–21.00) | 0.500 |  |")


def test_the_picture_is_an_svg_with_a_line_per_arm_and_higher_is_better():
    root = ElementTree.fromstring(quality_report.picture(RESULTS, CONTROLS))
    lines = [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in root.iter("{http://www.w3.org/2000/svg}polyline")
    ]
    assert [len(points) for points in lines] == [1, 2, 1, 2]  # PSNR, and SSIM below it
    assert min(y for x, y in lines[2] + lines[3]) > max(y for x, y in lines[0] + lines[1])
    assert lines[1][0][0] < lines[1][1][0]  # later is to the right
    assert lines[1][0][1] > lines[1][1][1] > lines[0][0][1]  # 20, 21.5 and 25 dB
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("a <b>") == 3  # at the lines of both panels, and at its bar


def test_every_arm_has_a_colour_of_its_own():
    assert len(set(quality_report.COLOURS)) >= len(arms.ARMS)


def test_labels_keep_their_order_and_their_distance():
    assert quality_report.spread([10.0, 0.0, 1.0, 30.0], 5.0) == [10.0, 0.0, 5.0, 30.0]


def test_labels_stay_above_the_end_of_their_panel():
    assert quality_report.spread([29.0, 1.0, 28.0, 30.0], 5.0, 32.0) == [27.0, 1.0, 22.0, 32.0]
