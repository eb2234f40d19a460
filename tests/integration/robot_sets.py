"""Writer of a small LeRobot v3 data set with two cameras and several episodes per mp4 file."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from video_vq.media.encode import encode_mp4

FPS = 10
CAMERAS = ("observation.images.top", "observation.images.wrist")
TOP, WRIST = CAMERAS
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


@dataclass
class RobotSet:
    """A written data set.

    Attributes:
        root: folder of the data set.
        lengths: number of frames of each episode.
        files: chunk number and file number of each episode's videos and table.
        actions, states: rows of each episode, one row per frame.
    """

    root: Path
    lengths: list[int]
    files: list[tuple[int, int]]
    actions: list[np.ndarray] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)

    def video(self, camera: str, file: tuple[int, int]) -> Path:
        return self.root / f"videos/{camera}/chunk-{file[0]:03d}/file-{file[1]:03d}.mp4"

    def table(self, file: tuple[int, int]) -> Path:
        return self.root / f"data/chunk-{file[0]:03d}/file-{file[1]:03d}.parquet"

    @property
    def index(self) -> Path:
        return self.root / "meta/episodes/chunk-000/file-000.parquet"

    @property
    def info(self) -> Path:
        return self.root / "meta/info.json"

    def change_info(self, **changes: Any) -> None:
        self.info.write_text(json.dumps({**json.loads(self.info.read_text()), **changes}))

    def change_rows(self, path: Path, **columns: Any) -> None:
        """Replace columns of the Parquet table in a file."""
        table = parquet.read_table(path)
        for name, values in columns.items():
            place = table.column_names.index(name)
            table = table.set_column(place, name, pa.array(values))
        parquet.write_table(table, path)


def episode_frames(seed: int, length: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return frames of a moving disc; the colors identify the episode."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ground, disc = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    frames = np.empty((length, height, width, 3), np.uint8)
    for t in range(length):
        inside = np.hypot(y - height / 2, x - 8 - 2.5 * t) < 9
        frames[t] = np.where(inside[..., None], disc, ground)
    return frames


def concatenate(videos: list[bytes], fps: int = FPS) -> bytes:
    """Return an mp4 file that joins the packets of several mp4 files, as LeRobot does."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        target, begin = None, 0
        for data in videos:
            with av.open(io.BytesIO(data), "r") as source:
                stream = source.streams.video[0]
                target = target or output.add_stream_from_template(stream)
                assert stream.time_base is not None
                ticks = round(1 / (fps * stream.time_base))
                count = 0
                for packet in source.demux(stream):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts += begin
                    packet.dts += begin
                    packet.stream = target
                    output.mux(packet)
                    count += 1
                begin += count * ticks
    return buffer.getvalue()


def write_robot_set(
    root: Path,
    lengths: tuple[int, ...] = (7, 12, 9, 5, 11, 8),
    tasks: tuple[str, ...] = ("push", "lift"),
    splits: dict[str, str] | None = None,
) -> RobotSet:
    """Write episodes to up to three video files per camera.

    Those of camera TOP are encoded in one piece; the others join separately encoded episodes.
    """
    rng = np.random.default_rng(len(lengths))
    files = [((0, 0), (0, 1), (1, 0))[min(3 * n // len(lengths), 2)] for n in range(len(lengths))]
    made = RobotSet(root, list(lengths), files)
    starts, rows, first = dict.fromkeys(files, 0.0), [], 0
    tables: dict[tuple[int, int], list[dict[str, Any]]] = {file: [] for file in files}
    for episode, (length, file) in enumerate(zip(lengths, files, strict=True)):
        made.actions.append(rng.normal(size=(length, 3)).astype(np.float32))
        made.states.append(rng.normal(size=(length, 2)).astype(np.float32))
        begin, end = starts[file], starts[file] + length / FPS
        rows.append(
            {
                "episode_index": episode,
                "tasks": [tasks[episode % len(tasks)]],
                "length": length,
                "data/chunk_index": file[0],
                "data/file_index": file[1],
                "dataset_from_index": first,
                "dataset_to_index": first + length,
                **{
                    f"videos/{camera}/{name}": value
                    for camera in CAMERAS
                    for name, value in (
                        ("chunk_index", file[0]),
                        ("file_index", file[1]),
                        ("from_timestamp", begin),
                        ("to_timestamp", end),
                    )
                },
                "stats/action/mean": [0.0, 0.0, 0.0],
            }
        )
        tables[file] += [
            {
                "action": made.actions[-1][t].tolist(),
                "observation.state": made.states[-1][t].tolist(),
                "timestamp": t / FPS,
                "frame_index": t,
                "episode_index": episode,
                "index": first + t,
                "task_index": episode % len(tasks),
            }
            for t in range(length)
        ]
        starts[file], first = end, first + length
    for file in tables:
        members = [n for n, of in enumerate(files) if of == file]
        for number, camera in enumerate(CAMERAS):
            parts = [episode_frames(100 * number + n, lengths[n]) for n in members]
            path = made.video(camera, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            if camera == TOP:
                path.write_bytes(encode_mp4(np.concatenate(parts), FPS))
            else:
                path.write_bytes(concatenate([encode_mp4(part, FPS) for part in parts]))
        made.table(file).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(tables[file]), made.table(file), row_group_size=8)
    made.index.parent.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), made.index)
    made.info.write_text(json.dumps(_info(first, len(lengths), splits)))
    return made


def _info(frames: int, episodes: int, splits: dict[str, str] | None) -> dict[str, Any]:
    video = {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}
    return {
        "codebase_version": "v3.0",
        "robot_type": "so100",
        "total_episodes": episodes,
        "total_frames": frames,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": splits or {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {
            **dict.fromkeys(CAMERAS, video),
            "action": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
            "observation.state": {"dtype": "float32", "shape": [2], "names": None},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        },
    }
