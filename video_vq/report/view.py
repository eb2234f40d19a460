"""Writes a page that shows a clip store, a token store, videos or a run."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
from markupsafe import Markup

from video_vq.errors import InputError
from video_vq.facts import Facts, times
from video_vq.media.array_videos import is_array_file, parse_address
from video_vq.media.decode import FrameStream
from video_vq.media.folder import FolderSettings, holds_video, is_frame_folder, list_videos
from video_vq.media.kinds import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from video_vq.media.probe import UnreadableVideoError, VideoInfo
from video_vq.media.reading import USUAL, Reading
from video_vq.media.resize import resize
from video_vq.media.sources import probe_video
from video_vq.report import write_report
from video_vq.report.blocks import (
    Block,
    Charts,
    Clip,
    Film,
    Films,
    FilmStrip,
    Row,
    Section,
    Table,
    Text,
    difference,
    named,
    spread,
)
from video_vq.report.charts import Line, line_chart
from video_vq.report.code_pictures import as_clip
from video_vq.report.found import holds_reported
from video_vq.report.page import render_page, require_page, write_page
from video_vq.report.sections import by_class, facts_table
from video_vq.report.view_tokens import CodePainter, token_sections
from video_vq.stages.reconstruct_file import square_size
from video_vq.stores import clips, tokens
from video_vq.stores.clips import SPLITS, ClipStore
from video_vq.stores.files import read_json
from video_vq.stores.shards import MANIFEST
from video_vq.stores.tokens import TokenStore

SHOWN = 8  # number of clips shown per split, and of videos shown per folder
MAX_FRAMES = 96  # maximum number of frames shown per video
SHORT_SIDE = 256  # in pixels; larger frames of video files are scaled down to this size
MAX_LINES = 12  # maximum number of values drawn per array
SLOWED = "Loops shorter than a second are slowed to one second."

Make = Callable[[Films], list[Section]]


def write_view(
    path: Path, facts: Facts, out: Path, tokenizer: Path | None = None, reading: Reading = USUAL
) -> None:
    """Write a page that shows the contents of a path.

    Args:
        path: path of a clip store, a token store, a video, a folder of videos, or a folder that
            `write_report` accepts.
        facts: details that `video-vq info` shows for the path; unused for a run.
        out: path of the page; an earlier page is replaced.
        tokenizer: tokenizer folder or run folder of the tokenizer that decodes a token store or
            reconstructs a video; None to use no tokenizer.

    Raises:
        InputError: the path cannot be shown or is damaged, the tokenizer does not match the path,
            or the page cannot be written.
    """
    require_page(out)
    kind = kind_of(path, reading)
    if tokenizer is not None and kind not in ("tokens", "video"):
        raise InputError(f"{path}: --tokenizer is for token stores and videos; leave it out")
    if kind == "run":
        write_report(path, out)
        return
    painter = None if tokenizer is None else CodePainter.load(tokenizer)
    make: Make = {
        "tokens": lambda films: token_sections(TokenStore(path), painter, films),
        "clips": lambda films: clip_sections(ClipStore(path), films),
        "video": lambda films: video_sections(path, painter, films, reading),
        "folder": lambda films: folder_sections(path, films, reading),
    }[kind]

    def rendered(quality: int) -> str:
        sections = [*make(Films(quality)), Section("What it is", (facts_table(facts),))]
        return render_page(path.resolve().name, "video-vq view", "", sections)

    write_page(out, rendered, path)


def kind_of(
    path: Path, reading: Reading = USUAL
) -> Literal["tokens", "clips", "video", "folder", "run"]:
    """Return the kind of page that shows a path.

    Raises:
        InputError: the path contains nothing to show.
    """
    if (path / MANIFEST).is_file():
        form = read_json(path / MANIFEST, "a manifest").get("format")
        if form in (clips.FORMAT, tokens.FORMAT):
            return "tokens" if form == tokens.FORMAT else "clips"
    elif path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return "video"
    elif is_array_file(path):
        address = parse_address(path)
        return "folder" if address is None or address.number is None else "video"
    elif holds_reported(path):  # even if there are images next to the scores
        return "run"
    elif is_frame_folder(path, reading.frame_names):
        return "video"
    elif path.is_dir() and holds_video(path, (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES)):
        return "folder"
    found = "holds nothing to look at" if path.exists() else "no such file or folder"
    raise InputError(
        f"{path}: {found}; name a finished clip store or token store, a video, a "
        "folder of videos, or a run folder"
    )


def clip_sections(store: ClipStore, films: Films) -> list[Section]:
    """Return the sections of a clip store's page: clips of each split, classes and arrays."""
    strips: list[Block] = [Text(SLOWED)]
    for split in SPLITS:
        found = [index for index, video in enumerate(store.videos) if video.split == split]
        items = tuple(_stored_film(store, films, index) for index in _some(store, found))
        if items:
            strips.append(FilmStrip(f"{split}: {len(found):,} videos", items))
    sections = [Section("Clips", (*strips,))]
    if store.classes:
        sections.append(Section("Classes", (_classes(store),)))
    if charts := tuple(_array_charts(store)):
        note = f"Of {store.videos[0].id}, frame by frame."
        sections.append(Section("Arrays", (Charts(charts, note=note),)))
    return sections


def _some(store: ClipStore, found: list[int]) -> list[int]:
    """Return at most `SHOWN` of the given videos, taking one from each class in turn."""
    turns = zip_longest(*by_class(store, found).values())
    return [index for turn in turns for index in turn if index is not None][:SHOWN]


def _stored_film(store: ClipStore, films: Films, index: int) -> Film:
    video = store.videos[index]
    count = min(video.num_frames, MAX_FRAMES)
    caption = f"{named(video.id, video.label)} · {_length(count, video.num_frames)}"
    return films.film([store.read(index, 0, count)], 1, caption, video.fps)


def _length(shown: int, total: int) -> str:
    return f"{total:,} frames" if shown == total else f"the first {shown:,} of {total:,} frames"


def _classes(store: ClipStore) -> Table:
    counts = Counter((video.label, video.split) for video in store.videos)
    splits = [split for split in SPLITS if any(video.split == split for video in store.videos)]
    rows = tuple(
        Row((name, *(f"{counts[name, split]:,}" for split in splits))) for name in store.classes
    )
    return Table(("class", *splits), rows)


def _array_charts(store: ClipStore) -> Iterator[Markup]:
    """Yield a chart for each array of the first video."""
    for name in store.arrays:
        rows = store.read_array(name, 0).reshape(store.videos[0].num_frames, -1)[:, :MAX_LINES]
        lines = [
            Line(str(number), [(float(frame), float(y)) for frame, y in enumerate(column)])
            for number, column in enumerate(rows.T)
            if np.isfinite(column).all()
        ]
        if lines:
            yield line_chart(name, lines, "frame")


def video_sections(
    path: Path, painter: CodePainter | None, films: Films, reading: Reading
) -> list[Section]:
    """Return the sections of a video's page: the video and, with a painter, a reconstruction.

    Raises:
        UnreadableVideoError: the video cannot be decoded.
        InputError: the video is too short for the painter's tokenizer.
    """
    info = probe_video(path, reading)
    strips: list[Block] = [Text(SLOWED), FilmStrip("", (_film_of(info, path.name, films),))]
    if painter is not None:
        strips.append(FilmStrip("As tokens", (_tokenized(info, painter, films),)))
    return [Section("Video", (*strips,))]


def _tokenized(info: VideoInfo, painter: CodePainter, films: Films) -> Film:
    """Return a film of a video's first clip, cropped as for training, with its reconstruction."""
    known = painter.tokenizer.facts
    frames = _first_frames(info, known.frame_size_hw, known.num_frames * known.stride)
    clip = frames[:: known.stride]
    if len(clip) < known.num_frames:
        raise InputError(
            f"{info.path}: has {len(frames)} frames; the tokenizer takes clips of "
            f"{known.num_frames}, {known.stride} apart; leave --tokenizer out"
        )
    grids, copy = painter.encode(clip)
    codes = as_clip(painter.paint(grids)[0], clip.shape[:3], painter.is_causal)
    heads = ("original", "reconstruction", "difference", "codes")
    shown = [clip, copy, difference(clip, copy), codes]
    fps = None if info.fps is None else info.fps / known.stride
    caption = (
        f"the first {known.num_frames} frames, at {times(known.frame_size_hw)} pixels; the colours "
        "of codes are the first three principal components of their vectors"
    )
    return films.film(shown, 4, caption, fps, heads)


def folder_sections(path: Path, films: Films, reading: Reading) -> list[Section]:
    """Return the sections of the page for a folder of videos.

    The page shows up to `SHOWN` videos, evenly spaced in the list of all videos.

    Raises:
        InputError: as for `list_videos`.
    """
    found = list_videos(path, FolderSettings(reading=reading))
    videos = found.videos
    items, problems = [], []
    for video in spread(videos, SHOWN):
        try:
            info = probe_video(found.root / video.name, found.reading)
            items.append(_film_of(info, video.name, films))
        except UnreadableVideoError as error:
            problems.append(Text(str(error), strong=True))
    strip = FilmStrip(f"{len(items):,} of {len(videos):,} videos", tuple(items))
    return [Section("Videos", (Text(SLOWED), strip, *problems))]


def _first_frames(info: VideoInfo, size_hw: tuple[int, int], count: int) -> Clip:
    frames = [
        resize(frame[None], size_hw, info.pixel_aspect)
        for frame in islice(FrameStream(info), count)
    ]
    return np.concatenate(frames)


def _film_of(info: VideoInfo, name: str, films: Films) -> Film:
    height, width = square_size(info.size_hw, info.pixel_aspect)
    scale = min(1.0, SHORT_SIDE / min(height, width))
    size_hw = max(1, round(height * scale)), max(1, round(width * scale))
    frames = _first_frames(info, size_hw, MAX_FRAMES)
    caption = f"{name} · {_length(len(frames), info.num_packets)}"
    return films.film([frames], 1, caption, info.fps)
