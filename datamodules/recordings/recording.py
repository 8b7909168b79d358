"""What every reader makes of a file: one Recording, or one RecordingError that says what to do."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import FileError

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


class RecordingError(FileError):
    """A recording that cannot be used."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A 12-lead ECG as its file holds it, with the leads in standard order (`LEADS`).

    samples: int16 [12, n], digital values exactly as recorded.
    units_per_mv: float64 [12], digital units that make one millivolt.
    baseline: int32 [12], the digital value of 0 mV.
    """

    samples: NDArray[np.int16]
    units_per_mv: NDArray[np.float64]
    baseline: NDArray[np.int32]
    sampling_rate_hz: int

    @property
    def signal_mv(self) -> NDArray[np.float64]:
        """The signal in millivolts, [12, n]."""
        return (self.samples - self.baseline[:, None].astype(np.float64)) / self.units_per_mv[
            :, None
        ]


@dataclass(frozen=True, slots=True)
class RecordingLimits:
    """Which recordings are long enough, short enough and well enough sampled; ends included."""

    min_seconds: float
    max_seconds: float
    min_sampling_rate_hz: int
    max_sampling_rate_hz: int


def check_recording(recording: Recording, path: Path, limits: RecordingLimits) -> None:
    """Raise RecordingError for a sampling rate or a length outside `limits`, or for a flat lead."""
    rate = recording.sampling_rate_hz
    if not limits.min_sampling_rate_hz <= rate <= limits.max_sampling_rate_hz:
        raise RecordingError(
            path,
            f"the sampling rate is {rate} Hz, outside {limits.min_sampling_rate_hz} to "
            f"{limits.max_sampling_rate_hz} Hz",
            "Leave the recording out, or widen the limits if it was really sampled so",
        )
    seconds = recording.samples.shape[1] / rate
    if not limits.min_seconds <= seconds <= limits.max_seconds:
        raise RecordingError(
            path,
            f"the recording is {seconds:g} s long ({recording.samples.shape[1]} samples at "
            f"{rate} Hz), outside {limits.min_seconds:g} to {limits.max_seconds:g} s",
            "Leave the recording out, or widen the limits",
        )
    flat = recording.samples.min(axis=1) == recording.samples.max(axis=1)
    if flat.any():
        names = ", ".join(lead for lead, is_flat in zip(LEADS, flat, strict=True) if is_flat)
        raise RecordingError(
            path,
            f"flat lead {names}: every sample has the same value",
            "The electrode was off or the export lost the lead: export it again or leave it out",
        )
