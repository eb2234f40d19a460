"""Tests of the report: one page that needs no network and treats hostile names as text."""

import html
import re
import shlex
import shutil

import numpy as np
import pytest
from hostile_report import gallery_of, scores_of
from runs import make_clip_store, video_vq

from video_vq.errors import InputError
from video_vq.evaluation.gallery import EXTREMES, SHOWN, places_to_show
from video_vq.report import render, write_report
from video_vq.report.charts import Line, line_chart
from video_vq.report.curves import grouped
from video_vq.report.found import Evaluation, Parts, Run, find_parts
from video_vq.stores.clips import ClipStore


def test_the_gallery_keeps_the_first_the_best_and_the_worst(tmp_path):
    gallery = gallery_of(["a", "b"] * 20)
    gallery.write(tmp_path / "gallery", {"note": 1}, 8.0)
    videos = ClipStore(tmp_path / "gallery").videos
    origins = [video.origin or {} for video in videos]

    def psnrs(role: str) -> list[float]:
        return [o["psnr"] for o in origins if o["role"] == role and o["kind"] == "real"]

    assert psnrs("shown") == [20.0 + number for number in range(SHOWN)]
    assert psnrs("best") == [59.0 - number for number in range(EXTREMES)]
    assert psnrs("worst") == [20.0 + number for number in range(EXTREMES)]
    sampled = [video.label for video in videos if (video.origin or {})["kind"] == "sampled"]
    assert sampled == ["a"] * 4 + ["b"] * 4
    gallery.write(tmp_path / "gallery", {"note": 2}, 8.0)  # in place of the earlier one
    assert ClipStore(tmp_path / "gallery").plan["note"] == 2


def test_a_gallery_never_replaces_another_store(tmp_path):
    make_clip_store(tmp_path / "gallery", num_videos=3)
    with pytest.raises(InputError, match="is already another store"):
        gallery_of(["a"]).write(tmp_path / "gallery", {}, 8.0)
    assert len(ClipStore(tmp_path / "gallery").videos) == 3


def test_a_verdict_says_what_was_not_beaten(hostile_run):
    page = render(find_parts(hostile_run))
    assert "does not beat the hardest control, 22.00: the first frame, repeated" in page
    assert "beats the hardest control, 1,500: the real clips&#39; first frames" in page
    assert "FVD at N = 48 is an illustration" in page


def known_run() -> Parts:
    """Return handwritten contents of a finished tokenizer run and its evaluation."""
    config = {
        "optim": {"steps": 600, "batch_size": 8},
        "model": {"quantizer": {"codebook_size": 512}},
    }
    identity = {"kind": "tokenizer", "config": config, "precision": "bf16", "world_size": 2}
    train = ["train-tokenizer", "--config", "x", "--data", "my clips", "--out", "runs/t"]
    # 300 steps of 8 clips at 8 clips a second, then 300 at 4: 300 s and 600 s.
    curves = {
        "time/clips_per_second": [(300.0, 8.0), (600.0, 4.0)],
        "loss/x": [(300.0, 2.0), (600.0, 1.0)],
    }
    run = Run("t", {**identity, "threads": 1}, {"command": train, "device": "cpu"}, curves, 0, {})
    prepared = {
        "source": "folder", "num_videos": 1234, "size_hw": [32, 48], "fps": 10.0, "stride": 1,
        "source_settings": {"val": 0.1, "test": 0.2, "group_by": "regex", "group_regex": "g(.)"},
        "reading": {"fps": 5.0, "layout": "bthwc", "values": "unit"},
    }  # fmt: skip
    given = ["evaluate", "--data", "my clips", "--tokenizer", "runs/t", "--tokens", "tokens"]
    scores = scores_of("test")
    scores["environment"]["command"] = [*given, "--samples", "s", "--prior", "runs/p"]
    scores["made_by"] = {"data": prepared, "tokens": {"hop": 4, "precision": "no"}}
    settings = {"temperature": 0.9, "top_k": None, "top_p": 1.0, "guidance": 1.0}
    plan = {"kind": "samples", "num_samples": 48, "seed": 3, "batch_size": 16, "class": None}
    plan |= {"seconds": 60.0, "window_stride": 2}
    plan["parallel"] = {"steps": 8, "confidence_temperature": 4.5}
    scores["generation"]["samples"] = {**plan, "precision": "no", "settings": settings}
    scores["generation"]["memorisation"] = {
        "num_train_clips": 1040, "samples_median": 38.0, "held_out_median": 35.0,
        "share_nearer_than_that": 0.0,
    }  # fmt: skip
    return Parts("demo", (run,), (Evaluation("scores", scores, None),))


def test_the_page_begins_with_what_was_trained_on_what_and_how_long():
    page = render(known_run())
    assert "Data: 1,234 videos, prepared from folder at 32 x 48 pixels." in page
    assert "Tokenizer: 512 codes, 600 steps of 8 clips, 15 min of training on cpu." in page


def test_the_page_says_that_its_videos_are_simulated():
    parts = known_run()
    assert "simulated" not in render(parts)
    parts.evaluations[0].scores["made_by"]["data"]["simulated"] = "a <toy> world"
    assert (
        "The videos are simulated (a &lt;toy&gt; world): no score is comparable with a published "
        "one." in render(parts)
    )


def test_the_commands_of_the_whole_pipeline_are_in_order_and_can_be_pasted():
    page = html.unescape(render(known_run()))
    found = re.search(r"<h2>Commands</h2>.*?<code>(.*?)</code>", page, re.DOTALL)
    assert found is not None
    text = re.sub("</?span>", "", found[1])
    shown = text.replace("\\\n", "").split("\n\n")
    expected = [
        "data-prep folder RAW --out 'my clips' --size 32x48 --val 0.1 --test 0.2 "
        "--group-regex 'g(.)' --source-fps 5.0 --layout bthwc --values unit --fps 10.0",
        "OMP_NUM_THREADS=1 accelerate launch --multi_gpu --num_processes 2 --mixed_precision bf16 "
        "-m video_vq train-tokenizer --config x --data 'my clips' --out runs/t",
        "video-vq encode 'my clips' --tokenizer runs/t --out tokens --hop 4",
        "video-vq sample --prior runs/p --tokenizer runs/t --out s --num 48 --seconds 60.0 "
        "--window-stride 2 --steps 8 --confidence-temperature 4.5 --temperature 0.9 "
        "--top-p 1.0 --guidance 1.0 --seed 3 --batch-size 16",
        "video-vq evaluate --data 'my clips' --tokenizer runs/t --tokens tokens --samples s "
        "--prior runs/p",
    ]
    assert [shlex.split(line) for line in shown] == [shlex.split(line) for line in expected]
    assert max(map(len, text.splitlines())) <= 90


def test_each_number_says_of_how_many_clips_it_is():
    page = render(known_run())
    assert "N = 48; 0 is perfect. The floor, real clips against other real clips, is 800.00" in page
    assert "N = 32 and N = 48 cannot be compared" in page
    assert "<td>48 to 1,040</td>" in page
    assert '<td class="note">→ 1 is right; mean squared distance among samples' in page


def test_each_known_group_of_curves_is_explained(hostile_run):
    assert "What training minimises, each part unweighted" in render(known_run())
    assert "Speed of training" in render(known_run())
    curves = find_parts(hostile_run).runs[0].curves
    assert render(find_parts(hostile_run)).count('<svg class="chart"') == len(curves) + 1


def test_curves_have_names_in_words_and_those_that_tell_nothing_are_left_out():
    steps = [1.0, 2.0, 3.0]
    moving = [*zip(steps, [3.0, 2.0, 1.0], strict=True)]
    curves = {
        "loss/reconstruction": moving,
        "loss/commitment": moving[:1],
        "quantizer/angle_p05": moving,
        "quantizer/angle_p50": moving,
        "codebook/level_0/usage": moving,
        "codebook/level_1/usage": moving,
        "weight/codebook": [(step, 0.25) for step in steps],
        "own/part_of_mine": moving,
    }
    groups = {group.heading: group for group in grouped(curves)}
    titles = {
        heading: [(chart.title, [line.name for line in chart.lines]) for chart in group.charts]
        for heading, group in groups.items()
    }
    assert titles == {
        "Losses": [("reconstruction loss", [""])],
        "Weights of the losses": [],
        "Codebook": [("code usage of each level", ["level 1", "level 2"])],
        "Quantizer": [("angle to the code, degrees", ["5 %", "median"])],
        "own": [("part of mine", [""])],
    }
    assert "commitment loss: 3." in groups["Losses"].left_out
    assert "weight of the codebook loss: 0.25." in groups["Weights of the losses"].left_out


def test_several_codes_a_position_are_told_apart():
    parts = known_run()
    found = parts.evaluations[0].scores["reconstruction"]
    found["vocabulary"], found["code_counts"] = [4, 2], [[50, 50, 0, 0], [70, 30]]
    config = {"kind": "residual", "codebook_sizes": [4, 2]}
    parts.runs[0].identity["config"]["model"]["quantizer"] = config
    page = render(parts)
    assert "Tokenizer: 4 x 2 codes" in page
    assert "Each of 100 positions has 2 codes, of 4 x 2." in page
    assert "↑ of 4 x 2 codes, mean over the codes of a position" in page
    row = '<th scope="row">level 1</th><td>4</td><td>2</td><td>2.0</td>'
    assert row in page


def test_best_and_worst_are_of_different_videos():
    psnr = np.array([10.0, 11.0, 30.0, 31.0, 20.0, 21.0])
    places = places_to_show(psnr, ["a", "a", "b", "b", "c", "c"])
    assert places["best"] == [3, 5, 1]
    assert places["worst"] == [0, 4, 2]
    assert places["shown"] == [0, 1, 2, 3, 4, 5]


def test_clips_stand_above_the_numbers_and_samples_beside_real_clips(hostile_run):
    page = render(find_parts(hostile_run))
    assert page.index("<h2>Reconstructions") < page.index("<h2>Samples") < page.index("<h2>Scores")
    assert "<span>samples</span><span>real clips</span>" in page


def test_a_file_that_is_no_page_of_ours_is_not_replaced(hostile_run, tmp_path):
    own = tmp_path / "notes.html"
    own.write_text("<title>my notes</title>")
    with pytest.raises(InputError, match="is not a page of video-vq; remove it, or name another"):
        write_report(hostile_run, own)
    assert own.read_text() == "<title>my notes</title>"
    for _ in range(2):  # a page of ours is
        assert write_report(hostile_run, tmp_path / "page.html").exists()


def test_a_chart_places_its_points_in_order_and_inside():
    chart = str(line_chart("loss", [Line("", [(1.0, 100.0), (50.0, 1.0), (99.0, 0.01)])]))
    found = re.search(r'points="([^"]+)"', chart)
    assert found is not None
    points = [tuple(map(float, point.split(","))) for point in found[1].split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # downwards: the loss falls
    assert all(0 <= x <= 320 and 0 <= y <= 170 for x, y in points)
    # On a logarithmic axis equal ratios are equal distances.
    assert points[1][1] - points[0][1] == pytest.approx(points[2][1] - points[1][1], abs=0.2)
    assert "nan" not in str(line_chart("flat", [Line("", [(0.0, 0.0), (1.0, 0.0)])]))
    assert "nan" not in str(line_chart("one", [Line("", [(5.0, -3.0)])]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: [shutil.rmtree(part) for part in run.iterdir()], "holds neither a run"),
        (lambda run: (run / "scores" / "scores.json").write_text("{}"), "damaged or from another"),
        (lambda run: (run / "scores" / "scores.json").write_text("["), "cannot be read"),
        (lambda run: (run / "tokenizer" / "run.json").write_text("{}"), "no identity"),
        (lambda run: (run / "tokenizer" / "metrics.jsonl").write_text("[]\n"), "line 1 is not"),
        (lambda run: (run / "scores/gallery/manifest.json").write_text("{}"), "not the manifest"),
    ],
)  # fmt: skip
def test_damage_is_named(hostile_run, damage, message):
    damage(hostile_run)
    with pytest.raises(InputError, match=message):
        write_report(hostile_run)


def test_a_line_being_written_is_left_out(hostile_run):
    with open(hostile_run / "tokenizer" / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "loss/x": 0.')
    assert len(find_parts(hostile_run).runs[0].curves["loss/x"]) == 29


def test_the_command_writes_a_small_page_and_names_it(hostile_run):
    answer = video_vq("report", hostile_run)
    page = hostile_run / "report.html"
    assert str(page) in answer.stdout
    assert 10_000 < page.stat().st_size < 20_000_000
    text = page.read_text()
    assert "<script>window.broken" not in text
    assert "onerror=window" not in re.sub(r"&lt;.*?&gt;", "", text)
