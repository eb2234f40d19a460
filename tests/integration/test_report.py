"""The report: one page that plays, asks nothing of a network, and keeps hostile names as text."""

import re
import shutil

import pytest
from hostile_report import gallery_of
from runs import make_clip_store, video_vq

from video_vq.errors import InputError
from video_vq.evaluation.gallery import EXTREMES, SHOWN
from video_vq.evaluation.report import render, write_report
from video_vq.evaluation.report.charts import line_chart
from video_vq.evaluation.report.parts import find_parts
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
    with pytest.raises(InputError, match="a store of its own"):
        gallery_of(["a"]).write(tmp_path / "gallery", {}, 8.0)
    assert len(ClipStore(tmp_path / "gallery").videos) == 3


def test_a_verdict_says_what_was_not_beaten(hostile_run):
    page = render(find_parts(hostile_run))
    assert "does not beat the hardest control, 22.00: the first frame, repeated" in page
    assert "beats the hardest control, 1,500: the real clips&#39; first frames" in page
    assert "FVD at N = 48 is an illustration" in page


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
        (lambda run: (run / "scores" / "scores.json").write_text("{}"), "damaged or of another"),
        (lambda run: (run / "scores" / "scores.json").write_text("["), "cannot be read"),
        (lambda run: (run / "tokenizer" / "run.json").write_text("{}"), "no identity"),
        (lambda run: (run / "tokenizer" / "metrics.jsonl").write_text("[]\n"), "line 1 is not"),
        (lambda run: (run / "scores/gallery/manifest.json").write_text("{}"), "is a None store"),
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
