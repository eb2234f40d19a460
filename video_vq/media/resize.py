"""Scales frames so that they cover a size, and crops the centre: the same bytes on every machine.

Pillow's bicubic filter: antialiased (its support grows with the reduction) and computed in fixed
point, so that neither processor nor decoder shows in the result. Reductions of more than 6 times
first take the mean of whole blocks of pixels, so that the filter still reduces 3 times or more.
"""

import numpy as np
from jaxtyping import UInt8

METHOD = "cover, centre crop, Pillow bicubic, reducing gap 3"
REDUCING_GAP = 3.0


def crop_box(
    size_hw: tuple[int, int], target_hw: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return the largest centred box (left, top, right, bottom) with the target's proportions.

    Edges may lie between pixels.
    """
    height, width = size_hw
    target_height, target_width = target_hw
    scale = max(target_height / height, target_width / width)
    box_height, box_width = min(height, target_height / scale), min(width, target_width / scale)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def resize(
    frames: UInt8[np.ndarray, "t h w 3"], target_hw: tuple[int, int]
) -> UInt8[np.ndarray, "t th tw 3"]:
    """Scale each frame until it just covers the target, and crop the centre.

    Args:
        frames: RGB.
        target_hw: height and width to have, in pixels. Frames that have them are returned as
            they are.
    """
    if frames.shape[1:3] == tuple(target_hw):
        return frames
    from PIL import Image

    height, width = target_hw
    box = crop_box((frames.shape[1], frames.shape[2]), target_hw)
    resized = np.empty((len(frames), height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        image = Image.fromarray(np.ascontiguousarray(frame))
        image = image.resize((width, height), Image.Resampling.BICUBIC, box, REDUCING_GAP)
        resized[index] = np.asarray(image)
    return resized
