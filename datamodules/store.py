"""Packed, memory-mapped signals of one institution: written once, read for ever.

A store is a folder `<institution>-<fingerprint>` with shards `signals-00000.i16` (little-endian
int16; exam after exam, lead after lead, sample after sample) and an index with each exam's factors
to millivolts; see `packing`.
"""

from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.packing import Contents, PackedStore, pack_store, texts_digest
from datamodules.recordings import LEADS, RecordingLimits, check_recording, read_recording

# 12 leads x 10 s at 500 Hz are 120 kB: a shard is 61 MB, one worker's task between two renames.
EXAMS_PER_SHARD = 512

INDEX_COLUMNS = ["exam_id", "shard", "offset", "n_samples", "sampling_rate_hz", "waveform"]


@dataclass(frozen=True)
class Signals(Contents):
    """12-lead ECGs as they were recorded."""

    format_version: ClassVar[int] = 1
    files: ClassVar[str] = "recordings"
    path_column: ClassVar[str] = "ecg_path"
    companions: ClassVar[bool] = True
    suffix: ClassVar[str] = ""
    shard_name: ClassVar[str] = "signals-{:05d}.i16"
    dtype: ClassVar[str] = "<i2"
    columns: ClassVar[tuple[tuple[str, pa.DataType], ...]] = (
        ("n_samples", pa.int32()),
        ("sampling_rate_hz", pa.int32()),
        ("waveform", pa.string()),
        ("units_per_mv", pa.list_(pa.float64())),
        ("baseline", pa.list_(pa.int32())),
    )
    advice: ClassVar[str] = (
        "look at the paths in the manifest, and at the limits on length and sampling rate"
    )

    limits: RecordingLimits

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.limits)

    def read(self, path: Path) -> tuple[NDArray[np.int16], dict[str, Any]]:
        recording = read_recording(path)
        check_recording(recording, path, self.limits)
        samples = np.ascontiguousarray(recording.samples, dtype=self.dtype)
        return samples, {
            "n_samples": samples.shape[1],
            "sampling_rate_hz": recording.sampling_rate_hz,
            "waveform": blake2b(samples.data, digest_size=16).hexdigest(),
            "units_per_mv": recording.units_per_mv,
            "baseline": recording.baseline,
        }

    def n_bytes(self, exams: int, in_files: int) -> int:
        return in_files

    @staticmethod
    def digest(table: pa.Table) -> str:
        whole = texts_digest(table, ("exam_id", "waveform"))
        whole.update(table["sampling_rate_hz"].to_numpy().astype("<i4").tobytes())
        whole.update(_matrix(table, "units_per_mv").astype("<f8").tobytes())
        whole.update(_matrix(table, "baseline").astype("<i4").tobytes())
        return whole.hexdigest()


class Store(PackedStore):
    """A whole store of signals, open for reading.

    index: a row an exam: exam_id, shard, offset (int16 values into the shard), n_samples (a lead),
        sampling_rate_hz, waveform (BLAKE2b-128 of the samples, hexadecimal).
    units_per_mv: float64 [n, 12]; baseline: int32 [n, 12], the digital value of 0 mV.
    digest: SHA-256 over exam ids, waveforms, sampling rates, units_per_mv and baselines, in order;
        the same wherever, and by however many workers, the recordings were packed.
    skipped: exam_id, ecg_path and reason of each recording that was left out.
    """

    contents = Signals

    def _open(self, table: pa.Table, facts: dict[str, Any]) -> NDArray[np.int64]:
        self.index = table.select(INDEX_COLUMNS).to_pandas()
        self.units_per_mv: NDArray[np.float64] = _matrix(table, "units_per_mv")
        self.baseline: NDArray[np.int32] = _matrix(table, "baseline")
        self._n_samples = self.index["n_samples"].to_numpy()
        return self._n_samples.astype(np.int64) * len(LEADS)

    def read(self, row: int, n_samples: int | None = None) -> NDArray[np.int16]:
        """The exam's samples [12, n] as recorded, or each lead's first `n_samples`; read-only.

        Raises ValueError if the recording is shorter than `n_samples`.
        """
        n = int(self._n_samples[row])
        if n_samples is not None and n_samples > n:
            exam = self.index["exam_id"].iloc[row]
            raise ValueError(f"exam {exam} has {n} samples a lead, fewer than {n_samples}")
        return self._values(row, len(LEADS) * n).reshape(len(LEADS), n)[:, :n_samples]


def pack(
    exams: pd.DataFrame,
    root: Path,
    store_root: Path,
    *,
    limits: RecordingLimits,
    workers: int,
    on_error: Literal["fail", "skip"],
) -> Store:
    """The store of one institution's `exams` (exam_id, ecg_path, institution), packed if need be.

    What is kept, continued, skipped or refused: see `packing.pack_store`.
    """
    return pack_store(
        Store,
        Signals(limits),
        exams,
        root,
        store_root,
        exams_per_shard=EXAMS_PER_SHARD,
        workers=workers,
        on_error=on_error,
    )


def _matrix(table: pa.Table, column: str) -> NDArray[Any]:
    flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), len(LEADS))
