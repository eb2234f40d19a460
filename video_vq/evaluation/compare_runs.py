"""Several evaluations side by side: differences, whether they can be told apart, as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from video_vq.errors import InputError
from video_vq.evaluation.feature_file import read_features
from video_vq.evaluation.feature_network import named_i3d
from video_vq.evaluation.features import FeatureSet
from video_vq.evaluation.fvd_comparison import difference_of
from video_vq.evaluation.scored_clip import Cut
from video_vq.evaluation.summary import simulation
from video_vq.metrics.protocol import FVDProtocol, fvd_protocol
from video_vq.stores.files import difference, read_json

CONFIDENCE = 0.95
SAME = ("data", "split", "num_clips", "protocol")  # of an identity: else nothing can be compared

FVD_ROWS = {"rFVD", "gFVD"}
PER_CLIP = {
    "psnr": ("PSNR, dB", "↑"),
    "ssim": ("SSIM", "↑"),
    "st_lpips": ("ST-LPIPS", "↓"),
    "motion_energy_ratio": ("motion-energy ratio", "→ 1"),
    "flicker": ("flicker, grey levels", "↓"),
}


class Cell(NamedTuple):
    """One run's score, and how it differs from the first run's.

    Attributes:
        value: None where the run has no such score.
        low, high: 95 % interval of the difference to the first run; None for the first run, or
            where it cannot be said.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def differs(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class Comparison(NamedTuple):
    """A table: one row per score, one cell per run; and the sentence that a paper needs."""

    runs: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]  # name, which way is better, cells
    methods: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "runs": list(self.runs),
            "methods": self.methods,
            "scores": [
                {
                    "name": name,
                    "better": better,
                    "runs": [{**cell._asdict(), "differs": cell.differs} for cell in cells],
                }
                for name, better, cells in self.rows
            ],
        }

    def markdown(self) -> str:
        """Return it as a markdown table."""
        lines = [
            "| | " + " | ".join(_plain(run) for run in self.runs) + " |",
            "|---" * (len(self.runs) + 1) + "|",
        ]
        for name, better, cells in self.rows:
            shown = [_told(cell, "±", "**", "**") for cell in cells]
            lines.append(f"| {name} {better} | " + " | ".join(shown) + " |")
        return "\n".join([*lines, "", self.methods])

    def latex(self) -> str:
        """Return it as a LaTeX table (booktabs)."""
        arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "→ 1": r"$\rightarrow 1$"}
        columns = "l" + "r" * len(self.runs)
        head = " & ".join(["", *(_latex(run) for run in self.runs)])
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head + r" \\", r"\midrule"]
        for name, better, cells in self.rows:
            shown = [_told(cell, r"$\pm$", r"\textbf{", "}") for cell in cells]
            lines.append(" & ".join([f"{_latex(name)} {arrows[better]}", *shown]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        return "\n".join([*lines, f"% {_latex(self.methods)}"])


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Compare evaluations with the first of them.

    Args:
        paths: folders of `video-vq evaluate`, or folders that hold one as `scores`.

    Raises:
        InputError: one is missing or damaged, or they scored other clips or by another protocol.
    """
    folders = [_folder(path) for path in paths]
    scores = [read_json(folder / "scores.json", "scores") for folder in folders]
    try:
        _require_alike(paths, scores)
        rows = _clip_rows(scores)
        protocol = fvd_protocol(str(scores[0]["protocol"]["name"]))
        cut = Cut(int(scores[0]["num_frames_in_fvd"]), int(scores[0]["frame_stride"]))
        rows += _fvd_rows(folders, scores, protocol, cut)
        rows += _rate_row(scores)
        methods = _methods(scores, rows, protocol, cut)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{paths[0]} …: scores are damaged or of another version "
            f"({type(error).__name__}: {error}); run `video-vq evaluate` again"
        ) from None
    return Comparison(tuple(str(path) for path in paths), tuple(rows), methods)


def _folder(path: Path) -> Path:
    for folder in (path, path / "scores"):
        if (folder / "scores.json").exists():
            return folder
    raise InputError(f"{path}: holds no scores.json; run `video-vq evaluate … --out {path}` first")


def _require_alike(paths: Sequence[Path], scores: Sequence[dict[str, Any]]) -> None:
    first = {name: scores[0]["identity"][name] for name in SAME}
    for path, other in zip(paths[1:], scores[1:], strict=True):
        second = {name: other["identity"][name] for name in SAME}
        if first == second:
            continue
        if first["data"] != second["data"]:
            first["data"], second["data"] = _data_of(scores[0]), _data_of(other)
        shown = "\n  ".join(difference(first, second))
        raise InputError(
            f"{paths[0]} and {path} did not score the same clips by the same protocol "
            f"({paths[0]} -> {path}):\n  {shown}\nevaluate both alike"
        )


def _data_of(scores: dict[str, Any]) -> str:
    """Return the clip store that was scored, as people know it: its folder and the hash's start."""
    words = [str(word) for word in scores["environment"].get("command") or []]
    folder = words[words.index("--data") + 1 :][:1] if "--data" in words else []
    return " ".join([*folder, f"({str(scores['identity']['data'])[:12]}…)"])


Row = tuple[str, str, tuple[Cell, ...]]


def _clip_rows(scores: Sequence[dict[str, Any]]) -> list[Row]:
    rows = []
    for key, (name, better) in PER_CLIP.items():
        lists = [_per_clip(one["reconstruction"]["clips"], key) for one in scores]
        if any(values is not None for values in lists):
            rows.append((name, better, _paired_cells(lists)))
    return rows


def _rate_row(scores: Sequence[dict[str, Any]]) -> list[Row]:
    lists = [
        _per_clip(one["prior"]["clips"], "bits_per_token") if "prior" in one else None
        for one in scores
    ]
    tokenizers = {one["tokenizer"] for one in scores}
    if all(values is None for values in lists):
        return []
    if len(tokenizers) > 1:  # bits of different tokens: shown, never compared
        means = [None if values is None else float(values[0].mean()) for values in lists]
        return [("prior, bits per token (of other tokens)", "↓", tuple(map(Cell, means)))]
    return [("prior, bits per token", "↓", _paired_cells(lists))]


Values = tuple[np.ndarray, tuple[str, ...]]  # per clip, and its group


def _per_clip(clips: Sequence[dict[str, Any]], key: str) -> Values | None:
    if not clips or key not in clips[0]:
        return None
    values = [np.nan if clip[key] is None else float(clip[key]) for clip in clips]
    return np.array(values), tuple(str(clip["group"]) for clip in clips)


def _paired_cells(lists: Sequence[Values | None]) -> tuple[Cell, ...]:
    first = lists[0]
    cells = []
    for number, found in enumerate(lists):
        if found is None:
            cells.append(Cell(None))
            continue
        mean = float(np.nanmean(found[0]))
        if number == 0 or first is None or first[1] != found[1]:
            cells.append(Cell(mean))
            continue
        low, high = paired_interval(found[0] - first[0], found[1])
        cells.append(Cell(mean, low, high))
    return tuple(cells)


def paired_interval(
    differences: np.ndarray, groups: Sequence[str]
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a mean difference; clips of one video are not independent.

    Student's t over the videos, each weighted by its clips (the cluster-robust error of a mean).
    """
    good = np.isfinite(differences)
    values = differences[good]
    names = np.array(groups)[good]
    _, places = np.unique(names, return_inverse=True)
    count = int(places.max()) + 1 if len(places) else 0
    if count < 2:
        return None, None
    mean = values.mean()
    sums = np.bincount(places, weights=values - mean, minlength=count)
    error = np.sqrt(count / (count - 1) * np.square(sums).sum()) / len(values)
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
    return float(mean - reach), float(mean + reach)


def _fvd_rows(
    folders: Sequence[Path], scores: Sequence[dict[str, Any]], protocol: FVDProtocol, cut: Cut
) -> list[Row]:
    network = named_i3d()
    real = read_features(folders[0] / "features-real.safetensors", network, cut)
    rows: list[Row] = []
    for name, kind, place in (
        ("rFVD", "reconstructed", ("reconstruction", "rfvd")),
        ("gFVD", "sampled", ("generation", "gfvd")),
    ):
        sets: list[FeatureSet | None] = []
        for folder in folders:
            file = folder / f"features-{kind}.safetensors"
            sets.append(read_features(file, network, cut) if file.exists() else None)
        if any(found is not None for found in sets):
            cells = _fvd_cells(real, sets, scores, place, protocol)
            rows.append((name, "↓", cells))
    return rows


def _fvd_cells(
    real: FeatureSet,
    sets: Sequence[FeatureSet | None],
    scores: Sequence[dict[str, Any]],
    place: tuple[str, str],
    protocol: FVDProtocol,
) -> tuple[Cell, ...]:
    first = sets[0]
    cells = []
    for number, (found, one) in enumerate(zip(sets, scores, strict=True)):
        if found is None:
            cells.append(Cell(None))
            continue
        value = float(one[place[0]][place[1]]["value"])
        if number == 0 or first is None:
            cells.append(Cell(value))
            continue
        try:
            interval = difference_of(real, found, first, protocol).at_n
        except InputError:  # too few source videos: shown without an interval
            cells.append(Cell(value))
            continue
        cells.append(Cell(value, interval.low, interval.high))
    return tuple(cells)


def _methods(
    scores: Sequence[dict[str, Any]], rows: Sequence[Row], protocol: FVDProtocol, cut: Cut
) -> str:
    num = int(scores[0]["num_clips"])
    counts = (num, num)
    cited = protocol.describe(counts, cut.num_frames, cut.stride)
    simulated = simulation(scores[0])
    return (
        f"{num} clips of split {scores[0]['split']}, one after another without overlap, of data "
        f"{str(scores[0]['identity']['data'])[:12]}. {cited}; network "
        f"{str(scores[0]['network_sha256'])[:12]}."
        + _intervals(rows)
        + ("" if simulated is None else f" {simulated}")
    )


def _intervals(rows: Sequence[Row]) -> str:
    """Return what the brackets of a table are, and nothing of those that it does not have."""
    shown = {name for name, _, cells in rows if any(cell.low is not None for cell in cells)}
    how = []
    if shown - FVD_ROWS:
        how.append("by Student's t for scores of clips")
    if shown & FVD_ROWS:
        how.append("from split halves for FVD at this N")
    if how:
        return (
            " In brackets the 95 % interval of the difference to the first column: over source "
            f"videos, {', '.join(how)}; bold where it leaves zero out."
        )
    if any(len(cells) > 1 for _, _, cells in rows):
        return " No difference has an interval: it takes scores of both over several videos."
    return ""


def _told(cell: Cell, plus_minus: str, strong: str, end: str) -> str:
    if cell.value is None:
        return "–"
    value = f"{cell.value:.4g}" if abs(cell.value) < 1000 else f"{cell.value:.0f}"
    if cell.low is None or cell.high is None:
        return value
    middle, reach = (cell.low + cell.high) / 2, (cell.high - cell.low) / 2
    shown = f"{value} ({middle:+.3g} {plus_minus} {reach:.2g})"
    return f"{strong}{shown}{end}" if cell.differs else shown


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text.replace("\n", " "))
