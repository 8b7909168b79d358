"""What a model reads of an exam, and how a batch of it is read and made ready for the network.

Each reader is called with exams' places in its DataModule's table, in a process that may not be
the trainer's, and gives what was recorded. `prepare` turns that, on the batch's device, into the
network's input.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.image_store import ImageStore
from datamodules.store import Store
from datamodules.transforms import BNPPreprocessing, CXRPreprocessing, ECGPreprocessing

Preprocessing = ECGPreprocessing | CXRPreprocessing | BNPPreprocessing
PREPROCESSING: dict[str, type[Preprocessing]] = {
    kind.input: kind for kind in (ECGPreprocessing, CXRPreprocessing, BNPPreprocessing)
}


class ECGReader:
    """ECGs of one or more stores as they were recorded, grouped by sampling rate."""

    def __init__(
        self, stores: Sequence[Store], institution: np.ndarray, row: np.ndarray, seconds: int
    ) -> None:
        self.stores, self.institution, self.row, self.seconds = stores, institution, row, seconds
        self.rate = np.empty(len(row), dtype=np.int64)
        for i, store in enumerate(stores):
            mine = institution == i
            self.rate[mine] = store.index["sampling_rate_hz"].to_numpy()[row[mine]]

    def __call__(self, exams: np.ndarray) -> dict[int, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Sampling rate -> its exams' places in the batch (b,), their first `seconds` as int16
        (b, 12, n), and units a mV and baseline (b, 12)."""
        signals = {}
        for rate in np.unique(self.rate[exams]):
            places = np.flatnonzero(self.rate[exams] == rate)
            n = int(rate) * self.seconds
            of_rate = [
                (self.stores[self.institution[exam]], self.row[exam]) for exam in exams[places]
            ]
            signals[int(rate)] = (
                torch.from_numpy(places),
                torch.from_numpy(np.stack([store.read(row, n) for store, row in of_rate])),
                torch.from_numpy(
                    np.stack([store.units_per_mv[row] for store, row in of_rate], dtype=np.float32)
                ),
                torch.from_numpy(np.stack([store.baseline[row] for store, row in of_rate])),
            )
        return signals


class CXRReader:
    """Chest X-rays of one or more stores, as they were packed."""

    def __init__(
        self, stores: Sequence[ImageStore], institution: np.ndarray, row: np.ndarray
    ) -> None:
        self.stores, self.institution, self.row = stores, institution, row

    def __call__(self, exams: np.ndarray) -> Tensor:
        """uint8 (b, size, size)."""
        images = [self.stores[self.institution[exam]].read(self.row[exam]) for exam in exams]
        return torch.from_numpy(np.stack(images))


class BNPReader:
    """Blood test, age and sex from the table of exams."""

    def __init__(self, features: np.ndarray) -> None:
        self.features = torch.from_numpy(features)

    def __call__(self, exams: np.ndarray) -> Tensor:
        """float64 (b, features)."""
        return self.features[exams]


Reader = ECGReader | CXRReader | BNPReader


def prepare(raw: Any, preprocessing: Preprocessing) -> Tensor:
    """What a reader gave -> the network's input, on the device that `raw` is on."""
    if not isinstance(preprocessing, ECGPreprocessing):
        return preprocessing(raw)
    signals: Mapping[int, tuple[Tensor, Tensor, Tensor, Tensor]] = raw
    exams = sum(len(places) for places, *_ in signals.values())
    ecg = None
    for rate, (places, samples, units_per_mv, baseline) in signals.items():
        part = preprocessing(millivolts(samples, units_per_mv, baseline), rate)
        if ecg is None:
            ecg = part.new_empty(exams, *part.shape[1:])
        ecg[places] = part
    assert ecg is not None
    return ecg


def millivolts(samples: Tensor, units_per_mv: Tensor, baseline: Tensor) -> Tensor:
    """Digital samples (b, 12, n) with units a mV and baseline (b, 12) -> float32 mV."""
    return (samples.float() - baseline.float()[..., None]) / units_per_mv[..., None]
