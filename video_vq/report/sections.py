"""The sections of a report; to add a section, write a function and list it in SECTIONS.

Each function takes the runs and evaluations that were found, and returns a section for each run or
evaluation that has something to show.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import yaml

from video_vq.report.blocks import (
    Block,
    Charts,
    Code,
    Film,
    Films,
    FilmStrip,
    Row,
    Section,
    Table,
    Text,
    difference,
    named,
)
from video_vq.report.charts import short
from video_vq.report.code_usage import counts_of_levels, usage_blocks
from video_vq.report.curves import GROUPS, grouped
from video_vq.report.found import Evaluation, Parts, Run
from video_vq.report.pipeline import known_commands
from video_vq.report.summary import remarks
from video_vq.report.verdicts import headlines, score_table
from video_vq.stores.clips import ClipStore
from video_vq.stores.videos import Video

FIRST = tuple(GROUPS[name].heading for name in ("validation", "loss"))  # groups shown unfolded

TOLD_OF_MODELS = ("clips", "tokens", "sub-codes", "compression", "transformer", "classes")


def scores(parts: Parts, films: Films) -> list[Section]:
    """Return sections with scores, explanations, and the controls that the scores must beat."""
    sections = []
    for evaluation in parts.evaluations:
        blocks: list[Block] = [headlines(evaluation.scores), score_table(evaluation.scores)]
        first, *rest = remarks(evaluation.scores)
        blocks += [Text(f"Protocol: {first}"), *(Text(line, strong=True) for line in rest)]
        sections.append(Section(_titled("Scores", evaluation.name, parts.evaluations), (*blocks,)))
    return sections


def reconstructions(parts: Parts, films: Films) -> list[Section]:
    """Return sections that show reconstructions: the first clips, the best and the worst."""
    headings = {"shown": "Clips as they come", "best": "Highest PSNR", "worst": "Lowest PSNR"}
    sections = []
    for evaluation in parts.evaluations:
        if evaluation.gallery is None:
            continue
        store = evaluation.gallery
        strips = []
        for role, heading in headings.items():
            pairs = _pairs(store, role)
            items = tuple(_pair_film(store, films, real, copy) for real, copy in pairs)
            strips.append(FilmStrip(heading, items))
        lead = Text(
            "The difference is shown around mid-grey, amplified twice: grey means equal. "
            "Loops shorter than a second are slowed to one second."
        )
        title = _titled("Reconstructions", evaluation.name, parts.evaluations)
        sections.append(Section(title, (lead, *strips)))
    return sections


def samples(parts: Parts, films: Films) -> list[Section]:
    """Return sections with samples by class, control clips, and the nearest training clips."""
    sections = []
    for evaluation in parts.evaluations:
        store = evaluation.gallery
        chosen = [] if store is None else _of_kind(store, "sampled")
        if store is None or not chosen:
            continue
        real = by_class(store, _of_kind(store, "of-class"))
        items = tuple(
            _class_film(store, films, name, found, real.get(name, []))
            for name, found in by_class(store, chosen).items()
        )
        blocks: list[Block] = [
            Text(_how_sampled(evaluation.scores)),
            FilmStrip("Samples beside real clips of their class" if real else "Samples", items),
        ]
        controls = _of_kind(store, "control")
        if controls:
            film = films.film(
                [store.read(index) for index in controls], 4,
                "tokens drawn position by position, without context", store.videos[controls[0]].fps,
            )  # fmt: skip
            blocks.append(FilmStrip("A control that the prior must beat", (film,)))
        near = list(zip(_of_kind(store, "near"), _of_kind(store, "train"), strict=True))
        if near:
            items = tuple(
                films.film(
                    [store.read(sample), store.read(train)], 2,
                    f"{float(_origin(store.videos[sample], 'distance')):.1f} grey levels apart",
                    store.videos[sample].fps,
                    ("sample", "training clip"),
                )
                for sample, train in near
            )  # fmt: skip
            heading = "Samples nearest to a training clip"
            blocks.append(FilmStrip(heading, items))
        title = _titled("Samples", evaluation.name, parts.evaluations)
        sections.append(Section(title, (*blocks,)))
    return sections


def codebook(parts: Parts, films: Films) -> list[Section]:
    """Return sections on code usage."""
    sections = []
    for evaluation in parts.evaluations:
        found = evaluation.scores["reconstruction"]
        if not found.get("code_counts"):
            continue
        text, *blocks = usage_blocks(counts_of_levels(found))
        where = f"Counted on split {evaluation.scores['split']}."
        title = _titled("Codebook usage", evaluation.name, parts.evaluations)
        sections.append(Section(title, (text._replace(text=f"{text.text} {where}"), *blocks)))
    return sections


def curves(parts: Parts, films: Films) -> list[Section]:
    """Return sections with the model details and the validation and loss curves of each run."""
    return [
        Section(f"Training: {_kind(run, parts)}", (*_model(run), *_curves(run, True)))
        for run in parts.runs
    ]


def more_curves(parts: Parts, films: Films) -> list[Section]:
    """Return sections with the remaining training curves of each run."""
    return [
        Section(f"More curves: {_kind(run, parts)}", blocks, folded=True)
        for run in parts.runs
        if (blocks := tuple(_curves(run, False)))
    ]


def _model(run: Run) -> list[Block]:
    told = {name: run.model[name] for name in TOLD_OF_MODELS if name in run.model}
    return [facts_table(told)] if told else []


def _curves(run: Run, first: bool) -> Iterator[Block]:
    """Yield the validation and loss curves if `first` is true, or else all other curves."""
    if first and not run.curves:
        yield Text("No metrics were logged yet.")
    for group in grouped(run.curves):
        if (group.heading in FIRST) == first:
            drawn = tuple(chart.draw() for chart in group.charts)
            yield Charts(drawn, group.heading, group.note, group.left_out)
    if first and run.num_not_finite:
        count = f"{run.num_not_finite} logged values were not finite and are left out."
        yield Text(count, strong=True)


def commands(parts: Parts, films: Films) -> list[Section]:
    """Return a section with the known pipeline commands, or no section if there are none."""
    lines = known_commands(parts)
    if not lines:
        return []
    told = Text(
        "Training runs and evaluations are shown as they were given. The others are reconstructed "
        "from their stores; RAW is the folder of raw videos."
    )
    return [Section("Commands", (told, Code("\n\n".join(lines), is_command=True)))]


def settings(parts: Parts, films: Films) -> list[Section]:
    """Return sections with the configuration, environment and hashes."""
    sections = []
    for run in parts.runs:
        config = yaml.safe_dump(run.identity.get("config", {}), sort_keys=False)
        rest = {name: value for name, value in run.identity.items() if name != "config"}
        rest |= {name: value for name, value in run.environment.items() if name != "command"}
        rest |= {f"model, {name}": value for name, value in run.model.items()}
        blocks = (facts_table(rest), Code(config.rstrip()))
        sections.append(Section(f"Settings: {_kind(run, parts)}", blocks, folded=True))
    for evaluation in parts.evaluations:
        found = evaluation.scores
        hashes = {
            "clips scored": found.get("data"),
            "FVD network": found.get("network_sha256"),
            **{
                name: found.get("identity", {}).get(name)
                for name in ("data", "tokenizer", "tokens", "prior", "samples")
            },
        }
        rest = {**hashes, **found.get("environment", {})}
        rest.pop("command", None)
        title = _titled("Settings: evaluation and stores", evaluation.name, parts.evaluations)
        made_by = dict(found.get("made_by", {}))
        made_by["samples"] = found.get("generation", {}).get("samples")
        stores = yaml.safe_dump(made_by, sort_keys=False).rstrip()
        sections.append(Section(title, (facts_table(rest), Code(stores)), folded=True))
    return sections


SECTIONS: tuple[Callable[[Parts, Films], list[Section]], ...] = (
    reconstructions, samples, scores, codebook, curves, commands, more_curves, settings,
)  # fmt: skip


def _titled(title: str, name: str, among: tuple[Evaluation, ...]) -> str:
    return title if len(among) == 1 else f"{title}: {name}"


def _kind(run: Run, parts: Parts) -> str:
    kind = str(run.identity.get("kind", "run"))
    alone = sum(other.identity.get("kind") == kind for other in parts.runs) == 1
    return kind if alone else f"{kind} ({run.name})"


def _of_kind(store: ClipStore, kind: str) -> list[int]:
    return [index for index, video in enumerate(store.videos) if _origin(video, "kind") == kind]


def _origin(video: Video, name: str) -> Any:
    return (video.origin or {}).get(name)


def _pairs(store: ClipStore, role: str) -> list[tuple[int, int]]:
    found = [index for index, video in enumerate(store.videos) if _origin(video, "role") == role]
    return list(zip(found[::2], found[1::2], strict=True))


def _pair_film(store: ClipStore, films: Films, real: int, copy: int) -> Film:
    video = store.videos[real]
    clip, reconstruction = store.read(real), store.read(copy)
    psnr = _origin(video, "psnr")
    told = "exact" if psnr is None else f"{float(psnr):.2f} dB"
    where = named(str(_origin(video, "video")), video.label)
    caption = f"{told} · {where}, from frame {_origin(video, 'start')}"
    clips = [clip, reconstruction, difference(clip, reconstruction)]
    return films.film(clips, 3, caption, video.fps, ("original", "reconstruction", "difference"))


def by_class(store: ClipStore, found: list[int]) -> dict[str, list[int]]:
    """Return the given video indices, grouped by class."""
    classes: dict[str, list[int]] = {}
    for index in found:
        classes.setdefault(store.videos[index].label or "no class", []).append(index)
    return classes


def _class_film(
    store: ClipStore, films: Films, name: str, sampled: list[int], real: list[int]
) -> Film:
    """Return a film with samples of a class on the left and real clips on the right."""
    fps = store.videos[sampled[0]].fps
    if not real:
        return films.film([store.read(index) for index in sampled], 2, name, fps)
    rows = max(math.ceil(len(found) / 2) for found in (sampled, real))
    blank = np.full_like(store.read(sampled[0]), 128)
    clips = [
        store.read(found[place]) if place < len(found) else blank
        for row in range(rows)
        for found in (sampled, real)
        for place in (2 * row, 2 * row + 1)
    ]
    return films.film(clips, 4, name, fps, ("samples", "real clips"))


def _how_sampled(found: dict[str, Any]) -> str:
    plan = found.get("generation", {}).get("samples", {})
    chosen = plan.get("settings", {})
    told = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in chosen.items() if value is not None
    )
    return f"{plan.get('num_samples', '?')} samples, seed {plan.get('seed', '?')}; {told}".strip(
        "; "
    )


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(inner)}" for name, inner in value.items()) or "none"
    return short(value) if isinstance(value, float) else str(value)


def facts_table(facts: dict[str, Any]) -> Table:
    """Return a table of names and values, skipping values that are None."""
    rows = tuple(
        Row((name.replace("_", " "), _told(value)))
        for name, value in facts.items()
        if value is not None
    )
    return Table((), rows)
