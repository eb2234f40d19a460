"""`video-vq view`: writes a local HTML page that shows a store, a video or a run."""

import argparse
import os
import sys
from pathlib import Path

from video_vq.arguments import add_json, print_json
from video_vq.cli import following
from video_vq.media.reading import add_reading, reading_of, require_reading
from video_vq.models.starter import named


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `view` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "view",
        help="look at a store, a video or a run in a browser",
        description="Write one HTML file that shows clips, tokens with their decoded clips and the "
        "usage of codes, a video, or a run. It needs no server and no network.",
        examples=("video-vq view clips", "video-vq view tokens --tokenizer runs/tokenizer"),
    )
    parser.add_argument(
        "path",
        type=Path,
        metavar="STORE|VIDEO|RUN",
        help="a clip store, a token store, a video, a folder of videos, or any input of `report`",
    )
    parser.add_argument(
        "--tokenizer",
        type=named,
        metavar="DIR",
        help="tokenizer that decodes a token store or encodes a video (default: for tokens, "
        "the one that made them, if it is beside them or in runs/)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: NAME.html in the current folder)",
    )
    parser.add_argument(
        "--no-open", action="store_true", help="write the page without opening it in a browser"
    )
    add_reading(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the HTML page, open it in a browser, and return the exit status."""
    from video_vq.inspect.describe import describe
    from video_vq.report.view import kind_of, write_view

    path: Path = arguments.path
    reading = reading_of(arguments)
    is_run = kind_of(path, reading) == "run"
    if is_run:
        require_reading(reading, False, False, path)
    facts = {} if is_run else describe(path, reading).facts
    out = arguments.out or Path(f"{path.resolve().name}.html")
    write_view(path, facts, out, arguments.tokenizer or _tokenizer_of(path), reading)
    if arguments.json:
        print_json({"page": out, "bytes": out.stat().st_size})
    else:
        print(f"{out}  ({out.stat().st_size / 1e6:.1f} MB; open it in a browser)")
    if not arguments.no_open:
        _open(out)
    return 0


def _tokenizer_of(path: Path) -> Path | None:
    from video_vq.stores import tokens
    from video_vq.stores.files import read_json
    from video_vq.stores.shards import MANIFEST

    manifest = path / MANIFEST
    if not manifest.is_file() or read_json(manifest, "a manifest").get("format") != tokens.FORMAT:
        return None
    name = tokens.TokenStore(path).header.tokenizer_hash
    found = following.tokenizer_of(name, (path, path.parent / "runs" / path.name))
    return None if found == following.ANY_TOKENIZER else named(found)


def _open(page: Path) -> None:
    """Open an HTML page in a browser if there is a display and stdout is a terminal."""
    has_screen = sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if has_screen and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
