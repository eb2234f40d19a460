"""Tests of the note on views of one scene in different splits, and of the proposed option."""

import re
import shlex

import pytest

from video_vq.media.folder import FolderSettings, grouping, split_groups
from video_vq.media.views import note_on_views

GYM = [f"gym/{people}_cam{n:02d}.mp4" for people in ("multi", "single") for n in range(1, 5)]
SCENES = {
    "cameras": [*GYM, "street/bikes.mp4", "face/carphone.mp4"],
    "one scene at the top": [f"walk-Camera {n}.avi" for n in range(1, 9)],
    "a folder for each scene": [f"{s}/view_{n}.mp4" for s in ("a", "b", "c") for n in range(4)],
    "pieces": [f"v_Jump_g{g:02d}_c{c:02d}.avi" for g in range(1, 9) for c in range(1, 5)],
    "pieces among numbered videos": [
        *(f"clip{n:04d}.mp4" for n in range(30)),
        *(f"{scene}.{n}.mp4" for scene in ("beach", "city", "forest") for n in (1, 2, 3)),
    ],
    "words and bare numbers": [*GYM, *(f"{s}_{n}.mp4" for s in "abcdef" for n in range(3))],
}
UNRELATED = {
    "numbered": [f"clip{n:04d}.mp4" for n in range(1, 300)],
    "numbers alone": [f"{label}/{n:03d}.mp4" for label in ("run", "walk") for n in range(40)],
    "numbered in each class": [f"{c}/clip_{n}.mp4" for c in ("run", "walk") for n in range(40)],
    "few in each class": [f"{c}/{c}_{n}.mp4" for c in ("run", "walk", "jump") for n in range(3)],
    "classes in the names": [f"{c}_{n}.mp4" for c in ("run", "walk") for n in range(9)],
    "many of each": [f"{c}_{n}.mp4" for c in "abcdefghijklmnopqrst" for n in range(17)],
    "dates": [f"2024-05-{d:02d}_12-{d + 9}-{3 * d:02d}.mp4" for d in range(1, 20)],
    "one number in common": [f"{s}_{n}.mp4" for i, s in enumerate("abcdef") for n in (0, i + 1)],
    "no numbers": [f"{a}{b}.mp4" for a in "abcdefgh" for b in "abcdefgh"],
    "a word that only ends so": [f"review{n}.mp4" for n in range(40)],
}


def splits_of(names: list[str], settings: FolderSettings) -> dict[str, str]:
    group_of = grouping(settings)
    splits = split_groups(map(group_of, names), 0.3, 0.3)
    return {name: splits[group_of(name)] for name in names}


@pytest.mark.parametrize("names", SCENES.values(), ids=SCENES)
def test_scenes_in_different_splits_are_said_and_the_proposed_option_mends_them(names):
    note = note_on_views(splits_of(names, FolderSettings()))
    assert note is not None
    (command,) = re.findall(r"`(--group.*)`", note)
    option, value = shlex.split(command)
    if option == "--group-by":
        settings = FolderSettings(group_by=value)
    else:
        settings = FolderSettings(group_by="regex", group_regex=value)
    mended = splits_of(names, settings)
    assert note_on_views(mended) is None
    groups = {grouping(settings)(name) for name in names}
    assert len(groups) < len(names)
    for single in ("street/bikes", "clip0003"):  # stay alone
        assert (single in groups) == (f"{single}.mp4" in names)


@pytest.mark.parametrize("names", UNRELATED.values(), ids=UNRELATED)
def test_videos_that_are_only_numbered_raise_no_alarm(names):
    splits = splits_of(names, FolderSettings())
    assert len(set(splits.values())) == 3
    assert note_on_views(splits) is None


def test_the_note_names_the_first_scene_and_where_its_views_lie():
    splits = dict.fromkeys(GYM, "train") | {GYM[0]: "val", GYM[5]: "test"}
    note = note_on_views(splits)
    assert note is not None
    first = f"({GYM[1]}, {GYM[2]} … in train; {GYM[0]} in val, and 1 more such scene)"
    assert first in note
    assert r"`--group-regex '(?i)^(.*?)([ ._-]*(cam)[ ._-]*(?<![0-9])[0-9]{1,2})?\.\w+$'`" in note


def test_folders_that_are_scenes_are_proposed_as_groups_and_none_at_the_top():
    scenes = {f"{scene}/cam{n}.mp4": ("train", "val")[n] for scene in "ab" for n in range(2)}
    assert "`--group-by folder`" in str(note_on_views(scenes))
    assert "`--group-by folder`" not in str(note_on_views({**scenes, "a/other.mp4": "val"}))
    top = {f"cam{n}.mp4": ("train", "val")[n] for n in range(2)}
    assert "--group-regex" in str(note_on_views(top))


def test_every_scene_of_a_large_folder_is_counted():
    names = [f"v_{scene:05d}_c{number}.mp4" for scene in range(3_000) for number in range(4)]
    splits = {name: ("train", "val")[index % 2] for index, name in enumerate(names)}
    assert "and 2,999 more such scenes" in str(note_on_views(splits))


def test_what_stands_before_the_word_for_a_view_does_not_tell_scenes_apart():
    assert note_on_views({"a_cam1.mp4": "train", "a-cam 2.mp4": "val"}) is not None
    assert note_on_views({"a_cam1.mp4": "train", "b_cam2.mp4": "val"}) is None
