"""The report: one page that plays, asks nothing of a network, and keeps hostile names as text."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import make_clip_store, video_vq

from video_vq.errors import InputError
from video_vq.evaluation.gallery import EXTREMES, SHOWN, Gallery, Pair, places_to_show
from video_vq.evaluation.report import render, write_report
from video_vq.evaluation.report.charts import line_chart
from video_vq.evaluation.report.parts import find_parts
from video_vq.stores.clips import ClipStore

HOSTILE = [
    "<script>window.broken = 1</script>",
    "</script><script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 1">',
    "'><svg onload=window.broken=1>",
    "</title><script>window.broken=1</script>",
    "</style><script>window.broken=1</script>",
    "</figcaption><iframe src=javascript:parent.broken=1></iframe>",
    "javascript:window.broken=1",
    "<a href='javascript:window.broken=1'>click</a>",
    "<video src=x onerror=window.broken=1>",
    "<body onload=window.broken=1>",
    "{{ 7 * 7 }}",
    "{% raw %}<b>",
    "${window.broken=1}",
    "`;window.broken=1;`",
    "<!-- --><script>window.broken=1</script>",
    "<math><mtext><script>window.broken=1</script>",
    "&lt;script&gt;window.broken=1&lt;/script&gt;",
    '" autofocus onfocus="window.broken=1',
    "<meta http-equiv=refresh content='0;url=https://example.invalid/'>",
]


def blob(seed: int, num_frames: int = 8) -> np.ndarray:
    random = np.random.default_rng(seed)
    frames = np.full((num_frames, 32, 32, 3), random.integers(0, 255, 3), np.uint8)
    for t in range(num_frames):
        frames[t, 8:16, 2 * t : 2 * t + 8] = random.integers(0, 255, 3)
    return frames


def gallery_of(labels: list[str | None]) -> Gallery:
    gallery = Gallery()
    pairs = [
        Pair(blob(number), blob(number + 100), (f"{label}/v{number}", 3), label, 20.0 + number)
        for number, label in enumerate(labels)
    ]
    for role, places in places_to_show(np.array([pair.psnr for pair in pairs])).items():
        gallery.add_pairs(role, [pairs[place] for place in places])
    gallery.add_neighbours([(blob(400), blob(401), 12.5)])
    for number, label in enumerate(labels):
        gallery.add_sample(label, lambda number=number: blob(200 + number))
    gallery.add_control("tokens per position", [blob(300)])
    return gallery


def scores_of(name: str) -> dict:
    """Return scores as `evaluate` writes them, with a name in every text."""
    fvd = {"value": 1234.5, "num_real": 64, "num_fake": 48, "warnings": []}
    clip = {"video": name, "start": 0, "psnr": 20.0, "ssim": 0.9}
    return {
        "identity": {"data": name, "tokenizer": name, "samples": name, "tokens": name},
        "environment": {"command": ["evaluate", "--data", name], "git": name},
        "protocol": {"name": "styleganv"},
        "network_sha256": name,
        "data": name,
        "split": name,
        "num_clips": 64,
        "reconstruction": {
            "psnr": {"mean": 21.0, "q05": 20.0, "median": 21.0, "q95": 22.0, "num_exact": 0},
            "ssim": {"mean": 0.9},
            "rfvd": fvd,
            "codebook": {"code_usage": 0.75, "perplexity": 2.5},
            "codebook_size": 4,
            "code_counts": [50, 30, 20, 0],
            "bits_per_clip": 128.0,
            "clips": [clip],
        },
        "floor": {"distance": 800.0, "num_clips": 32},
        "controls": {"psnr_clip_mean": 18.0, "psnr_first_frame": 22.0, "fvd_first_frame": 1500.0},
        "generation": {
            "gfvd": fvd,
            "diversity": {"ratio": 0.5},
            "samples": {"num_samples": 48, "settings": {"note": name}},
        },
        "prior": {
            "bits_per_token": 1.5,
            "num_grids": 64,
            "split": "test",
            "predictors": {"token_frequencies": 2.0},
        },
    }


@pytest.fixture
def hostile_run(tmp_path) -> Path:
    """Return a folder whose every name is an attack: classes, videos, settings, commands."""
    run = tmp_path / "<img src=x onerror=window.broken=1>"
    scores = run / "scores"
    scores.mkdir(parents=True)
    gallery_of([*HOSTILE[:12]]).write(scores / "gallery", {"note": "hostile"}, 8.0)
    (scores / "scores.json").write_text(json.dumps(scores_of("\n".join(HOSTILE))))
    training = run / "tokenizer"
    training.mkdir()
    config = {"model": dict(zip(HOSTILE, HOSTILE, strict=True))}
    described = {
        "identity": {"kind": HOSTILE[0], "config": config, "data": HOSTILE[1]},
        "environment": {"command": HOSTILE, "git": HOSTILE[2]},
    }
    (training / "run.json").write_text(json.dumps(described))
    metrics = [
        {"step": step, "clock": 1.0, "loss/x": 1 / step, **dict.fromkeys(HOSTILE, float(step))}
        for step in range(1, 30)
    ]
    (training / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return run


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
