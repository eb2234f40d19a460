"""Runs a GPU day: every part once, each in its own process; the same command resumes it.

    python scripts/gpu/run_day.py OUT [--smoke] [--minutes 9] [--only correct/ speed/sampling]

`make gpu` calls it. Each part's results are written to OUT/results.json before the next begins.
When resumed, the day repeats parts that failed or exceeded their time limit, but no finished parts.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import day_parts
import day_table
import torch
from day import Day, Figures, Part, Results, machine

LAST_WORDS = 2000  # number of characters kept of a failed part's traceback
FORK = multiprocessing.get_context("fork")  # children inherit the imports, and no CUDA yet


def child(work: Part, day: Day, answer: Connection) -> None:
    """Do a part in this process, in a new session, and send the results or the error."""
    os.setsid()
    log = day.out / "logs" / f"{work.name.replace('/', '-')}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.manual_seed(0)
    try:
        answer.send({"status": "done", **work.work(day)})
    except BaseException:
        answer.send({"status": "failed", "said": traceback.format_exc()[-LAST_WORDS:]})


def perform(part: Part, day: Day) -> Figures:
    """Do a part in a child process, up to its time limit; return its results, or how it failed."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=child, args=(part, day, theirs))
    started = time.monotonic()
    process.start()
    theirs.close()
    figures: Figures = {"status": "failed", "said": "its process died"}
    try:
        if ours.poll(part.seconds):
            with suppress(EOFError):
                figures = ours.recv()
        else:
            figures = {"status": "failed", "said": f"not done after {part.seconds} s"}
    finally:
        with suppress(ProcessLookupError):  # it may have left children behind
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()
    if figures.pop("unfinished", False):
        figures["status"] = "unfinished"
    return {**figures, "seconds": round(time.monotonic() - started, 1)}


def told(name: str, figures: Figures) -> str:
    """Return the line to print about a part."""
    line = f"{name}: {figures['status']}, {figures['seconds']:.0f} s"
    wrong = [key for key, value in figures.get("checks", {}).items() if not value["passed"]]
    if wrong:
        line += f"; WRONG: {', '.join(wrong)}"
    if "said" in figures:
        line += f"; {figures['said'].strip().splitlines()[-1]}"
    return line


def run(day: Day, chosen: Sequence[Part], minutes: float) -> int:
    """Do the remaining parts while there is time; return how many are left or failed."""
    results = Results(day.out / "results.json")
    started = time.monotonic()
    found = perform(Part("machine", machine, 120), day)
    if found["status"] != "done":
        raise SystemExit(f"make gpu: the GPU cannot be used: {told('machine', found)}")
    here = results.machine
    if here and (here["device"], here["is_smoke"]) != (found["device"], day.is_smoke):
        raise SystemExit(
            f"make gpu: {results.path} is of {here['device']}{' (SMOKE)' * here['is_smoke']}; "
            "name another folder: OUT=…"
        )
    results.machine = found
    results.save()
    later = 0
    for part in chosen:
        while not results.is_done(part.name):
            if 60 * minutes - (time.monotonic() - started) < part.seconds:
                later += 1
                break
            figures = perform(part, day)
            results.write(part.name, figures)
            print(told(part.name, figures), flush=True)
            if figures["status"] == "failed":
                later += 1
                break
    (day.out / "table.md").write_text(day_table.table(results))
    print(f"written: {results.path}, {day.out / 'table.md'}")
    return later


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the chosen parts; return 0 if all are done and correct, 1 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--smoke", action="store_true", help="in miniature, on the CPU")
    parser.add_argument(
        "--minutes", type=float, default=1e6, help="begin no part that may end after this time"
    )
    parser.add_argument(
        "--only", nargs="*", default=[], help="only parts whose names begin with these"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    day = Day(options.out.resolve(), "cpu" if options.smoke else "cuda", options.smoke)
    chosen = [
        part
        for part in day_parts.parts(day)
        if not options.only or part.name.startswith(tuple(options.only))
    ]
    if not chosen:
        names = ", ".join(part.name for part in day_parts.parts(day))
        raise SystemExit(f"make gpu: no part begins with {' or '.join(options.only)}; {names}")
    later = run(day, chosen, options.minutes)
    results = Results(day.out / "results.json")
    wrong = day_table.wrong_checks(results)
    if later:
        print(f"{later} of {len(chosen)} parts are left; the same command resumes")
    if wrong:
        print(f"wrong: {', '.join(wrong)}")
    return 1 if later or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
