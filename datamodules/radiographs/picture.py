"""Reads chest X-rays that were exported as PNG or JPEG."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from datamodules.radiographs.radiograph import RESTORE, Radiograph, RadiographError, quietly

# Grey levels of 255 by which the channels of a grey picture differ once JPEG has rounded them.
ALIKE = 8


def read_picture(path: Path) -> Radiograph:
    """Read a grey PNG or JPEG of 8 or 16 bits, turned as its EXIF orientation says.

    8 bits are for display, and 255 is white; 16 bits often hold fewer, so that their own minimum
    and maximum become black and white. Transparency is not looked at. Raises RadiographError if
    the file is torn, or its picture coloured.
    """
    with quietly():
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as file:
                picture = ImageOps.exif_transpose(file)
                channels = _channels(picture)
        except Exception as error:  # Pillow raises what its decoders happen to raise
            raise RadiographError(
                path,
                f"the picture cannot be decoded: it is torn or garbled ({type(error).__name__})",
                RESTORE,
            ) from None
    if channels.dtype != np.uint8:
        values = channels[..., 0].astype(np.float32)
        values -= values.min()
        values /= max(values.max(), 1)
        return Radiograph(values)
    if (np.ptp(channels, axis=2) > ALIKE).any():
        raise RadiographError(
            path,
            "the picture is coloured, as no X-ray is",
            "Export the chest X-ray in grey, without annotations",
        )
    return Radiograph(channels[..., 0].astype(np.float32) / np.float32(255))


def _channels(picture: Image.Image) -> NDArray[np.generic]:
    """[height, width, 1 or 3]; uint8 unless the picture has more bits."""
    if picture.mode.startswith("I"):
        return np.asarray(picture)[..., None]
    if picture.mode in ("1", "L", "LA"):
        return np.asarray(picture.convert("L"))[..., None]
    return np.asarray(picture.convert("RGB"))
