"""Renders the results of a GPU day as a section of docs/results.md."""

from collections.abc import Iterator
from typing import Any

from day import Figures, Results

HEAD = "## On a GPU"


def wrong_checks(results: Results) -> list[str]:
    """Return the names of all checks that did not pass."""
    return [
        f"{part}: {name}"
        for part, figures in results.parts.items()
        for name, found in figures.get("checks", {}).items()
        if not found["passed"]
    ]


def table(results: Results) -> str:
    """Return the section: the machine, tables of correctness, speed and training, and failures."""
    if not results.parts:
        return f"{HEAD}\n\nNothing was measured yet.\n"
    machine = results.machine
    title = machine["device"] + (
        " (a rehearsal: these figures say nothing)" if machine["is_smoke"] else ""
    )
    cards = f", {machine['cards']} of them" if machine.get("cards", 1) > 1 else ""
    lines = [
        HEAD,
        "",
        f"`make gpu`, {title}{cards}, torch {machine['torch']}, Python {machine['python']}, "
        f"commit {(machine['git'] or 'unknown')[:12]}, {machine['started'][:10]}.",
        "",
        *_correctness(results),
        *_speed(results),
        *_configs(results),
        *_training(results),
        *_left(results),
    ]
    return "\n".join(lines).rstrip() + "\n"


def shown(value: Any) -> str:
    """Return a value as text; floats have three significant digits, or no decimals from 1000 on."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def rows(heads: list[str], cells: list[list[Any]]) -> list[str]:
    """Return the lines of a Markdown table, followed by a blank line."""
    lines = [heads, ["---"] * len(heads), *cells]
    return [*(f"| {' | '.join(map(shown, line))} |" for line in lines), ""]


def done(results: Results, prefix: str) -> Iterator[tuple[str, Figures]]:
    """Yield the rest of the name, and the results, of each part with a prefix, unless it failed."""
    for name, figures in results.parts.items():
        if name.startswith(prefix) and figures["status"] in ("done", "unfinished"):
            yield name.removeprefix(prefix), figures


def _correctness(results: Results) -> list[str]:
    cells = []
    for name, figures in done(results, "correct/"):
        checks = figures["checks"]
        wrong = [key for key, found in checks.items() if not found["passed"]]
        worst = max(checks.items(), key=lambda item: _closeness(item[1]), default=None)
        nearest = ""
        if worst is not None:
            nearest = (
                f"{worst[0]}: {shown(worst[1]['value'])} of {shown(worst[1]['limit'])} allowed"
            )
        said = f"**wrong: {', '.join(wrong)}**" if wrong else f"{len(checks)} right"
        cells.append([f"`{name}`", said, nearest, figures.get("left_out", "")])
    if not cells:
        return []
    return [
        "### Right against the CPU",
        "",
        *rows(["part", "checks", "nearest to its limit", "left out"], cells),
    ]


def _closeness(found: Figures) -> float:
    return found["value"] / found["limit"] if found["limit"] else found["value"]


def _speed(results: Results) -> list[str]:
    lines = []
    parts = dict(done(results, "speed/"))
    if "ceilings" in parts:
        ceilings = {k: v for k, v in parts["ceilings"].items() if k not in ("status", "seconds")}
        said = ", ".join(f"{name} {shown(value)}" for name, value in ceilings.items())
        lines += ["### Speed beside its floor", "", f"Ceilings, measured: {said}.", ""]
    for part, inner, what in (
        ("quantizer", "sizes", "quantizer, N x D x K"),
        ("sampling", "batches", "sampling, a batch of clips"),
        ("loading", "loaders", "loading"),
    ):
        if part in parts:
            held = parts[part][inner]
            heads = list(dict.fromkeys(key for row in held.values() for key in row))
            cells = [[name, *(row.get(key) for key in heads)] for name, row in held.items()]
            lines += rows([what, *heads], cells)
    if "fvd" in parts:
        fvd = parts["fvd"]
        lines += [
            f"FVD's network: {shown(fvd['clips/s'])} clips/s in batches of {fvd['batch']} "
            f"({shown(fvd['ms'])} ms; floor {shown(fvd['floor ms'])}).",
            "",
        ]
    return lines


def _configs(results: Results) -> list[str]:
    cells = []
    for name, figures in done(results, "speed/"):
        for way, row in figures.get("ways", {}).items():
            cells.append(
                [
                    f"`{name}`",
                    way,
                    figures["batch"],
                    *(row.get(key) for key in ("frames/s", "TFLOP/s", "share of bf16 peak")),
                    *(row.get(key) for key in ("peak GB", "dry run GB")),
                    *(figures[f"{work} frames/s"] for work in ("encode", "decode")),
                    figures["encode and decode frames/s at the peak"],
                ]
            )
    if not cells:
        return []
    heads = ["config", "way", "clips", "training frames/s", "TFLOP/s", "share of the bf16 peak"]
    heads += [
        "GB, peak",
        "GB, by `--dry-run`",
        "encode frames/s",
        "decode frames/s",
        "both at the peak",
    ]
    return rows(heads, cells)


def _training(results: Results) -> list[str]:
    cells = [
        [
            f"`{name}`",
            figures["step"],
            figures["curve"][-1][1] if figures["curve"] else None,
            *(figures[key] for key in ("usage", "perplexity", "clips/s", "minutes")),
            "" if figures["status"] == "done" else "goes on",
        ]
        for name, figures in done(results, "train/")
        if "curve" in figures
    ]
    if not cells:
        return []
    heads = ["run", "step", "PSNR, val, dB", "code usage", "perplexity", "clips/s", "minutes", ""]
    return ["### Training on simulated pushing", "", *rows(heads, cells)]


def _left(results: Results) -> list[str]:
    failed = [
        f"* `{name}`: {figures['said'].strip().splitlines()[-1]}"
        for name, figures in results.parts.items()
        if figures["status"] == "failed"
    ]
    return ["### Failed", "", *failed] if failed else []
