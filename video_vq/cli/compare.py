"""`video-vq compare`: shows evaluations side by side, with significant differences marked."""

import argparse
from pathlib import Path

from video_vq.arguments import add_json, print_json
from video_vq.cli import options


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `compare` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "compare",
        help="show evaluations side by side, as markdown or LaTeX",
        examples=("video-vq compare runs/first/scores runs/second/scores",),
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders that `evaluate` wrote; the others are compared with the first",
    )
    options.add_network(parser)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--latex", action="store_true", help="print a LaTeX table (default: markdown)"
    )
    add_json(shape, "everything")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare evaluations, print a table, and return the exit status."""
    from video_vq.evaluation.compare_evaluations import compare_evaluations
    from video_vq.evaluation.feature_network import load_feature_network
    from video_vq.report.evaluation_table import as_json, as_latex, as_markdown

    network = arguments.network and load_feature_network(arguments.network, "cpu")
    table = compare_evaluations(arguments.runs, network)
    if arguments.json:
        print_json(as_json(table))
    else:
        print(as_latex(table) if arguments.latex else as_markdown(table))
    return 0
