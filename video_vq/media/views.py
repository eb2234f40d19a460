"""Finds views of one scene in different splits, using only file names."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

VIEW_WORDS = ("angle", "cam", "camera", "gopro", "kinect", "view")
MAX_VIEWS = 16  # maximum number of views that are told apart by numbers without a view word
SEPARATORS = " ._-"


class _View(NamedTuple):
    """One video of a scene: the file name, and the word and number that identify the view."""

    name: str
    word: str
    number: str


def note_on_views(splits: Mapping[str, str]) -> str | None:
    """Return a note if views of one scene are in different splits; otherwise None.

    Names that differ only in a number after a view word (`walk_cam01`, `walk_cam02`) belong to one
    scene. A number without a view word marks a view, or a part of one recording, only if several
    name stems in a folder are followed by the same few numbers, and there are at least as many
    stems as numbers (`jump_1 jump_2 walk_1 walk_2`). Names from `clip0001` to `clip9999`, or from
    `walk001` to `walk100` and from `run001` to `run100`, are merely numbered videos.

    Args:
        splits: split of each video, by the video's name in the folder.
    """
    apart = [
        scene for scene in _scenes(list(splits)) if len({splits[view.name] for view in scene}) > 1
    ]
    if not apart:
        return None
    of_split: dict[str, list[str]] = defaultdict(list)
    for view in apart[0]:
        of_split[splits[view.name]].append(view.name)
    told = "; ".join(
        f"{', '.join(names[:2])}{' …' if len(names) > 2 else ''} in {split}"
        for split, names in sorted(of_split.items())
    )
    others = len(apart) - 1
    more = f", and {others:,} more such scene{'s' if others > 1 else ''}" if others else ""
    return (
        f"names that differ only in a view or number lie in different splits ({told}{more}). If "
        "they show one scene, val and test repeat what was trained on, and scores come out too "
        f"good: `{_remedy(apart, list(splits))}`, with another --out, keeps each scene in one split"
    )


def _scenes(names: list[str]) -> list[list[_View]]:
    """Return groups of videos that may show the same scene, in the order of the names."""
    by_word: dict[tuple[str, str], list[_View]] = defaultdict(list)
    by_number: dict[tuple[str, str], list[_View]] = defaultdict(list)
    for name in names:
        folder, stem, view = _parsed(name)
        if view.word:
            by_word[folder, stem].append(view)
        elif view.number:
            by_number[folder, stem].append(view)
    scenes = [scene for scene in by_word.values() if len(scene) > 1]
    folders: dict[str, list[list[_View]]] = defaultdict(list)
    for (folder, _), scene in by_number.items():
        if 2 <= len(scene) <= MAX_VIEWS:
            folders[folder].append(scene)
    for found in folders.values():
        common = Counter(pair for scene in found for pair in _pairs(scene))
        same = [scene for scene in found if any(common[pair] > 1 for pair in _pairs(scene))]
        if same and len(same) >= max(map(len, same)):
            scenes += same
    return scenes


def _parsed(name: str) -> tuple[str, str, _View]:
    folder, _, file = name.rpartition("/")
    own = file.rpartition(".")[0]
    stem = own.rstrip("0123456789")
    number, stem = own[len(stem) :], stem.rstrip(SEPARATORS)
    for word in VIEW_WORDS:
        rest = stem[: len(stem) - len(word)]
        if number and stem.lower().endswith(word) and not rest[-1:].isalpha():
            return folder, rest.rstrip(SEPARATORS), _View(name, word, number)
    return folder, stem, _View(name, "", number)


def _pairs(scene: list[_View]) -> set[tuple[int, int]]:
    """Return every pair of different view numbers in a scene."""
    return set(combinations(sorted({int(view.number) for view in scene}), 2))


def _remedy(apart: list[list[_View]], names: list[str]) -> str:
    in_folder: dict[str, set[str]] = defaultdict(set)
    for name in names:
        in_folder[name.rpartition("/")[0]].add(name)
    folders = [scene[0].name.rpartition("/")[0] for scene in apart]
    whole = all(
        in_folder[folder] == {view.name for view in scene}
        for folder, scene in zip(folders, apart, strict=True)
    )
    if whole and "" not in folders:
        return "--group-by folder"
    words = sorted({view.word for scene in apart for view in scene if view.word})
    bare = any(not view.word for scene in apart for view in scene)
    word = f"({'|'.join(words)}){'?' if bare else ''}" if words else ""
    # Match no more digits than these numbers have: a longer number belongs to an unrelated video.
    digits = max(len(view.number) for scene in apart for view in scene)
    number = rf"(?<![0-9])[0-9]{{1,{digits}}}"
    return rf"--group-regex '(?i)^(.*?)([{SEPARATORS}]*{word}[{SEPARATORS}]*{number})?\.\w+$'"
