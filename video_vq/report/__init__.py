"""A report: everything that a run folder holds, as one self-contained HTML page."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from video_vq.errors import InputError
from video_vq.report.blocks import Films, Section
from video_vq.report.found import Parts, find_parts
from video_vq.report.pipeline import lead
from video_vq.report.sections import SECTIONS
from video_vq.stores.files import write_bytes
from video_vq.stores.lock import held
from video_vq.stores.places import require_writable

MAX_BYTES = 20_000_000
QUALITIES = (18, 26, 34)  # H.264 quantizers, tried until the page is small enough


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the report of a run folder, of an evaluation, or of a folder that holds several.

    Args:
        path: folder that holds run.json or scores.json itself, or folders that do.
        out: the page to write; None for report.html in `path`.

    Returns:
        The page's path.

    Raises:
        InputError: there is nothing to report, something in it is damaged, or another process is
            writing the page.
    """
    out = path / "report.html" if out is None else out
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name the page in it, as {out / 'report.html'}")
    require_writable(out.parent)
    parts = find_parts(path)
    with held(out, single_file=True):
        return _write_page(parts, path, out)


def _write_page(parts: Parts, path: Path, out: Path) -> Path:
    page = b""
    for quality in QUALITIES:
        page = _render_checked(parts, path, quality)
        if len(page) <= MAX_BYTES:
            break
    if len(page) > MAX_BYTES:
        raise InputError(
            f"{path}: the report would take {len(page) / 1e6:.0f} MB, more than "
            f"{MAX_BYTES / 1e6:.0f}; report its folders one by one"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, page)
    return out


def _render_checked(parts: Parts, path: Path, quality: int) -> bytes:
    try:
        return render(parts, quality).encode()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path}: its scores are damaged or from another version "
            f"({type(error).__name__}: {error}); run `video-vq evaluate` again"
        ) from error


def render(parts: Parts, quality: int = QUALITIES[0]) -> str:
    """Return the page.

    Every text from files (names of classes, videos, settings) is escaped by the
    template; a content security policy forbids all but the page's own style and script.
    """
    films = Films(quality)
    sections: list[Section] = []
    for make in SECTIONS:
        sections += make(parts, films)
    templates = Environment(
        loader=PackageLoader(__name__, "."), autoescape=True, undefined=StrictUndefined
    )
    style, script = (_read_asset(name) for name in ("page.css", "page.js"))
    return templates.get_template("page.html.j2").render(
        title=parts.title,
        lead=lead(parts),
        sections=sections,
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def _read_asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
