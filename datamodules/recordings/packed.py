"""How recordings lie in a store. Without torch, which processes that pack need not load."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.recordings import LEADS, RecordingLimits, check_recording, read_recording
from datamodules.store import Contents, Store


@dataclass(frozen=True)
class Signals(Contents):
    """12-lead ECGs as they were recorded: int16, lead after lead, sample after sample, beside each
    lead's units a millivolt and the digital value of 0 mV.

    A packed record gives back the recording's samples exactly.
    """

    files: ClassVar[str] = "recordings"
    path_column: ClassVar[str] = "ecg_path"
    companions: ClassVar[bool] = True
    suffix: ClassVar[str] = ""
    shard_name: ClassVar[str] = "signals-{:05d}.i16"
    dtype: ClassVar[str] = "<i2"
    exams_per_shard: ClassVar[int] = 512  # 12 leads x 10 s at 500 Hz are 120 kB: 61 MB
    columns: ClassVar[tuple[tuple[str, pa.DataType], ...]] = (
        ("n_samples", pa.int32()),
        ("sampling_rate_hz", pa.int32()),
        ("units_per_mv", pa.list_(pa.float64())),
        ("baseline", pa.list_(pa.int32())),
    )
    identity: ClassVar[tuple[tuple[str, str], ...]] = (
        ("sampling_rate_hz", "<i4"),
        ("units_per_mv", "<f8"),
        ("baseline", "<i4"),
    )
    advice: ClassVar[str] = (
        "look at the paths in the manifest, and at the limits on length and sampling rate"
    )
    code: ClassVar[tuple[str, ...]] = ("datamodules.recordings",)

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
            "units_per_mv": recording.units_per_mv,
            "baseline": recording.baseline,
        }

    def n_bytes(self, exams: int, in_files: int) -> int:
        return in_files


def packed_signal(store: Store, row: int, n_samples: int | None = None) -> NDArray[np.int16]:
    """An exam's samples [12, n] as recorded, or each lead's first `n_samples`; read-only.

    Raises ValueError if the recording is shorter than `n_samples`.
    """
    signal = store.read(row).reshape(len(LEADS), -1)
    if n_samples is not None and n_samples > signal.shape[1]:
        exam = store.index["exam_id"].iloc[row]
        raise ValueError(
            f"exam {exam} has {signal.shape[1]} samples a lead, fewer than {n_samples}"
        )
    return signal[:, :n_samples]
