"""Conversion of clips to network input, exactly as in each published FVD protocol."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.metrics.protocol import LEAST_FRAMES, PADDED, FVDProtocol
from video_vq.nn.inputs import Clips, as_tensor, check_levels

NETWORK_SIZE = 224
# Number of pixels per chunk (12 MB of float32), but at least one frame.
CHUNK_PIXELS = 1 << 20
# Error of a float32 row position relative to the frame's height: a few roundings of 2^-24.
POSITION_ERROR = 2.0**-21


def network_input(clips: Clips, protocol: FVDProtocol) -> Float[Tensor, "b c t2 224 224"]:
    """Convert clips to a protocol's network input, in float32.

    Args:
        clips: RGB in 0..255 as uint8, or as float if the protocol scores unrounded clips; a tensor
            or a NumPy array.
        protocol: FVD protocol, which determines the resize, the crop and the input range.

    Raises:
        InputError: the clips are empty, not RGB or not of the protocol's length; or they are floats
            outside 0..255 or in [0, 1], floats for a protocol of uint8 pixels, or neither uint8 nor
            floats.
    """
    return resized(checked_clips(clips, protocol), protocol)


def resized(
    clips: Num[Tensor, "b t h w c"], protocol: FVDProtocol
) -> Float[Tensor, "b c t2 224 224"]:
    """Return the network input for clips returned by `checked_clips`."""
    num_frames, height, width = clips.shape[1:4]
    frames = rearrange(clips, "b t h w c -> (b t) h w c")
    step = min(len(frames), max(1, CHUNK_PIXELS // (height * width)))
    chunk = torch.empty((step, height, width, 3), dtype=torch.float32, device=clips.device)
    video = chunk.new_empty((len(frames), NETWORK_SIZE, NETWORK_SIZE, 3))
    for start in range(0, len(frames), step):
        pixels = frames[start : start + step]
        prepare_frames(chunk[: len(pixels)].copy_(pixels), protocol, video[start : start + step])
    return network_layout(video.unflatten(0, (-1, num_frames)), protocol)


def network_layout(
    clips: Float[Tensor, "b t h w c"], protocol: FVDProtocol
) -> Float[Tensor, "b c t2 h w"]:
    """Return frames in the network's axis order, padded with the last frame up to `pad_to`."""
    missing = max(0, (protocol.pad_to or 0) - clips.shape[1])
    if missing:
        clips = torch.cat([clips, clips[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
    return rearrange(clips, "b t h w c -> b c t h w")


def prepare_frames(
    frames: Float[Tensor, "n h w c"], protocol: FVDProtocol, target: Float[Tensor, "n 224 224 c"]
) -> None:
    """Resize, crop and scale frames to a protocol's network input, and write them to `target`.

    Args:
        frames: RGB in 0..255; rows that are not in `rows_read` may contain any finite values.
        protocol: FVD protocol, which determines the resize, the crop and the input range.
        target: tensor to write to.
    """
    frames = rearrange(frames, "n h w c -> n c h w")
    height, width = frames.shape[-2:]
    frames = _crop_centre(_resize(frames, _resized_size((height, width), protocol), protocol))
    target.copy_(rearrange(frames, "n c h w -> n h w c"))
    target.mul_(2.0).div_(255.0).sub_(1.0).mul_(protocol.input_range)


def rows_read(size_hw: tuple[int, int], protocols: Iterable[FVDProtocol]) -> Int[np.ndarray, " r"]:
    """Return the sorted indices of the rows that the protocols read from frames of a given size.

    Bilinear resizing without antialiasing reads at most two input rows per output row. With 224
    output rows, a protocol reads fewer than half of the rows of a full HD frame.
    """
    height = size_hw[0]
    changes = np.zeros(height + 1, np.int64)
    for protocol in protocols:
        new_height = _resized_size(size_hw, protocol)[0]
        centre = 0.5 if protocol.resize == "half-pixel" else 0.0
        position = (np.arange(new_height) + centre) * (height / new_height) - centre
        first = np.floor(position - POSITION_ERROR * height)
        last = np.floor(position + POSITION_ERROR * height) + 1
        np.add.at(changes, first.clip(0, height - 1).astype(int), 1)
        np.add.at(changes, last.clip(0, height - 1).astype(int) + 1, -1)
    return np.flatnonzero(changes[:-1].cumsum())


def check_length(num_frames: int, protocol: FVDProtocol) -> None:
    """Check that clips have the length that a protocol requires.

    Raises:
        InputError: the length is wrong; the message suggests what to do.
    """
    if protocol.num_frames not in (None, num_frames):
        way_out = f"take --protocol {PADDED}, which repeats the last frame"
        if num_frames >= LEAST_FRAMES:
            way_out = "cut the clips (frames 0-15 of 17), or choose a protocol of that length"
        raise InputError(
            f"FVD protocol {protocol.name!r} scores {protocol.num_frames} frames, found clips of "
            f"{num_frames}; FVD of another length is another metric: {way_out}"
        )
    if protocol.pad_to is not None and num_frames >= LEAST_FRAMES:
        raise InputError(
            f"FVD protocol {protocol.name!r} is for clips of fewer than {LEAST_FRAMES} frames, "
            f"found {num_frames}; choose another protocol ('google' takes any number)"
        )


def checked_clips(given: Clips, protocol: FVDProtocol) -> Num[Tensor, "b t h w c"]:
    """Check clips for a protocol, and return them as a tensor; see `network_input`.

    Floats in [0, 1] are detected over all clips together, because a single clip may be dark.

    Raises:
        InputError: as for `network_input`.
    """
    clips = as_tensor(given, "clips")
    if clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
        raise InputError(f"FVD takes RGB clips of b t h w 3, found {tuple(clips.shape)}")
    check_length(clips.shape[1], protocol)
    if clips.dtype == torch.uint8:
        return clips
    if not clips.is_floating_point() or protocol.pixels == "uint8":
        raise InputError(
            f"FVD protocol {protocol.name!r} scores {protocol.pixels} clips, found {clips.dtype}; "
            "round them to uint8 in 0..255"
        )
    check_levels(clips)
    return clips


def _resized_size(size_hw: tuple[int, int], protocol: FVDProtocol) -> tuple[int, int]:
    """Return the height and width after the resize, before the crop.

    The rounding follows VideoGPT, including float errors: some square sizes become 225 and lose a
    row.
    """
    if protocol.fit == "squash":
        return NETWORK_SIZE, NETWORK_SIZE
    height, width = size_hw
    scale = NETWORK_SIZE / min(height, width)
    if height < width:
        return NETWORK_SIZE, math.ceil(width * scale)
    return math.ceil(height * scale), NETWORK_SIZE


def _crop_centre(frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 224 224"]:
    top, left = ((side - NETWORK_SIZE) // 2 for side in frames.shape[-2:])
    return frames[..., top : top + NETWORK_SIZE, left : left + NETWORK_SIZE]


def _resize(
    frames: Float[Tensor, "n c h w"], size_hw: tuple[int, int], protocol: FVDProtocol
) -> Float[Tensor, "n c h2 w2"]:
    if frames.shape[-2:] == size_hw:
        return frames
    if protocol.resize == "half-pixel":
        return F.interpolate(frames, size=size_hw, mode="bilinear", align_corners=False)
    if protocol.resize == "tf1-legacy":
        return tf1_legacy_bilinear(frames, size_hw)
    raise ValueError(f"protocol {protocol.name!r} names an unknown resize {protocol.resize!r}")


def tf1_legacy_bilinear(
    frames: Float[Tensor, "n c h w"], size_hw: tuple[int, int]
) -> Float[Tensor, "n c h2 w2"]:
    """Resize like TensorFlow 1's `resize_bilinear(align_corners=False)`: output i samples i·in/out.

    Columns are resized first, then rows, as in TensorFlow's kernel.
    """
    rows, next_rows, row_weight = _legacy_samples(frames.shape[-2], size_hw[0], frames)
    columns, next_columns, column_weight = _legacy_samples(frames.shape[-1], size_hw[1], frames)
    left = frames[..., columns]
    frames = left + (frames[..., next_columns] - left) * column_weight
    top = frames[..., rows, :]
    return top + (frames[..., next_rows, :] - top) * row_weight[:, None]


def _legacy_samples(size: int, new_size: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each output sample, the lower index, the upper index and the upper weight."""
    position = torch.arange(new_size, dtype=torch.float32, device=like.device) * (size / new_size)
    lower = position.floor()
    upper = (lower + 1).clamp(max=size - 1)
    return lower.long(), upper.long(), position - lower
