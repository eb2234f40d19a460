"""What a model's folder says about itself: config.json and the header of model.safetensors.

Imports no torch: a header is enough to know a model and to refuse a wrong one.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from video_vq.errors import InputError
from video_vq.stores.files import read_json

FORMAT = "video-vq model"
VERSION = 1
CONFIG = "config.json"
TENSORS = "model.safetensors"
CARD = "README.md"
DTYPES = ("float32", "bfloat16", "float16", "float64")  # that a model can be saved in
MAX_HEADER_BYTES = 100_000_000  # the format's own limit

Kind = Literal["tokenizer", "prior"]


class ModelConfig(NamedTuple):
    """What config.json holds; `model` and `facts` are still unchecked JSON objects.

    Attributes:
        dtype: The dtype of the weights; a tokenizer's quantizer is always float32.
    """

    folder: Path
    kind: Kind
    model: dict[str, Any]
    facts: dict[str, Any]
    hash: str
    dtype: str


class TensorHeader(NamedTuple):
    """One tensor as a safetensors file announces it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def read_model_config(path: Path, kind: Kind) -> ModelConfig:
    """Read a model folder's config.json, without its tensors.

    Args:
        path: the folder, or the run folder that it is in.
        kind: which model it must be.

    Raises:
        InputError: it is missing, damaged, of another kind or version.
    """
    if not path.exists():
        raise InputError(f"{path}: no such folder; name a {kind}'s folder, or its run folder")
    if not (path / CONFIG).exists() and (path / kind / CONFIG).exists():
        path = path / kind  # a run folder was named
    if not (path / CONFIG).exists() and (path / "run.json").exists():
        found = read_json(path / "run.json", "a run's description").get("identity")
        of = found.get("kind") if isinstance(found, dict) else None
        if of in ("tokenizer", "prior") and of != kind:
            raise InputError(
                f"{path}: is a {of}'s run, a {kind}'s is needed; name the run folder that "
                f"`video-vq train-{kind}` made, or the {kind}'s own folder"
            )
        raise InputError(
            f"{path}: this run holds no {kind} yet; the command that started it goes on with the "
            "training"
        )
    config = read_json(path / CONFIG, f"the config of a {kind}")
    if config.get("format") != FORMAT or config.get("kind") != kind:
        raise InputError(
            f"{path}: expected a {kind} written by video-vq, found kind {config.get('kind')!r}"
        )
    if config.get("version") != VERSION:
        raise InputError(
            f"{path}: has version {config.get('version')!r}, this program reads {VERSION}"
        )
    model, facts, model_hash = (config.get(key) for key in ("model", "facts", "hash"))
    if not isinstance(model, dict) or not isinstance(facts, dict):
        raise InputError(f"{path / CONFIG}: holds no model settings; export the model again")
    if not isinstance(model_hash, str):
        raise InputError(f"{path / CONFIG}: names no hash; export the model again")
    dtype = config.get("dtype", "float32")
    if dtype not in DTYPES:
        raise InputError(
            f"{path / CONFIG}: its dtype is {dtype!r}, expected one of {', '.join(DTYPES)}; "
            "export the model again"
        )
    return ModelConfig(path, kind, model, facts, model_hash, dtype)


def read_tensor_headers(file: Path) -> list[TensorHeader]:
    """Read which tensors a safetensors file announces, and check that it is as long as they are.

    Raises:
        InputError: the file is missing, cut short, or its header is damaged.
    """
    try:
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        headers = [
            TensorHeader(name, str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))
            for name, entry in header.items()
        ]
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
        expected = 8 + length + max(ends, default=0)
        if file.stat().st_size != expected:
            raise ValueError(f"{file.stat().st_size} bytes long, its header says {expected}")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None
    return headers
