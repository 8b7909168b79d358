"""Where a film of any format comes to lie in the square that is packed."""

import numpy as np
import pytest

from datamodules.radiographs.square import content_box, to_square


@pytest.mark.parametrize(
    ("height", "width", "size", "box"),
    [
        (430, 350, 224, (0, 21, 224, 182)),  # portrait
        (350, 430, 224, (21, 0, 182, 224)),  # landscape
        (400, 400, 224, (0, 0, 224, 224)),
        (64, 64, 64, (0, 0, 64, 64)),
        (100, 60, 25, (0, 5, 25, 15)),
        (100, 57, 25, (0, 5, 25, 14)),  # odd: 5 columns to the left, 6 to the right
        (3, 2, 30, (0, 5, 30, 20)),  # enlarged
        (1, 5000, 64, (31, 0, 1, 64)),  # a strip keeps one row
        (5000, 1, 64, (0, 31, 64, 1)),
        (1, 1, 8, (0, 0, 8, 8)),
        (3000, 2000, 1, (0, 0, 1, 1)),
    ],
)
def test_the_box_is_what_the_film_fills(
    height: int, width: int, size: int, box: tuple[int, int, int, int]
) -> None:
    assert content_box(height, width, size) == box
    square = to_square(np.ones((height, width), dtype=np.float32), size)
    top, left, new_height, new_width = box
    expected = np.zeros((size, size), dtype=np.uint8)
    expected[top : top + new_height, left : left + new_width] = 255
    np.testing.assert_array_equal(square, expected)


def test_any_film_is_whole_centred_and_of_its_own_aspect() -> None:
    rng = np.random.default_rng(0)
    for height, width, size in rng.integers(1, 3000, (2000, 3)).tolist():
        top, left, new_height, new_width = content_box(height, width, size)
        assert max(new_height, new_width) == size
        for before, length in ((top, new_height), (left, new_width)):
            assert 0 <= before <= size - before - length <= before + 1
        scale = size / max(height, width)
        assert abs(new_height - max(1, height * scale)) <= 0.5
        assert abs(new_width - max(1, width * scale)) <= 0.5


@pytest.mark.parametrize("sides", [(0, 5, 8), (5, 0, 8), (5, 5, 0)])
def test_a_side_without_a_pixel_is_refused(sides: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="has no square"):
        content_box(*sides)
