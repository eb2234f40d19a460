"""Decodes an untrusted still picture to RGB as it is shown."""

import os
import stat
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from video_vq.media.probe import Limits, UnreadableVideoError

_FORMATS = ("JPEG", "PNG", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # of 8 bits, grey or RGB


def read_picture(path: Path, limits: Limits) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture as RGB, rotated according to its EXIF.

    Raises:
        UnreadableVideoError: the picture is damaged, too large by its header, animated,
            transparent, or not 8-bit grey, palette or RGB; the reason names the file.
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
    except Exception as error:  # Pillow has no common base for what it raises
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise refused(f"cannot be decoded ({reason})") from None


def _png_bits(path: Path) -> int:
    """Return the header's bits per channel, as Pillow silently cuts 16 bits of colour to 8."""
    with open(path, "rb") as file:
        start = file.read(25)
    if start[12:16] != b"IHDR":
        raise ValueError("its header is not its first chunk")
    return start[24]
