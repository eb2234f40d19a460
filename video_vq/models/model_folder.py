"""Model descriptions, read from config.json and the header of model.safetensors.

This module does not import torch, since a header is enough to identify and check a model.
"""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import SafetensorError, safe_open

from video_vq import facts
from video_vq.config import check_config
from video_vq.errors import InputError
from video_vq.facts import Facts
from video_vq.models import starter
from video_vq.models.prior_config import PriorConfig, PriorFacts
from video_vq.models.tokenizer_config import TokenizerConfig, TokenizerFacts
from video_vq.stores.files import read_json

FORMAT = "video-vq model"
VERSION = 1
CONFIG = "config.json"
TENSORS = "model.safetensors"
CARD = "README.md"
DTYPES = ("float32", "bfloat16", "float16", "float64")  # dtypes that a model can be saved in

Kind = Literal["tokenizer", "prior"]


class ModelConfig(NamedTuple):
    """A model folder and the contents of its config.json; `model` and `facts` are unchecked JSON.

    Attributes:
        dtype: dtype of the weights; a tokenizer's quantizer is always float32.
    """

    folder: Path
    kind: Kind
    model: dict[str, Any]
    facts: dict[str, Any]
    hash: str
    dtype: str


class TokenizerIdentity(NamedTuple):
    """The config, training details and hash of a tokenizer, without the weights."""

    config: TokenizerConfig
    facts: TokenizerFacts
    hash: str


def read_model_config(path: Path, kind: Kind) -> ModelConfig:
    """Read config.json from a model folder, without the tensors.

    Args:
        path: model folder, or a run folder that contains a model folder.
        kind: required model kind.

    Raises:
        InputError: config.json is missing or damaged, or has a different model kind or version; or
            the files of the starter are damaged.
    """
    if path == starter.FOLDER:
        starter.require_whole()
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
            f"{path}: this run holds no {kind} yet; the command that started it resumes the "
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


def read_tokenizer_identity(path: Path) -> TokenizerIdentity:
    """Read and check a tokenizer's description in a model folder.

    Raises:
        InputError: as for `read_model_config`; or a setting is invalid.
    """
    found = read_model_config(path, "tokenizer")
    source = str(found.folder / CONFIG)
    return TokenizerIdentity(
        check_config(TokenizerConfig, found.model, source),
        check_config(TokenizerFacts, found.facts, source),
        found.hash,
    )


def describe_tensors(file: Path) -> Facts:
    """Return the details that `video-vq info` shows for a safetensors file, from the header.

    Raises:
        InputError: the file is missing or truncated, or the header is damaged.
    """
    try:
        with safe_open(file, "numpy") as opened:
            slices = [opened.get_slice(name) for name in opened.keys()]  # noqa: SIM118
            count = sum(math.prod(part.get_shape()) for part in slices)
            types = ", ".join(sorted({part.get_dtype() for part in slices}))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None
    size = f"{file.stat().st_size / 1e6:,.1f} MB"
    return {"tensors": f"{len(slices)} of {count:,} numbers ({types}), {size}"}


def describe_model(path: Path) -> tuple[str, Facts] | None:
    """Return the model kind and details for `video-vq info`, or None for an unknown kind.

    Raises:
        InputError: as for `read_model_config` and `describe_tensors`; or a setting is invalid.
    """
    kind = read_json(path / CONFIG, "a model's config").get("kind")
    if kind == "tokenizer":
        return "a tokenizer", _describe_tokenizer(path)
    return ("a prior", _describe_prior(path)) if kind == "prior" else None


def _describe_tokenizer(path: Path) -> Facts:
    config, known, own_hash = read_tokenizer_identity(path)
    quantizer = config.quantizer
    bits = math.prod(known.grid_thw) * math.log2(quantizer.codebook_size)
    raw = 24 * known.num_frames * math.prod(known.frame_size_hw)
    size = facts.times(known.frame_size_hw)
    return {
        "clips": f"{known.num_frames} frames, {known.stride} apart, of {size}",
        "tokens": facts.tokens(known.grid_thw, quantizer.vocabulary),
        "compression": f"{bits:,.0f} bits per clip, {raw / bits:.1f} times fewer than RGB",
        "causal": config.backbone.causal,
        "trained": f"{known.steps:,} steps on the clips {known.trained_on}",
        **describe_tensors(path / TENSORS),
        "hash": own_hash,
    }


def _describe_prior(path: Path) -> Facts:
    found = read_model_config(path, "prior")
    config = check_config(PriorConfig, found.model, str(path / CONFIG))
    known = check_config(PriorFacts, found.facts, str(path / CONFIG))
    sizes, sub_codes = config.transformer, config.sub_code_sizes
    return {
        "tokens": facts.tokens(config.grid_thw, config.vocabulary),
        **({"sub-codes": facts.codes(sub_codes)} if len(sub_codes) > 1 else {}),
        "kind": sizes.kind,
        "transformer": f"width {sizes.width}, depth {sizes.depth}, {sizes.heads} heads",
        "classes": facts.or_none(known.classes),
        **facts.actions(config.num_action_dims),
        "tokenizer": known.tokenizer_hash,
        "trained": f"{known.steps:,} steps on the tokens {known.trained_on}",
        **describe_tensors(path / TENSORS),
        "hash": found.hash,
    }
