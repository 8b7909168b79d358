"""From a film of any size to the square image that is packed."""

import cv2
import numpy as np
from numpy.typing import NDArray


def to_square(pixels: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """[height, width] in 0..1 -> [size, size] in 0..255: its longer side is `size`, the rest black.

    The aspect ratio is kept and the image centred. Shrinking averages over each new pixel's area;
    enlarging is bilinear.
    """
    height, width = pixels.shape
    longer = max(height, width)
    new_height, new_width = (max(1, round(side * size / longer)) for side in (height, width))
    method = cv2.INTER_AREA if size < longer else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, (new_width, new_height), interpolation=method)
    square = np.zeros((size, size), dtype=np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square[top : top + new_height, left : left + new_width] = np.rint(255 * resized.clip(0, 1))
    return square
