"""Compares reconstruction quality for equal data, bits and CPU time.

Each combination of arm, CPU budget and seed is a separate training run, with cosine decay of the
learning rate to the end of the budget. An arm's learning rate is chosen on val clips at the median
budget with the first seed. All runs of a seed see the same clips in the same order, with the loss
and the optimizer of their recipe. Give all budgets and seeds in one call.

During training, the PSNR on a few val clips shows when a run reaches 26 and 28 dB; these checks are
not charged to the budget. If the script is started again, it skips finished runs and restarts
interrupted runs. Example:

  data-prep synthetic raw --videos 800 && data-prep ucf101 raw --out clips --size 32 --split 1
  OMP_NUM_THREADS=1 python scripts/bench/quality.py clips --out runs/quality --seconds 60 120 240
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import torch
from arms import ARMS, CODEBOOK_SIZE, PIXELS_THW, SMALL
from measure import DTYPES, counted_operations
from quality_report import markdown, picture
from quality_training import (
    CHECKED_CLIPS,
    CHECKS,
    NUM_FRAMES,
    Clips,
    Settings,
    reconstruct,
    similarity,
    train,
)

from video_vq.data.loader import read_windows
from video_vq.data.windows import scoring_windows
from video_vq.errors import InputError
from video_vq.evaluation.controls import PatchCodebook, clip_mean, first_frame
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.fvd import DEFAULT_PROTOCOL, clip_features
from video_vq.metrics.i3d import I3D, load_i3d
from video_vq.models.tokenizer import to_pixels
from video_vq.nn.blocks import num_parameters
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import sha256_json, written_aside

KMEANS_CLIPS = 256


class Scored(NamedTuple):
    """Held-out clips."""

    val: Clips
    test: Clips


class FrechetToTest:
    """rFVD against the test clips, whose features are computed once."""

    def __init__(self, network: I3D, clips: Clips):
        self.network = network
        self.clips = clips

    @cached_property
    def real(self) -> Moments:
        """Return the feature statistics of the test clips."""
        return Moments.of(clip_features(self.clips, self.network).numpy())

    def __call__(self, copies: Clips) -> float:
        """Return the rFVD of reconstructions under the default protocol."""
        fake = Moments.of(clip_features(copies, self.network).numpy())
        return frechet_distance(self.real, fake, DEFAULT_PROTOCOL.ddof)


def run_arm(
    name: str,
    store: ClipStore,
    scored: Scored,
    settings: Settings,
    seconds: float,
    lr: float,
    frechet: FrechetToTest | None,
) -> dict[str, Any]:
    """Train one arm; return its scores, including rFVD unless `frechet` is None."""
    torch.manual_seed(settings.seed)
    model = ARMS[name].make()
    did = train(model, ARMS[name].recipe, store, scored.val, settings, seconds, lr)
    val, _ = reconstruct(model, scored.val, settings)
    copies, usage = reconstruct(model, scored.test, settings)
    scores: dict[str, Any] = similarity(copies, scored.test)
    if int(usage.counts.sum()):
        use = usage.compute()
        scores |= {"code_usage": use.code_usage, "perplexity": use.perplexity}
    if frechet is not None:
        scores["rfvd"] = frechet(copies)
    video = to_pixels(scored.test[:1])
    with torch.no_grad():
        operations = counted_operations(lambda: model(video))
    return {
        "arm": name,
        "seconds": seconds,
        "lr": lr,
        "seed": settings.seed,
        "parameters": num_parameters(model),
        "gflop_forward": operations / 1e9,
        **did,
        "val_psnr": similarity(val, scored.val)["psnr"],
        **scores,
    }


def score_controls(store: ClipStore, scored: Scored, settings: Settings) -> dict[str, Any]:
    """Return the scores of the controls: still pictures, and k-means on patches at equal bits."""
    windows = scoring_windows(store, "train", NUM_FRAMES, 1, KMEANS_CLIPS, settings.seed)
    patches = PatchCodebook(read_windows(store, windows), PIXELS_THW, CODEBOOK_SIZE, settings.seed)
    return {
        "clip mean": similarity(clip_mean(scored.test), scored.test),
        "first frame": similarity(first_frame(scored.test), scored.test),
        "k-means on raw patches": similarity(patches.reconstruct(scored.test), scored.test),
    }


def read_scored(store: ClipStore, settings: Settings) -> Scored:
    """Return val clips for choosing the learning rate, and test clips for the reported scores."""
    found = (
        scoring_windows(store, split, NUM_FRAMES, 1, settings.num_clips, settings.seed)
        for split in ("val", "test")
    )
    return Scored(*(read_windows(store, windows) for windows in found))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as file:
        file.write((json.dumps(value) + "\n").encode())


def require_same_plan(path: Path, plan: dict[str, Any]) -> None:
    """Record the plan that all results in a folder share, or check that it is the recorded one.

    Raises:
        InputError: the folder holds results for other data or settings.
    """
    if not path.exists():
        write_json(path, plan)
        return
    known = json.loads(path.read_text())
    changed = [key for key in plan if known.get(key) != plan[key]]
    if changed:
        differences = "; ".join(
            f"{key}: {known.get(key)} there, {plan[key]} now" for key in changed
        )
        raise InputError(
            f"{path.parent} holds results of another comparison ({differences}); "
            "give another --out, or the settings of that one"
        )


def compare(
    store: ClipStore,
    out: Path,
    settings: Settings,
    budgets: Sequence[float],
    arms: Sequence[str],
    seeds: Sequence[int],
    network: I3D | None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Do the missing runs; return all results in the folder, and the scores of the controls.

    The seed in `settings` draws the scored clips; `seeds` are those of the training runs.

    Raises:
        InputError: the clips cannot be divided into tokens, or the folder belongs to another
            comparison.
    """
    SMALL.grid_thw((NUM_FRAMES, *store.frame_size_hw))
    require_same_plan(
        out / "plan.json",
        {
            **settings._asdict(),
            "recipes": sha256_json(
                {
                    name: [asdict(arm.recipe.optimizer), arm.learning_rates]
                    for name, arm in ARMS.items()
                }
            ),
            "checks": [CHECKS, CHECKED_CLIPS],
            "data": store.content_hash,
            "frame_size": list(store.frame_size_hw),
        },
    )
    scored = read_scored(store, settings)
    frechet = None if network is None else FrechetToTest(network, scored.test)
    if not (out / "controls.json").exists():
        write_json(out / "controls.json", score_controls(store, scored, settings))

    def finished_run(name: str, seconds: float, lr: float, seed: int) -> dict[str, Any]:
        path = out / "runs" / f"{name.replace(' ', '_')}-{seconds:g}s-{lr:g}-{seed}.json"
        if not path.exists():
            judge = frechet if seconds == max(budgets) else None
            run = settings._replace(seed=seed)
            found = run_arm(name, store, scored, run, seconds, lr, judge)
            write_json(path, found)
            print(
                f"{name}, {seconds:g} s, lr {lr:g}, seed {seed}: {found['steps']} steps, "
                f"{found['psnr']:.2f} dB",
                file=sys.stderr,
            )
        return json.loads(path.read_text())

    for seed in seeds:
        for name in arms:
            tried = [
                finished_run(name, median_low(budgets), lr, seeds[0])
                for lr in ARMS[name].learning_rates
            ]
            lr = max(tried, key=lambda run: run["val_psnr"])["lr"]
            for seconds in budgets:
                finished_run(name, seconds, lr, seed)
    results = [json.loads(path.read_text()) for path in sorted((out / "runs").glob("*.json"))]
    return results, json.loads((out / "controls.json").read_text())


def require_positive(arguments: argparse.Namespace) -> None:
    """Check the ranges of the numeric arguments.

    Raises:
        InputError: a budget is not positive or not finite, or another number is too small.
    """
    if not all(0 < seconds < float("inf") for seconds in arguments.seconds):
        raise InputError(f"--seconds must be positive, found {arguments.seconds}")
    if arguments.batch_size < 1 or arguments.num < 2 or min(arguments.seeds) < 0:
        raise InputError(
            "--batch-size must be at least 1, --num 2 and --seeds 0, found "
            f"{arguments.batch_size}, {arguments.num} and {arguments.seeds}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, help="a clip store with splits train, val and test")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 120.0, 240.0])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16")
    parser.add_argument("--num", type=int, default=64, help="held-out clips to score")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--no-fvd", action="store_true", help="leave rFVD out (of the last budget)")
    parser.add_argument("--picture", type=Path, help="an SVG file to draw")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(arguments.batch_size, arguments.precision, arguments.num, seed=0)
    try:
        require_positive(arguments)
        network = None if arguments.no_fvd else load_i3d()
        results, controls = compare(
            ClipStore(arguments.clips),
            arguments.out,
            settings,
            arguments.seconds,
            arguments.arms,
            arguments.seeds,
            network,
        )
    except InputError as error:
        sys.exit(f"quality.py: {error}")
    print(markdown(results, controls))
    if arguments.picture:
        arguments.picture.write_text(picture(results, controls))


if __name__ == "__main__":
    main()
