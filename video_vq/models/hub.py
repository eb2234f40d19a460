"""Saving and loading a trained model: config.json and model.safetensors, strict both ways."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import safetensors.torch
import torch
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError

from video_vq.config import STRICT, check_config, to_json
from video_vq.errors import InputError
from video_vq.models.prior import Prior
from video_vq.models.prior_config import PriorConfig
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.models.tokenizer_config import TokenizerConfig
from video_vq.stores.files import canonical_json, read_json, write_bytes, write_json

FORMAT = "video-vq model"
VERSION = 1
Kind = Literal["tokenizer", "prior"]


@dataclass(frozen=True, config=STRICT)
class TokenizerFacts:
    """What a tokenizer was trained on.

    Attributes:
        num_frames, stride, frame_size_hw: of its clips.
        grid_thw: of the tokens of such a clip.
        trained_on: content hash of the clip store.
        steps: optimizer steps.
    """

    num_frames: Annotated[int, Field(ge=1)]
    stride: Annotated[int, Field(ge=1)]
    frame_size_hw: tuple[PositiveInt, PositiveInt]
    grid_thw: tuple[PositiveInt, PositiveInt, PositiveInt]
    trained_on: str
    steps: int


@dataclass(frozen=True, config=STRICT)
class PriorFacts:
    """What a prior was trained on.

    Attributes:
        tokenizer_hash: of the tokenizer whose tokens it models.
        classes: names of the classes, in the order of their labels.
        num_frames, frame_size_hw, fps: of the clips behind the tokens.
        trained_on: content hash of the token store.
        steps: optimizer steps.
    """

    tokenizer_hash: str
    classes: tuple[str, ...]
    num_frames: Annotated[int, Field(ge=1)]
    frame_size_hw: tuple[PositiveInt, PositiveInt]
    fps: float | None
    trained_on: str
    steps: int


class LoadedTokenizer(NamedTuple):
    """A tokenizer ready for use, the hash of its tensors and config, and what is known of it."""

    model: VideoTokenizer
    hash: str
    facts: TokenizerFacts


class LoadedPrior(NamedTuple):
    """A prior ready for use; see `LoadedTokenizer`."""

    model: Prior
    hash: str
    facts: PriorFacts


def save_model(
    path: Path, model: VideoTokenizer | Prior, facts: TokenizerFacts | PriorFacts
) -> str:
    """Write a model folder; return the hash of its tensors and config.

    Args:
        path: the folder; made when missing. The config is written last, so a folder with a
            config is complete.
        model: its tensors and its config.
        facts: what else a user wants to know; not part of the hash.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    model_hash = hash_of(model.config, tensors)
    path.mkdir(parents=True, exist_ok=True)
    write_bytes(path / "model.safetensors", safetensors.torch.save(tensors))
    write_json(
        path / "config.json",
        {
            "format": FORMAT,
            "version": VERSION,
            "kind": "tokenizer" if isinstance(model, VideoTokenizer) else "prior",
            "model": to_json(model.config),
            "hash": model_hash,
            "facts": to_json(facts),
        },
    )
    return model_hash


def hash_of(config: Any, tensors: dict[str, torch.Tensor]) -> str:
    """Return the sha256 over the model config and all tensors (names, dtypes, shapes, bytes)."""
    digest = hashlib.sha256(canonical_json(to_json(config)))
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(canonical_json([name, str(value.dtype), list(value.shape)]))
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_model_config(path: Path, kind: Kind) -> dict[str, Any]:
    """Read a model folder's config.json, without its tensors.

    Raises:
        InputError: it is missing, damaged, of another kind or version.
    """
    path = Path(path)
    if not (path / "config.json").exists() and (path / kind / "config.json").exists():
        path = path / kind  # a run folder was named
    config = read_json(path / "config.json", f"the config of a {kind}")
    if config.get("format") != FORMAT or config.get("kind") != kind:
        raise InputError(
            f"{path}: expected a {kind} written by video-vq, found kind {config.get('kind')!r}"
        )
    if config.get("version") != VERSION:
        raise InputError(
            f"{path}: has version {config.get('version')!r}, this program reads {VERSION}"
        )
    if not isinstance(config.get("model"), dict) or not isinstance(config.get("facts"), dict):
        raise InputError(f"{path}/config.json: holds no model settings; export the model again")
    return {**config, "path": str(path)}


def load_tokenizer(path: str | Path, device: str | torch.device = "cpu") -> LoadedTokenizer:
    """Load a tokenizer for use, in eval mode and without gradients.

    Args:
        path: its folder, or the run folder that it is in.
        device: where to put it.

    Raises:
        InputError: a file is missing or damaged, a tensor is missing, extra or misshapen.
    """
    found = read_model_config(Path(path), "tokenizer")
    source = f"{found['path']}/config.json"
    model = VideoTokenizer(check_config(TokenizerConfig, found["model"], source))
    _fill(model, found)
    facts = check_config(TokenizerFacts, found["facts"], source)
    return LoadedTokenizer(model.to(device), found["hash"], facts)


def load_prior(path: str | Path, device: str | torch.device = "cpu") -> LoadedPrior:
    """Load a prior for use; see `load_tokenizer`."""
    found = read_model_config(Path(path), "prior")
    source = f"{found['path']}/config.json"
    model = Prior(check_config(PriorConfig, found["model"], source))
    _fill(model, found)
    facts = check_config(PriorFacts, found["facts"], source)
    return LoadedPrior(model.to(device), found["hash"], facts)


def _fill(model: VideoTokenizer | Prior, found: dict[str, Any]) -> None:
    file = Path(found["path"]) / "model.safetensors"
    tensors = read_tensors(file)
    check_tensors(model.state_dict(), tensors, str(file))
    model.load_state_dict(tensors)
    if hash_of(model.config, tensors) != found.get("hash"):
        raise InputError(
            f"{file}: its tensors are not those that config.json names (the hash differs); "
            "copy both files of the folder again"
        )
    model.eval().requires_grad_(False)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file; nothing in it is executed.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return safetensors.torch.load(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None


def check_tensors(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], source: str
) -> None:
    """Compare names, shapes and dtypes both ways.

    Raises:
        InputError: names every tensor that is missing, extra or misshapen (up to ten).
    """
    problems = [f"missing: {name}" for name in expected if name not in found]
    problems += [f"not part of the model: {name}" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        want, have = expected[name], found[name]
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            problems.append(
                f"{name}: expected {tuple(want.shape)} {want.dtype}, "
                f"found {tuple(have.shape)} {have.dtype}"
            )
    if problems:
        raise InputError("\n  ".join([f"{source}: does not fit the model", *problems[:10]]))
