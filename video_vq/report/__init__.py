"""Writes a report of everything in a run folder as one self-contained HTML page."""

from pathlib import Path

from video_vq.errors import InputError
from video_vq.report.blocks import Films, Section
from video_vq.report.found import Parts, find_parts
from video_vq.report.page import QUALITIES, render_page, require_page, write_page
from video_vq.report.pipeline import lead
from video_vq.report.sections import SECTIONS


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write a report on the runs and evaluations in a folder.

    Args:
        path: folder with run.json or scores.json, or with direct subfolders that contain such
            files.
        out: path of the page; None for report.html in `path`.

    Returns:
        The path of the page.

    Raises:
        InputError: there is nothing to report, a file is damaged, or the page cannot be written;
            see `require_page` and `write_page`.
    """
    out = path / "report.html" if out is None else out
    require_page(out)
    parts = find_parts(path)
    write_page(out, lambda quality: render_checked(parts, path, quality), path)
    return out


def render_checked(parts: Parts, path: Path, quality: int) -> str:
    """Return the report page as HTML, raising an `InputError` if the scores are malformed.

    Args:
        path: path of the reported folder, for error messages.
        quality: H.264 quality of the films.

    Raises:
        InputError: the scores are damaged or from another version.
    """
    try:
        return render(parts, quality)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path}: its scores are damaged or from another version "
            f"({type(error).__name__}: {error}); run `video-vq evaluate` again"
        ) from error


def render(parts: Parts, quality: int = QUALITIES[0]) -> str:
    """Return the report page as HTML; see `render_page`."""
    films = Films(quality)
    sections: list[Section] = []
    for make in SECTIONS:
        sections += make(parts, films)
    return render_page(parts.title, "video-vq report", lead(parts), sections)
