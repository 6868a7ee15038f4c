"""Image file -> pixels. The only module that imports Pillow, which is an extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from onnxlr.errors import DataError

__all__ = ["read_pixels"]

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")


def read_pixels(path: Path, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """An upright image, scaled and cropped.

    Args:
        path: of the image.
        size: height and width in pixels. An image of another size is scaled until it just covers this one
            (bicubic, antialiased), then its centre is cropped.
        channels: 3 for RGB, 1 for grey.

    Returns:
        `(height, width, channels)`, from 0 to 255.

    Raises:
        DataError: the file cannot be read as an image, or has more than 8 bits of grey.
    """
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            if opened.mode.startswith(("I", "F")):  # Pillow would clip them
                raise DataError(f"{path}: has more than 8 bits of grey; convert it to 8 bits")
            upright = ImageOps.exif_transpose(opened).convert("RGB" if channels == 3 else "L")
            return np.asarray(_fit(upright, *size), np.uint8).reshape(*size, channels)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise several kinds
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def _fit(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.size == (width, height):
        return image
    if height * image.width >= width * image.height:  # the height decides
        scaled_size = height * image.width // image.height, height
    else:
        scaled_size = width, width * image.height // image.width
    left, top = round((scaled_size[0] - width) / 2), round((scaled_size[1] - height) / 2)
    scaled = image.resize(scaled_size, Image.Resampling.BICUBIC)
    return scaled.crop((left, top, left + width, top + height))
