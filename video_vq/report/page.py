"""Writes a self-contained HTML page, which requires no server, network or other files."""

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
QUALITIES = (18, 26, 34)  # of H.264; the first that makes the page small enough is used
GENERATOR = b'<meta name="generator" content="video-vq">'
OURS = (GENERATOR, b"video-vq report</title>")  # the latter marks pages of earlier versions


def require_page(out: Path) -> None:
    """Reject a page path that cannot be written, before anything is computed.

    Raises:
        InputError: the path is a folder or is a file that video-vq did not write, or the parent
            folder is not writable.
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
    """Write a page, replacing an earlier page; film quality is lowered if the page is too large.

    Args:
        out: path of the page.
        render: function from an H.264 quality to the page with films of this quality.
        what: path that the page shows, for error messages.

    Raises:
        InputError: the page is too large at every quality, or another process is writing the page.
    """
    with held(out, single_file=True):
        page = b""
        for quality in QUALITIES:
            page = render(quality).encode()
            if len(page) <= MAX_BYTES:
                break
        if len(page) > MAX_BYTES:
            raise InputError(
                f"{what}: the page would take {len(page) / 1e6:.0f} MB, more than "
                f"{MAX_BYTES / 1e6:.0f}; take its parts one by one"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, page)


def render_page(title: str, kind: str, lead: str, sections: Sequence[Section]) -> str:
    """Return a page as HTML.

    The template escapes all text from files (class names, video names, settings); a content
    security policy allows only the page's own style and script.

    Args:
        title: heading of the page.
        kind: kind of page, shown below the heading.
        lead: a few sentences before the sections; "" for none.
        sections: sections of the page, in order.
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
