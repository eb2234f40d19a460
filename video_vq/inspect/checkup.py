"""Checks that this machine has everything that video-vq needs, with advice on fixing problems."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from video_vq.errors import InputError
from video_vq.media.decode import Decoder
from video_vq.media.trial import try_decoder
from video_vq.metrics.pinned import PublishedWeights
from video_vq.metrics.weights import I3D_WEIGHTS, ST_LPIPS_WEIGHTS

REQUIRED = ("torch", "accelerate", "av", "decord", "torchmetrics", "numpy", "safetensors")
OPTIONAL = {
    "tensorboard": "curves and clips of a run",
    "wandb": "the same, on wandb",
    "trackio": "the same, on trackio",
    "huggingface_hub": "from_pretrained and push_to_hub",
    "pyarrow": "data-prep lerobot",
    "mujoco": "data-prep simulate",
}
MIN_FREE_GB = 5


class Check(NamedTuple):
    """The result of one check; `advice` is empty if the check found no problem."""

    name: str
    found: str
    advice: str = ""


def checkup(fetch_weights: bool, fetch_st_lpips: bool) -> list[Check]:
    """Run all checks and return the results.

    Args:
        fetch_weights: whether to download the I3D weights if they are missing.
        fetch_st_lpips: whether to check the ST-LPIPS weights, and to download them if they are
            missing.
    """
    return [
        *packages(),
        *decoders(),
        *devices(),
        *ranks(os.environ),
        weights(I3D_WEIGHTS, fetch_weights),
        *([weights(ST_LPIPS_WEIGHTS, True)] if fetch_st_lpips else []),
        disk(Path.cwd()),
    ]


def packages() -> list[Check]:
    """Check the versions of Python, the required packages and the optional packages."""
    checks = [Check("python", platform.python_version())]
    for name in REQUIRED:
        version = _version(name)
        needed = name != "decord" or _decord_is_published()
        checks.append(Check(name, version or "not installed", ""))
        if version is None and needed:
            checks[-1] = Check(name, "not installed", f"pip install {name}")
    for name, purpose in OPTIONAL.items():
        checks.append(Check(name, _version(name) or f"not installed (optional: {purpose})"))
    return checks


def decoders() -> list[Check]:
    """Check that av and decord can decode a clip, each in a separate process."""
    known: tuple[tuple[str, Decoder, str], ...] = (
        ("av", "pyav", "pip install --force-reinstall av"),
        (
            "decord",
            "decord",
            "pip install --force-reinstall decord; until then `data-prep … --decoder pyav` gives "
            "the same frames",
        ),
    )
    checks = []
    for package, decoder, advice in known:
        name = f"{package} decodes"
        if _version(package) is None:
            continue  # `packages` reports missing packages
        try:
            checks.append(Check(name, f"yes: {try_decoder(decoder)}"))
        except InputError as error:
            checks.append(Check(name, f"no: {error}", advice))
    return checks


def devices() -> list[Check]:
    """Check each GPU for memory and bf16 support, or the CPU if there is no usable GPU."""
    import torch

    if torch.cuda.is_available():
        checks = []
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if found.major >= 8 else "no bf16 in hardware: use fp16"
            memory = f"{found.total_memory / 2**30:.0f} GiB"
            checks.append(Check(f"device {index}", f"{found.name}, {memory}, {bf16}"))
        return checks
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    bf16 = "bf16 in hardware" if flags & {"avx512_bf16", "amx_bf16"} else "no bf16 in hardware"
    advice = ""
    if shutil.which("nvidia-smi") is not None:
        advice = (
            f"an NVIDIA driver is installed, but torch {torch.__version__} cannot use it: install "
            "torch's CUDA build (PyPI's for Linux), or a driver that fits it"
        )
    return [Check("device", f"cpu, {torch.get_num_threads()} threads, {bf16}", advice)]


def ranks(environment: Mapping[str, str]) -> list[Check]:
    """Check the launcher's variables, the config of `accelerate launch`, and the backends.

    Args:
        environment: environment variables of this process.
    """
    import torch
    from torch import distributed

    backends = []
    if distributed.is_available():
        backends += ["nccl"] if distributed.is_nccl_available() else []
        backends += ["gloo"] if distributed.is_gloo_available() else []
    advice = ""
    if torch.cuda.device_count() > 1 and "nccl" not in backends:
        advice = "several GPUs need nccl: install torch's CUDA build for Linux"
    return [
        _announced(environment),
        _accelerate_config(torch.cuda.device_count()),
        Check("backends", " and ".join(backends) or "none: one process only", advice),
    ]


def _announced(environment: Mapping[str, str]) -> Check:
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    found = {name: environment[name] for name in names if name in environment}
    shown = ", ".join(f"{name}={value!r}" for name, value in found.items())
    size, rank = found.get("WORLD_SIZE", "1"), found.get("RANK", "0")
    numbers = re.fullmatch(r"\d{1,6}", size) and re.fullmatch(r"\d{1,6}", rank)
    whole = int(size) == 1 or {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= set(found) if numbers else 0
    if not whole or int(rank) >= int(size):
        how = "start with `accelerate launch --multi_gpu --num_processes N -m video_vq …`"
        return Check("launcher", shown, f"these variables do not make a rank; {how}, or unset them")
    return Check("launcher", shown or "none: this is the only process")


def _accelerate_config(num_gpus: int) -> Check:
    from accelerate.commands.config import config_args

    name, file = "accelerate", Path(config_args.default_config_file)
    if not file.is_file():
        return Check(f"{name} launch", f"no default config: starts {max(1, num_gpus)} process(es)")
    try:
        config = config_args.load_config_from_file(str(file))
        processes = int(getattr(config, "num_processes", 1))
        kind = str(config.distributed_type).removeprefix("DistributedType.")
        found = f"{file}: {processes} process(es), {kind}, precision {config.mixed_precision}"
    except Exception as error:  # a hand-edited file may have invalid YAML, types or enums
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        found = f"{file}: cannot be read ({type(error).__name__}: {reason})"
        return Check(f"{name} launch", found, f"write it again with `{name} config`, or delete it")
    if processes > num_gpus > 0 and not config.use_cpu:
        advice = f"more processes than the {num_gpus} GPU(s) here: give --num_processes {num_gpus}"
        return Check(f"{name} launch", found, advice)
    return Check(f"{name} launch", found)


def weights(published: PublishedWeights, fetch: bool) -> Check:
    """Check that the weights for FVD or ST-LPIPS are on this machine.

    Args:
        published: weights to look for.
        fetch: whether to download the weights if they are missing.
    """
    try:
        return Check(published.title, str(published.path(fetch)))
    except InputError as error:
        return Check(published.title, "not here", str(error))


def disk(folder: Path) -> Check:
    """Check the free space on the disk that contains a folder."""
    free = shutil.disk_usage(folder).free / 1e9
    low = f"less than {MIN_FREE_GB} GB free here: prepare and train on a larger disk"
    return Check("disk", f"{free:.0f} GB free in {folder}", "" if free > MIN_FREE_GB else low)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _decord_is_published() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"
