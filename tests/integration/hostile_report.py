"""A run in which every name is an attack, for tests of the report."""

import json
from pathlib import Path

import numpy as np

from video_vq.evaluation.gallery import (
    Gallery,
    Neighbour,
    Pair,
    places_to_show,
    some_of_each_class,
)

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
    pairs = [
        Pair(blob(number), blob(number + 100), (f"{label}/v{number}", 3), label, 20.0 + number)
        for number, label in enumerate(labels)
    ]
    videos = [pair.source[0] for pair in pairs]
    by_role = places_to_show(np.array([pair.psnr for pair in pairs]), videos)
    return Gallery(
        {role: [pairs[place] for place in places] for role, places in by_role.items()},
        some_of_each_class(
            (label, lambda number=number: blob(200 + number)) for number, label in enumerate(labels)
        ),
        some_of_each_class(
            (label, lambda number=number: blob(500 + number)) for number, label in enumerate(labels)
        ),
        {"tokens per position": [blob(300)]},
        [Neighbour(blob(400), blob(401), 12.5)],
    )


def scores_of(name: str) -> dict:
    """Return scores in the format of `evaluate`, with a given name in place of most strings."""
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
            "vocabulary": [4],
            "code_counts": [[50, 30, 20, 0]],
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


def make_hostile_run(folder: Path) -> Path:
    """Write a run with hostile names of classes, videos and settings; return its folder."""
    run = folder / "<img src=x onerror=window.broken=1>"
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
