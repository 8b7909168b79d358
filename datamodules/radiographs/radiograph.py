"""What every reader makes of a file: one Radiograph, or one RadiographError with the remedy."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import FileError

MIN_SIDE = 32  # pixels; a smaller one is a thumbnail or an icon
RESTORE = "Copy the file again from its source"

_one_at_a_time = threading.RLock()


class RadiographError(FileError):
    """A chest X-ray that cannot be used."""


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A frontal chest X-ray as a MONOCHROME2 display shows it, the patient's right on the left.

    pixels: float32 [height, width], 0 (black) to 1 (white), after modality and VOI transformation.
    """

    pixels: NDArray[np.float32]


def check_radiograph(radiograph: Radiograph, path: Path) -> None:
    """Raise RadiographError for an image that is too small, or the same everywhere."""
    height, width = radiograph.pixels.shape
    if min(height, width) < MIN_SIDE:
        raise RadiographError(
            path,
            f"the image has {width} x {height} pixels, fewer than {MIN_SIDE} on a side",
            "Export the chest X-ray itself, not its thumbnail",
        )
    if radiograph.pixels.min() == radiograph.pixels.max():
        raise RadiographError(
            path,
            "every pixel of the image, as it is displayed, has the same value",
            "The export lost the image: export it again or leave it out",
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Read without warnings and log records: they quote the values of whatever is malformed.

    One thread at a time, for warning filters and log levels are the process's.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "PIL")]
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
