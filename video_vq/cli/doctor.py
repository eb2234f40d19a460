"""`video-vq doctor`: checks whether this machine has everything that the other subcommands need."""

import argparse
import json


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `doctor` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "doctor",
        help="check versions, decoders, devices, ranks, weights and disk space",
        examples=("video-vq doctor", "video-vq doctor --fetch-weights --st-lpips"),
    )
    parser.add_argument(
        "--fetch-weights", action="store_true", help="download the I3D weights for FVD (47 MB)"
    )
    parser.add_argument(
        "--st-lpips", action="store_true", help="download the ST-LPIPS weights (64 MB)"
    )
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the checks, print the results, and return 1 if a check failed, else 0."""
    from video_vq.inspect.checkup import checkup

    checks = checkup(arguments.fetch_weights, arguments.st_lpips)
    if arguments.json:
        print(
            json.dumps([{**check._asdict(), "ok": not check.advice} for check in checks], indent=1)
        )
    else:
        for check in checks:
            print(f"{'todo' if check.advice else 'ok  '}  {check.name:<17} {check.found}")
            if check.advice:
                print(f"      {check.advice}")
    return int(any(check.advice for check in checks))
