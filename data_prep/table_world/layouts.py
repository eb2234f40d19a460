"""Writer of synthetic videos in the official layouts of UCF-101 and BAIR robot pushing.

The code that reads the official data also reads these files, so the demo and the tests need no
downloads.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from data_prep.table_world.motion import CLASSES, NUM_GROUPS, clip_class_and_group
from data_prep.table_world.render import FPS, RENDERER_VERSION, render_clip
from data_prep.tfrecord import write_records
from data_prep.world_files import (
    claim_folder,
    encode_record,
    out_of_range,
    processes,
    record_files,
    writing,
)
from video_vq.errors import InputError
from video_vq.media.child import die_with_parent
from video_vq.media.encode import write_video
from video_vq.progress import progress
from video_vq.stores.files import write_bytes, write_json

MARKER = "synthetic.json"
# Test groups of the official UCF-101 splits 01, 02 and 03.
TEST_GROUPS = (range(1, 8), range(8, 15), range(15, 22))
BAIR_FRAMES, BAIR_SIZE = 30, 64
XVID_QUANTIZER = 2

Layout = Literal["ucf101", "bair", "both"]


@dataclass(frozen=True)
class TableWorldSettings:
    """Settings that determine every byte of the output.

    Attributes:
        layout: official layout to write.
        num_videos: number of videos, at least 8, so that the train and test splits both contain
            every class.
        num_frames: number of frames in each video.
        size: side of the square frames, in pixels.
        seed: seed of the data set.
    """

    layout: Layout = "ucf101"
    num_videos: int = 600
    num_frames: int = 30
    size: int = 64
    seed: int = 0


@dataclass(frozen=True)
class _Place:
    """A video's index, and its class, group and number in the layout of UCF-101."""

    index: int
    label: str
    group: int
    number: int  # within its class and group

    @property
    def ucf_name(self) -> str:
        return f"{self.label}/v_{self.label}_g{self.group:02d}_c{self.number:02d}.avi"


def write_table_world(out: Path, settings: TableWorldSettings, workers: int = 1) -> None:
    """Render and write all synthetic videos that do not exist yet.

    Repeating the call resumes a killed run: files are written atomically, and existing files are
    kept.

    Args:
        out: output folder; the UCF-101 layout goes to `UCF-101/` and `ucfTrainTestlist/`, the BAIR
            layout to `softmotion30_44k/`.
        settings: settings of the data set.
        workers: number of rendering processes.

    Raises:
        InputError: a setting is out of range; `out` contains other files, was made with other
            settings, cannot be written or is being written by another process; or a rendering
            process ended unexpectedly.
    """
    _check(settings, workers)
    plan = {"renderer": RENDERER_VERSION, **asdict(settings)}
    with writing(out):
        if claim_folder(out, MARKER, plan, "synthetic videos"):
            return
        places = [_place(index) for index in range(settings.num_videos)]
        with _mapper(workers) as run:
            if settings.layout in ("ucf101", "both"):
                _write_ucf101(out, settings, places, run)
            if settings.layout in ("bair", "both"):
                _write_bair(out, settings, places, run)
        write_json(out / MARKER, {"plan": plan, "complete": True})


def _check(settings: TableWorldSettings, workers: int) -> None:
    ranges = {
        "num_videos": (settings.num_videos, 2 * len(CLASSES), 1_000_000),
        "num_frames": (settings.num_frames, 2, 1000),
        "size": (settings.size, 16, 1024),
        "workers": (workers, 1, 1024),
    }
    problems = out_of_range(ranges)
    if settings.seed < 0:
        problems.append(f"seed must not be negative, found {settings.seed}")
    if settings.size % 2:
        problems.append(f"size must be even to be stored as video, found {settings.size}")
    official = (BAIR_FRAMES, BAIR_SIZE)
    if settings.layout != "ucf101" and (settings.num_frames, settings.size) != official:
        problems.append(
            f"BAIR's layout holds {BAIR_FRAMES} frames of {BAIR_SIZE}x{BAIR_SIZE}, found "
            f"{settings.num_frames} of {settings.size}x{settings.size}; leave --frames and --size "
            "out, or choose --layout ucf101"
        )
    if problems:
        raise InputError("synthetic videos: " + "; ".join(problems))


def _place(index: int) -> _Place:
    label, group = clip_class_and_group(index)
    return _Place(index, label, group, number=index // len(CLASSES) // NUM_GROUPS + 1)


Run = Callable[[Callable[[_Place], Any], Iterable[_Place]], Iterator[Any]]


@contextmanager
def _mapper(workers: int) -> Iterator[Run]:
    """Yield a function like `map` that runs in this process or, if `workers` > 1, in new ones."""
    if workers == 1:
        yield map
        return
    with processes(workers, die_with_parent) as run:
        yield run


def _write_ucf101(out: Path, settings: TableWorldSettings, places: list[_Place], run: Run) -> None:
    videos = out / "UCF-101"
    for label in CLASSES:
        (videos / label).mkdir(parents=True, exist_ok=True)
    with progress("rendering UCF-101's layout", len(places), "video") as bar:
        for _ in run(partial(_write_avi, videos, settings), places):
            bar.update()
    lists = out / "ucfTrainTestlist"
    lists.mkdir(exist_ok=True)
    ordered = sorted(places, key=lambda place: place.ucf_name)
    _write_lines(
        lists / "classInd.txt", [f"{number} {label}" for number, label in enumerate(CLASSES, 1)]
    )
    for split, test_groups in enumerate(TEST_GROUPS, 1):
        # As in the official lists, only the training lists contain the class.
        _write_lines(
            lists / f"trainlist{split:02d}.txt",
            [
                f"{place.ucf_name} {CLASSES.index(place.label) + 1}"
                for place in ordered
                if place.group not in test_groups
            ],
        )
        _write_lines(
            lists / f"testlist{split:02d}.txt",
            [place.ucf_name for place in ordered if place.group in test_groups],
        )


def _write_lines(path: Path, lines: list[str]) -> None:
    write_bytes(path, "".join(line + "\n" for line in lines).encode())


def _write_avi(videos: Path, settings: TableWorldSettings, place: _Place) -> None:
    path = videos / place.ucf_name
    if not path.exists():
        clip = render_clip(settings.seed, place.index, settings.num_frames, settings.size)
        write_video(path, clip.frames, FPS, quality=XVID_QUANTIZER)


def _write_bair(out: Path, settings: TableWorldSettings, places: list[_Place], run: Run) -> None:
    test_groups = TEST_GROUPS[0]
    sides = {
        "train": [place for place in places if place.group not in test_groups],
        "test": [place for place in places if place.group in test_groups],
    }
    with progress("rendering BAIR's layout", len(places), "trajectory") as bar:
        for split, members in sides.items():
            for path, numbers in record_files(out, split, len(members)):
                if path.exists():
                    bar.update(len(numbers))
                    continue
                part = members[numbers.start : numbers.stop]
                examples = run(partial(_bair_example, settings.seed), part)
                write_records(path, _counted(examples, bar.update))


def _counted(items: Iterable[bytes], update: Callable[[], Any]) -> Iterator[bytes]:
    for item in items:
        yield item
        update()


def _bair_example(seed: int, place: _Place) -> bytes:
    aux1 = render_clip(seed, place.index, BAIR_FRAMES, BAIR_SIZE, "aux1")
    main = render_clip(seed, place.index, BAIR_FRAMES, BAIR_SIZE, "main")
    return encode_record({"main": main.frames, "aux1": aux1.frames}, aux1.actions, aux1.positions)
