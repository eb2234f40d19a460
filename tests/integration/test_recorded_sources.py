"""Tests that stores from all kinds of sources have the recorded bytes.

The sources are AVI files of raw pixels and records of bytes, which need neither a codec nor
floating-point arithmetic, so they are the same on every machine. Run this file to print the
digests.
"""

import hashlib
import json
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_prep.cli import main
from data_prep.tfrecord import encode_example, write_records
from video_vq.stores.files import sha256_json
from video_vq.stores.raw_videos import read_raw_videos

RECORDED = {
    "folder": "7a70438c88c0c0826358fa12356718c9718ff137b7b597eae5e39c00e8ee0d91",
    "folder at a rate": "e477daa19d97bf0a0915e779cd5065b98c5a44fc2f311c3cd5f7b84643d063c5",
    "table": "61f0044185dd848b2edeb0f5768a98ba243201c0266f46828e7a74c62876324b",
    "ucf101": "b2b8f6b898b5d8b154b844cbf0c5116571d5bbca45e9f38279ab211a19a375fa",
    "bair": "2544f7b5866b4af9be6ca61c2eefea34ac74910d814d5cbdd92fc5e5e3b9e7b1",
    "list": "619f3859eab785494339360f12f1a99e03b8387a04dd89e14d2d49b25926fad0",
}
HEIGHT, WIDTH, FPS = 24, 32, 8


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def avi(frames: np.ndarray) -> bytes:
    """Return frames as an AVI file of raw BGR pixels, with the rows from bottom to top."""
    count, height, width, _ = frames.shape
    pictures = [frame[::-1, :, ::-1].tobytes() for frame in frames]
    size = len(pictures[0])
    main_header = struct.pack(
        "<14I", 10**6 // FPS, 0, 0, 0, count, 0, 1, size, width, height, *[0] * 4
    )
    stream = struct.pack("<4s4sIHH8I4H", b"vids", b"DIB ", 0, 0, 0, 0, 1, FPS, 0, count, size, 0, 0,
                         0, 0, width, height)  # fmt: skip
    picture = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, size, 0, 0, 0, 0)
    streams = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", picture))
    headers = chunk(b"LIST", b"hdrl" + chunk(b"avih", main_header) + streams)
    movie = b"movi" + b"".join(chunk(b"00db", data) for data in pictures)
    return chunk(b"RIFF", b"AVI " + headers + chunk(b"LIST", movie))


def pixels(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def record(rng: np.random.Generator) -> bytes:
    features = {}
    for frame in range(3):
        for camera in ("main", "aux1"):
            features[f"{frame}/image_{camera}/encoded"] = [rng.bytes(12 * 12 * 3)]
        features[f"{frame}/action"] = rng.integers(-9, 9, 4).astype(np.float32)
        features[f"{frame}/endeffector_pos"] = rng.integers(-9, 9, 3).astype(np.float32)
    return encode_example(features)


def make_raw(root: Path) -> None:
    """Write raw videos with a table, and small data sets in the formats of UCF-101 and BAIR."""
    rng = np.random.default_rng(0)
    for index in range(6):
        path = root / "videos" / ("walk", "run")[index % 2] / f"{index}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(avi(pixels(rng, 5 + index)))
        np.save(path.with_suffix(".npy"), rng.integers(-9, 9, (5 + index, 2)))
    (root / "videos" / "walk" / "broken.avi").write_bytes(b"no video")
    rows = [f"walk/{index}.avi,a,walk/{index}.npy\n" for index in (0, 2, 4)]
    (root / "videos" / "table.csv").write_text("".join(["path,label,actions\n", *rows]))
    names = [f"Archery/v_Archery_g{group:02d}_c01.avi" for group in range(1, 6)]
    (root / "ucf101").mkdir()
    with zipfile.ZipFile(root / "ucf101" / "UCF101.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(f"UCF-101/{name}", avi(pixels(rng, 4)))
    lists = {
        "classInd.txt": "1 Archery\n",
        "trainlist01.txt": "".join(f"{name} 1\n" for name in names[2:]),
        "testlist01.txt": "".join(f"{name}\n" for name in names[:2]),
    }
    for name, text in lists.items():
        (root / "ucf101" / "ucfTrainTestlist").mkdir(exist_ok=True)
        (root / "ucf101" / "ucfTrainTestlist" / name).write_text(text)
    for side, count in (("train", 4), ("test", 2)):
        folder = root / "bair" / "softmotion30_44k" / side
        folder.mkdir(parents=True)
        records = [record(rng) for _ in range(count)]
        write_records(folder / f"traj_0_to_{count - 1}.tfrecords", records)


def digests(root: Path) -> dict[str, str]:
    """Make every kind of store and a list of videos; return a digest of each."""
    folder = ["folder", str(root / "videos"), "--size", "12x16", "--max-skipped", "0.5"]
    commands = {
        "folder": [*folder, "--stride", "2", "--videos-per-shard", "2"],
        "folder at a rate": [*folder, "--fps", "12.5", "--group-by", "folder", "--val", "0"],
        "table": ["folder", str(root / "videos" / "table.csv"), "--size", "16"],
        "ucf101": ["ucf101", str(root / "ucf101"), "--size", "16", "--val", "0.4"],
        "bair": ["bair", str(root / "bair"), "--size", "8", "--camera", "main"],
    }
    found = {}
    for name, words in commands.items():
        out = root / "stores" / name
        assert main([*words, "--out", str(out), "--workers", "2"]) == 0
        files = [path for path in sorted(out.iterdir()) if path.name != "provenance.json"]
        found[name] = sha256_json(
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        )
    assert main([*folder, "--list-only", "--out", str(root / "stores" / "list")]) == 0
    found["list"] = read_raw_videos(root / "stores" / "list").content_hash
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("recorded")
    make_raw(root)
    return digests(root)


@pytest.mark.parametrize("kind", RECORDED)
def test_a_store_made_now_holds_the_bytes_of_one_made_before(found, kind):
    assert found[kind] == RECORDED[kind]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as path:
        make_raw(Path(path))
        print(json.dumps(digests(Path(path)), indent=4), file=sys.stderr)
