"""`video-vq compare`: several evaluations side by side, with what can be told apart."""

import argparse
import json
from pathlib import Path


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "compare",
        help="evaluations side by side: markdown or LaTeX",
        examples=("video-vq compare runs/first/scores runs/second/scores",),
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders of evaluate; the first is the base",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--latex", action="store_true", help="a LaTeX table (default: markdown)")
    shape.add_argument("--json", action="store_true", help="everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print."""
    from video_vq.evaluation.compare_runs import compare_runs

    found = compare_runs(arguments.runs)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print(found.latex() if arguments.latex else found.markdown())
    return 0
