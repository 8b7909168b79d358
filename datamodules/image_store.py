"""Packed, memory-mapped chest X-rays of one institution: decoded once, read for ever.

A store is a folder `<institution>-cxr-<fingerprint>` with shards `films-00000.u8` (uint8; film
after film, row after row, all of one size) and an index with each film's own size; see `packing`.
"""

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.packing import Contents, PackedStore, pack_store, texts_digest
from datamodules.radiographs import read_radiograph, to_square

if TYPE_CHECKING:  # it imports torch, which worker processes can do without
    from datamodules.transforms import CXRPreprocessing

# Decoding takes a tenth of a second a film: a shard is some ten seconds of one worker.
EXAMS_PER_SHARD = 128

INDEX_COLUMNS = ["exam_id", "shard", "offset", "height", "width", "image"]


@dataclass(frozen=True)
class Films(Contents):
    """Chest X-rays as squares of `size` pixels."""

    format_version: ClassVar[int] = 1  # also of how files are read and resized
    files: ClassVar[str] = "chest X-rays"
    path_column: ClassVar[str] = "cxr_path"
    companions: ClassVar[bool] = False
    suffix: ClassVar[str] = "-cxr"
    shard_name: ClassVar[str] = "films-{:05d}.u8"
    dtype: ClassVar[str] = "u1"
    columns: ClassVar[tuple[tuple[str, pa.DataType], ...]] = (
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image", pa.string()),
    )
    advice: ClassVar[str] = "look at the paths in the manifest, and at what they lead to"

    size: int

    @property
    def settings(self) -> dict[str, Any]:
        return {"size": self.size}

    def read(self, path: Path) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        pixels = read_radiograph(path).pixels
        square = to_square(pixels, self.size)
        height, width = pixels.shape
        digest = blake2b(square.data, digest_size=16).hexdigest()
        return square, {"height": height, "width": width, "image": digest}

    def n_bytes(self, exams: int, in_files: int) -> int:
        return exams * self.size**2

    @staticmethod
    def digest(table: pa.Table) -> str:
        whole = texts_digest(table, ("exam_id", "image"))
        for column in ("height", "width"):
            whole.update(table[column].to_numpy().astype("<i4").tobytes())
        return whole.hexdigest()


class ImageStore(PackedStore):
    """A whole store of chest X-rays, open for reading.

    index: a row an exam: exam_id, shard, offset (bytes into the shard), height and width (of the
        film itself, in pixels), image (BLAKE2b-128 of the packed pixels, hexadecimal).
    digest: SHA-256 over exam ids, images, heights and widths, in order; the same wherever, and by
        however many workers, the films were packed.
    skipped: exam_id, cxr_path and reason of each film that was left out.
    """

    contents = Films

    def _open(self, table: pa.Table, facts: dict[str, Any]) -> NDArray[np.int64]:
        self.index = table.select(INDEX_COLUMNS).to_pandas()
        self.size: int = facts["settings"]["size"]
        return np.full(len(table), self.size**2)

    def read(self, row: int) -> NDArray[np.uint8]:
        """The exam's film [size, size], read-only."""
        return self._values(row, self.size**2).reshape(self.size, self.size)


def pack_images(
    exams: pd.DataFrame,
    root: Path,
    store_root: Path,
    *,
    preprocessing: "CXRPreprocessing",
    workers: int,
    on_error: Literal["fail", "skip"],
) -> ImageStore:
    """The store of one institution's `exams` (exam_id, cxr_path, institution), packed if need be.

    What is kept, continued, skipped or refused: see `packing.pack_store`.
    """
    return pack_store(
        ImageStore,
        Films(preprocessing.size),
        exams,
        root,
        store_root,
        exams_per_shard=EXAMS_PER_SHARD,
        workers=workers,
        on_error=on_error,
    )
