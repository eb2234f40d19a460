"""Rendering of simulated pushing, and training on it in pieces that can be resumed.

    python scripts/gpu/pushing.py gpu/pushing.tar.xz [--episodes 400]

writes a packed clip store; a GPU day on a machine without MuJoCo unpacks it from the output folder.
"""

import argparse
import json
import tarfile
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import yaml
from day import Day, Figures, check, tokenizer_config
from speed import precision

from data_prep.cli import main as data_prep
from video_vq.stores.clips import ClipStore
from video_vq.training.stop_request import StopRequest
from video_vq.training.tokenizer import train_tokenizer

PACKED = "pushing.tar.xz"
STUDY = Path(__file__).parents[1] / "study" / "rotation.yaml"
TARGET_PSNR = 30.0  # of the validation clips; the CPU's 33 minutes gave 27.2
PIECE_SECONDS = 330  # of training; compiling, a validation and saving take extra time
PIECE_LIMIT = 470
ARM_STEPS = 3000
SPEED = "time/clips_per_second"  # key in a line of the log


def make_clips(day: Day) -> Figures:
    """Unpack or render the clips unless they exist; return their number and the store's hash."""
    clips, packed = day.out / "clips", day.out / PACKED
    if not (clips / "manifest.json").exists():
        if packed.exists():
            unpack(packed, day.out)
        else:
            render(day.out, day.pick(1500, 6), day.pick(256, 2))
    store = ClipStore(clips)
    return {"videos": len(store.videos), "hash": store.content_hash}


def unpack(packed: Path, out: Path) -> None:
    """Unpack a store of clips; nothing outside `out` is written."""
    with tarfile.open(packed) as archive:
        archive.extractall(out, filter="data")


def render(out: Path, episodes: int, test_episodes: int) -> None:
    """Simulate pushing, and prepare a clip store from it.

    Raises:
        RuntimeError: `data-prep` fails, for example because MuJoCo or a graphics driver is missing.
    """
    raw = str(out / "pushing")
    numbers = ("--episodes", str(episodes), "--test-episodes", str(test_episodes))
    for command in (["simulate", raw, *numbers], ["bair", raw, "--out", str(out / "clips")]):
        if data_prep(command):
            raise RuntimeError(
                "no pushing can be rendered here; `pip install 'video-vq[sim]'`, or bring "
                f"{PACKED}, made elsewhere by `python scripts/gpu/pushing.py {PACKED}`"
            )


def train_piece(day: Day, name: str, changes: tuple[str, ...]) -> Figures:
    """Start or resume a run on the clips, until it is finished or the piece's time is up.

    Returns:
        The numbers in the log so far, and "unfinished": whether another piece is needed.
    """
    run = day.out / "runs" / name
    config = tokenizer_config(day, "bair_small", *changes)
    request = StopRequest()
    clock = threading.Timer(PIECE_SECONDS, lambda: setattr(request, "reason", "a piece is over"))
    clock.daemon = True
    clock.start()
    with precision(day):
        finished = train_tokenizer(config, day.out / "clips", run, request=request)
    clock.cancel()
    return {"unfinished": finished is None, **figures_of(run, config.optim.batch_size)}


def figures_of(run: Path, batch_size: int) -> Figures:
    """Return the numbers in a run's log: its progress, curve, speed and code usage."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if "validation/psnr" in line]
    speeds = sorted(line[SPEED] for line in lines if SPEED in line)
    speed = speeds[len(speeds) // 2] if speeds else None
    return {
        "step": lines[-1]["step"],
        "curve": [[line["step"], round(line["validation/psnr"], 3)] for line in scores],
        "clips/s": speed,
        "minutes": lines[-1]["step"] * batch_size / speed / 60 if speed else None,
        "usage": scores[-1]["validation/code_usage"] if scores else None,
        "perplexity": scores[-1]["validation/perplexity"] if scores else None,
    }


def settings(day: Day, steps: int, warmup: int, validate: int) -> tuple[str, ...]:
    """Return the settings of a training run, in miniature for a rehearsal.

    Args:
        steps: number of steps.
        warmup: number of steps over which the learning rate rises.
        validate: number of steps between validations.
    """
    small = ("optim.batch_size=2", "run.validation_clips=2", "run.num_workers=0")
    return (
        *(f"optim.steps={day.pick(steps, 2)}", f"optim.warmup_steps={day.pick(warmup, 1)}"),
        *(f"run.validate_every={day.pick(validate, 1)}", "optim.lr=2e-3"),
        *("loss.commitment=1.0", f"run.checkpoint_every={day.pick(500, 1)}"),
        *day.pick(("optim.batch_size=32", "run.num_workers=8"), small),
    )


def bair_small(day: Day) -> Figures:
    """Train `bair_small` with the straight-through estimator, as on the CPU; check its PSNR."""
    found = train_piece(
        *(day, "bair_small"),
        (*settings(day, 12_000, 300, 1000), "model.quantizer.estimator=straight_through"),
    )
    if found["unfinished"] or day.is_smoke:
        return found
    missing = TARGET_PSNR - found["curve"][-1][1]
    return {**found, "checks": {f"dB below the target of {TARGET_PSNR:g}": check(missing, 0)}}


def study_arm(name: str, seed: int) -> Callable[[Day], Figures]:
    """Return a function that trains one arm of the study for `ARM_STEPS` steps.

    Args:
        name: name of the arm in scripts/study/rotation.yaml.
        seed: seed of the run; runs with the same seed are paired.
    """

    def work(day: Day) -> Figures:
        arm = yaml.safe_load(STUDY.read_text())["arms"][name]
        changes = (*settings(day, ARM_STEPS, 100, ARM_STEPS), *arm, f"run.seed={seed}")
        return train_piece(day, f"{name}-{seed}", changes)

    return work


def main() -> None:
    """Render pushing, and pack its clip store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packed", type=Path)
    parser.add_argument("--episodes", type=int, default=400, help="an eighth of them for test")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        render(Path(folder), options.episodes, options.episodes // 8)
        with tarfile.open(options.packed, "w:xz") as archive:
            archive.add(Path(folder) / "clips", "clips")
    print(f"{options.packed}: {options.packed.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
