"""How films lie in a store. Without torch, which processes that pack need not load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.radiographs import read_radiograph, to_square
from datamodules.store import Contents


@dataclass(frozen=True)
class PackedFilms(Contents):
    """Chest X-rays as squares of `size` pixels, uint8, row after row, beside each film's own size.

    The longer side becomes `size`, by averages over areas, and the rest is black.
    """

    files: ClassVar[str] = "chest X-rays"
    path_column: ClassVar[str] = "cxr_path"
    companions: ClassVar[bool] = False
    suffix: ClassVar[str] = "-cxr"
    shard_name: ClassVar[str] = "films-{:05d}.u8"
    dtype: ClassVar[str] = "u1"
    exams_per_shard: ClassVar[int] = 128  # at a tenth of a second a film: ten seconds of a worker
    columns: ClassVar[tuple[tuple[str, pa.DataType], ...]] = (
        ("height", pa.int32()),
        ("width", pa.int32()),
    )
    identity: ClassVar[tuple[tuple[str, str], ...]] = (("height", "<i4"), ("width", "<i4"))
    advice: ClassVar[str] = "look at the paths in the manifest, and at what they lead to"
    code: ClassVar[tuple[str, ...]] = ("datamodules.radiographs",)

    size: int

    @property
    def settings(self) -> dict[str, Any]:
        return {"size": self.size}

    def read(self, path: Path) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        pixels = read_radiograph(path).pixels
        height, width = pixels.shape
        return to_square(pixels, self.size), {"height": height, "width": width}

    def n_bytes(self, exams: int, in_files: int) -> int:
        return exams * self.size**2
