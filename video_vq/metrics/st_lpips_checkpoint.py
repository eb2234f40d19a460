"""Conversion of the original ST-LPIPS checkpoints, which are read without executing anything."""

import io
import re

import numpy as np
import torch

from video_vq.errors import InputError
from video_vq.metrics.pinned import encode_safetensors

# The layers are numbered consecutively; each stage begins with the number given here.
FIRST_LAYERS = {"alex": (0, 3, 7, 11, 13), "vgg": (0, 4, 10, 18, 26)}
CONVOLUTION = re.compile(r"net\.slice([1-5])\.(\d+)\.(weight|bias)")
HEAD = re.compile(r"lin([0-4])\.model\.1\.weight")
CONSTANTS = re.compile(r"scaling_layer\.(shift|scale)|net\.slice[1-5]\.\d+\.filt")


def to_safetensors(checkpoints: dict[str, bytes], source: str) -> bytes:
    """Return a safetensors file for video_vq.metrics.perceptual.StLpips, reproducible to the byte.

    Args:
        checkpoints: bytes of the checkpoint of each trunk, "alex" or "vgg"; the trunk becomes the
            prefix of the tensor names.
        source: origin of the arrays, recorded in the file's header.

    Raises:
        InputError: a checkpoint is damaged, or contains anything other than float32 arrays with
            known names.
    """
    tensors = {}
    for trunk, data in checkpoints.items():
        for name, tensor in _read(data).items():
            our_name = _port_name(name, trunk)
            if our_name is not None:
                # The heads are convolutions 1 c 1 1 of one output: a vector of c.
                array = tensor.flatten() if our_name.startswith("heads") else tensor
                tensors[f"{trunk}.{our_name}"] = np.ascontiguousarray(array.numpy())
    return encode_safetensors(tensors, source)


def _read(data: bytes) -> dict[str, torch.Tensor]:
    try:
        checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch says that a damaged file may raise anything
        raise InputError(
            "the ST-LPIPS checkpoint is not a file of plain arrays; only these are read, and "
            f"nothing is executed: {str(error).splitlines()[0]}"
        ) from None
    if not isinstance(checkpoint, dict):
        raise InputError("the ST-LPIPS checkpoint is not a file of plain arrays with names")
    for name, tensor in checkpoint.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float32:
            found = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise InputError(f"the ST-LPIPS checkpoint's {name} is {found}, not float32")
    return checkpoint


def _port_name(name: str, trunk: str) -> str | None:
    if found := CONVOLUTION.fullmatch(name):
        stage = int(found[1]) - 1
        return f"stages.{stage}.{int(found[2]) - FIRST_LAYERS[trunk][stage]}.{found[3]}"
    if found := HEAD.fullmatch(name):
        return f"heads.{found[1]}"
    if CONSTANTS.fullmatch(name):
        return None
    raise InputError(f"the ST-LPIPS checkpoint has an array of an unknown name, {name}")
