"""`data-prep simulate`: simulates a robot arm that pushes objects in a bin, with MuJoCo."""

import argparse
from dataclasses import asdict
from pathlib import Path
from shlex import quote

from data_prep.cli.options import add_workers
from video_vq.arguments import Parser, add_json, positive, print_json
from video_vq.errors import InputError
from video_vq.progress import is_quiet

TEST_SHARE, MOST_TEST = 10, 256  # a tenth of the episodes, but no more test episodes than BAIR has


def add_parser(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser for the `simulate` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "simulate",
        help="simulate an arm that pushes objects in a bin, as BAIR's TFRecords",
        description=(
            "Simulate a robot arm that pushes random objects in a bin by random actions (MuJoCo, "
            "extra [sim]), 30 frames of 64x64 from two cameras, and write BAIR's schema and "
            "layout, every record labelled simulated. The same settings give the same bytes on "
            "one machine; a killed run resumes when started again."
        ),
        examples=("data-prep simulate pushing --episodes 1000",),
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--episodes",
        type=positive,
        default=1000,
        metavar="N",
        help="total number of episodes (default: 1000)",
    )
    parser.add_argument(
        "--test-episodes",
        type=int,
        metavar="N",
        help="number of episodes on the test side (default: a tenth, at most 256)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes (default: 0)")
    add_workers(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the episodes that the arguments describe, and print how many objects moved."""
    from data_prep.bin_world.tfrecords import BinWorldSettings, write_bin_world
    from video_vq.machine import num_cores
    from video_vq.stores.places import beside

    total, test = arguments.episodes, arguments.test_episodes
    if test is None:
        test = min(total // TEST_SHARE, MOST_TEST)
    if not 0 <= test < total:
        raise InputError(
            f"--episodes {total} with {test} for test: at least one must be left for training"
        )
    settings = BinWorldSettings(num_train=total - test, num_test=test, seed=arguments.seed)
    pushed = write_bin_world(arguments.out, settings, arguments.workers or num_cores())
    if arguments.json:
        sides = {"train_episodes": total - test, "test_episodes": test}
        print_json({"out": arguments.out, **asdict(pushed), **sides})
        return
    print(
        f"{arguments.out}: {pushed.episodes:,} simulated episodes ({total - test:,} train, "
        f"{test:,} test); objects were pushed in {pushed.touched / pushed.episodes:.0%} of them, "
        f"{pushed.moved:,} of {pushed.objects:,} objects"
    )
    if not is_quiet():
        clips = beside(arguments.out, "clips")
        print(f"next: data-prep bair {quote(str(arguments.out))} --out {quote(str(clips))}")
