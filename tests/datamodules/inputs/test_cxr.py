import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from places import REPOSITORY
from radiographs.films import film

from datamodules.errors import InputError
from datamodules.inputs.cxr import CXR, CXRAugmentation, own_pixels
from datamodules.radiographs import read_radiograph, to_square
from datamodules.radiographs.square import content_box
from datamodules.store import pack


def overlaps(old: int, new: int) -> np.ndarray:
    """(new, old): the share of each new pixel that lies in each old one."""
    edges = np.arange(new + 1) * old / new
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old)
    inside = np.minimum(right, pixel + 1) - np.maximum(left, pixel)
    return inside.clip(0) / (old / new)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(100, 100, 32), (90, 60, 30), (77, 131, 40), (48, 48, 48)]
)
def test_shrinking_averages_over_areas_and_keeps_the_aspect(
    height: int, width: int, size: int
) -> None:
    pixels = np.random.default_rng(0).random((height, width), dtype=np.float32)
    new_height, new_width = (
        round(height * size / max(pixels.shape)),
        round(width * size / max(pixels.shape)),
    )
    expected = 255 * overlaps(height, new_height) @ pixels @ overlaps(width, new_width).T
    square = to_square(pixels, size)
    assert square.dtype == np.uint8
    assert square.shape == (size, size)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    inside = np.s_[top : top + new_height, left : left + new_width]
    np.testing.assert_allclose(square[inside], expected, atol=0.51)
    border = np.ones_like(square, dtype=bool)
    border[inside] = False
    assert (square[border] == 0).all()


def test_a_small_film_is_enlarged() -> None:
    ramp = np.linspace(0, 1, 50, dtype=np.float32)[None].repeat(50, axis=0)
    square = to_square(ramp, 100).astype(int)
    assert (np.diff(square, axis=1) >= 0).all()
    assert np.diff(square, axis=1).max() <= 4
    assert (np.diff(square, axis=0) == 0).all()


def test_images_are_standardised_one_by_one() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 20, 20)).astype(np.uint8)
    images[1] //= 4
    whole = torch.ones(3, 20, 20, dtype=torch.bool)
    out = CXR(20).prepare((torch.from_numpy(images), whole))
    assert out.shape == (3, 1, 20, 20)
    assert out.dtype == torch.float32
    for image, standardised in zip(images.astype(float), out[:, 0].numpy(), strict=True):
        expected = (image - image.mean()) / image.std(ddof=1)
        np.testing.assert_allclose(standardised, expected, atol=1e-5)
    flat = torch.full((1, 20, 20), 7, dtype=torch.uint8)
    assert CXR(20).prepare((flat, whole[:1])).abs().max() == 0


def augmentation(**changes: float) -> CXRAugmentation:
    settings = dict.fromkeys(["rotation_degrees", "shift", "scale", "brightness", "contrast"], 0.0)
    return CXRAugmentation(**{**settings, **changes})


ALL = {"rotation_degrees": 10, "shift": 0.1, "scale": 0.1, "brightness": 0.2, "contrast": 0.2}


def changed(images: np.ndarray, **changes: float) -> np.ndarray:
    """Films that fill their square, as `augmentation` gives them back."""
    own = torch.ones(images.shape, dtype=torch.bool)
    return augmentation(**changes)((torch.from_numpy(images), own))[0].numpy()


def marked(n: int, size: int = 64) -> np.ndarray:
    """Grey films with a bright marker in the upper left quarter."""
    images = np.full((n, size, size), 60, dtype=np.uint8)
    images[:, size // 4 : size // 4 + 6, size // 4 : size // 4 + 6] = 255
    return images


def centre_of_marker(image: np.ndarray) -> tuple[float, float]:
    row, column = np.nonzero(image > image.max() - 20)
    return row.mean(), column.mean()


def test_left_stays_left_and_up_stays_up() -> None:
    torch.manual_seed(0)
    films = changed(marked(200), **ALL)
    centres = np.array([centre_of_marker(image) for image in films])
    assert (centres < 32).all()
    assert len({image.tobytes() for image in films}) == 200


def test_each_change_is_as_large_as_it_may_be() -> None:
    torch.manual_seed(0)
    start = np.array(centre_of_marker(marked(1)[0]))
    middle = np.array([31.5, 31.5])

    def centres(**changes: float) -> np.ndarray:
        moved = changed(marked(300), **changes)
        return np.array([centre_of_marker(image) for image in moved]) - middle

    shifted = centres(shift=0.125) - (start - middle)
    assert np.abs(shifted).max() == pytest.approx(8, abs=1.1)  # whole pixels
    assert abs(shifted.mean()) < 1
    turned = centres(rotation_degrees=20)
    angles = np.degrees(np.arctan2(*turned.T) - np.arctan2(*(start - middle)))
    assert np.abs(angles).max() == pytest.approx(20, abs=2)
    grown = np.linalg.norm(centres(scale=0.2), axis=1) / np.linalg.norm(start - middle)
    assert grown.min() == pytest.approx(0.8, abs=0.04)
    assert grown.max() == pytest.approx(1.2, abs=0.04)


def test_brightness_adds_and_contrast_multiplies() -> None:
    torch.manual_seed(0)
    flat = np.full((300, 32, 32), 100, dtype=np.uint8)
    brighter = changed(flat, brightness=0.2).mean((1, 2)) - 100
    assert brighter.min() == pytest.approx(-51, abs=2)
    assert brighter.max() == pytest.approx(51, abs=2)
    factor = changed(flat, contrast=0.5).mean((1, 2)) / 100
    assert factor.min() == pytest.approx(0.5, abs=0.03)
    assert factor.max() == pytest.approx(1.5, abs=0.03)


def test_no_change_at_all() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    np.testing.assert_array_equal(changed(images), images)


def test_augmentation_follows_torchs_generator() -> None:
    images = marked(5)
    torch.manual_seed(3)
    first, second = changed(images, **ALL), changed(images, **ALL)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(changed(images, **ALL), first)
    assert not torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(changed(images, **ALL), second)
    assert (first != second).any()
    assert first.dtype == np.uint8
    assert first.shape == images.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotation_degrees": 90}, "between 0 and 45"),
        ({"scale": 1.0}, "scale 1.0 is not between 0 and 1"),
        ({"shift": -0.1}, "shift -0.1"),
    ],
)
def test_augmentations_that_cannot_be(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CXR(8).augmentation({**dict.fromkeys(ALL, 0.0), **changes})


def test_what_is_read_of_an_exam() -> None:
    made = CXR(224)
    assert made.reads == ("cxr_path",)
    assert made.arguments == {"cxr": "cxr_path"}
    assert made.shape == {"channels": 1, "size": 224}
    assert CXR.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    with pytest.raises(ValueError, match="size 0"):
        CXR(0)


def test_films_cost_nothing_where_there_are_none() -> None:
    script = (
        "import sys, datamodules.inputs.cxr;"
        "print(sorted({'albumentations', 'cv2', 'pydicom'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def in_files(folder: Path) -> dict[str, NDArray[np.float64]]:
    """A square film, and 35 x 43 of it, each also with its greys halved and lifted: their greys.

    Written as PNG; bone on noise, so that every row and column differs.
    """
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:430, :430]
    bone = (abs(x - 215) < 107) & (y > 170)
    square = (50 + 100 * bone + rng.normal(0, 4, (430, 430))).clip(0, 255).astype(np.uint8)
    films = {"square": square, "narrow": square[:, 40:390], "wide": square[40:390]}
    films |= {f"{name}-dim": (grey // 2 + 60).astype(np.uint8) for name, grey in films.items()}
    for name, grey in films.items():
        Image.fromarray(grey).save(folder / f"{name}.png")
    return {name: grey.astype(np.float64) for name, grey in films.items()}


def read_alone(folder: Path, name: str, size: int) -> torch.Tensor:
    read = CXR(size).of_exam({"cxr_path": f"{name}.png"}, folder)
    assert read is not None
    raw, measured = read
    with Image.open(folder / f"{name}.png") as picture:
        sides = picture.size
    assert tuple(measured[f"image {side} (pixels)"] for side in ("width", "height")) == sides
    return CXR(size).prepare(raw)


def read_packed(folder: Path, names: list[str], size: int) -> torch.Tensor:
    exams = pd.DataFrame(
        {"exam_id": names, "cxr_path": [f"{name}.png" for name in names], "institution": "north"}
    )
    made = CXR(size)
    store = pack(made.contents, exams, folder, folder / "stores", workers=1, on_error="fail")
    exams = exams.assign(row=store.rows_of(exams["exam_id"]))
    number = np.zeros(len(exams), dtype=np.int64)
    return made.prepare(made.reader(exams, [store], number)(np.arange(len(exams))))


def test_neither_a_films_format_nor_its_exposure_is_written_into_the_tissue(
    tmp_path: Path,
) -> None:
    size, sides = 224, {}
    for name, grey in in_files(tmp_path).items():
        sides[name] = grey.shape
    packed = read_packed(tmp_path, list(sides), size)
    of = dict(zip(sides, packed[:, 0], strict=True))
    for name, prepared in of.items():
        torch.testing.assert_close(read_alone(tmp_path, name, size)[0, 0], prepared)
        top, left, height, width = content_box(*sides[name], size)
        own = prepared[top : top + height, left : left + width]
        assert own.numel() == prepared.numel() or min(height, width) < size
        assert own.mean().abs() < 1e-5
        assert own.std() == pytest.approx(1, abs=1e-5)
        padding = prepared.clone()
        padding[top : top + height, left : left + width] = 0
        assert (padding == 0).all()
    for name in ("square", "narrow", "wide"):
        plain, dim = of[name], of[f"{name}-dim"]
        # A dim film's packed greys g' are g / 2 + 60 but for rounding: of its own greys down by
        # less than 1 (in units of g), of its squares' by 0.5 of g' and of the plain ones' by 0.5 of
        # g. So 2 (g' - 60) - g stays in a range 4 wide, which moves a centred grey by 4 at most and
        # the deviation by half of that.
        pixels = read_radiograph(tmp_path / f"{name}-dim.png").pixels
        grey = to_square(pixels, size)[own_pixels(*sides[name], size)]
        spread = 2 * grey.astype(float).std(ddof=1)
        assert ((dim - plain).abs() <= (4 + 2 * plain.abs()) / spread + 1e-5).all()
        assert (dim - plain).abs().max() < 0.15


def test_a_film_of_one_grey_is_zero_everywhere() -> None:
    own = torch.from_numpy(np.stack([own_pixels(40, 20, 16), own_pixels(400, 1, 16)]))
    assert own.sum((1, 2)).tolist() == [8 * 16, 16]
    assert (CXR(16).prepare((torch.where(own, 200, 0).to(torch.uint8), own)) == 0).all()
    one = torch.from_numpy(own_pixels(1, 400, 1)[None])
    assert (CXR(1).prepare((torch.full((1, 1, 1), 9, dtype=torch.uint8), one)) == 0).all()


def test_a_films_own_pixels_move_with_it() -> None:
    size = 64
    own = np.zeros((200, size, size), dtype=np.bool_)
    own[:, :, 12:52] = True
    images = np.where(own, 120, 0).astype(np.uint8)
    torch.manual_seed(0)
    geometry = {"rotation_degrees": 10, "shift": 0.1, "scale": 0.1}
    moved, mask = augmentation(**geometry)((torch.from_numpy(images), torch.from_numpy(own)))
    assert mask.dtype == torch.bool
    assert len({film.numpy().tobytes() for film in mask}) > 190
    # All but the edge, where a pixel is partly the film's.
    edge = (moved > 0) & (moved < 120)
    assert torch.equal(mask[~edge], moved[~edge] == 120)
    assert edge.float().mean() < 0.05

    brighter = augmentation(brightness=0.2)((torch.from_numpy(images), torch.from_numpy(own)))
    assert torch.equal(brighter[1], torch.from_numpy(own))
    prepared = CXR(size).prepare(brighter)[:, 0]
    assert (prepared[~torch.from_numpy(own)] == 0).all()


def test_files_of_a_folder_that_are_films(tmp_path: Path) -> None:
    film(tmp_path / "1.2.840.7")
    film(tmp_path / "a.dcm")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "b.PNG")
    (tmp_path / "notes.txt").write_text("not a film")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    made = CXR(8)
    found = made.files_in(tmp_path)
    assert [path.name for path in found] == ["1.2.840.7", "a.dcm", "b.PNG"]
    assert [made.exam_of(path) for path in found] == ["1.2.840.7", "a", "b"]
    assert made.of_exam({"ecg_path": "a.dcm"}, tmp_path) is None
    with pytest.raises(InputError, match="there is no such file"):
        made.of_exam({"cxr_path": "none.png"}, tmp_path)


def test_no_augmentation_is_none() -> None:
    assert CXR(8).augmentation({}) is None
