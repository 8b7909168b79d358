import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from datamodules import transforms
from datamodules.transforms import (
    BNPPreprocessing,
    CXRAugmentation,
    CXRPreprocessing,
    ECGPreprocessing,
)


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
    square = CXRPreprocessing(size).resize(pixels)
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
    square = CXRPreprocessing(100).resize(ramp).astype(int)
    assert (np.diff(square, axis=1) >= 0).all()
    assert np.diff(square, axis=1).max() <= 4
    assert (np.diff(square, axis=0) == 0).all()


def test_images_are_standardised_one_by_one() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 20, 20)).astype(np.uint8)
    images[1] //= 4
    out = CXRPreprocessing(20)(torch.from_numpy(images))
    assert out.shape == (3, 1, 20, 20)
    assert out.dtype == torch.float32
    for image, standardised in zip(images.astype(float), out[:, 0].numpy(), strict=True):
        expected = (image - image.mean()) / image.std(ddof=1)
        np.testing.assert_allclose(standardised, expected, atol=1e-5)
    assert CXRPreprocessing(20)(torch.full((1, 20, 20), 7, dtype=torch.uint8)).abs().max() == 0


def augmentation(**changes: float) -> CXRAugmentation:
    settings = dict.fromkeys(["rotation_degrees", "shift", "scale", "brightness", "contrast"], 0.0)
    return CXRAugmentation(**{**settings, **changes})


ALL = {"rotation_degrees": 10, "shift": 0.1, "scale": 0.1, "brightness": 0.2, "contrast": 0.2}


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
    changed = augmentation(**ALL)(marked(200))
    centres = np.array([centre_of_marker(image) for image in changed])
    assert (centres < 32).all()
    assert len({image.tobytes() for image in changed}) == 200


def test_each_change_is_as_large_as_it_may_be() -> None:
    torch.manual_seed(0)
    start = np.array(centre_of_marker(marked(1)[0]))
    middle = np.array([31.5, 31.5])

    def centres(**changes: float) -> np.ndarray:
        moved = augmentation(**changes)(marked(300))
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
    brighter = augmentation(brightness=0.2)(flat).mean((1, 2)) - 100
    assert brighter.min() == pytest.approx(-51, abs=2)
    assert brighter.max() == pytest.approx(51, abs=2)
    factor = augmentation(contrast=0.5)(flat).mean((1, 2)) / 100
    assert factor.min() == pytest.approx(0.5, abs=0.03)
    assert factor.max() == pytest.approx(1.5, abs=0.03)


def test_no_change_at_all() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    np.testing.assert_array_equal(augmentation()(images), images)


def test_augmentation_follows_torchs_generator() -> None:
    images = marked(5)
    torch.manual_seed(3)
    first, second = augmentation(**ALL)(images), augmentation(**ALL)(images)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    np.testing.assert_array_equal(augmentation(**ALL)(images), first)
    assert not torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(augmentation(**ALL)(images), second)
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
        augmentation(**changes)


TABLE = pd.DataFrame(
    {
        "bnp_pg_ml": [0.2, 1.0, 100.0, None, 1e4],
        "nt_probnp_pg_ml": [None, 5.0, None, 300.0, None],
        "age_years": [40.0, 50.0, None, 70.0, 80.0],
        "sex": pd.Series(["male", "female", "male", None, "female"], dtype="str"),
    }
)
NAN = float("nan")


def test_features_by_hand() -> None:
    features = BNPPreprocessing("bnp_pg_ml", age=True, sex=True).features(TABLE)
    np.testing.assert_allclose(
        features,
        [
            [0, 40, 1],
            [0, 50, 0],
            [4.605170185988092, NAN, 1],
            [NAN, 70, NAN],
            [9.210340371976184, 80, 0],
        ],
    )
    assert features.dtype == np.float64
    assert BNPPreprocessing("bnp_pg_ml", True, True).names == ("bnp_pg_ml", "age_years", "sex")
    other = BNPPreprocessing("nt_probnp_pg_ml", age=False, sex=True).features(TABLE)
    assert BNPPreprocessing("nt_probnp_pg_ml", False, True).names == ("nt_probnp_pg_ml", "sex")
    np.testing.assert_allclose(
        other, [[NAN, 1], [1.6094379124341003, 0], [NAN, 1], [5.703782474656201, NAN], [NAN, 0]]
    )


def test_columns_that_a_table_lacks_are_absent() -> None:
    table = TABLE[["bnp_pg_ml"]]
    features = BNPPreprocessing("bnp_pg_ml", age=True, sex=True).features(table)
    assert np.isnan(features[:, 1:]).all()
    assert np.isnan(BNPPreprocessing("nt_probnp_pg_ml", False, False).features(table)).all()
    assert BNPPreprocessing("bnp_pg_ml", True, True).features(table[:0]).shape == (0, 3)


def test_standardisation_is_scikit_learns() -> None:
    raw = np.random.default_rng(0).lognormal(3, 1, (50, 3))
    raw[:, 2] = 1.0
    fitted = BNPPreprocessing("bnp_pg_ml", True, True).fitted(raw)
    scaler = StandardScaler().fit(raw)
    others = np.random.default_rng(1).lognormal(3, 1, (7, 3))
    out = fitted(torch.from_numpy(others))
    assert out.dtype == torch.float64
    np.testing.assert_allclose(out, scaler.transform(others))
    np.testing.assert_allclose(
        fitted(torch.from_numpy(others).float()), scaler.transform(others), rtol=1e-4
    )


def test_what_bnp_preprocessing_refuses() -> None:
    with pytest.raises(ValueError, match="not one of bnp_pg_ml, nt_probnp_pg_ml"):
        BNPPreprocessing("bnp", True, True)
    unfitted = BNPPreprocessing("bnp_pg_ml", True, True)
    with pytest.raises(ValueError, match="not been fitted"):
        unfitted(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="absent"):
        unfitted.fitted(unfitted.features(TABLE))
    with pytest.raises(ValueError, match="size 0"):
        CXRPreprocessing(0)


def test_they_travel_as_plain_values() -> None:
    unfitted = BNPPreprocessing("bnp_pg_ml", age=True, sex=False)
    fitted = unfitted.fitted(np.array([[1.0, 2.0], [3.0, 5.0]]))
    for made in (unfitted, fitted, CXRPreprocessing(224)):
        again = type(made).from_dict(json.loads(json.dumps(made.as_dict())))
        assert again == made


def test_each_says_which_input_it_is_for() -> None:
    kinds = (ECGPreprocessing, CXRPreprocessing, BNPPreprocessing)
    assert [kind.input for kind in kinds] == ["ecg", "cxr", "bnp"]
    assert "input" not in CXRPreprocessing(8).as_dict()


def test_films_cost_nothing_where_there_are_none() -> None:
    script = (
        "import sys, datamodules.transforms;"
        "print(sorted({'albumentations', 'cv2', 'pydicom'} & set(sys.modules)))"
    )
    root = Path(transforms.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
