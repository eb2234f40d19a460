"""Tests of encoding a folder of videos directly: the tokens equal those of its list and store."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image
from test_scale import encode, hashes, prepare, write_videos
from trained import trained_tokenizer

from video_vq.media.encode import write_video
from video_vq.media.folder import FolderSettings, list_videos
from video_vq.stages import raw_folder
from video_vq.stages.encode_clips import Encoder, open_encoder
from video_vq.stages.encode_job import EncodeJob
from video_vq.stages.raw_folder import LIST, FolderOptions
from video_vq.stores.lock import LOCK
from video_vq.stores.raw_videos import read_raw_videos
from video_vq.stores.tokens import TokenStore

PER_SHARD = ("--videos-per-shard", "3")
MANY = (
    *("--fps", "12.5", "--size", "32x16", "--val", "0.4", "--test", "0"),
    *("--group-by", "folder", "--extensions", "avi,mp4"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with eight raw videos, an invalid video, a tokenizer and the tokens."""
    root = tmp_path_factory.mktemp("folder")
    write_videos(root / "raw", 8)
    (root / "raw" / "walk" / "04-notes.mp4").write_text("not a video\n")
    trained_tokenizer().save_pretrained(root / "t")
    assert encode(root, "raw", root / "of folder", *PER_SHARD) == 0
    return root


def copied(made: Path, root: Path) -> Path:
    """Copy the videos and the tokenizer to a folder in which a test may change them."""
    shutil.copytree(made / "raw", root / "raw")
    shutil.copytree(made / "t", root / "t")
    return root


def stop_at_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt an encoding, as Ctrl-C would, when it begins its second shard."""
    usual = Encoder.encode

    def stopped(self, shard, on_video):
        if shard == 1:
            raise KeyboardInterrupt
        usual(self, shard, on_video)

    monkeypatch.setattr(Encoder, "encode", stopped)


def test_tokens_without_val_because_of_a_broken_file_come_with_the_remedy(made, tmp_path, capsys):
    root = copied(made, tmp_path)
    (root / "raw" / "walk" / "04-notes.mp4").unlink()
    (chosen,) = (v for v in list_videos(root / "raw", FolderSettings()).videos if v.split == "val")
    (root / "raw" / chosen.name).write_text("not a video\n")
    assert encode(root, "raw", root / "tokens", *PER_SHARD) == 0
    told = capsys.readouterr().out
    assert "warning: no val" in told
    assert "move them elsewhere, and run the command with another --out" in told
    assert "next: video-vq decode" in told


def test_frame_folders_and_arrays_give_the_tokens_of_their_store(made, tmp_path, capsys):
    clips = np.random.default_rng(0).integers(0, 256, (3, 9, 16, 24, 3), np.uint8)
    shutil.copytree(made / "t", tmp_path / "t")
    np.save(tmp_path / "clips.npy", clips / np.float32(255))
    for number, clip in enumerate(clips):
        (tmp_path / "raw" / str(number)).mkdir(parents=True)
        for place, frame in enumerate(clip):
            Image.fromarray(frame).save(tmp_path / "raw" / str(number) / f"{place}.png")
    assert prepare(tmp_path, "store") == 0
    for data in ("store", "raw", "clips.npy"):
        options = () if data == "store" else PER_SHARD
        assert encode(tmp_path, data, tmp_path / f"of {data}", *options) == 0
    said = capsys.readouterr().err
    assert "float arrays hold values from 0 to 1: read as 0 to 1 (--values unit)" in said
    stores = [TokenStore(tmp_path / f"of {data}") for data in ("store", "raw", "clips.npy")]
    assert len(stores[0]) >= 3
    for store in stores[1:]:
        for number in range(len(stores[0])):
            assert np.array_equal(store.read(number), stores[0].read(number))


@pytest.mark.parametrize("options", [(), MANY], ids=["usual", "many options"])
def test_a_folder_gives_the_tokens_of_its_list_and_of_its_store(made, tmp_path, options):
    root = copied(made, tmp_path)
    assert prepare(root, "store", *options) == 0
    assert prepare(root, "list", *options, "--list-only") == 0
    for data in ("store", "list"):
        assert encode(root, data, root / f"of {data}") == 0
    if options:
        assert encode(root, "raw", root / "of raw", *PER_SHARD, *options) == 0
    else:
        shutil.copytree(made / "of folder", root / "of raw")
    assert hashes(root / "of raw") == hashes(root / "of list")  # the manifest, too
    shards = sorted((root / "of store").glob("tokens-*.npy"))
    assert len(shards) == 2 if options else 3
    for path in shards:
        assert path.read_bytes() == (root / "of raw" / path.name).read_bytes()
    assert len(TokenStore(root / "of raw")) > 5


def test_videos_that_have_the_asked_size_already_are_encoded_at_a_width_that_decoders_pad(
    made, tmp_path
):
    rng = np.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    for number in range(3):
        frames = rng.integers(0, 256, (9, 16, 48, 3), np.uint8)
        write_video(tmp_path / "raw" / f"{number}.avi", frames, 25)
    shutil.copytree(made / "t", tmp_path / "t")
    assert prepare(tmp_path, "store", "--size", "16x48") == 0
    assert encode(tmp_path, "store", tmp_path / "of store") == 0
    assert encode(tmp_path, "raw", tmp_path / "of raw", "--size", "16x48", *PER_SHARD) == 0
    (shard,) = (tmp_path / "of store").glob("tokens-*.npy")
    assert shard.read_bytes() == (tmp_path / "of raw" / shard.name).read_bytes()
    assert len(TokenStore(tmp_path / "of raw")) > 3


def test_the_folder_is_listed_once_and_the_list_goes_when_the_tokens_are_whole(
    made, tmp_path, monkeypatch
):
    job = EncodeJob(made / "raw", made / "t", tmp_path / "tokens", folder=FolderOptions())
    kept = tmp_path / "tokens" / "parts" / LIST
    owner = open_encoder(job, Accelerator(cpu=True), owner=True)
    with monkeypatch.context() as patch:
        patch.setattr(raw_folder, "write_raw_videos", lambda *_: pytest.fail("written again"))
        open_encoder(job, Accelerator(cpu=True), owner=True).source.close()  # another start
    monkeypatch.setattr(raw_folder, "list_videos", lambda *_: pytest.fail("listed again"))
    other = open_encoder(job, Accelerator(cpu=True), owner=False)  # a rank, or a task of a cluster
    assert owner.source.num_shards == other.source.num_shards == 9
    for encoder in (owner, other):
        encoder.source.close()
    kept = tmp_path / "tokens" / "parts" / LIST
    assert [video.name for video in read_raw_videos(kept).videos][:2] == [
        "run/00.avi",
        "run/02.mp4",
    ]
    assert not (made / "of folder" / "parts").exists()


def test_a_stopped_run_goes_on_and_a_finished_one_does_nothing(made, tmp_path, monkeypatch):
    out = tmp_path / "tokens"
    with monkeypatch.context() as patch:
        stop_at_the_second(patch)
        assert encode(made, "raw", out, *PER_SHARD) == 130
    assert len(list((out / "parts").glob("shard-*.json"))) == 1
    asked = []
    usual = Encoder.encode

    def counted(self, shard, on_video):
        asked.append(shard)
        usual(self, shard, on_video)

    monkeypatch.setattr(Encoder, "encode", counted)
    for _ in range(2):
        assert encode(made, "raw", out, *PER_SHARD) == 0
        assert hashes(out) == hashes(made / "of folder")
    assert asked == [1, 2]


def test_a_folder_that_changed_between_two_starts_is_refused_in_words(
    made, tmp_path, monkeypatch, capsys
):
    root = copied(made, tmp_path / "here")
    out, other = root / "tokens", root / "raw" / "walk" / "new.avi"

    def refusal(*options: str) -> str:
        capsys.readouterr()
        assert encode(root, "raw", out, *PER_SHARD, *options) == 1
        return capsys.readouterr().err

    with monkeypatch.context() as patch:
        stop_at_the_second(patch)
        assert encode(root, "raw", out, *PER_SHARD) == 130
    shutil.copy(root / "raw" / "run" / "00.avi", other)
    (root / "raw" / "walk" / "04-notes.mp4").write_text("still not a video\n")
    (root / "raw" / "run" / "02.mp4").rename(root / "away.mp4")
    error = refusal()
    assert f"{root / 'raw'}: has changed since {out} was begun: 1 video added" in error
    assert "1 video added (the first: walk/new.avi)" in error
    assert "1 video removed (the first: run/02.mp4)" in error
    assert "1 video changed in size (the first: walk/04-notes.mp4)" in error
    assert "or name another --out, or delete" in error
    (root / "away.mp4").rename(root / "raw" / "run" / "02.mp4")
    (root / "raw" / "walk" / "04-notes.mp4").write_text("not a video\n")
    other.unlink()
    link = root / "raw" / "link.mp4"
    link.symlink_to("nowhere")
    assert "begun: different files cannot be used, or for different reasons. Tokens" in refusal()
    link.unlink()
    assert "begun: setting fps: None -> 5.0. Tokens" in refusal("--fps", "5")
    assert "setting source_settings.val: 0.1 -> 0.5" in refusal("--val", "0.5")
    root = root.rename(tmp_path / "there")  # the same files elsewhere
    out, other = root / "tokens", root / "raw" / "walk" / "new.avi"
    assert encode(root, "raw", out, *PER_SHARD) == 0
    shutil.copy(root / "raw" / "run" / "00.avi", other)
    assert "1 video added (the first: walk/new.avi)" in refusal()  # of a whole store, too
    other.unlink()
    assert "different settings were given, or it was made from a store or a list" in refusal(
        "--fps", "5"
    )
    assert hashes(out) == hashes(made / "of folder")


def test_tokens_whose_list_is_not_there_are_refused_without_a_guess(made, tmp_path, capsys):
    root = copied(made, tmp_path)
    usual = raw_folder.write_raw_videos
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_folder, "write_raw_videos", interrupted)
        assert encode(root, "raw", root / "tokens", *PER_SHARD) == 130
    assert raw_folder.write_raw_videos is usual
    assert encode(root, "raw", root / "tokens", *PER_SHARD, "--fps", "5") == 1
    error = capsys.readouterr().err
    assert "begun: it was begun with a store, or with a list that is missing" in error
    assert encode(root, "raw", root / "tokens", *PER_SHARD) == 0
    assert hashes(root / "tokens") == hashes(made / "of folder")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_is_neither_store_nor_list_nor_folder_of_videos_is_said(made, tmp_path, capsys):
    def refusal(data: Path, *options: str) -> str:
        assert encode(made, str(data), tmp_path / "tokens", *options) == 1
        return capsys.readouterr().err

    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    assert "or a folder of videos; found a folder without a manifest.json" in refusal(
        tmp_path / "notes"
    )
    assert "is a file; expected a clip store" in refusal(made / "raw" / "run" / "00.avi")
    for options in ((), ("--size", "16")):
        assert "no such folder" in refusal(tmp_path / "nowhere", *options)
    (tmp_path / "begun" / "parts").mkdir(parents=True)
    (tmp_path / "begun" / LOCK).touch()
    assert "begun: this store is unfinished" in refusal(tmp_path / "begun")
    assert "--fps, --group-by: only for a folder of videos" in refusal(
        made / "of folder", "--fps", "5", "--group-by", "folder"
    )
    assert "no name in it ends in .xyz" in refusal(made / "raw", "--extensions", "xyz")
    assert "each must be 0 or more, together at most 1" in refusal(
        made / "raw", "--val", "0.6", "--test", "0.6"
    )
    assert not (tmp_path / "tokens").exists()
    for option, value in (("--size", "0"), ("--fps", "nan"), ("--extensions", ".")):
        with pytest.raises(SystemExit):
            encode(made, "raw", tmp_path / "tokens", option, value)
        assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "group_by", "told"),
    [
        ("{}_cam{}.mp4", "video", "raw' --size 16x16 --list-only --out LIST`"),
        ("{}/cam{}.mp4", "video", "`--group-by folder`, with another --out, keeps each scene"),
        ("{}/cam{}.mp4", "folder", None),
        ("{}_by_{}_people.mp4", "video", None),
    ],
)
def test_views_of_one_scene_in_different_splits_are_said_once_and_how_to_keep_them_together(
    tmp_path, capsys, names, group_by, told
):
    raw = tmp_path / "my raw"
    for scene in range(8):
        for view in range(3):
            (raw / names.format(f"s{scene}", view)).parent.mkdir(parents=True, exist_ok=True)
            (raw / names.format(f"s{scene}", view)).touch()
    trained_tokenizer().save_pretrained(tmp_path / "t")
    folder = FolderOptions(listing=FolderSettings(group_by=group_by))
    job = EncodeJob(raw, tmp_path / "t", tmp_path / "tokens", folder=folder)
    for owner in (True, False):
        open_encoder(job, Accelerator(cpu=True), owner=owner).source.close()
        said = capsys.readouterr().err
        if owner and told is not None:
            assert said.startswith("note: names that differ only in a view or number")
            assert told in said
            assert ("--group-regex" in said) == ("--list-only" in said)
        else:
            assert said == ""
