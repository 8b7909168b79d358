"""From a film of any size to the square image that is packed."""

import numpy as np
from numpy.typing import NDArray


def content_box(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Where a film of `height` x `width` pixels lies in its square of `size` pixels a side.

    Returns (top, left, new_height, new_width) in the square's pixels: the film fills the rows
    `top` to `top + new_height` and the columns `left` to `left + new_width`, ends excluded, and
    what is outside them is padding. The longer side fills the square, the other keeps the aspect
    ratio to the nearest pixel and has one at least; an odd pixel of padding goes below or to the
    right. Raises ValueError for a side without a pixel.
    """
    if min(height, width, size) < 1:
        raise ValueError(f"a film of {height} x {width} pixels has no square of {size}")
    longer = max(height, width)
    new_height, new_width = (max(1, round(side * size / longer)) for side in (height, width))
    return (size - new_height) // 2, (size - new_width) // 2, new_height, new_width


def to_square(pixels: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """[height, width] in 0..1 -> [size, size] in 0..255: its longer side is `size`, the rest black.

    The aspect ratio is kept and the image centred, in `content_box`. Shrinking averages over each
    new pixel's area; enlarging is bilinear.
    """
    import cv2  # only where films are

    height, width = pixels.shape
    top, left, new_height, new_width = content_box(height, width, size)
    method = cv2.INTER_AREA if size < max(height, width) else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, (new_width, new_height), interpolation=method)
    square = np.zeros((size, size), dtype=np.uint8)
    square[top : top + new_height, left : left + new_width] = np.rint(255 * resized.clip(0, 1))
    return square
