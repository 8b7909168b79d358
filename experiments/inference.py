"""From one exam's files and values to a probability, by what stands in a checkpoint alone."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.inputs import PREPROCESSING, Preprocessing, millivolts, prepare
from datamodules.institution import amplitude_mv
from datamodules.radiographs import read_radiograph
from datamodules.recordings import (
    RecordingError,
    RecordingLimits,
    check_recording,
    read_recording,
)
from datamodules.transforms import BNPPreprocessing, CXRPreprocessing, ECGPreprocessing
from lightning_modules.checkpoint import load_classifier
from lightning_modules.classifier import Classifier
from lightning_modules.ph import PHFusion

LABELS = {"ecg": "ECG", "cxr": "chest X-ray"}
MARKERS = {"bnp_pg_ml": "BNP", "nt_probnp_pg_ml": "NT-proBNP"}
# A model's own length is asked for, and any sampling rate taken: a strange one is warned of.
ANY = RecordingLimits(0, float("inf"), 0, 2**31)
# Of a range's ends: alone, an exam's figures round otherwise than in the batches they came from.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exam:
    """What there is of one exam: its files, and values by their columns in a manifest."""

    ecg: Path | None = None
    cxr: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """A probability and what it was based on.

    threshold, positive: None where the checkpoint has no operating threshold. inputs, missing:
    what the model reads ("ecg", "cxr", "bnp") and was there, and was not. submodels: each one's own
    probability, for a fusion. warnings: sentences on inputs that are unlike the training data.
    """

    probability: float
    threshold: float | None
    positive: bool | None
    inputs: tuple[str, ...]
    missing: tuple[str, ...]
    submodels: dict[str, float]
    warnings: tuple[str, ...]
    model: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `submodels` only where there are some."""
        values = asdict(self)
        return values if self.submodels else {k: v for k, v in values.items() if k != "submodels"}


class Predictor:
    """A checkpoint's classifier, and the preprocessing that it was trained with.

    `source` is what the person called it. `name`, `target` and `institutions` are what it was
    trained as, for and at; `labels` what it reads, by input, as people say it; `submodels` each
    one's input, for a fusion. Raises InputError for a file that is no classifier's checkpoint.
    """

    def __init__(self, checkpoint: Path, source: str) -> None:
        try:
            self.module = load_classifier(checkpoint)
        except ValueError as error:
            told = str(error).replace(str(checkpoint), source)
            raise InputError(f"model={told}") from None
        about = self.module.hparams["about"]
        self.source, self.name, self.target = source, about["name"], about["target"]
        self.institutions: list[str] = about["institutions"]
        fused: Any = self.module.submodels.items() if isinstance(self.module, PHFusion) else ()
        self.submodels = {name: part.input for name, part in fused}
        self._parts: dict[str, Classifier] = dict(fused) or {self.name: self.module}
        self._preprocessing: dict[str, Preprocessing] = {
            name: PREPROCESSING[part.input].from_dict(part.hparams["preprocessing"])
            for name, part in self._parts.items()
        }
        self.labels = {kind.input: _label(kind) for kind in self._preprocessing.values()}

    @property
    def threshold(self) -> float | None:
        """The operating threshold; None where the checkpoint has none."""
        threshold = self.module.threshold.item()
        return threshold if threshold == threshold else None

    @property
    def columns(self) -> set[str]:
        """A manifest's columns that the model reads a value from."""
        return {
            column
            for kind in self._preprocessing.values()
            if isinstance(kind, BNPPreprocessing)
            for column in _columns(kind)
        }

    def __call__(self, exam: Exam) -> Prediction:
        """The probability for one exam, in float32 on the CPU.

        Raises InputError for a file that can't be used, and where nothing of what the model reads
        is there.
        """
        torch.set_float32_matmul_precision("highest")
        prepared: dict[str, Tensor] = {}
        warnings: dict[str, None] = {}
        with torch.inference_mode():
            for name, part in self._parts.items():
                preprocessing = self._preprocessing[name]
                found = _recorded(exam, preprocessing)
                if found is None:
                    continue
                raw, measured = found
                prepared[name] = prepare(raw, preprocessing)
                ranges = part.hparams["about"].get("ranges", {})
                warnings |= dict.fromkeys(_unlike(measured, ranges))
            if not prepared:
                raise InputError(f"there is no {' and no '.join(self.labels.values())}")
            logit, of_submodels = self._logits(prepared)
        # A fusion would take a submodel's nan for a missing input.
        if not np.isfinite([logit, *of_submodels.values()]).all():
            raise InputError("the model's output is not a number for these inputs")
        probability, threshold = _sigmoid(logit), self.threshold
        inputs = {self._parts[name].input for name in prepared}
        return Prediction(
            probability=probability,
            threshold=threshold,
            positive=None if threshold is None else probability >= threshold,
            inputs=tuple(input for input in self.labels if input in inputs),
            missing=tuple(input for input in self.labels if input not in inputs),
            submodels={name: _sigmoid(of) for name, of in of_submodels.items()},
            warnings=tuple(warnings),
            model={
                "name": self.name,
                "target": self.target,
                "source": self.source,
                "trained_on": self.institutions,
            },
        )

    def _logits(self, prepared: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
        """The exam's logit, and those of a fusion's submodels whose input is there."""
        if not isinstance(self.module, PHFusion):
            (tensor,) = prepared.values()
            return self.module({self.module.input: tensor}).item(), {}
        logits = self.module.submodel_logits(prepared)
        each = dict(zip(self.submodels, logits[0].tolist(), strict=True))
        return self.module({"logits": logits}).item(), {name: each[name] for name in prepared}


def _recorded(exam: Exam, preprocessing: Preprocessing) -> tuple[Any, dict[str, float]] | None:
    """What a DataModule's reader would give of the exam, alone in its batch, and what is measured
    on it to compare with the training data; None where the exam has no such input."""
    if isinstance(preprocessing, ECGPreprocessing):
        return None if exam.ecg is None else _ecg(exam.ecg, preprocessing)
    if isinstance(preprocessing, CXRPreprocessing):
        return None if exam.cxr is None else _cxr(exam.cxr, preprocessing)
    features = preprocessing.features(pd.DataFrame([exam.values]))
    if np.isnan(features).any():
        return None
    value = exam.values[preprocessing.marker]
    return torch.from_numpy(features), {preprocessing.marker: value}


def _ecg(path: Path, preprocessing: ECGPreprocessing) -> tuple[Any, dict[str, float]]:
    recording = read_recording(path)
    rate, seconds = recording.sampling_rate_hz, preprocessing.seconds
    samples = recording.samples[:, : rate * seconds]
    if samples.shape[1] < rate * seconds:
        raise RecordingError(
            path,
            f"the recording is {samples.shape[1] / rate:g} s long, and the model reads {seconds} s",
            "Give a longer recording",
        )
    check_recording(recording, path, ANY)
    signal = (
        torch.from_numpy(samples[None].astype(np.int16)),
        torch.from_numpy(recording.units_per_mv[None].astype(np.float32)),
        torch.from_numpy(recording.baseline[None]),
    )
    amplitude = amplitude_mv(preprocessing.filter_and_resample(millivolts(*signal), rate))
    measured = {"ECG sampling rate (Hz)": rate, "ECG amplitude (mV)": amplitude.item()}
    return {rate: (torch.zeros(1, dtype=torch.int64), *signal)}, measured


def _cxr(path: Path, preprocessing: CXRPreprocessing) -> tuple[Any, dict[str, float]]:
    pixels = read_radiograph(path).pixels
    height, width = pixels.shape
    measured = {"image width (pixels)": width, "image height (pixels)": height}
    return torch.from_numpy(preprocessing.resize(pixels)[None]), measured


def _unlike(
    measured: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]
) -> Iterator[str]:
    """A sentence for each quantity outside its range in the training data."""
    for quantity, value in measured.items():
        if quantity not in ranges:
            continue
        low, high = ranges[quantity]
        if low - TOLERANCE * abs(low) <= value <= high + TOLERANCE * abs(high):
            continue
        marker = MARKERS.get(quantity)
        name, unit = (marker, "pg/mL") if marker else quantity.removesuffix(")").split(" (")
        name = name[0].upper() + name[1:]
        if low == high:
            yield f"{name} {_number(value)} {unit} is not the training data's {_number(low)} {unit}"
        else:
            yield (
                f"{name} {_number(value)} {unit} is outside {_number(low)} to {_number(high)}, "
                "the range of the training data"
            )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _sigmoid(logit: float) -> float:
    return torch.tensor(logit, dtype=torch.float64).sigmoid().item()


def _label(preprocessing: Preprocessing) -> str:
    if not isinstance(preprocessing, BNPPreprocessing):
        return LABELS[preprocessing.input]
    marker, *others = _columns(preprocessing).values()
    return f"{marker} with {' and '.join(others)}" if others else marker


def _columns(preprocessing: BNPPreprocessing) -> dict[str, str]:
    columns = {preprocessing.marker: MARKERS[preprocessing.marker]}
    if preprocessing.age:
        columns["age_years"] = "age"
    if preprocessing.sex:
        columns["sex"] = "sex"
    return columns
