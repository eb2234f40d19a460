"""Long tests of data preparation: random kills and randomly mutated inputs."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_videos import encode, scene
from packed import DEVICE, HARD_LINK, LINK, rar_of, tar_entry, tar_of, zip_of, zip_with_mode
from test_prepare import PACKAGE, tree

from data_prep.sources.bair import frames_of
from data_prep.tfrecord import encode_example, parse_example, read_record, scan_records
from data_prep.tfrecord import write_records as write_tfrecords
from data_prep.verify import open_store, verify
from video_vq.errors import InputError
from video_vq.stores.clips import ClipStore

# No process of a campaign may take more address space than this.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from data_prep.cli import main
sys.exit(main(sys.argv[1:]))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), *sys.path])}


def limited(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=3600,
    )


def short_or_long(short: object, long: object):
    return [pytest.param(short, id="short"), pytest.param(long, id="long", marks=pytest.mark.slow)]


# Videos, kills, videos in a shard.
@pytest.mark.parametrize("campaign", short_or_long((15, 5, 2), (200, 20, 4)))
def test_kill_9_at_random_moments_leaves_what_an_uninterrupted_run_leaves(tmp_path, campaign):
    num_videos, num_kills, per_shard = campaign
    rng = random.Random(0)
    raw = tmp_path / "raw"
    for index in range(num_videos):
        path = raw / f"class-{index % 5}" / f"{index}{('.avi', '.mp4', '.mkv')[index % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, scene(6 + index % 7, 48, 64, index))
    (raw / "class-0" / "text.avi").write_text("no video")
    options = ["--size", "32", "--workers", "2", "--videos-per-shard", str(per_shard)]
    command = [sys.executable, "-m", "data_prep", "folder", str(raw), *options, "--out"]

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )

    reference, out = tmp_path / "reference", tmp_path / "store"
    assert start(reference).wait() == 0
    shards = len(ClipStore(reference).shards)
    # At any number of finished shards, a little later; the last while the store is sealed.
    targets = [*sorted(rng.randrange(shards) for _ in range(num_kills - 1)), shards]
    kills, starts = 0, 0
    while kills < num_kills:
        starts += 1
        assert starts <= 20 * num_kills, "the runs end before they can be killed"
        target = targets[kills]
        process = start(out)
        while process.poll() is None and len(list((out / "parts").glob("shard-*"))) < target:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1 if target < shards else 0.005))
        if process.poll() is not None:  # it was faster than the kill: once more from nothing
            assert process.returncode == 0
            assert tree(out) == tree(reference)
            shutil.rmtree(out)
            continue
        kills += 1
        if rng.random() < 0.5:
            process.kill()  # the parent alone: its workers die with it
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(out).wait() == 0
    assert tree(out) == tree(reference)
    whole = tree(reference)
    assert start(out).wait() == 0
    assert tree(out) == whole


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the data with some bytes changed, or with a piece replaced, removed or repeated."""
    found = bytearray(data)
    kind = rng.integers(6)
    start = int(rng.integers(len(found)))
    length = int(rng.integers(1, 1 + min(2000, len(found) - start)))
    if kind <= 1:
        for position in rng.integers(0, len(found), int(rng.integers(1, 9))):
            found[position] ^= int(rng.integers(1, 256))
    elif kind == 2:
        found[start : start + length] = rng.bytes(length)
    elif kind == 3:
        del found[start:]
    elif kind == 4:
        del found[start : start + length]
    else:
        found[start:start] = found[start : start + length]
    return bytes(found)


@pytest.mark.parametrize("num_videos", short_or_long(50, 500))
def test_mutated_videos_are_decoded_or_left_out_and_lost_frames_counted(tmp_path, num_videos):
    rng = np.random.default_rng(0)
    raw, out = tmp_path / "raw", tmp_path / "store"
    raw.mkdir()
    makers = {
        ".avi": ("mpeg4", {"bf": "2"}),
        ".mp4": ("libx264", {"g": "6"}),
        ".webm": ("libvpx", {"cpu-used": "8", "deadline": "realtime"}),
    }
    whole = {
        suffix: encode(tmp_path / f"whole{suffix}", scene(24, 48, 64), codec, options=options)
        for suffix, (codec, options) in makers.items()
    }
    for index in range(num_videos):
        suffix = tuple(makers)[index % 3]
        data = whole[suffix].read_bytes()
        (raw / f"{index:03d}{suffix}").write_bytes(mutate(data, rng))
    encode(raw / "whole.avi", scene(24, 48, 64))
    options = ["--out", out, "--size", "16", "--cpu-limit", "10", "--max-skipped", "1"]
    done = limited("folder", raw, *options, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    store = ClipStore(out)
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    names = {video.id for video in store.videos} | {entry["path"] for entry in skipped}
    assert names == {path.name for path in raw.iterdir()}
    assert len(store.videos) + len(skipped) == num_videos + 1
    assert all(entry["reason"] and entry["reason"].isprintable() for entry in skipped)
    notes = json.loads((out / "provenance.json").read_text())["notes"]
    noted = {entry["id"] for entry in notes}
    lost = {v.id for v in store.videos if v.num_frames != (v.origin or {})["packets"]}
    assert lost <= noted
    assert "whole.avi" not in noted
    print(f"{len(store.videos) - 1} decoded, {len(noted)} with a note; {len(skipped)} left out")


def record(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    example = {}
    for t in range(3):
        for camera in ("main", "aux1"):
            example[f"{t}/image_{camera}/encoded"] = [rng.bytes(8 * 8 * 3)]
        example[f"{t}/action"] = rng.normal(size=4).astype(np.float32)
        example[f"{t}/endeffector_pos"] = rng.normal(size=3).astype(np.float32)
    return encode_example(example)


@pytest.mark.parametrize("num_files", short_or_long(50, 500))
def test_mutated_tfrecords_give_whole_records_only(tmp_path, num_files):
    rng = np.random.default_rng(0)
    records = {record(seed) for seed in range(4)}
    path = tmp_path / "a.tfrecords"
    write_tfrecords(path, sorted(records))
    whole = path.read_bytes()
    refused = 0
    for _ in range(num_files):
        data = mutate(whole, rng)
        path.write_bytes(data)
        found = []
        scan = scan_records(path)
        problems = len(scan.gaps)
        for gap in scan.gaps:
            message = str(gap.error)
            assert message.startswith(f"{path}: byte ")
            assert message.isprintable()
        for offset, _ in scan.records:
            try:
                found.append(read_record(path, offset))
                frames_of(found[-1], "aux1")
            except InputError:
                problems += 1
        assert set(found) <= records  # never other bytes
        if len(data) == len(whole) and data != whole:
            assert problems  # every flipped byte is found
        refused += problems > 0
    # What the checksums cannot hold back reaches the parser: it must refuse by itself.
    for _ in range(num_files):
        data = mutate(sorted(records)[0], rng)
        try:
            parse_example(data)
            frames_of(data, "aux1")
        except ValueError as error:
            if not str(error).isprintable():
                raise
    assert refused > num_files // 2
    print(f"{refused} of {num_files} refused")


@pytest.mark.parametrize("num_flips", short_or_long(30, 500))
def test_verify_finds_every_flipped_byte_of_a_store(tmp_path, num_flips):
    rng = np.random.default_rng(0)
    raw = tmp_path / "raw"
    raw.mkdir()
    for index in range(4):
        encode(raw / f"{index}.avi", scene(6, 48, 64, index))
    out = tmp_path / "store"
    options = ["--out", out, "--size", "16", "--videos-per-shard", "2"]
    assert limited("folder", raw, *options).returncode == 0
    paths = sorted(path for path in out.iterdir() if path.stat().st_size)
    for _ in range(num_flips):
        path = paths[rng.integers(len(paths))]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with pytest.raises(InputError) as refused:
            verify(open_store(out))
        assert path.name in str(refused.value) or "manifest" in str(refused.value)
        path.write_bytes(whole)
    verify(open_store(out))


def hostile_archive(rng: np.random.Generator) -> bytes:
    """Return a UCF-101 archive with one random defect, such as a bad name, link or size."""
    names = [f"UCF-101/Archery/v_Archery_g{group:02d}_c01.avi" for group in range(1, 5)]
    good = {name: rng.bytes(int(rng.integers(1, 3000))) for name in names}
    name = str(rng.choice([
        "../" * int(rng.integers(1, 9)) + "v_Archery_g01_c01.avi",
        "/etc/v_Archery_g01_c01.avi",
        "UCF-101/Archery/../../../v.avi",
        "UCF-101/Archery/\x1b[2J.avi",
        "a/" * 300 + "v.avi",
        "C:/v.avi",
    ]))  # fmt: skip
    kind = rng.integers(8)
    if kind == 0:
        return tar_of({**good, name: b"x"})
    if kind == 1:
        return zip_of({**good, name: b"x"})
    if kind == 2:
        link = tar_entry("UCF-101/Archery", kind=LINK, link="/etc")
        return link + tar_of(good)
    if kind == 3:
        bad = (LINK, HARD_LINK, DEVICE)[rng.integers(3)]
        return tar_entry(names[0], kind=bad, link="../../../etc/passwd") + tar_of(good)
    if kind == 4:
        return tar_of(good)[: int(rng.integers(600, 2000))]
    if kind == 5:
        mode = (0o120777, 0o020644, 0o010644)[rng.integers(3)]
        return zip_with_mode(names[0], b"/etc/passwd", mode)
    if kind == 6:  # a bomb: the stated size is far too small or too large
        told = (rng.integers(1, 1000), 10 << 30)[rng.integers(2)]
        data = bytearray(zip_of({**good, "UCF-101/Archery/v_Archery_g09_c01.avi": bytes(8 << 20)}))
        at = data.rindex(b"PK\x01\x02")
        data[at + 24 : at + 28] = min(int(told), 0xFFFFFFFE).to_bytes(4, "little")
        return bytes(data)
    return rar_of({**good, name: b"x"})


# An archive that is read gives the listed bytes; one that is not is refused in one line.
READ_ALL = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from data_prep.archives import read_archive, unpack
from video_vq.errors import InputError
for place in sys.argv[2:]:
    try:
        archive = read_archive(Path(place))
        unpack(archive, archive.members, Path(sys.argv[1]) / Path(place).name, lambda: None)
    except InputError as error:
        text = str(error)
        assert text.startswith(place) and text.isprintable() and len(text) < 800, text
        print(text.removeprefix(place + ": "))
    else:
        print("read")
"""


@pytest.mark.parametrize("num_archives", short_or_long(30, 100))
def test_hostile_archives_are_refused_and_nothing_leaves_their_folder(tmp_path, num_archives):
    rng = np.random.default_rng(0)
    places, unpacked = [], tmp_path / "a" / "b" / "unpacked"
    unpacked.mkdir(parents=True)
    for index in range(num_archives):
        data = hostile_archive(rng)
        if index % 3 == 2:
            data = mutate(data, rng)
        places.append(tmp_path / f"{index}.archive")
        places[-1].write_bytes(data)
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in places}
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(unpacked), *map(str, places)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == num_archives
    for index, answer in enumerate(answers):  # mutated ones may have lost what was hostile
        assert answer != "read" or index % 3 == 2, (index, places[index])
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in places} == before
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and path not in before]
    assert all(path.is_relative_to(unpacked) for path in outside)
    assert all(path.suffix != ".partial" and not path.is_symlink() for path in outside)
    assert not [path for path in unpacked.rglob("*") if path.is_symlink()]
    print(f"{num_archives - answers.count('read')} of {num_archives} refused")
