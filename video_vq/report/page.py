"""Writes a self-contained HTML page, which needs no server, network or other files."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from video_vq.errors import InputError
from video_vq.report.blocks import Section
from video_vq.stores.files import write_bytes
from video_vq.stores.lock import held
from video_vq.stores.places import require_writable

MAX_BYTES = 20_000_000
QUALITIES = (18, 26, 34)  # of H.264: the first at which the page is small enough
GENERATOR = b'<meta name="generator" content="video-vq">'
OURS = (GENERATOR, b"video-vq report</title>")  # the latter in pages of earlier versions


def require_page(out: Path) -> None:
    """Refuse, before anything is computed, a page that cannot be written.

    Raises:
        InputError: the path is a folder or a foreign file, or its folder cannot be written.
    """
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file, as {out.name}.html")
    if out.exists():
        with open(out, "rb") as file:
            head = file.read(2000)
            if not any(mark in head for mark in OURS):
                raise InputError(
                    f"{out}: is not a page of video-vq; remove it, or name another file"
                )
    require_writable(out.parent)


def write_page(out: Path, render: Callable[[int], str], what: Path) -> None:
    """Write a page, replacing an earlier one; films lose quality if it would be too large.

    Args:
        out: path of the page.
        render: function from a quality of H.264 to the page with such films.
        what: subject of the page, for messages.

    Raises:
        InputError: the page is still too large, or another process is writing it.
    """
    with held(out, single_file=True):
        page = b""
        for quality in QUALITIES:
            page = render(quality).encode()
            if len(page) <= MAX_BYTES:
                break
        if len(page) > MAX_BYTES:
            raise InputError(
                f"{what}: the page would have {len(page) / 1e6:.0f} MB, more than "
                f"{MAX_BYTES / 1e6:.0f}; take its parts one by one"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, page)


def render_page(title: str, kind: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the page.

    The template escapes all text from files (names of classes, videos, settings); a content
    security policy allows only the page's own style and script.

    Args:
        title: the heading.
        kind: kind of page, shown below the heading.
        lead: a few sentences before the sections; "" for none.
        sections: the sections in order.
    """
    templates = Environment(
        loader=PackageLoader("video_vq.report", "."), autoescape=True, undefined=StrictUndefined
    )
    assets = (Path(__file__).parent / name for name in ("page.css", "page.js"))
    style, script = (asset.read_text(encoding="utf-8") for asset in assets)
    return templates.get_template("page.html.j2").render(
        title=title,
        kind=kind,
        lead=lead,
        sections=sections,
        generator=Markup(GENERATOR.decode()),
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def _csp_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
