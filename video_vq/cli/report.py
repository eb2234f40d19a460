"""`video-vq report`: writes an HTML page that shows the results in a run folder."""

import argparse
from pathlib import Path

from video_vq.arguments import add_json, print_json


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `report` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "report",
        help="write scores, clips and curves as one HTML page",
        examples=("video-vq report runs/tokenizer", "video-vq report demo --out demo.html"),
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="RUN",
        help="a run folder, a folder of scores (evaluate), or a folder that holds several",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page to write (default: report.html in RUN)"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the HTML page, print its path, and return the exit status."""
    from video_vq.report import write_report

    page = write_report(arguments.folder, arguments.out)
    if arguments.json:
        print_json({"page": page, "bytes": page.stat().st_size})
    else:
        print(f"{page}  ({page.stat().st_size / 1e6:.1f} MB; open it in a browser)")
    return 0
