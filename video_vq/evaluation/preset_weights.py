"""Reads the published weights of VideoMAE and V-JEPA, strictly and without executing any code.

Safetensors files contain only arrays. PyTorch files are read only if they have the SHA-256 that the
user gives, and with `weights_only`, which accepts only plain arrays.
"""

import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from torch import Tensor

from video_vq.errors import InputError
from video_vq.metrics.network_choice import HUB, PUBLISHED, Preset, WeightsFile
from video_vq.metrics.video_transformer import VideoMae, VJepa
from video_vq.models.hub import fetch_file
from video_vq.stores.files import sha256_file

Tensors = dict[str, Tensor]

# Keys under which a PyTorch file may keep the tensors; the first key found is used.
SECTIONS = ("target_encoder", "classifier", "model", "module")
# Prefixes to remove from tensor names.
WRAPPERS = re.compile(r"^(?:(?:target_encoder|classifier|module|backbone|model|videomae)\.)+")
# Tensors of the classification head; without its prefix, a name may be only `weight` or `bias`.
HEAD = re.compile(r"(?:(?:head|linear)\.)?(?:weight|bias)")
# Tensor names in VideoMAE files from transformers, and the corresponding names by the authors.
TRANSFORMERS = (
    (re.compile(r"^embeddings\.patch_embeddings\.projection\."), "patch_embed.proj."),
    (re.compile(r"^encoder\.layer\.(\d+)\."), r"blocks.\1."),
    (re.compile(r"\.layernorm_before\."), ".norm1."),
    (re.compile(r"\.layernorm_after\."), ".norm2."),
    (re.compile(r"\.attention\.attention\.(query|value)\.bias$"), r".attn.\1_bias"),
    (re.compile(r"\.attention\.attention\.(q|v)_bias$"), r".attn.\1_bias"),
    (re.compile(r"\.attention\.attention\.(query|key|value)\.weight$"), r".attn.\1"),
    (re.compile(r"\.attention\.output\.dense\."), ".attn.proj."),
    (re.compile(r"\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"\.output\.dense\."), ".mlp.fc2."),
    (re.compile(r"\.attn\.query_bias$"), ".attn.q_bias"),
    (re.compile(r"\.attn\.value_bias$"), ".attn.v_bias"),
)


def load_preset(preset: Preset) -> VideoMae | VJepa:
    """Return a published network with the user's weights, frozen and on the CPU.

    Raises:
        InputError: a file is missing, has a different SHA-256, is a PyTorch file without a given
            SHA-256 or contains more than plain arrays; or the files do not contain exactly this
            network's tensors (see `fill`).
    """
    tensors: Tensors = {}
    for file in preset.files:
        found = _named(_read(file))
        if both := sorted(tensors.keys() & found.keys()):
            raise InputError(f"{file.place}: holds {both[0]}, as does a file named before it")
        tensors |= found
    with init_empty_weights(include_buffers=False):
        network = VideoMae() if preset.name == "videomae" else VJepa()
    fill(network, tensors)
    return network


def fill(network: VideoMae | VJepa, tensors: Tensors) -> None:
    """Load weights into a network as float32, requiring an exact match of all tensors.

    Args:
        tensors: weights, by the names that the network's authors use; see `_named`.

    Raises:
        InputError: a tensor is missing, unexpected, misshapen or not finite, or all query and value
            biases are zero.
    """
    name = "videomae" if isinstance(network, VideoMae) else "jedi"
    if name == "videomae":
        tensors = _with_joined_attention(tensors)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if wrong := sorted(expected.items() ^ found.items()):
        key = wrong[0][0]
        raise InputError(
            f"--network {name}: its weights do not fit in {len({key for key, _ in wrong})} "
            f"tensors, the first is {key}: expected {expected.get(key, 'none')}, found "
            f"{found.get(key, 'none')}; it takes {PUBLISHED[name]}"
        )
    for key, value in tensors.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise InputError(f"--network {name}: {key} is not all finite floats; fetch it again")
    network.load_state_dict(
        {key: value.float() for key, value in tensors.items()}, strict=True, assign=True
    )


def _read(file: WeightsFile) -> Tensors:
    """Return the arrays in a weights file, by name."""
    is_safe = file.place.endswith(".safetensors")
    if not is_safe and file.sha256 is None:
        raise InputError(
            f"{file.place}: is not a .safetensors file, so it is read only if its sha256 is given: "
            f"write {file.place}@SHA256, with the hash that its publisher states or that you "
            "recorded, 64 digits of 0-9 and a-f"
        )
    path = _local(file)
    try:
        if file.sha256 is not None and (found := sha256_file(path)) != file.sha256:
            raise InputError(
                f"{file.place}: has the sha256 {found}, expected {file.sha256}; fetch it again"
            )
        if is_safe:
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{file.place}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file.place}: cannot be read as weights: {error}") from None
    except Exception as error:  # torch may raise anything for a damaged file
        raise InputError(
            f"{file.place}: is not a file of plain arrays; only these are read, and nothing "
            f"is executed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
    return _section(loaded, file.place)


def _local(file: WeightsFile) -> Path:
    if not file.place.startswith(HUB):
        return Path(file.place).expanduser()
    parts = file.place.removeprefix(HUB).split("/", 2)
    if len(parts) < 3:
        raise InputError(f"{file.place}: write {HUB}org/name/FILE")
    return fetch_file(f"{parts[0]}/{parts[1]}", parts[2])


def _section(loaded: Any, place: str) -> Tensors:
    for name in SECTIONS:
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
            break
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise InputError(f"{place}: holds no arrays with names")
    return loaded


def _named(tensors: Tensors) -> Tensors:
    """Return tensors under the names that the authors use, without the classification head."""
    named = {}
    for name, tensor in tensors.items():
        ours = WRAPPERS.sub("", name)
        for pattern, replacement in TRANSFORMERS:
            ours = pattern.sub(replacement, ours)
        if not HEAD.fullmatch(ours):
            named[ours] = tensor
    return named


def _with_joined_attention(tensors: Tensors) -> Tensors:
    """Return VideoMAE's tensors with each layer's queries, keys and values joined.

    Keys have no bias. When transformers 5 loads a file from another version, it silently sets
    q_bias and v_bias to zero; a file that was saved after such a load is refused.

    Raises:
        InputError: an attention layer has no q_bias or v_bias, or all of them are zero.
    """
    joined = dict(tensors)
    blocks = sorted({key.partition(".attn.")[0] for key in tensors if ".attn." in key})
    some = False
    for block in blocks:
        attention = f"{block}.attn"
        parts = [joined.pop(f"{attention}.{name}", None) for name in ("query", "key", "value")]
        if all(part is not None for part in parts):
            joined[f"{attention}.qkv.weight"] = torch.cat([p for p in parts if p is not None])
        q, v = (joined.pop(f"{attention}.{name}_bias", None) for name in "qv")
        if q is None or v is None:
            raise InputError(
                f"--network videomae: {attention} has no q_bias or no v_bias; it takes "
                f"{PUBLISHED['videomae']}"
            )
        some = some or bool(q.any()) or bool(v.any())
        joined[f"{attention}.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    if blocks and not some:
        raise InputError(
            "--network videomae: all biases of queries and values are zero, as transformers 5 "
            "leaves them where it reads a file of another version; take the file as published "
            f"({PUBLISHED['videomae']})"
        )
    return joined
