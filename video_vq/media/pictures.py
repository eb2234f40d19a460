"""Decodes an untrusted image file to RGB, as an image viewer would show it."""

import os
import stat
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from video_vq.media.probe import Limits, UnreadableVideoError

_FORMATS = ("JPEG", "PNG", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # gray or RGB, of at most 8 bits


def read_picture(path: Path, limits: Limits) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image as RGB, rotated according to its EXIF orientation.

    Raises:
        UnreadableVideoError: the file is not a regular JPEG, PNG or WebP file, or the image is
            damaged, too large, animated, transparent, or not gray, palette or RGB of at most 8 bits
            per channel; the reason names the file.
    """
    from PIL import Image, ImageOps

    def refused(reason: str) -> UnreadableVideoError:
        return UnreadableVideoError(path.parent, f"{path.name} {reason}")

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise refused("is not a regular file")
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise refused(f"is {width}x{height}, more than {limits.max_pixels} pixels")
            if getattr(image, "n_frames", 1) > 1:
                raise refused("is animated; a frame is a still picture")
            if image.mode not in _MODES:
                raise refused(f"is of the mode {image.mode}; save it as 8-bit RGB or grey")
            if image.format == "PNG" and (bits := _png_bits(path)) > 8:
                raise refused(f"has {bits} bits per channel; save it as 8-bit RGB or grey")
            shown = ImageOps.exif_transpose(image)
            if shown.has_transparency_data:
                shown = shown.convert("RGBA")
                if np.asarray(shown)[..., 3].min() < 255:
                    raise refused("is transparent; put it on a background")
            return np.array(shown.convert("RGB"))
    except UnreadableVideoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise refused(f"is of more than {limits.max_pixels} pixels") from None
    except Image.UnidentifiedImageError:
        raise refused("is no png, jpg or webp picture") from None
    except MemoryError:
        raise refused("asks for more memory than there is") from None
    except Exception as error:  # Pillow's errors have no common base class
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise refused(f"cannot be decoded ({reason})") from None


def _png_bits(path: Path) -> int:
    """Return the bits per channel of a PNG file; Pillow silently reduces 16-bit color to 8 bits."""
    with open(path, "rb") as file:
        start = file.read(25)
    if start[12:16] != b"IHDR":
        raise ValueError("its header is not its first chunk")
    return start[24]
