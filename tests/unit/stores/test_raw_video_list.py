"""Tests of lists of raw videos: reading back, shards, and paths inside the folder."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from video_vq.errors import InputError
from video_vq.stores.raw_videos import (
    RawVideo,
    RawVideos,
    plan_of_videos,
    read_raw_videos,
    usual_videos_per_shard,
    write_raw_videos,
)
from video_vq.stores.shards import write_sealed
from video_vq.stores.videos import Skipped


def listed(number: int = 7, per_shard: int = 3) -> RawVideos:
    videos = tuple(
        RawVideo(f"v{n}", "a" if n % 2 else None, "train", f"g{n}", f"x/v{n}.avi", 100 + n)
        for n in range(number)
    )
    skipped = (Skipped("bad", "bad.avi", "is empty"),)
    plan = plan_of_videos({"size": 64}, {"order": "name"}, [[v.id] for v in videos], skipped, 3)
    return RawVideos("/videos", {"size": 64}, plan, ("a", "b"), videos, skipped, per_shard, 0.25)


def test_a_list_comes_back_as_it_was_written(tmp_path):
    videos = listed()
    assert write_raw_videos(tmp_path / "list", videos) == videos
    assert read_raw_videos(tmp_path / "list") == videos
    before = (tmp_path / "list/manifest.json").read_bytes()
    assert write_raw_videos(tmp_path / "list", videos) == videos
    assert (tmp_path / "list/manifest.json").read_bytes() == before
    with pytest.raises(InputError, match="root: '/videos' -> '/elsewhere'"):
        write_raw_videos(tmp_path / "list", replace(videos, root="/elsewhere"))
    assert videos.path_of(videos.videos[2]) == "/videos/x/v2.avi"


def test_shards_hold_each_video_once():
    for number, per_shard in ((7, 3), (6, 3), (1, 3), (3, 1), (2, 5)):
        videos = listed(number, per_shard)
        shards = [list(videos.shard(shard)) for shard in range(videos.num_shards)]
        assert [place for shard in shards for place in shard] == list(range(number))
        assert all(len(shard) == per_shard for shard in shards[:-1])
        assert shards[-1]


@pytest.mark.parametrize(
    ("number", "per_shard"),
    [(0, 1), (1, 1), (64, 1), (65, 2), (128, 2), (129, 3), (8192, 128), (8193, 128), (10**6, 128)],
)
def test_videos_make_about_64_shards_of_at_most_128(number, per_shard):
    assert usual_videos_per_shard(number) == per_shard


def test_the_plan_names_every_setting_and_every_entry():
    plan = plan_of_videos({"size": 64}, {"order": "name"}, [["v0"], ["v1"]], [], 2)
    assert {key: plan[key] for key in sorted(plan) if key != "list_sha256"} == {
        "num_videos": 2,
        "size": 64,
        "source_settings": {"order": "name"},
        "videos_per_shard": 2,
    }
    others = [
        plan_of_videos({"size": 64}, {"order": "name"}, [["v1"], ["v0"]], [], 2),
        plan_of_videos({"size": 64}, {"order": "name"}, [["v0"], ["v1"]], listed().skipped, 2),
    ]
    assert len({plan["list_sha256"], *(other["list_sha256"] for other in others)}) == 3


def test_the_hash_does_not_depend_on_where_the_files_lie():
    videos = listed()
    assert replace(videos, root="/elsewhere").content_hash == videos.content_hash
    assert replace(videos, classes=("a", "c")).content_hash != videos.content_hash
    assert replace(videos, plan={"size": 1}).content_hash != videos.content_hash


def damaged(path: Path, **changes: object) -> None:
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    video = {key: value for key, value in changes.items() if key in manifest["videos"][1]}
    manifest["videos"][1].update(video)
    manifest.update({key: value for key, value in changes.items() if key not in video})
    write_sealed(path / "manifest.json", manifest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"videos_per_shard": 0}, "it has no shards"),
        ({"videos": []}, "it has no shards"),
        ({"id": "v0"}, "two videos have the same id"),
        ({"num_bytes": True}, "a field of the wrong type"),
        ({"label": "c"}, "unknown class 'c'"),
        ({"name": "../v.avi"}, "leads out of the folder"),
        ({"name": "/etc/passwd"}, "leads out of the folder"),
        ({"name": "x/../../v.avi"}, "leads out of the folder"),
        ({"name": "x/./v.avi"}, "leads out of the folder"),
        ({"plan": {}}, "KeyError: 'kind'"),
        ({"max_skipped": "none"}, "ValueError"),
    ],
)
def test_a_list_that_no_program_wrote_is_refused(tmp_path, changes, message):
    path = tmp_path / "list"
    write_raw_videos(path, listed())
    damaged(path, **changes)
    with pytest.raises(InputError, match=f"the list is damaged.*{message}.*list the videos again"):
        read_raw_videos(path)


def test_classes_are_texts_whatever_the_manifest_says(tmp_path):
    write_raw_videos(tmp_path / "list", listed())
    damaged(tmp_path / "list", classes=["a", 3])
    assert read_raw_videos(tmp_path / "list").classes == ("a", "3")


# In a process of its own: in this one the type checks of the tests would come first.
READ = """
import sys
from pathlib import Path
from video_vq.errors import InputError
from video_vq.stores.raw_videos import read_raw_videos

for path in sys.argv[1:]:
    try:
        read_raw_videos(Path(path))
    except InputError as error:
        assert "has a field of the wrong type); list the videos again" in str(error), error
    else:
        sys.exit(f"{path} was read")
"""


def test_a_field_of_the_wrong_type_is_refused(tmp_path):
    wrong = [{"id": 3}, {"split": None}, {"group": 1.5}, {"name": 4}, {"num_bytes": "many"}]
    paths = [tmp_path / str(number) for number in range(len(wrong))]
    for path, changes in zip(paths, wrong, strict=True):
        write_raw_videos(path, listed())
        damaged(path, **changes)
    command = [sys.executable, "-c", READ, *map(str, paths)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_one_video_in_one_shard_is_a_list(tmp_path):
    videos = listed(1, 1)
    assert write_raw_videos(tmp_path / "list", videos) == videos
