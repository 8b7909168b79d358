"""The protocol that every input follows, so that nothing else asks which input it is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import InputError
from datamodules.manifest import Column
from datamodules.store import Contents, Store

# What a reader gives of a batch: tensors, in whatever arrangement the input's `prepare` takes.
Raw = Any
# Exams' places in their DataModule's table (b,) -> Raw; goes to reading processes, pickled.
Reader = Callable[[NDArray[np.int64]], Raw]


class Augmentation(ABC):
    """Random changes to training exams; a dataclass of the numbers that a person might change.

    With `on_device` it is called with prepared batches on their device, else with what the reader
    gave, in the reading process. Draws follow from torch's generator. ValueError for wrong numbers.
    """

    on_device: ClassVar[bool]

    @abstractmethod
    def __call__(self, values: Any) -> Any:
        """The same shapes, each exam changed by itself."""


@dataclass(frozen=True)
class Fitted:
    """What was learned from training exams without their targets.

    `ranges`: quantity, "name (unit)", -> its lowest and highest value; a later exam outside them is
    unlike the training data. `statistics`: plain values for pretrainings that ask for them.
    """

    input: "Input"
    ranges: dict[str, tuple[float, float]]
    statistics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Input(ABC):
    """One kind of thing that a model reads of an exam.

    A subclass is a frozen dataclass of plain values, settings and what was fitted, so that a
    checkpoint carries it. ValueError, on construction, for settings that can't be.

    columns: those of a manifest that are this input's own, with their checks. array: which of its
    `arguments` may be an array in memory as well as a file; "" for none. timed: whether an array
    needs its sampling rate.
    """

    columns: ClassVar[Mapping[str, Column]]
    array: ClassVar[str] = ""
    timed: ClassVar[bool] = False

    @property
    @abstractmethod
    def label(self) -> str:
        """What people call it."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what `as_dict` gave, as a checkpoint holds it."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def as_dict(self) -> dict[str, Any]:
        """Plain values: numbers, text, lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The manifest's columns that an exam must have a value in."""

    @property
    @abstractmethod
    def arguments(self) -> Mapping[str, str]:
        """Name on the command line of a prediction -> the manifest's column that it stands for."""

    @property
    @abstractmethod
    def shape(self) -> dict[str, int]:
        """What a network is built for: its constructor's arguments that describe the tensor."""

    @property
    def rate_hz(self) -> float:
        """Samples a second along the last axis of the network's input; 1 where that is no time."""
        return 1.0

    @property
    def channels(self) -> tuple[str, ...]:
        """Names along the second axis of the network's input, where a figure is to show them."""
        return ()

    @property
    def contents(self) -> Contents | None:
        """How files become packed values; None for an input that stands in the manifest itself."""
        return None

    def known(self, exams: pd.DataFrame) -> NDArray[np.bool_]:
        """Which rows of a manifest have all that the input reads (n,), files unopened."""
        present: NDArray[np.bool_] = (
            exams.reindex(columns=list(self.reads)).notna().all(axis=1).to_numpy()
        )
        return present

    @abstractmethod
    def reader(
        self,
        exams: pd.DataFrame,
        stores: Sequence[Store],
        institution: NDArray[np.int64],
    ) -> Reader:
        """Reads these exams: `institution` (n,) is each one's place in `stores`, and the column
        `row` its row there."""

    @abstractmethod
    def prepare(self, raw: Raw) -> Tensor:
        """What a reader gave -> the network's input (b, ...), on the device that `raw` is on."""

    @abstractmethod
    def fit(self, read: Reader, exams: pd.DataFrame, stores: Mapping[str, Store]) -> Fitted:
        """The same input with what is learned from training `exams`, whose index are the places
        that `read` takes; `stores` are the institutions'."""

    def example_statistics(self) -> dict[str, Any]:
        """Stands for `Fitted.statistics` where sizes are checked before anything is fitted."""
        return {}

    def augmentation(self, settings: Mapping[str, Any]) -> Augmentation | None:
        """Random changes to training exams; ValueError for settings that can't be."""
        if settings:
            raise ValueError(f"{self.label} has no augmentation, and {dict(settings)} asks for one")
        return None

    def restore(self, prepared: Tensor, raw: Raw) -> Tensor:
        """`prepared` in the units that it was recorded in, as figures show it."""
        return prepared

    @abstractmethod
    def of_exam(
        self, values: Mapping[str, Any], folder: Path
    ) -> tuple[Raw, dict[str, float]] | None:
        """What a reader would give of one exam alone, and the quantities of `Fitted.ranges`.

        `values` are the manifest's, those that are known, paths relative to `folder`. None where
        the exam has no such input; InputError for a file that can't be used.
        """

    def of_array(self, array: Any, sampling_rate_hz: float | None) -> tuple[Raw, dict[str, float]]:
        """As `of_exam`, of an array in memory; the rate is None unless it is `timed`.

        InputError, naming what it should be, for an array that can't be used.
        """
        raise InputError(f"{self.label} is no array. Give it as a file or a value.")

    def example(self) -> dict[str, Any]:
        """A small made-up exam, by `array` (and `<array>_sampling_rate_hz`) or the manifest's
        columns; empty where none can be made up."""
        return {}

    @property
    def endings(self) -> str:
        """By what its files are known in a folder, as people say it."""
        return ""

    def files_in(self, folder: Path) -> list[Path]:
        """The files of a folder that are this input's, by name; for an input of files."""
        return []

    def exam_of(self, path: Path) -> str:
        """By what name a file of `files_in` goes."""
        return path.stem

    def instead_of(self, argument: str) -> str:
        """What to say of an `argument` that could be taken for one of this input's, or nothing."""
        return ""

    @abstractmethod
    def describe(self) -> str:
        """What is done to it before a network sees it, for a report."""


class InManifest(Input):
    """An input whose values stand in the manifest: a row of numbers an exam, standardised.

    A subclass, with its fields `mean` and `deviation` fitted (None before), says what its features
    are. A feature without spread is only centred, as in scikit-learn's StandardScaler.
    """

    mean: tuple[float, ...] | None
    deviation: tuple[float, ...] | None

    @abstractmethod
    def features(self, exams: pd.DataFrame) -> NDArray[np.float64]:
        """(n, k) of a manifest's rows, not standardised; NaN where a value is absent."""

    @property
    @abstractmethod
    def measured(self) -> Mapping[str, str]:
        """Column whose range is kept -> the quantity as people write it, "FEV1 (L)"."""

    @property
    def shape(self) -> dict[str, int]:
        return {"features": len(self.reads)}

    def known(self, exams: pd.DataFrame) -> NDArray[np.bool_]:
        return np.asarray(~np.isnan(self.features(exams)).any(axis=1))

    def reader(
        self,
        exams: pd.DataFrame,
        stores: Sequence[Store],
        institution: NDArray[np.int64],
    ) -> Reader:
        return Values(self.features(exams))

    def fit(self, read: Reader, exams: pd.DataFrame, stores: Mapping[str, Store]) -> Fitted:
        features = self.features(exams)
        if np.isnan(features).any():
            raise ValueError("a feature is absent: leave such exams out")
        deviation = features.std(axis=0)
        statistics: Any = {
            "mean": tuple(features.mean(axis=0).tolist()),
            "deviation": tuple(np.where(deviation > 0, deviation, 1.0).tolist()),
        }
        fitted = replace(self, **statistics)
        ranges = {name: lowest_highest(exams[column]) for column, name in self.measured.items()}
        return Fitted(fitted, ranges)

    def prepare(self, raw: Raw) -> Tensor:
        """Raw features (b, k) -> standardised, of the same dtype."""
        if self.mean is None or self.deviation is None:
            raise ValueError("this input has not been fitted on development exams")
        features: Tensor = raw
        return (features - features.new_tensor(self.mean)) / features.new_tensor(self.deviation)

    def of_exam(
        self, values: Mapping[str, Any], folder: Path
    ) -> tuple[Raw, dict[str, float]] | None:
        features = self.features(pd.DataFrame([values]))
        if np.isnan(features).any():
            return None
        measured = {name: values[column] for column, name in self.measured.items()}
        return torch.tensor(features), measured


class Values:
    """Reads rows of numbers that are in memory."""

    def __init__(self, features: NDArray[np.float64]) -> None:
        self.features = torch.tensor(features)  # a copy: pandas may give what must not be written

    def __call__(self, exams: NDArray[np.int64]) -> Tensor:
        """float64 (b, features)."""
        return self.features[exams]


def as_numbers(array: Any, name: str) -> NDArray[Any]:
    """An array, a tensor or nested lists as a NumPy array of finite real numbers; InputError."""
    if isinstance(array, Tensor):
        array = array.detach().cpu()
    try:
        values = np.asarray(array)
        if values.dtype == object:  # rows that are arrays
            values = np.stack([np.asarray(row) for row in values])
    except (TypeError, ValueError):
        raise InputError(f"{name}: its rows are not of one length, or not all numbers.") from None
    if values.dtype.kind not in "iuf":
        raise InputError(f"{name}: an array of {values.dtype} is not of real numbers.")
    missing = values.size - int(np.isfinite(values).sum())
    if missing:
        raise InputError(
            f"{name}: {missing} of {values.size} values are NaN or infinite. Give it without gaps, "
            "or leave it out."
        )
    return values


def lowest_highest(values: Any) -> tuple[float, float]:
    """The range of a quantity."""
    return float(min(values)), float(max(values))
