"""The sections of a report, in order. A new one is a function here and its name in SECTIONS.

Each takes what was found and returns sections, one per run or evaluation that it applies to.
"""

from collections.abc import Callable, Iterator
from typing import Any

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
)
from video_vq.report.charts import line_chart, short
from video_vq.report.found import Evaluation, Parts, Run
from video_vq.report.pipeline import known_commands
from video_vq.report.summary import remarks
from video_vq.report.verdicts import headlines, score_table
from video_vq.stores.clips import ClipStore
from video_vq.stores.videos import Video

WALL_CLOCK = ("time/clips_per_second",)  # the only time that is worth a curve
GROUPS = {
    "validation": "Scores of the averaged weights on fixed clips of the val split: a run is "
    "judged by these.",
    "loss": "What training minimises, each part unweighted, on the current clips.",
    "weight": "What each part of the loss is multiplied by.",
    "discriminator": "How well the discriminator tells clips from reconstructions: the share of "
    "patches that it classifies correctly (0.5: it guesses; 1: it has won), its losses and mean "
    "logits.",
    "codebook": "How the codes are used: the share of them that occurs, how many equally frequent "
    "ones would carry as much (perplexity), and how many unused ones were restarted.",
    "quantizer": "Encoder outputs against their codes: the angle in degrees, the ratio of lengths "
    "and the outputs' norm (p05, p50, p95: quantiles), the cosine between the gradient and the "
    "rotated one, and the share of tokens that one step moved to another code; the share of "
    "obtuse angles, the part of the outputs' variance that codes miss (distortion), and what pulls "
    "the outputs towards the origin (radial forces: positive ones shrink them).",
    "optim": "The gradient's norm before it is clipped, the learning rate, and the steps that were "
    "left out because a number was not finite.",
    "time": "Speed of training.",
    "warnings": "Number of warnings of the run.",
}
SHARES = (
    "codebook/usage",
    "codebook/batch_usage",
    "validation/code_usage",
    "discriminator/accuracy",
)


def scores(parts: Parts, films: Films) -> list[Section]:
    """Return the scores, what they mean, and what they must beat."""
    sections = []
    for evaluation in parts.evaluations:
        blocks: list[Block] = [headlines(evaluation.scores), score_table(evaluation.scores)]
        first, *rest = remarks(evaluation.scores)
        blocks += [Text(f"Protocol: {first}"), *(Text(line, strong=True) for line in rest)]
        sections.append(Section(_titled("Scores", evaluation.name, parts.evaluations), (*blocks,)))
    return sections


def reconstructions(parts: Parts, films: Films) -> list[Section]:
    """Return clips beside their reconstructions: in the order of the data, the best, the worst."""
    headings = {
        "shown": "Clips as they come",
        "best": "Highest PSNR",
        "worst": "Lowest PSNR",
    }
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
            "Each film: original, reconstruction, and their difference around mid-grey, twice "
            "enlarged (grey is equal)."
        )
        title = _titled("Reconstructions", evaluation.name, parts.evaluations)
        sections.append(Section(title, (lead, *strips)))
    return sections


def samples(parts: Parts, films: Films) -> list[Section]:
    """Return samples by class, and the clips of the controls."""
    sections = []
    for evaluation in parts.evaluations:
        store = evaluation.gallery
        chosen = [] if store is None else _of_kind(store, "sampled")
        if store is None or not chosen:
            continue
        by_class: dict[str, list[int]] = {}
        for index in chosen:
            by_class.setdefault(store.videos[index].label or "no class", []).append(index)
        items = tuple(
            films.film([store.read(index) for index in found], 2, name, store.videos[found[0]].fps)
            for name, found in by_class.items()
        )
        blocks: list[Block] = [
            Text(_how_sampled(evaluation.scores)),
            FilmStrip("Samples by class", items),
        ]
        controls = _of_kind(store, "control")
        if controls:
            film = films.film(
                [store.read(index) for index in controls], 4,
                "tokens drawn position by position, without context", store.videos[controls[0]].fps,
            )  # fmt: skip
            blocks.append(FilmStrip("A control: what the prior must beat", (film,)))
        near = list(zip(_of_kind(store, "near"), _of_kind(store, "train"), strict=True))
        if near:
            items = tuple(
                films.film(
                    [store.read(sample), store.read(train)], 2,
                    f"{float(_origin(store.videos[sample], 'distance')):.1f} grey levels apart",
                    store.videos[sample].fps,
                )
                for sample, train in near
            )  # fmt: skip
            heading = "Samples nearest to a training clip: sample, training clip"
            blocks.append(FilmStrip(heading, items))
        title = _titled("Samples", evaluation.name, parts.evaluations)
        sections.append(Section(title, (*blocks,)))
    return sections


def codebook(parts: Parts, films: Films) -> list[Section]:
    """Return how the codes are used."""
    sections = []
    for evaluation in parts.evaluations:
        found = evaluation.scores["reconstruction"]
        counts = found.get("code_counts")
        if not counts:
            continue
        use, total, size = found["codebook"], sum(counts), len(counts)
        running, points = 0, [(0.0, 0.0)]
        for rank, count in enumerate(counts, 1):
            running += count
            points.append((float(rank), running / total))
        chart = line_chart("share of tokens in the most used codes", points, "codes", zero=True)
        used = sum(count > 0 for count in counts)
        text = (
            f"{used:,} of {size:,} codes occur among {total:,} tokens of split "
            f"{evaluation.scores['split']}. Perplexity {use['perplexity']:.0f}: the codes carry as "
            f"much as {use['perplexity']:.0f} equally frequent ones would. A straight line would "
            "be perfectly even use; a line that jumps up at once is a collapsed codebook."
        )
        title = _titled("Codebook usage", evaluation.name, parts.evaluations)
        sections.append(Section(title, (Text(text), Charts((chart,)))))
    return sections


def curves(parts: Parts, films: Films) -> list[Section]:
    """Return the training curves of each run."""
    sections = []
    for run in parts.runs:
        shown = {
            name: points
            for name, points in run.curves.items()
            if not name.startswith("time/") or name in WALL_CLOCK
        }
        blocks: list[Block] = [*_by_group(shown)] or [Text("No metrics were logged yet.")]
        if run.num_not_finite:
            count = f"{run.num_not_finite} logged values were not finite and are left out."
            blocks.append(Text(count, strong=True))
        sections.append(Section(f"Training: {_kind(run, parts)}", (*blocks,)))
    return sections


def _by_group(curves: dict[str, list[tuple[float, float]]]) -> Iterator[Charts]:
    """Yield the curves of each group (`loss/…`), with a description if the group is known."""
    groups = {name.partition("/")[0] for name in curves}
    for group in [*(name for name in GROUPS if name in groups), *sorted(groups - GROUPS.keys())]:
        charts = tuple(
            line_chart(name, points, zero=name in SHARES)
            for name, points in curves.items()
            if name.partition("/")[0] == group
        )
        yield Charts(charts, group, GROUPS.get(group, ""))


def commands(parts: Parts, films: Films) -> list[Section]:
    """Return the commands of the pipeline, as far as they are known."""
    lines = known_commands(parts)
    if not lines:
        return []
    told = Text(
        "Trainings and evaluations are shown as they were given. The others are reconstructed "
        "from their stores; RAW is the folder of raw videos."
    )
    return [Section("Commands", (told, Code("\n\n".join(lines))))]


def settings(parts: Parts, films: Films) -> list[Section]:
    """Return configuration, environment and hashes."""
    sections = []
    for run in parts.runs:
        config = yaml.safe_dump(run.identity.get("config", {}), sort_keys=False)
        rest = {name: value for name, value in run.identity.items() if name != "config"}
        rest |= {name: value for name, value in run.environment.items() if name != "command"}
        blocks = (_facts(rest), Code(config.rstrip()))
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
        sections.append(Section(title, (_facts(rest), Code(stores)), folded=True))
    return sections


SECTIONS: tuple[Callable[[Parts, Films], list[Section]], ...] = (
    scores,
    reconstructions,
    samples,
    codebook,
    curves,
    commands,
    settings,
)


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
    where = f"{_origin(video, 'video')}, from frame {_origin(video, 'start')}"
    caption = f"{told} · {video.label or 'no class'} · {where}"
    clips = [clip, reconstruction, difference(clip, reconstruction)]
    return films.film(clips, 3, caption, video.fps)


def _how_sampled(found: dict[str, Any]) -> str:
    plan = found.get("generation", {}).get("samples", {})
    chosen = plan.get("settings", {})
    told = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in chosen.items() if value is not None
    )
    return f"{plan.get('num_samples', '?')} samples, seed {plan.get('seed', '?')}; {told}".strip(
        "; "
    )


def _facts(facts: dict[str, Any]) -> Table:
    rows = tuple(
        Row((name.replace("_", " "), short(value) if isinstance(value, float) else str(value)))
        for name, value in facts.items()
        if value is not None
    )
    return Table((), rows)
