"""The report: one page that plays, asks nothing of a network, and keeps hostile names as text."""

import html
import re
import shlex
import shutil

import pytest
from hostile_report import gallery_of, scores_of
from runs import make_clip_store, video_vq

from video_vq.errors import InputError
from video_vq.evaluation.gallery import EXTREMES, SHOWN
from video_vq.report import render, write_report
from video_vq.report.charts import line_chart
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
    """Return what a finished tokenizer and its evaluation leave, by hand."""
    config = {
        "optim": {"steps": 600, "batch_size": 8},
        "model": {"quantizer": {"codebook_size": 512}},
    }
    identity = {"kind": "tokenizer", "config": config, "precision": "bf16", "world_size": 2}
    train = ["train-tokenizer", "--config", "x", "--data", "my clips", "--out", "runs/t"]
    # 300 steps of 8 clips at 8 clips a second, then 300 at 4: 300 s and 600 s.
    curves = {"time/clips_per_second": [(300.0, 8.0), (600.0, 4.0)], "loss/x": [(600.0, 1.0)]}
    run = Run("t", {**identity, "threads": 1}, {"command": train, "device": "cpu"}, curves, 0)
    prepared = {
        "source": "folder", "num_videos": 1234, "size_hw": [32, 48], "fps": 10.0, "stride": 1,
        "source_settings": {"val": 0.1, "test": 0.2, "group_by": "regex", "group_regex": "g(.)"},
    }  # fmt: skip
    given = ["evaluate", "--data", "my clips", "--tokenizer", "runs/t", "--tokens", "tokens"]
    scores = scores_of("test")
    scores["environment"]["command"] = [*given, "--samples", "s", "--prior", "runs/p"]
    scores["made_by"] = {"data": prepared, "tokens": {"hop": 4, "precision": "no"}}
    settings = {"temperature": 0.9, "top_k": None, "top_p": 1.0, "guidance": 1.0}
    plan = {"kind": "samples", "num_samples": 48, "seed": 3, "batch_size": 16, "class": None}
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
        "The videos are simulated (a &lt;toy&gt; world): no score compares with a published one."
        in render(parts)
    )


def test_the_commands_of_the_whole_pipeline_are_in_order_and_can_be_pasted():
    page = html.unescape(render(known_run()))
    found = re.search(r"<h2>Commands</h2>.*?<code>(.*?)</code>", page, re.DOTALL)
    assert found is not None
    shown = found[1].replace("\\\n", "").split("\n\n")
    expected = [
        "data-prep folder RAW --out 'my clips' --size 32x48 --val 0.1 --test 0.2 "
        "--group-regex 'g(.)' --fps 10.0",
        "OMP_NUM_THREADS=1 accelerate launch --multi_gpu --num_processes 2 --mixed_precision bf16 "
        "-m video_vq train-tokenizer --config x --data 'my clips' --out runs/t",
        "video-vq encode 'my clips' --tokenizer runs/t --out tokens --hop 4",
        "video-vq sample --prior runs/p --tokenizer runs/t --out s --num 48 --temperature 0.9 "
        "--top-p 1.0 --guidance 1.0 --seed 3 --batch-size 16",
        "video-vq evaluate --data 'my clips' --tokenizer runs/t --tokens tokens --samples s "
        "--prior runs/p",
    ]
    assert [shlex.split(line) for line in shown] == [shlex.split(line) for line in expected]
    assert max(map(len, found[1].splitlines())) <= 90


def test_each_number_says_of_how_many_clips_it_is():
    page = render(known_run())
    assert "N = 48; 0 is perfect. The floor, real clips against other real clips, is 800.00" in page
    assert "N = 32 and N = 48 cannot be compared" in page
    assert "<td>48 to 1,040</td>" in page
    assert "→ 1 is right; mean squared distance among samples" in page


def test_each_known_group_of_curves_is_explained(hostile_run):
    assert "What training minimises, each part unweighted" in render(known_run())
    assert "Speed of training" in render(known_run())
    curves = find_parts(hostile_run).runs[0].curves
    assert render(find_parts(hostile_run)).count('<svg class="chart"') == len(curves) + 1


def test_a_chart_places_its_points_in_order_and_inside():
    chart = str(line_chart("loss", [(1.0, 100.0), (50.0, 1.0), (99.0, 0.01)]))
    found = re.search(r'points="([^"]+)"', chart)
    assert found is not None
    points = [tuple(map(float, point.split(","))) for point in found[1].split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # downwards: the loss falls
    assert all(0 <= x <= 320 and 0 <= y <= 170 for x, y in points)
    # On a logarithmic axis equal ratios are equal distances.
    assert points[1][1] - points[0][1] == pytest.approx(points[2][1] - points[1][1], abs=0.2)
    assert "nan" not in str(line_chart("flat", [(0.0, 0.0), (1.0, 0.0)]))
    assert "nan" not in str(line_chart("one", [(5.0, -3.0)]))


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
