"""Scales frames to cover a size and crops the center, with the same bytes on every machine.

Pillow's bicubic filter is antialiased (the support grows with the reduction factor) and computed in
fixed point, so the result does not depend on the processor. If frames shrink by a factor of 6 or
more, whole blocks of pixels are averaged first; the filter then shrinks by a factor of at least 3.
"""

import functools
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8

METHOD = "cover as shown, centre crop, Pillow bicubic, reducing gap 3"
REDUCING_GAP = 3.0


@functools.lru_cache(maxsize=64)  # all frames of a video use the same box
def crop_box(
    size_hw: tuple[int, int], target_hw: tuple[int, int], pixel_aspect: Fraction | int = 1
) -> tuple[float, float, float, float]:
    """Return the largest centered box (left, top, right, bottom) with the target's proportions.

    Edges may lie between pixels.

    Args:
        pixel_aspect: width of a pixel divided by its height, as shown; 32/27 for 16:9 NTSC.
    """
    height, width = size_hw
    target_height, target_width = target_hw
    shown = float(width * pixel_aspect)
    scale = max(target_height / height, target_width / shown)
    box_height = min(height, target_height / scale)
    box_width = min(width, target_width / scale / float(pixel_aspect))
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def resize(
    frames: UInt8[np.ndarray, "t h w 3"],
    target_hw: tuple[int, int],
    pixel_aspect: Fraction | int = 1,
) -> UInt8[np.ndarray, "t th tw 3"]:
    """Scale each frame until it just covers the target, and crop the center.

    Args:
        frames: RGB frames.
        target_hw: height and width of the result, in square pixels. Frames of this size with square
            pixels are returned unchanged.
        pixel_aspect: see `crop_box`.
    """
    if frames.shape[1:3] == tuple(target_hw) and pixel_aspect == 1:
        return frames
    from PIL import Image

    height, width = target_hw
    box = crop_box((frames.shape[1], frames.shape[2]), target_hw, pixel_aspect)
    resized = np.empty((len(frames), height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        image = Image.fromarray(np.ascontiguousarray(frame))
        image = image.resize((width, height), Image.Resampling.BICUBIC, box, REDUCING_GAP)
        resized[index] = np.asarray(image)
    return resized
