"""`data-prep verify`: checks every byte of a store, and prints a summary."""

import argparse
from pathlib import Path

from data_prep.cli.options import add_sheet, require_sheet
from video_vq.arguments import Parser, add_json, print_json
from video_vq.errors import InputError, printable


def add_parser(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser for the `verify` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "verify",
        help="check every byte of a store, count it, and make a contact sheet",
        description="Hash every file of a store of clips or tokens and print its counts; exit with "
        "status 1 and name the files if any is damaged.",
        examples=("data-prep verify clips --sheet sheet.png",),
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the store")
    add_sheet(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Hash every file in a store, print a summary, and write the contact sheet, if requested.

    Raises:
        InputError: the store cannot be used, a file is damaged, or the contact sheet cannot be
            written or was requested for a token store.
    """
    from data_prep.verify import describe, open_store, verify, write_sheet
    from video_vq.stores.clips import ClipStore
    from video_vq.stores.tokens import TokenStore

    require_sheet(arguments.sheet)
    store = open_store(arguments.store)
    if arguments.sheet is not None and isinstance(store, TokenStore):
        raise InputError(
            f"{store.path}: is a token store, which has no pictures for a sheet; leave --sheet out"
        )
    strangers = verify(store)
    if arguments.sheet is not None and isinstance(store, ClipStore):
        write_sheet(store, arguments.sheet)
    if arguments.json:
        found = {"store": store.path, "is_sound": True, "no_part_of_it": strangers}
        print_json({**found, "num_files": len(store.files()), **store.describe()})
        return
    print(printable(f"{store.path}: every byte is as it was written"))
    if strangers:
        print(printable(f"not part of the store: {', '.join(strangers)}"))
    if isinstance(store, ClipStore):
        print(printable(describe(store)))
    if arguments.sheet is not None:
        print(printable(f"contact sheet: {arguments.sheet}"))
