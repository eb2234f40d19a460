"""Computes the FVD between sets of clips, with the details needed to interpret the result."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from video_vq.errors import InputError
from video_vq.evaluation.feature_file import (
    SUFFIX,
    holds_other_tensors,
    read_features,
    require_preparations,
    write_features,
)
from video_vq.evaluation.feature_network import FeatureNetwork
from video_vq.evaluation.features import Extractor, FeatureSet, count_clips, features_of
from video_vq.evaluation.scored_clip import Cut
from video_vq.media.array_videos import is_array_file
from video_vq.media.reading import USUAL, Reading, require_reading
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.fvd import RealFloor, real_floor
from video_vq.metrics.grouped import GroupedFeatures
from video_vq.metrics.kernel import MIN_CLIPS, jedi_distance, kernel_distance
from video_vq.metrics.protocol import FVDProtocol
from video_vq.metrics.resize import check_length
from video_vq.metrics.uncertainty import (
    MIN_VIDEOS,
    DifferenceInterval,
    describe_difference,
    difference_interval,
    fvd_at_infinity,
    jackknife_error,
)
from video_vq.stores.shards import MANIFEST

SMALL = 256
SEED = 0


class FVDResult(NamedTuple):
    """A Fréchet video distance, with the details needed to interpret it.

    Attributes:
        value: Fréchet video distance.
        num_real, num_fake: number of real clips, and number of generated clips.
        floor: FVD between disjoint sets of real clips; None if there is only one source video or
            fewer than 4 real clips.
        warnings: sentences that a reader must see before relying on the value.
    """

    value: float
    num_real: int
    num_fake: int
    floor: RealFloor | None
    warnings: tuple[str, ...]


def compare(real: FeatureSet, fake: FeatureSet, protocol: FVDProtocol) -> FVDResult:
    """Return the FVD between two feature sets under one protocol.

    Raises:
        InputError: a side has fewer than 2 clips.
    """
    first, second = real.of(protocol), fake.of(protocol)
    _require_two(min(len(first), len(second)), "each side")
    value = frechet_distance(Moments.of(first), Moments.of(second), protocol.ddof)
    floor = None
    if len(set(real.groups)) > 1 and len(first) >= 4:
        floor = real_floor(first, real.groups, protocol.ddof)
    return FVDResult(value, len(first), len(second), floor, warnings_of(real, fake))


def _require_two(found: int, where: str) -> None:
    if found < 2:
        raise InputError(
            f"{where}: FVD needs at least 2 clips, found {found}; name more videos. KVD, which is "
            f"unbiased at any N, is given from {MIN_CLIPS} clips on, and the floor from 4"
        )


def warnings_of(real: FeatureSet, fake: FeatureSet) -> tuple[str, ...]:
    """Return the warnings about any score that compares two feature sets."""
    warnings = []
    smaller = min(real.num_clips, fake.num_clips)
    if smaller < SMALL:
        warnings.append(
            f"N = {smaller} is below {SMALL}: the bias is larger than most differences; compare "
            "only numbers of the same N, and read them against the floor; KVD has no such bias, "
            "but a KVD that is smaller than its error says nothing"
        )
    if real.data_hash == fake.data_hash:
        warnings.append("both sides hold the same clips")
    if real.num_clips != fake.num_clips:
        warnings.append(
            f"{real.num_clips} real against {fake.num_clips} generated clips: most published "
            "numbers use the same number on both sides; --max-clips makes them equal"
        )
    if real.split == "train":
        warnings.append("the reference is a training split: scores against it flatter a model")
    if _rates(real) and _rates(fake) and _rates(real) != _rates(fake):
        warnings.append(
            f"frame rates differ: {', '.join(sorted(_rates(real)))} against "
            f"{', '.join(sorted(_rates(fake)))}; motion counts in FVD. --fps brings "
            "folders of videos to one rate, and `data-prep … --fps` a store"
        )
    if _sizes(real) and _sizes(fake) and _sizes(real) != _sizes(fake):
        warnings.append(
            f"frame sizes differ: {_some(_sizes(real))} against {_some(_sizes(fake))}; FVD sees "
            "the blur of the smaller ones, which can outweigh everything else: bring both to one "
            "size first (`data-prep folder VIDEOS --size N` makes a store to score)"
        )
    return (*warnings, *warnings_of_side(real), *warnings_of_side(fake))


def warnings_of_side(features: FeatureSet) -> list[str]:
    """Return the warnings that concern a single feature set."""
    warnings = []
    if features.simulated is not None:
        warnings.append(
            f"{Path(features.name).name} holds simulated videos ({features.simulated}): no "
            "score compares with a published one"
        )
    warnings += [f"{features.name}: {note}" for note in features.notes]
    if len(features.kinds) > 1:
        told = ", ".join(f"{count} of {kind}" for kind, count in features.kinds.items())
        warnings.append(f"{features.name} is mixed: {told}; each clip is resized separately")
    return warnings


def _rates(features: FeatureSet) -> set[str]:
    return {kind.partition(" at ")[2] for kind in features.kinds} - {"unknown rate"}


def _sizes(features: FeatureSet) -> set[str]:
    return {kind.partition(" at ")[0] for kind in features.kinds}


def _some(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def require_scorable(
    real: Path,
    candidates: Sequence[Path],
    protocols: Sequence[FVDProtocol],
    cut: Cut,
    split: str | None = None,
    max_clips: int | None = None,
    reading: Reading = USUAL,
) -> None:
    """Reject inputs that cannot be scored, before the network is loaded.

    The contents of feature files are not checked, because that would require the network.

    Args:
        split: split of the real side; see `features_of`.
        max_clips: maximum number of clips on each side; None for all.
        reading: settings for reading frame folders and arrays.

    Raises:
        InputError: a protocol requires another clip length; a side is missing, has fewer than 2
            usable clips, or is a clip store with a frame rate other than `cut.fps`; or one of the
            `reading` options applies to no side.
    """
    sides = []
    for protocol in protocols:
        check_length(cut.num_frames, protocol)
    for path, part in ((real, split), *((path, None) for path in candidates)):
        if not path.exists() and not is_array_file(path):
            raise InputError(
                f"{path}: no such file or folder; name a folder of videos, a clip store, an array "
                "file or a feature file"
            )
        if not is_saved(path):
            found = count_clips(path, cut, part, reading)
            total = found.num_clips
            _require_two(total if max_clips is None else min(total, max_clips), str(path))
            sides.append(found)
    has_frames = any(side.has_frames for side in sides)
    has_arrays = any(side.has_arrays for side in sides)
    require_reading(reading, has_frames, has_arrays, " or ".join(map(str, (real, *candidates))))


def is_saved(path: Path) -> bool:
    """Return whether a path is a feature file rather than a safetensors file of videos."""
    return path.suffix == SUFFIX and not path.is_dir() and not holds_other_tensors(path)


class FVDComparison:
    """A comparison of one or more candidate sets with one real set, under one or more protocols.

    Args:
        cut: settings for cutting clips out of videos.
        max_clips: maximum number of clips on each side; None for all.
        accelerator: accelerator whose ranks divide the clips among themselves; None for a single
            process.
        cache: parent folder of all feature caches; None for the default folder.
        reading: settings for reading frame folders and arrays.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        protocols: Sequence[FVDProtocol],
        cut: Cut,
        max_clips: int | None = None,
        accelerator: Accelerator | None = None,
        cache: Path | None = None,
        reading: Reading = USUAL,
    ):
        self.reading = reading
        self.network, self.protocols, self.cut = network, protocols, cut
        self.max_clips, self.accelerator = max_clips, accelerator
        self.extractor = Extractor(network, protocols, cache)

    def read_all(
        self, real: Path, candidates: Sequence[Path], split: str | None = None
    ) -> tuple[FeatureSet, list[FeatureSet]]:
        """Return the features of the real side and of each candidate; feature files are read first.

        Args:
            split: split of the real side.

        Raises:
            InputError: a side cannot be scored; see `read`.
        """
        saved = {path: self.read(path) for path in (real, *candidates) if is_saved(path)}
        return (
            saved[real] if real in saved else self.read(real, split),
            [saved[path] if path in saved else self.read(path) for path in candidates],
        )

    def read(self, path: Path, split: str | None = None) -> FeatureSet:
        """Return the features of a clip store, a folder or file of videos, or a feature file.

        Raises:
            InputError: there are no clips to score; or a feature file is damaged, was made with
                another network or other clip settings, lacks features for a protocol, or has fewer
                than 2 clips.
        """
        if is_saved(path):
            found = read_features(path, self.network, self.cut)
            wanted = {protocol.preparation for protocol in self.protocols}
            require_preparations(path, found.rows, wanted)
            _require_two(found.num_clips, str(path))
            return found
        chosen = (self.cut, split, self.max_clips, SEED, self.accelerator, self.reading)
        return features_of(path, self.extractor, *chosen)

    def save(self, path: Path, features: FeatureSet) -> None:
        """Write the features of one side to a file, which can be published."""
        write_features(path, features, self.network, self.cut)

    def scores(self, real: FeatureSet, candidates: Sequence[FeatureSet]) -> dict[str, Any]:
        """Return the floor, the candidates' scores and their differences per protocol, as JSON."""
        return {
            "real": _side(real),
            "candidates": [_side(fake) for fake in candidates],
            "network": {"name": self.network.name, "sha256": self.network.sha256},
            "num_frames": self.cut.num_frames,
            "frame_stride": self.cut.stride,
            "fps": self.cut.fps,
            "protocols": [self._under(real, candidates, protocol) for protocol in self.protocols],
            "warnings": sorted(
                {warning for fake in candidates for warning in warnings_of(real, fake)}
                | {
                    warning
                    for side in (real, *candidates)
                    for warning in warnings_of_previews(side)
                }
            ),
        }

    def _under(
        self, real: FeatureSet, candidates: Sequence[FeatureSet], protocol: FVDProtocol
    ) -> dict[str, Any]:
        results = [compare(real, fake, protocol) for fake in candidates]
        counts = (real.num_clips, results[0].num_fake)
        floor = results[0].floor
        return {
            "settings": protocol.settings(),
            "citation": protocol.describe(counts, self.cut.num_frames, self.cut.stride),
            "assumed": protocol.note,
            "floor": None if floor is None else floor._asdict(),
            "scores": [
                {
                    "name": fake.name,
                    "fvd": result.value,
                    **_errors(real, fake, protocol),
                    **beside_fvd(real, fake, protocol, self.network),
                }
                for fake, result in zip(candidates, results, strict=True)
            ],
            "differences": [
                _difference(real, a, b, protocol) for a, b in combinations(candidates, 2)
            ],
        }


def beside_fvd(
    real: FeatureSet, fake: FeatureSet, protocol: FVDProtocol, network: FeatureNetwork
) -> dict[str, Any]:
    """Return the KVD with its standard error, and the JEDi if the network is V-JEPA, as JSON.

    The KVD is None if either side has too few clips.
    """
    first, second = real.of(protocol), fake.of(protocol)
    kvd = None
    if min(len(first), len(second)) >= MIN_CLIPS:
        kvd = kernel_distance(first, second)._asdict()
    return {"kvd": kvd, **jedi_of(network, real, fake, protocol)}


def jedi_of(
    network: FeatureNetwork, real: FeatureSet, fake: FeatureSet, protocol: FVDProtocol
) -> dict[str, float]:
    """Return the JEDi under the key "jedi", or an empty dict if the network is not V-JEPA."""
    if network.name != "jedi":
        return {}
    return {"jedi": jedi_distance(real.of(protocol), fake.of(protocol))}


def _errors(real: FeatureSet, fake: FeatureSet, protocol: FVDProtocol) -> dict[str, Any]:
    """Return an FVD's standard error and infinite-N limit, or None for too few clips or videos."""
    first, second = grouped(real, protocol), grouped(fake, protocol)
    found: dict[str, Any] = {"fvd_error": None, "fvd_infinity": None}
    if min(len(set(real.groups)), len(set(fake.groups))) >= MIN_VIDEOS:
        found["fvd_error"] = jackknife_error(first, second, protocol.ddof, SEED)
    with suppress(InputError):  # too few clips or videos
        found["fvd_infinity"] = fvd_at_infinity(first, second, protocol.ddof, SEED)._asdict()
    return found


def _difference(
    real: FeatureSet, a: FeatureSet, b: FeatureSet, protocol: FVDProtocol
) -> dict[str, Any]:
    names = {"a": a.name, "b": b.name}
    try:
        found = difference_of(real, a, b, protocol)
    except InputError as error:
        return {
            **names,
            "at_n": None,
            "population": None,
            "sentence": f"{a.name}, {b.name}: {error}",
        }
    return {
        **names,
        "at_n": found.at_n._asdict(),
        "population": None if found.population is None else found.population._asdict(),
        "sentence": describe_difference(found, a.name, b.name),
    }


def difference_of(
    real: FeatureSet, a: FeatureSet, b: FeatureSet, protocol: FVDProtocol
) -> DifferenceInterval:
    """Return FVD(real, a) − FVD(real, b) with its confidence intervals.

    Raises:
        InputError: there are too few source videos, or the numbers of clips differ.
    """
    of_real, of_a, of_b = (grouped(features, protocol) for features in (real, a, b))
    return difference_interval(of_real, of_a, of_b, protocol.ddof, SEED)


def grouped(features: FeatureSet, protocol: FVDProtocol) -> GroupedFeatures:
    """Return the features of one side under a protocol, grouped by source video."""
    return GroupedFeatures(features.of(protocol), features.groups)


def warnings_of_previews(features: FeatureSet) -> list[str]:
    """Return a warning if the videos are previews written by `sample`, or else an empty list."""
    path = Path(features.name)
    if is_saved(path) or not (path.parent / MANIFEST).exists():
        return []
    return [
        f"{path} holds previews, lossy MP4s of the clip store above them; score "
        f"{path.parent} itself"
    ]


def _side(features: FeatureSet) -> dict[str, Any]:
    return {
        "name": features.name,
        "num_clips": features.num_clips,
        "num_videos": len(set(features.groups)),
        "data": features.data_hash,
        "split": features.split,
        "kinds": features.kinds,
        "left_out": list(features.left_out),
    }
