"""Listing of videos from a CSV file: path, and optionally label, split, group and actions file."""

import csv
import difflib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data_prep.sources import Item, Listing
from video_vq.errors import InputError
from video_vq.media.finder import VideoFinder
from video_vq.media.folder import FolderSettings, grouping, split_groups
from video_vq.media.kinds import MAX_SKIPPED
from video_vq.media.tree import size_inside
from video_vq.media.views import note_on_views
from video_vq.stores.clips import SPLITS
from video_vq.stores.number_rows import SUFFIXES, read_rows

COLUMNS = ("path", "label", "split", "group", "actions")
MAX_BYTES, MAX_ROWS = 256 << 20, 1_000_000
MAX_TEXT = 200
MAX_TOLD = 200
Row = dict[str, str]


@dataclass
class _Mistakes:
    """The mistakes found in a table, with line numbers."""

    path: Path
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, problem: str) -> None:
        self.found.append((line, f"line {line}: {problem}"))

    def check(self) -> None:
        if not self.found:
            return
        ordered = [text for _, text in sorted(self.found, key=lambda mistake: mistake[0])]
        shown = ordered[:MAX_TOLD]
        if len(ordered) > MAX_TOLD:
            shown.append(f"and {len(ordered) - MAX_TOLD:,} more")
        listed = "\n  ".join(shown)
        count = f"{len(ordered):,} mistake{'s' if len(ordered) > 1 else ''}"
        raise InputError(
            f"{self.path}: {count}:\n  {listed}\nCorrect the table and run this again."
        )


class _Entry(NamedTuple):
    """A valid row: the line number and the video, whose split is "" if the table has no splits."""

    line: int
    item: Item


def list_table(table: Path, root: Path, settings: FolderSettings) -> Listing:
    """Return the listing of the videos in a CSV file, in row order.

    The first line names the columns: `path` is required, and `label`, `split`, `group` and
    `actions` are optional. Paths are relative to `root` and, even with symbolic links resolved,
    must stay inside `root`. If there is a column `split`, every row must give a split, and all
    videos of a group the same split; otherwise a hash of the group determines the split. Without a
    column `group`, the settings define the groups. If there is a column `actions`, every row must
    name a .npy or .csv file with one row of numbers per frame of the video file.

    Args:
        table: path of the CSV file.
        root: folder to which the paths are relative.
        settings: how to split, group and read the videos.

    Raises:
        InputError: `root` is not a folder, or the table cannot be read or contains mistakes, which
            the message lists with line numbers.
    """
    if not root.is_dir():
        raise InputError(f"{root}: expected the folder that the table's paths are relative to")
    mistakes = _Mistakes(table)
    columns, rows = _read(table, mistakes)
    if "path" not in columns:
        mistakes.check()
    group_of = grouping(settings)
    finder = VideoFinder(root, settings.reading)
    entries = []
    for line, row in rows:
        entry = _entry(finder, line, row, group_of, mistakes)
        if entry is not None:
            entries.append(entry)
    _check_together(entries, mistakes)
    width = _check_actions(entries, mistakes) if "actions" in columns else None
    mistakes.check()
    found = [entry.item for entry in entries]
    shares = split_groups((item.group for item in found), settings.val, settings.test)
    items = tuple(replace(item, split=item.split or shares[item.group]) for item in found)
    by_hand = "split" in columns or "group" in columns
    views = None if by_hand else note_on_views({item.name: item.split for item in items})
    finder.require_needed(table)
    reading = finder.finish(settings.stand_in_fps)
    return Listing(
        source="folder",
        settings={
            "columns": sorted(columns),
            "val": None if "split" in columns else settings.val,
            "test": None if "split" in columns else settings.test,
            "group_by": None if "group" in columns else settings.group_by,
            "group_regex": None if "group" in columns else settings.group_regex,
        },
        items=items,
        classes=tuple(sorted({item.label for item in items if item.label is not None})),
        arrays={} if width is None else {"actions": (width,)},
        max_skipped=MAX_SKIPPED,
        notes=(*finder.notes, *([] if views is None else [views])),
        reading=reading,
    )


def _read(table: Path, mistakes: _Mistakes) -> tuple[list[str], list[tuple[int, Row]]]:
    """Return the column names, and the rows with the number of each row's last line."""
    try:
        if not stat.S_ISREG(table.stat().st_mode) or table.stat().st_size > MAX_BYTES:
            raise InputError(f"{table}: expected a CSV file of at most {MAX_BYTES:,} bytes")
        text = table.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{table}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{table}: byte {error.start:,} is not UTF-8; save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, Row]] = []
    columns: list[str] = []
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        _check_columns(columns, mistakes)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                mistakes.add(
                    reader.line_num, f"has {len(cells)} fields, the first line {len(columns)}"
                )
                continue
            texts = (cell.strip() for cell in cells)
            rows.append((reader.line_num, dict(zip(columns, texts, strict=True))))
            if len(rows) > MAX_ROWS:
                raise InputError(f"{table}: has more than {MAX_ROWS:,} rows; cut it into pieces")
    except csv.Error as error:
        mistakes.add(reader.line_num, f"is not a CSV file from here on ({error})")
    if not rows and not mistakes.found:
        mistakes.add(1, "no row follows; expected one video per line")
    return columns, rows


def _check_columns(columns: list[str], mistakes: _Mistakes) -> None:
    for name in columns:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(COLUMNS)}"
            mistakes.add(1, f"no such column: {name!r:.80}{hint}")
    if len(set(columns)) != len(columns):
        mistakes.add(1, "names a column twice")
    if "path" not in columns:
        mistakes.add(1, "expected the names of the columns, `path` among them")


def _entry(
    finder: VideoFinder, line: int, row: Row, group_of: Callable[[str], str], mistakes: _Mistakes
) -> _Entry | None:
    """Return the entry for a row, or add the row's mistakes to `mistakes` and return None."""
    before = len(mistakes.found)
    problems = list(_problems(row))
    found = _file(finder.root, row["path"], finder.add_named) if row["path"] else "no path"
    if isinstance(found, str):
        problems.append(found)
    actions = None
    if "actions" in row:
        if Path(row["actions"]).suffix.lower() not in SUFFIXES:
            problems.append(f"actions: expected a .npy or .csv file, found {row['actions']!r:.80}")
        else:
            actions = _file(finder.root, row["actions"], partial(_size_of_file, finder.root))
            if isinstance(actions, str):
                problems.append(f"actions: {actions}")
    name = Path(os.path.normpath(row["path"])).as_posix()
    group = row.get("group")
    if group is None and not problems:
        try:
            group = group_of(name)
        except InputError as error:
            problems.append(str(error))
    for problem in problems:
        mistakes.add(line, problem)
    if len(mistakes.found) > before or isinstance(found, str) or isinstance(actions, str):
        return None
    item = Item(
        id=name,
        label=row.get("label") or None,
        split=row.get("split", ""),
        group=group or "",
        name=name,
        path=str(found[0]),
        num_bytes=found[1],
        actions=None if actions is None else str(actions[0]),
    )
    return _Entry(line, item)


def _problems(row: Row) -> Iterator[str]:
    for name in ("label", "group"):
        text = row.get(name, "")
        if len(text) > MAX_TEXT or not text.isprintable():
            yield f"{name}: expected at most {MAX_TEXT} printable characters, found {text!r:.80}"
    if row.get("group") == "":
        yield "no group; with a column `group`, every row needs one"
    if "split" in row and row["split"] not in SPLITS:
        yield f"split: expected {', '.join(SPLITS)}, found {row['split']!r:.80}"


def _size_of_file(root: Path, name: str) -> int | str:
    return size_inside(root / name, root.resolve())


def _file(root: Path, text: str, size_of: Callable[[str], int | str]) -> tuple[Path, int] | str:
    """Return the absolute path and the size of a file inside `root`, or the problem as text.

    Args:
        root: folder to which the path is relative.
        text: path in the table.
        size_of: function that returns the size of a file, or the problem as text.
    """
    if not text.isprintable() or len(text) > 4096:
        return f"{text!r:.80} is not a path"
    if os.path.isabs(text) or ".." in Path(text).parts:
        return f"{text!r:.80} leads out of {root}; paths are relative to it (--root names another)"
    size = size_of(text)
    if isinstance(size, str):
        return f"{text!r:.80}: {size}"
    return Path(os.path.abspath(root / text)), size


def _check_together(entries: list[_Entry], mistakes: _Mistakes) -> None:
    """Add mistakes for videos that are listed twice and for groups in more than one split."""
    names: dict[str, int] = {}
    splits: dict[str, _Entry] = {}
    for entry in entries:
        line, item = entry
        first = names.setdefault(item.name, line)
        if first != line:
            mistakes.add(line, f"{item.name!r:.80} is already in line {first}")
        other = splits.setdefault(item.group, entry)
        if other.item.split != item.split:
            mistakes.add(
                line,
                f"group {item.group!r:.80} is in {item.split} here and in {other.item.split} in "
                f"line {other.line}; near-duplicates share a split",
            )


def _check_actions(entries: list[_Entry], mistakes: _Mistakes) -> int | None:
    """Return the number of action values per frame, and add mistakes for unusable files.

    Return None if no file can be read.
    """
    first: tuple[int, int] | None = None
    for line, item in entries:
        assert item.actions is not None
        try:
            width = read_rows(Path(item.actions)).shape[1]
        except ValueError as error:
            mistakes.add(line, f"actions: {item.actions}: {error}")
            continue
        first = first or (width, line)
        if width != first[0]:
            mistakes.add(
                line, f"actions: {width} numbers per frame, but {first[0]} in line {first[1]}"
            )
    return first[0] if first is not None else None
