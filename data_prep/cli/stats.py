"""`data-prep stats`: shows the statistics of a clip store as text or JSON."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.cli.options import add_sheet, require_sheet
from video_vq.arguments import add_json, print_json
from video_vq.errors import printable

if TYPE_CHECKING:
    from video_vq.arguments import Parser


def add_parser(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser for the `stats` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "stats",
        help="count a clip store: lengths, classes, groups, pixels, arrays",
        description="Print counts, lengths, class balance and groups of each split, the exact mean "
        "and standard deviation of each channel over all pixels, and the ranges of the "
        "per-frame arrays.",
        examples=("data-prep stats clips", "data-prep stats clips --json --sheet sheet.png"),
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the clip store")
    add_json(parser, "all numbers")
    add_sheet(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Compute and print the statistics of a clip store, and write the contact sheet, if requested.

    Raises:
        InputError: the store cannot be used, or the contact sheet cannot be written.
    """
    from data_prep.stats import require_some, statistics_of, table
    from data_prep.verify import write_sheet
    from video_vq.progress import progress
    from video_vq.stores.clips import ClipStore

    sheet: Path | None = arguments.sheet
    require_sheet(sheet)
    store = ClipStore(arguments.store)
    require_some(store)
    with progress("counting", len(store.videos), "video") as bar:
        found = statistics_of(store, on_video=bar.update)
    if arguments.json:
        print_json(found.to_json())
    else:
        print(printable(f"{store.path}\n{table(found)}"))
    if sheet is not None:
        write_sheet(store, sheet)
        if not arguments.json:
            print(printable(f"contact sheet: {sheet}"))
