"""`video-vq doctor`: looks whether everything is here that the other verbs need."""

import argparse
import importlib.metadata
import json
import platform
import shutil
import sys
from pathlib import Path
from typing import NamedTuple


class Check(NamedTuple):
    """One thing that was looked at; `advice` is empty when it is well."""

    name: str
    found: str
    advice: str


PACKAGES = ("torch", "accelerate", "av", "decord", "torchmetrics", "numpy", "safetensors")


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser("doctor", help="versions, devices, decoders, weights, disk")
    parser.add_argument(
        "--fetch-weights", action="store_true", help="download the I3D weights for FVD (47 MB)"
    )
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check, print, and return 1 when something is to be done."""
    checks = [*_packages(), _devices(), _weights(arguments.fetch_weights), _disk()]
    if arguments.json:
        print(json.dumps([check._asdict() for check in checks], indent=1))
    else:
        for check in checks:
            print(f"{'ok  ' if not check.advice else 'todo'}  {check.name:<14} {check.found}")
            if check.advice:
                print(f"      {check.advice}")
    return int(any(check.advice for check in checks))


def _packages() -> list[Check]:
    checks = [Check("python", platform.python_version(), "")]
    for name in PACKAGES:
        try:
            checks.append(Check(name, importlib.metadata.version(name), ""))
        except importlib.metadata.PackageNotFoundError:
            x86_linux = sys.platform == "linux" and platform.machine() == "x86_64"
            optional = name == "decord" and not x86_linux
            advice = "" if optional else f"pip install {name}"
            checks.append(Check(name, "not installed", advice))
    try:
        import av

        libraries = ".".join(str(part) for part in av.library_versions["libavcodec"])
        checks.append(Check("ffmpeg in av", f"libavcodec {libraries}", ""))
    except ImportError as error:
        checks.append(Check("ffmpeg in av", f"cannot be loaded: {error}", "pip install av"))
    return checks


def _devices() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Check("devices", ", ".join(names), "")
    return Check("devices", f"cpu, {torch.get_num_threads()} threads", "")


def _weights(fetch: bool) -> Check:
    from video_vq.errors import InputError
    from video_vq.metrics.weights import i3d_weights_path

    try:
        return Check("I3D weights", str(i3d_weights_path(fetch)), "")
    except InputError as error:
        return Check("I3D weights", "not here", str(error))


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    advice = "" if free > 5 else "less than 5 GB free here: prepare and train on a larger disk"
    return Check("disk", f"{free:.0f} GB free in {Path.cwd()}", advice)
