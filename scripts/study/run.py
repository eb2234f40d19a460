"""Runs a study: every run of its plan once, with all results in one file.

The same command resumes a study. A failed run also counts as a result, and a stopped run continues
where its commands stopped. Example:

  python scripts/study/run.py scripts/study/rotation.yaml --out runs/study --results rotation.jsonl

Without GPUs, one run at a time uses the whole machine; `--jobs 2` does two at a time, each with an
equal share of the cores. With GPUs, each run uses one, and by default there are as many runs at a
time as GPUs.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import plan as plans

from video_vq.errors import InputError
from video_vq.stores.files import write_bytes

WATCHED = ("codebook/usage", "codebook/perplexity")  # kept of each logged step, beside quantizer/…
LONG = ("clips", "code_counts")  # of the scores, left out of the results: an entry per clip or code
LAST_WORDS = 2000  # characters of what a failed command said


class Results:
    """A file of JSON lines, one per finished or failed run, which is written atomically."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self.results = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )

    def has(self, run: plans.Run) -> bool:
        """Return whether a run has a result."""
        return any(result["name"] == run.name for result in self.results)

    def add(self, result: dict[str, Any]) -> None:
        """Add a result, and write all results to disk."""
        with self._lock:
            self.results.append(result)
            lines = (json.dumps(one) + "\n" for one in self.results)
            write_bytes(self.path, "".join(lines).encode())


def make_world(plan: plans.Plan, name: str, out: Path) -> Path:
    """Return a world's clip store, making it if necessary."""
    raw, clips = out / f"{name}-raw", out / f"{name}-clips"
    for command in plan.worlds[name].make:
        if not (clips / "manifest.json").exists():
            arguments = [part.format(raw=raw, clips=clips) for part in shlex.split(command)]
            subprocess.run([sys.executable, "-m", *arguments], check=True)
    return clips


def perform(
    plan: plans.Plan,
    run: plans.Run,
    rate: float,
    clips: Path,
    out: Path,
    environment: dict[str, str],
) -> dict[str, Any]:
    """Do a run, up to its first failed command, and return its result.

    Raises:
        InterruptedError: a command was stopped before it finished.
    """
    folder = out / run.name
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"name": run.name, **run._asdict(), "rate": rate, "status": "finished"}
    seconds: dict[str, float] = {}
    for step in plans.steps_of(plan, run, rate, clips, folder):
        verb, started = step.command[0], time.monotonic()
        log = folder / f"{verb}.log"
        with log.open("w") as file:
            code = subprocess.run(
                [sys.executable, "-m", "video_vq", *step.command],
                stdout=file,
                stderr=file,
                env=environment,
                check=False,
            ).returncode
        seconds[verb] = round(time.monotonic() - started, 1)
        if code == 0 and not step.made.exists():
            raise InterruptedError(f"{run.name}: {verb} was stopped; the same command resumes")
        if code != 0:
            result |= {"status": "failed", "failed": verb, "said": log.read_text()[-LAST_WORDS:]}
            break
    result |= {"seconds": seconds, "date": time.strftime("%Y-%m-%d")}
    return result | figures_of(folder)


def without_lists(scores: Any) -> Any:
    """Return scores without the lists per clip or per code: the keys in `LONG`, at any depth."""
    if not isinstance(scores, dict):
        return scores
    return {key: without_lists(value) for key, value in scores.items() if key not in LONG}


def figures_of(folder: Path) -> dict[str, Any]:
    """Return the numbers in a run's files: last validation PSNR, training curve and scores."""
    metrics = folder / "tokenizer" / "metrics.jsonl"
    lines = (
        [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    )
    psnrs = [line["validation/psnr"] for line in lines if "validation/psnr" in line]
    curve = [
        {
            key: round(value, 5)
            for key, value in line.items()
            if key == "step" or key in WATCHED or key.startswith("quantizer/")
        }
        for line in lines
        if WATCHED[0] in line
    ]
    scores = folder / "scores" / "scores.json"
    return {
        "validation_psnr": psnrs[-1] if psnrs else None,
        "curve": curve,
        "scores": without_lists(json.loads(scores.read_text())) if scores.exists() else None,
    }


def gpus() -> list[str]:
    """Return the indices of this machine's GPUs, for CUDA_VISIBLE_DEVICES."""
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(index) for index, _ in enumerate(listed.stdout.splitlines())]


def environments(plan: plans.Plan, jobs: int | None) -> list[dict[str, str]]:
    """Return the environment variables for each of the concurrent runs."""
    base = {**os.environ, "ACCELERATE_MIXED_PRECISION": plan.precision}
    if found := gpus():
        places = (found[index % len(found)] for index in range(jobs or len(found)))
        return [{**base, "CUDA_VISIBLE_DEVICES": place} for place in places]
    threads = max(1, len(os.sched_getaffinity(0)) // (jobs or 1))
    return [{**base, "OMP_NUM_THREADS": str(threads)}] * (jobs or 1)


class Study:
    """The remaining runs, which are distributed among the workers."""

    def __init__(self, plan: plans.Plan, out: Path, results: Results, parts: Sequence[str]):
        self.plan, self.out, self.results = plan, out, results
        self._left = [r for r in plans.runs_of(plan) if not parts or r.part in parts]
        self._left = [run for run in self._left if not results.has(run)]
        self._worlds = {run.world: make_world(plan, run.world, out) for run in self._left}
        self._taking = threading.Lock()
        self.until = float("inf")

    def take(self) -> Iterator[tuple[plans.Run, float]]:
        """Yield runs whose rates are known, each to only one worker, while there is time."""
        while time.monotonic() < self.until:
            with self._taking:
                for run in self._left:
                    rate = run.rate or plans.tuned_rate(run, self.results.results)
                    if rate is not None:
                        self._left.remove(run)
                        break
                else:
                    return
            yield run, rate

    def work(self, environment: dict[str, str], keep: bool) -> None:
        """Do runs until none is left to take; delete their folders unless `keep` is set."""
        for run, rate in self.take():
            result = perform(self.plan, run, rate, self._worlds[run.world], self.out, environment)
            self.results.add(result)
            psnr = result["validation_psnr"]
            print(f"{run.name}: {result['status']}, rate {rate:g}, val {psnr} dB", flush=True)
            if not keep:
                shutil.rmtree(self.out / run.name)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path, help="the plan, a YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--results", type=Path, required=True, help="file of results, JSON lines")
    parser.add_argument("--parts", nargs="*", default=[], help="parts of the plan (default: all)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one, or one per GPU)")
    parser.add_argument("--minutes", type=float, help="begin no run later than this")
    parser.add_argument("--keep", action="store_true", help="keep the folders of finished runs")
    options = parser.parse_args(arguments)
    try:
        plan = plans.read_plan(options.plan)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{options.plan}: {error}") from None
    options.out.mkdir(parents=True, exist_ok=True)
    study = Study(plan, options.out, Results(options.results), options.parts)
    if options.minutes is not None:
        study.until = time.monotonic() + 60 * options.minutes
    places = environments(plan, options.jobs)
    with ThreadPoolExecutor(len(places)) as pool:
        for done in [pool.submit(study.work, place, options.keep) for place in places]:
            try:
                done.result()
            except (InterruptedError, InputError) as error:
                raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
