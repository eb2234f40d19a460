"""Compares evaluations: the differences in scores, and whether the differences are significant."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from video_vq.errors import InputError
from video_vq.evaluation.feature_file import read_features
from video_vq.evaluation.feature_network import FeatureNetwork, named_i3d
from video_vq.evaluation.features import FeatureSet
from video_vq.evaluation.fvd_comparison import difference_of
from video_vq.evaluation.generation_protocols import simulation
from video_vq.evaluation.scored_clip import Cut
from video_vq.metrics.protocol import FVDProtocol, fvd_protocol
from video_vq.stores.files import difference, read_json

CONFIDENCE = 0.95
SAME = ("data", "split", "num_clips", "protocol")  # identity entries that must agree

FVD_ROWS = {"rFVD", "gFVD", "padded rFVD", "padded gFVD"}
PER_CLIP = {
    "psnr": ("PSNR, dB", "↑"),
    "ssim": ("SSIM", "↑"),
    "st_lpips": ("ST-LPIPS", "↓"),
    "motion_energy_ratio": ("motion-energy ratio", "→ 1"),
    "flicker": ("flicker, grey levels", "↓"),
    "boundary_flicker": ("flicker at latent boundaries", "→ 1"),
}
RATES = {  # scores of a prior; a masked prior has no rate, so its score gets its own row
    "bits_per_token": "prior, bits per token",
    "bits_per_hidden_token": "masked prior, bits per hidden token",
}


class Cell(NamedTuple):
    """The score of one run, and the interval of the difference from the first run's score.

    Attributes:
        value: score; None if the run does not have this score.
        low, high: bounds of the 95 % interval of the difference from the first run; None for the
            first run, or if the interval is unknown.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def differs(self) -> bool:
        """Return whether the interval is known and excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


Row = tuple[str, str, tuple[Cell, ...]]  # name, direction of improvement, cells


class EvaluationTable(NamedTuple):
    """A table with a row per score and a cell per run, and a methods paragraph for a paper."""

    runs: tuple[str, ...]
    rows: tuple[Row, ...]
    methods: str


def compare_evaluations(
    paths: Sequence[Path], network: FeatureNetwork | None = None
) -> EvaluationTable:
    """Compare several evaluations, using the first one as the baseline.

    Args:
        paths: output folders of `video-vq evaluate`, or folders in which `scores` is such a folder.
        network: network that computed the FVD features; None for I3D.

    Raises:
        InputError: an evaluation is missing or damaged, or the evaluations differ in clips,
            protocol or network.
    """
    network = network or named_i3d()
    folders = [_folder(path) for path in paths]
    scores = [read_json(folder / "scores.json", "scores") for folder in folders]
    try:
        _require_alike(paths, scores)
        rows = _clip_rows(scores)
        protocol = fvd_protocol(str(scores[0]["protocol"]["name"]))
        cut = Cut(int(scores[0]["num_frames_in_fvd"]), int(scores[0]["frame_stride"]))
        rows += _fvd_rows(folders, scores, network, protocol, cut)
        rows += _rate_rows(scores)
        rows += _codec_row(scores)
        methods = _methods(scores[0], rows, protocol, cut)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{paths[0]} …: scores are damaged or from another version "
            f"({type(error).__name__}: {error}); run `video-vq evaluate` again"
        ) from None
    return EvaluationTable(tuple(map(str, paths)), tuple(rows), methods)


def _folder(path: Path) -> Path:
    for folder in (path, path / "scores"):
        if (folder / "scores.json").exists():
            return folder
    raise InputError(
        f"{path}: holds no scores.json; compare takes what `video-vq evaluate … --out` wrote "
        "(`video-vq fvd REAL FAKE` compares videos)"
    )


def _require_alike(paths: Sequence[Path], scores: Sequence[dict[str, Any]]) -> None:
    first = _compared(scores[0]["identity"])
    for path, other in zip(paths[1:], scores[1:], strict=True):
        second = _compared(other["identity"])
        if first == second:
            continue
        if first["data"] != second["data"]:
            first["data"], second["data"] = _data_of(scores[0]), _data_of(other)
        shown = "\n  ".join(difference(first, second))
        raise InputError(
            f"{paths[0]} and {path} did not score the same clips by the same protocol "
            f"({paths[0]} -> {path}):\n  {shown}\nevaluate both in the same way"
        )


def _compared(identity: dict[str, Any]) -> dict[str, Any]:
    return {**{name: identity[name] for name in SAME}, "network": identity.get("network")}


def _data_of(scores: dict[str, Any]) -> str:
    """Return the folder (if known) and the short hash of the scored clip store, as text."""
    words = [str(word) for word in scores["environment"].get("command") or []]
    folder = words[words.index("--data") + 1 :][:1] if "--data" in words else []
    return " ".join([*folder, f"({str(scores['identity']['data'])[:12]}…)"])


def _clip_rows(scores: Sequence[dict[str, Any]]) -> list[Row]:
    rows = []
    for key, (name, better) in PER_CLIP.items():
        lists = [_per_clip(one["reconstruction"]["clips"], key) for one in scores]
        if any(values is not None for values in lists):
            rows.append((name, better, _paired_cells(lists)))
    return rows


def _rate_rows(scores: Sequence[dict[str, Any]]) -> list[Row]:
    rows: list[Row] = []
    for key, name in RATES.items():
        lists = [_per_clip(s["prior"]["clips"], key) if "prior" in s else None for s in scores]
        if all(values is None for values in lists):
            continue
        if len({one["tokenizer"] for one in scores}) > 1:  # different tokens, not comparable
            means = [None if values is None else float(values[0].mean()) for values in lists]
            rows.append((f"{name} (of other tokens)", "↓", tuple(map(Cell, means))))
        else:
            rows.append((name, "↓", _paired_cells(lists)))
    return rows


def _codec_row(scores: Sequence[dict[str, Any]]) -> list[Row]:
    """Return a row with the PSNR of H.264 at each tokenizer's bit budget, if any is known."""
    known = [one["controls"].get("psnr_h264") for one in scores]
    if all(value is None for value in known):
        return []
    return [("PSNR of H.264 at the same bits, dB", "↑", tuple(map(Cell, known)))]


Values = tuple[np.ndarray, tuple[str, ...]]  # one value and one group per clip


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
    """Return the 95 % interval of a mean difference; (None, None) for fewer than two source videos.

    The interval is Student's t interval with the cluster-robust standard error of the mean: clips
    of one video are not independent, and each video is weighted by its number of clips.
    """
    good = np.isfinite(differences)
    values = differences[good]
    _, places = np.unique(np.array(groups)[good], return_inverse=True)
    count = int(places.max()) + 1 if len(places) else 0
    if count < 2:
        return None, None
    mean = values.mean()
    sums = np.bincount(places, weights=values - mean, minlength=count)
    error = np.sqrt(count / (count - 1) * np.square(sums).sum()) / len(values)
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
    return float(mean - reach), float(mean + reach)


def _fvd_rows(
    folders: Sequence[Path],
    scores: Sequence[dict[str, Any]],
    network: FeatureNetwork,
    protocol: FVDProtocol,
    cut: Cut,
) -> list[Row]:
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
            title = name if protocol.pad_to is None else f"padded {name}"
            rows.append((title, "↓", cells))
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
        except InputError:  # too few source videos, or different numbers of samples: no interval
            cells.append(Cell(value))
            continue
        cells.append(Cell(value, interval.low, interval.high))
    return tuple(cells)


def _methods(scores: dict[str, Any], rows: Sequence[Row], protocol: FVDProtocol, cut: Cut) -> str:
    num = int(scores["num_clips"])
    cited = protocol.describe((num, num), cut.num_frames, cut.stride)
    simulated = simulation(scores)
    return (
        f"{num} clips of split {scores['split']}, one after another without overlap, of data "
        f"{str(scores['identity']['data'])[:12]}. {cited}; network "
        f"{str(scores['network_sha256'])[:12]}."
        + _intervals(rows)
        + ("" if simulated is None else f" {simulated}")
    )


def _intervals(rows: Sequence[Row]) -> str:
    """Return a sentence that explains the intervals in the table, or why there are none."""
    shown = {name for name, _, cells in rows if any(cell.low is not None for cell in cells)}
    how = []
    if shown - FVD_ROWS:
        how.append("by Student's t for scores of clips")
    if shown & FVD_ROWS:
        how.append("from split halves for FVD at this N")
    if how:
        return (
            " In brackets, the 95 % interval of the difference from the first column: over source "
            f"videos, {', '.join(how)}; bold where it excludes zero."
        )
    if any(len(cells) > 1 for _, _, cells in rows):
        return " No difference has an interval: that takes scores of both over several videos."
    return ""
