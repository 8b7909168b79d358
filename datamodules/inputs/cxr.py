"""The frontal chest X-ray: from films to a network's input."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import InputError
from datamodules.inputs.input import (
    Augmentation,
    Fitted,
    Input,
    Raw,
    Reader,
    as_numbers,
    lowest_highest,
)
from datamodules.manifest import Column
from datamodules.radiographs import content_box, read_radiograph, to_square
from datamodules.radiographs.packed import PackedFilms
from datamodules.radiographs.radiograph import MIN_SIDE
from datamodules.store import Store

SIDES = {"width": "image width (pixels)", "height": "image height (pixels)"}

FILMS = (".dcm", ".png", ".jpg", ".jpeg")

# uint8 squares (b, size, size), and which of their pixels are the film's own, bool.
Films = tuple[NDArray[np.uint8], NDArray[np.bool_]]


@dataclass(frozen=True)
class CXR(Input):
    """Chest X-rays as squares of `size` pixels: the network's input is (B, 1, size, size).

    A film is standardised over its own pixels. What pads it to a square is 0, the film's mean, so
    that neither the film's format nor its exposure is written into the tissue.
    """

    columns: ClassVar[Mapping[str, Column]] = {"cxr_path": Column("path")}
    array: ClassVar[str] = "cxr"

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size {self.size} is not a number of pixels")

    @property
    def label(self) -> str:
        return "chest X-ray"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("cxr_path",)

    @property
    def arguments(self) -> Mapping[str, str]:
        return {"cxr": "cxr_path"}

    @property
    def shape(self) -> dict[str, int]:
        return {"channels": 1, "size": self.size}

    @property
    def contents(self) -> PackedFilms:
        return PackedFilms(self.size)

    def reader(
        self, exams: pd.DataFrame, stores: Sequence[Store], institution: NDArray[np.int64]
    ) -> "CXRReader":
        return CXRReader(stores, institution, exams["row"].to_numpy(np.int64), self.size)

    def augmentation(self, settings: Mapping[str, Any]) -> "CXRAugmentation | None":
        return CXRAugmentation(**settings) if settings else None

    def prepare(self, raw: Raw) -> Tensor:
        """uint8 (B, size, size) and the film's own pixels, bool -> (B, 1, size, size): these have
        mean 0 and deviation 1, all others are 0."""
        images, own = raw
        grey, own = images.float()[:, None], own[:, None]
        count = own.sum((2, 3), keepdim=True).clamp_min(1)
        centred = torch.where(own, grey - (grey * own).sum((2, 3), keepdim=True) / count, 0.0)
        variance = centred.square().sum((2, 3), keepdim=True) / (count - 1).clamp_min(1)
        standardised: Tensor = centred / variance.sqrt().clamp_min(1e-6)
        return standardised

    def fit(self, read: Reader, exams: pd.DataFrame, stores: Mapping[str, Store]) -> Fitted:
        sizes = pd.concat(
            [
                store.index.iloc[exams.loc[exams["institution"] == name, "row"]]
                for name, store in stores.items()
            ]
        )
        return Fitted(self, {name: lowest_highest(sizes[side]) for side, name in SIDES.items()})

    def of_exam(
        self, values: Mapping[str, Any], folder: Path
    ) -> tuple[Raw, dict[str, float]] | None:
        if "cxr_path" not in values:
            return None
        return self._of_pixels(read_radiograph(folder / values["cxr_path"]).pixels)

    def of_array(self, array: Any, sampling_rate_hz: float | None) -> tuple[Raw, dict[str, float]]:
        """`array` is (height, width) of greys, white the highest: from 0 to 1, or whole numbers of
        8 bits (255 is white) or 16 bits (their own lowest and highest are black and white)."""
        return self._of_pixels(_greys(as_numbers(array, "cxr")))

    def example(self) -> dict[str, Any]:
        """A gradient."""
        side = max(MIN_SIDE, min(64, self.size))
        return {"cxr": np.round(np.add.outer(np.arange(side), np.arange(side)) / (2 * side - 2), 2)}

    def _of_pixels(self, pixels: NDArray[np.float32]) -> tuple[Raw, dict[str, float]]:
        height, width = pixels.shape
        square, own = to_square(pixels, self.size), own_pixels(height, width, self.size)
        raw = torch.from_numpy(square[None]), torch.from_numpy(own[None])
        return raw, {SIDES["width"]: width, SIDES["height"]: height}

    @property
    def endings(self) -> str:
        return "DICOM, PNG or JPEG"

    def files_in(self, folder: Path) -> list[Path]:
        files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
        return [path for path in files if path.suffix.lower() in FILMS or _is_dicom(path)]

    def exam_of(self, path: Path) -> str:
        return path.stem if path.suffix.lower() in FILMS else path.name

    def describe(self) -> str:
        return (
            f"film padded to a square of {self.size} x {self.size} pixels, standardised film by "
            "film over its own pixels"
        )


def _greys(array: NDArray[Any]) -> NDArray[np.float32]:
    """An array's pixels from 0 (black) to 1 (white), as a picture of them is read; InputError."""
    if array.ndim != 2:
        coloured = array.ndim == 3 and array.shape[-1] in (3, 4)
        told = "in colour: give one channel of greys" if coloured else "not (height, width)"
        raise InputError(f"cxr: the array is {array.shape}, {told}.")
    if min(array.shape) < MIN_SIDE:
        height, width = array.shape
        raise InputError(
            f"cxr: the array has {width} x {height} pixels, fewer than {MIN_SIDE} on a side. Give "
            "the chest X-ray itself, not its thumbnail."
        )
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise InputError(
            "cxr: every pixel has the same value. Give a chest X-ray, or leave it out."
        )
    whole = array.dtype.kind in "iu" or (high > 1 and bool((array == array.round()).all()))
    if low < 0 or high > (65535 if whole else 1):
        raise InputError(
            f"cxr: its values run from {low:g} to {high:g}. Give greys from 0 (black) to 1 "
            "(white), or whole numbers of 8 or 16 bits."
        )
    pixels = array.astype(np.float32)
    if not whole:
        return pixels
    if array.dtype.itemsize == 1 or (array.dtype != np.uint16 and high <= 255):
        return pixels / np.float32(255)
    pixels -= pixels.min()
    return np.asarray(pixels / pixels.max(), np.float32)


def own_pixels(height: int, width: int, size: int) -> NDArray[np.bool_]:
    """Which pixels [size, size] of a packed square are the film's, by the film's own size."""
    top, left, rows, columns = content_box(height, width, size)
    own = np.zeros((size, size), dtype=np.bool_)
    own[top : top + rows, left : left + columns] = True
    return own


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"


class CXRReader:
    """Chest X-rays of one or more stores, as they were packed."""

    def __init__(
        self,
        stores: Sequence[Store],
        institution: NDArray[np.int64],
        row: NDArray[np.int64],
        size: int,
    ) -> None:
        self.stores, self.institution, self.row, self.size = stores, institution, row, size
        self.sides = [store.index[["height", "width"]].to_numpy() for store in stores]

    def __call__(self, exams: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """uint8 and bool (b, size, size): the squares, and their films' own pixels."""
        places = [(self.institution[exam], self.row[exam]) for exam in exams]
        images = [self.stores[i].read(row).reshape(self.size, self.size) for i, row in places]
        sides = [self.sides[i][row].tolist() for i, row in places]
        own = [own_pixels(height, width, self.size) for height, width in sides]
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(own))


@dataclass(frozen=True)
class CXRAugmentation(Augmentation):
    """Random changes to training films; left stays left, for the heart lies on one side.

    rotation_degrees turns by up to that angle either way, shift moves by up to that share of the
    side, scale enlarges or shrinks by up to that share; brightness adds, and contrast multiplies
    by, up to that share of the whole range. By albumentations, on the CPU.
    """

    on_device: ClassVar[bool] = False

    rotation_degrees: float
    shift: float
    scale: float
    brightness: float
    contrast: float

    def __post_init__(self) -> None:
        if not 0 <= self.rotation_degrees <= 45:
            raise ValueError(f"rotation_degrees {self.rotation_degrees} is not between 0 and 45")
        for name in ("shift", "scale", "brightness", "contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not between 0 and 1")

    def __call__(self, films: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """uint8 and bool (B, size, size) -> the same shapes, each film changed by itself."""
        changes = _film_changes(self)
        changes.set_random_seed(int(torch.randint(2**31, ())))
        changed = [
            changes(image=image.numpy(), mask=own.numpy().astype(np.uint8))
            for image, own in zip(*films, strict=True)
        ]
        images = np.stack([film["image"] for film in changed])
        own = np.stack([film["mask"] for film in changed]).astype(np.bool_)
        return torch.from_numpy(images), torch.from_numpy(own)


@lru_cache(maxsize=4)
def _film_changes(augmentation: CXRAugmentation) -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else its import asks the network
    import albumentations  # over a second: only where films are trained on

    def either_way(limit: float, around: float = 0) -> tuple[float, float]:
        return around - limit, around + limit

    shift = either_way(augmentation.shift)
    return albumentations.Compose(
        [
            albumentations.Affine(
                rotate=either_way(augmentation.rotation_degrees),
                translate_percent={"x": shift, "y": shift},
                scale=either_way(augmentation.scale, around=1),
                keep_ratio=True,
                p=1,
            ),
            albumentations.RandomBrightnessContrast(
                brightness_limit=either_way(augmentation.brightness),
                contrast_limit=either_way(augmentation.contrast),
                p=1,
            ),
        ]
    )
