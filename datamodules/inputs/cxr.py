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

from datamodules.inputs.input import Augmentation, Fitted, Input, Raw, Reader, lowest_highest
from datamodules.manifest import Column
from datamodules.radiographs import content_box, read_radiograph, to_square
from datamodules.radiographs.packed import PackedFilms
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
        pixels = read_radiograph(folder / values["cxr_path"]).pixels
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
